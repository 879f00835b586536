/* http.c: drives libhttp-parser, bounds what it hands over, and words what it refuses. */
#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BODY_FIRST 512 /* bytes; most bodies are smaller */

static struct http_reader *reader_of(http_parser *parser)
{
	return parser->data;
}

/* A callback's way to stop the parser; 1 would mean something else to it after the headers. */
static int fail(struct http_reader *r, int status, const char *why)
{
	r->progress = HTTP_FAILED;
	r->fail_status = status;
	r->fail_why = why;
	return -1;
}

static int count_head(struct http_reader *r, size_t len)
{
	r->head_len += len;
	return r->head_len <= HTTP_HEAD_MAX ? 0 : fail(r, 431, "The headers are too large (at most 8192 bytes).");
}

static int on_begin(http_parser *parser)
{
	reader_of(parser)->started = true;
	return 0;
}

static int on_url(http_parser *parser, const char *at, size_t len)
{
	struct http_reader *r = reader_of(parser);
	size_t i;

	for (i = 0; i < len && !r->query; i++) {
		r->query = at[i] == '?';
		if (r->query)
			break;
		if (r->path_len + 1 == sizeof(r->request.path))
			return fail(r, 414, "The path is too long (at most 255 bytes).");
		r->request.path[r->path_len++] = at[i];
	}
	return count_head(r, len);
}

static int on_header_field(http_parser *parser, const char *at, size_t len)
{
	static const char expect[] = "expect";
	struct http_reader *r = reader_of(parser);
	size_t i;

	/* A name may come in pieces; after a value it is a new one. */
	if (r->name_at == 0)
		r->expect_name = true;
	for (i = 0; i < len && r->expect_name; i++, r->name_at++)
		r->expect_name = r->name_at + 1 < sizeof(expect) && (at[i] | 0x20) == expect[r->name_at];
	return count_head(r, len);
}

/* In pieces "100-continue" would go unseen; clients then send the body after a second, as RFC 9110, 10.1.1 asks. */
static int on_header_value(http_parser *parser, const char *at, size_t len)
{
	struct http_reader *r = reader_of(parser);

	if (r->expect_name && r->name_at == 6 && len == 12 && strncasecmp(at, "100-continue", 12) == 0)
		r->expect_continue = true;
	r->name_at = 0;
	return count_head(r, len);
}

static int on_headers_complete(http_parser *parser)
{
	struct http_reader *r = reader_of(parser);
	bool chunked = parser->flags & F_CHUNKED;

	if (parser->http_major != 1)
		return fail(r, 505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
	if (!chunked && (parser->flags & F_CONTENTLENGTH) && parser->content_length > r->body_max)
		return fail(r, 413, "The body is larger than --http-api-max-payload-size allows.");
	if (r->expect_continue && parser->http_minor >= 1 && (chunked || (parser->flags & F_CONTENTLENGTH))) {
		r->progress = HTTP_NEEDS_CONTINUE;
		http_parser_pause(parser, 1);
	}
	return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
	struct http_reader *r = reader_of(parser);
	struct http_request *req = &r->request;
	size_t room = r->body_room ? r->body_room : BODY_FIRST;
	char *more;

	if (len > r->body_max - req->body_len)
		return fail(r, 413, "The body is larger than --http-api-max-payload-size allows.");
	/* It grows with what came, not with what Content-Length promises. */
	while (room < req->body_len + len)
		room *= 2;
	if (room != r->body_room) {
		more = realloc(req->body, room);
		if (!more)
			return fail(r, 503, "No memory for the body.");
		req->body = more;
		r->body_room = room;
	}
	memcpy(req->body + req->body_len, at, len);
	req->body_len += len;
	return 0;
}

static int on_complete(http_parser *parser)
{
	static const enum http_verb verbs[] = {
		[HTTP_DELETE] = HTTP_VERB_DELETE,
		[HTTP_GET] = HTTP_VERB_GET,
		[HTTP_PUT] = HTTP_VERB_PUT,
		[HTTP_PATCH] = HTTP_VERB_PATCH,
	};
	struct http_reader *r = reader_of(parser);
	struct http_request *req = &r->request;
	unsigned int method = parser->method;

	req->verb = HTTP_VERB_OTHER;
	if (method == HTTP_DELETE || method == HTTP_GET || method == HTTP_PUT || method == HTTP_PATCH)
		req->verb = verbs[method];
	req->method = http_method_str((enum http_method)method);
	req->no_answer_body = method == HTTP_HEAD;
	/* What follows an upgrade is not HTTP. */
	req->keep_alive = http_should_keep_alive(parser) && !parser->upgrade;
	r->progress = HTTP_COMPLETE;
	http_parser_pause(parser, 1);
	return 0;
}

static const http_parser_settings callbacks = {
	.on_message_begin = on_begin,
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_complete,
};

void http_reader_init(struct http_reader *r, size_t body_max)
{
	http_parser_init(&r->parser, HTTP_REQUEST);
	r->parser.data = r;
	r->body_max = body_max;
}

/* What libhttp-parser calls it, in words for whoever wrote the client. */
static const char *explain(enum http_errno code)
{
	switch (code) {
	case HPE_INVALID_METHOD:
		return "Not HTTP: the request starts with no known method.";
	case HPE_INVALID_VERSION:
		return "Not HTTP: the version is neither HTTP/1.0 nor HTTP/1.1.";
	case HPE_INVALID_CONTENT_LENGTH:
	case HPE_UNEXPECTED_CONTENT_LENGTH:
		return "Content-Length is not one number, or came with Transfer-Encoding.";
	case HPE_INVALID_CHUNK_SIZE:
		return "A chunk of the body has no hexadecimal size.";
	case HPE_INVALID_TRANSFER_ENCODING:
		return "Transfer-Encoding is not chunked.";
	case HPE_HEADER_OVERFLOW:
		return "The headers are too large (at most 8192 bytes).";
	default:
		return "Not HTTP: the request line or a header is malformed.";
	}
}

size_t http_read(struct http_reader *r, const char *data, size_t len, enum http_progress *progress)
{
	size_t used;

	/* Paused since the last call: at the end of the headers, or of a request. */
	if (HTTP_PARSER_ERRNO(&r->parser) == HPE_PAUSED)
		http_parser_pause(&r->parser, 0);
	r->progress = HTTP_NEEDS_MORE;
	used = http_parser_execute(&r->parser, &callbacks, data, len);
	if (r->progress == HTTP_NEEDS_MORE && HTTP_PARSER_ERRNO(&r->parser) != HPE_OK)
		fail(r, 400, explain(HTTP_PARSER_ERRNO(&r->parser)));
	*progress = r->progress;
	return used;
}

void http_next(struct http_reader *r)
{
	http_parser parser = r->parser;
	size_t body_max = r->body_max;

	free(r->request.body);
	memset(r, 0, sizeof(*r));
	r->parser = parser;
	r->body_max = body_max;
}

void http_reader_free(struct http_reader *r)
{
	free(r->request.body);
	r->request.body = NULL;
}

size_t http_head(char out[HTTP_ANSWER_HEAD_MAX], int status, const char *content_type, size_t len, bool keep_alive)
{
	int n = snprintf(out, HTTP_ANSWER_HEAD_MAX, "HTTP/1.1 %d %s\r\nServer: Mayfly API\r\nConnection: %s\r\n",
			 status, http_status_str((enum http_status)status), keep_alive ? "keep-alive" : "close");
	size_t at = (size_t)n;

	if (content_type)
		at += (size_t)snprintf(out + at, HTTP_ANSWER_HEAD_MAX - at, "Content-Type: %s\r\n", content_type);
	if (len == HTTP_CHUNKED)
		at += (size_t)snprintf(out + at, HTTP_ANSWER_HEAD_MAX - at, "Transfer-Encoding: chunked\r\n");
	else if (content_type || status != 204) /* RFC 9110, 8.6: never with 204 */
		at += (size_t)snprintf(out + at, HTTP_ANSWER_HEAD_MAX - at, "Content-Length: %zu\r\n", len);
	memcpy(out + at, "\r\n", 3);
	return at + 2;
}
