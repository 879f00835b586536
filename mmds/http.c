/* http.c: HTTP requests of the guest and the answers of the metadata service (Firecracker's mmds-user-guide.md). */
#include "http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "metrics.h"

#define TOKEN_PATH  "/latest/api/token"
#define SCHEME      "http://"
#define HEADER_ROOM 512u /* bytes in front of the body; the longest header comes from a list of ours */

/* An answer in the making: out starts with HEADER_ROOM bytes for the headers. */
struct answer {
	unsigned int status;
	const char *type;
	char header[128]; /* a line of its own, or empty */
	struct buffer out;
};

static struct mmds_http *of_parser(const struct http_parser *parser)
{
	return parser->data;
}

/* Pieces of one thing follow each other in buf, but for folded header lines, which then span the fold. */
static void extend(const struct mmds_http *http, struct mmds_span *span, const char *at, size_t len)
{
	const size_t start = (size_t)(at - http->buf);

	if (span->len == 0)
		span->at = (uint16_t)start;
	span->len = (uint16_t)(start + len - span->at);
}

static bool is(const struct mmds_http *http, struct mmds_span span, const char *name)
{
	return span.len == strlen(name) && strncasecmp(http->buf + span.at, name, span.len) == 0;
}

/* The line in name and value is over. Of headers given twice the last counts, as in Firecracker. */
static void header_done(struct mmds_http *http)
{
	struct mmds_span name = http->name, value = http->value;

	while (value.len && (http->buf[value.at + value.len - 1] == ' ' || http->buf[value.at + value.len - 1] == '\t'))
		value.len--;
	if (is(http, name, "X-metadata-token") || is(http, name, "X-aws-ec2-metadata-token")) {
		http->token = value;
		http->token.at = value.len ? value.at : name.at; /* given, if empty */
	} else if (is(http, name, "X-metadata-token-ttl-seconds") ||
		   is(http, name, "X-aws-ec2-metadata-token-ttl-seconds")) {
		http->ttl_name = name;
		http->ttl = value;
	} else if (is(http, name, "X-Forwarded-For")) {
		http->forwarded_name = name;
	} else if (is(http, name, "Accept")) {
		http->json = value.len == strlen("application/json") &&
			     memcmp(http->buf + value.at, "application/json", value.len) == 0;
	}
	http->name = http->value = (struct mmds_span){ 0 };
	http->in_value = false;
}

static int on_url(struct http_parser *parser, const char *at, size_t len)
{
	extend(of_parser(parser), &of_parser(parser)->url, at, len);
	return 0;
}

static int on_header_field(struct http_parser *parser, const char *at, size_t len)
{
	struct mmds_http *http = of_parser(parser);

	if (http->in_value)
		header_done(http);
	extend(http, &http->name, at, len);
	return 0;
}

static int on_header_value(struct http_parser *parser, const char *at, size_t len)
{
	struct mmds_http *http = of_parser(parser);

	http->in_value = true;
	extend(http, &http->value, at, len);
	return 0;
}

static int on_headers_complete(struct http_parser *parser)
{
	struct mmds_http *http = of_parser(parser);

	if (http->in_value)
		header_done(http);
	http->headers_done = true;
	http->has_body = parser->flags & F_CHUNKED || (parser->flags & F_CONTENTLENGTH && parser->content_length > 0);
	return 1; /* no body: a request with one is refused, and what follows it is not looked at */
}

static int on_message_complete(struct http_parser *parser)
{
	of_parser(parser)->complete = true;
	http_parser_pause(parser, 1); /* the next request waits for this one's answer */
	return 0;
}

static const struct http_parser_settings callbacks = {
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_message_complete = on_message_complete,
};

/* Everything but what is left in buf. */
static void next_request(struct mmds_http *http)
{
	memset(http, 0, offsetof(struct mmds_http, buf));
	http_parser_init(&http->parser, HTTP_REQUEST);
	http->parser.data = http;
}

void mmds_http_init(struct mmds_http *http)
{
	next_request(http);
}

/* The path in the request line: from the first slash after scheme and host, to its end. len 0: there is none. */
static const char *path_of(const struct mmds_http *http, size_t *len)
{
	const char *url = http->buf + http->url.at, *slash;

	*len = http->url.len;
	if (*len > strlen(SCHEME) && memcmp(url, SCHEME, strlen(SCHEME)) == 0) {
		url += strlen(SCHEME);
		slash = memchr(url, '/', *len - strlen(SCHEME));
		*len = slash ? *len - (size_t)(slash - (http->buf + http->url.at)) : 0;
		return slash;
	}
	if (*len == 0 || *url != '/')
		*len = 0;
	return url;
}

static void fail(struct answer *a, unsigned int status, const char *text)
{
	a->status = status;
	buffer_add_text(&a->out, text);
}

static void not_found(struct answer *a, const char *path, size_t len)
{
	fail(a, HTTP_STATUS_NOT_FOUND, "Resource not found: ");
	buffer_add(&a->out, path, len);
	buffer_add_text(&a->out, ".");
}

static bool may_read(const struct mmds_http *http, const struct mmds *mmds, struct answer *a)
{
	const bool valid = mmds_token_valid(&mmds->tokens, http->buf + http->token.at, http->token.len, mmds->now_ns());

	if (valid)
		return true;
	if (http->token.at)
		metrics_inc(mmds_rx_invalid_token);
	else
		metrics_inc(mmds_rx_no_token);
	if (mmds->version == MMDS_V1)
		return true;
	fail(a, HTTP_STATUS_UNAUTHORIZED,
	     http->token.at ? "MMDS token not valid."
			    : "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to "
			      "specify the session token.");
	return false;
}

static void answer_get(const struct mmds_http *http, const struct mmds *mmds, const char *path, size_t len,
		       struct answer *a)
{
	const bool json = http->json && !mmds->imds_compat;
	int ret;

	if (!may_read(http, mmds, a))
		return;
	ret = mmds_store_get(&mmds->store, path, len, json ? MMDS_FORMAT_JSON : MMDS_FORMAT_IMDS, &a->out);
	if (ret == -ENOENT)
		not_found(a, path, len);
	else if (ret == -ENOTSUP)
		fail(a, HTTP_STATUS_NOT_IMPLEMENTED, "Cannot retrieve value. The value has an unsupported type.");
	else if (json)
		a->type = "application/json";
}

/* Repeated slashes count as one. */
static bool is_token_path(const char *path, size_t len)
{
	const char *want = TOKEN_PATH;
	size_t at;

	for (at = 0; at < len; at++) {
		if (at && path[at] == '/' && path[at - 1] == '/')
			continue;
		if (*want == '\0' || path[at] != *want++)
			return false;
	}
	return *want == '\0';
}

/* An unsigned 32-bit number in decimal and nothing else. */
static bool read_number(const char *text, size_t len, uint32_t *number)
{
	uint64_t value = 0;
	size_t at;

	for (at = 0; at < len; at++) {
		if (text[at] < '0' || text[at] > '9')
			return false;
		value = value * 10 + (uint64_t)(text[at] - '0');
		if (value > UINT32_MAX)
			return false;
	}
	*number = (uint32_t)value;
	return len > 0;
}

static void issue_token(const struct mmds_http *http, struct mmds *mmds, struct answer *a)
{
	char token[MMDS_TOKEN_LEN + 1], text[128];
	uint32_t ttl;

	if (!read_number(http->buf + http->ttl.at, http->ttl.len, &ttl)) {
		fail(a, HTTP_STATUS_BAD_REQUEST, "Invalid header. Reason: Invalid value. Key:");
		buffer_add(&a->out, http->buf + http->ttl_name.at, http->ttl_name.len);
		buffer_add_text(&a->out, "; Value:");
		buffer_add(&a->out, http->buf + http->ttl.at, http->ttl.len);
		return;
	}
	if (mmds_token_issue(&mmds->tokens, ttl, mmds->now_ns(), token)) {
		snprintf(text, sizeof(text),
			 "Invalid time to live value provided for token: %u. Please provide a value between %u and %u.",
			 ttl, MMDS_TOKEN_MIN_TTL, MMDS_TOKEN_MAX_TTL);
		fail(a, HTTP_STATUS_BAD_REQUEST, text);
		return;
	}
	buffer_add_text(&a->out, token);
	snprintf(a->header, sizeof(a->header), "%.*s: %u\r\n", http->ttl_name.len, http->buf + http->ttl_name.at, ttl);
}

static void answer_put(const struct mmds_http *http, struct mmds *mmds, const char *path, size_t len, struct answer *a)
{
	/* Who comes through a proxy that says so was not meant to get a token. */
	if (http->forwarded_name.len) {
		fail(a, HTTP_STATUS_BAD_REQUEST, "Invalid header. Reason: Unsupported header name. Key: ");
		buffer_add(&a->out, http->buf + http->forwarded_name.at, http->forwarded_name.len);
	} else if (!is_token_path(path, len)) {
		not_found(a, path, len);
	} else if (!http->ttl_name.len) {
		fail(a, HTTP_STATUS_BAD_REQUEST,
		     "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or "
		     "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.");
	} else {
		issue_token(http, mmds, a);
	}
}

/* Of these, PATCH and DELETE are known in order to be refused. */
static bool is_known(unsigned int method)
{
	return method == HTTP_GET || method == HTTP_PUT || method == HTTP_PATCH || method == HTTP_DELETE;
}

static void answer_complete(const struct mmds_http *http, struct mmds *mmds, struct answer *a)
{
	const char *path;
	size_t len;

	path = path_of(http, &len);
	if (!is_known(http->parser.method)) {
		fail(a, HTTP_STATUS_NOT_IMPLEMENTED, "Unsupported HTTP method.");
	} else if (http->parser.http_major != 1 || http->parser.http_minor > 1) {
		fail(a, HTTP_STATUS_NOT_IMPLEMENTED, "Unsupported HTTP version.");
	} else if (http->has_body) {
		fail(a, HTTP_STATUS_BAD_REQUEST, "Invalid request.");
	} else if (len == 0) {
		fail(a, HTTP_STATUS_BAD_REQUEST, "Invalid URI.");
	} else if (http->parser.method == HTTP_GET) {
		answer_get(http, mmds, path, len, a);
	} else if (http->parser.method == HTTP_PUT) {
		answer_put(http, mmds, path, len, a);
	} else {
		fail(a, HTTP_STATUS_METHOD_NOT_ALLOWED, "Not allowed HTTP method.");
		snprintf(a->header, sizeof(a->header), "Allow: GET, PUT\r\n");
	}
}

/* What the parser could not read. */
static void answer_garbage(const struct mmds_http *http, struct answer *a)
{
	switch (HTTP_PARSER_ERRNO(&http->parser)) {
	case HPE_OK: /* nothing wrong so far, but the buffer is full of it */
		fail(a, HTTP_STATUS_REQUEST_HEADER_FIELDS_TOO_LARGE, "The request is too long.");
		break;
	case HPE_INVALID_METHOD:
		fail(a, HTTP_STATUS_NOT_IMPLEMENTED, "Unsupported HTTP method.");
		break;
	case HPE_INVALID_VERSION:
		fail(a, HTTP_STATUS_NOT_IMPLEMENTED, "Unsupported HTTP version.");
		break;
	case HPE_INVALID_URL:
		fail(a, HTTP_STATUS_BAD_REQUEST, "Invalid URI.");
		break;
	default:
		fail(a, HTTP_STATUS_BAD_REQUEST, "Invalid request.");
		break;
	}
}

/* Puts the headers right in front of the body, which is then in place already. */
static void finish(const struct mmds_http *http, struct answer *a, struct mmds_response *out)
{
	size_t body = a->out.len - HEADER_ROOM;
	char head[HEADER_ROOM];
	int len;

	if (a->out.failed) {
		free(a->out.data);
		out->block = NULL;
		return;
	}
	len = snprintf(head, sizeof(head),
		       "HTTP/1.%u %u %s\r\nServer: Mayfly\r\nConnection: %s\r\n%sContent-Type: %s\r\n"
		       "Content-Length: %zu\r\n\r\n",
		       http->parser.http_major == 1 && http->parser.http_minor == 0 ? 0u : 1u, a->status,
		       http_status_str(a->status), out->close ? "close" : "keep-alive", a->header, a->type, body);
	memcpy(a->out.data + HEADER_ROOM - len, head, (size_t)len);
	out->block = a->out.data;
	out->bytes = out->block + HEADER_ROOM - len;
	/* The answer to HEAD ends with its headers. */
	out->len = (size_t)len + (http->headers_done && http->parser.method == HTTP_HEAD ? 0 : body);
}

/* Runs the parser over what it has not seen. true: there is something to answer. */
static bool parse(struct mmds_http *http)
{
	size_t n;

	/* Asked with nothing, the parser takes it for the end of the connection. */
	if (http->parsed < http->len) {
		n = http_parser_execute(&http->parser, &callbacks, http->buf + http->parsed,
					(size_t)(http->len - http->parsed));
		http->parsed = (uint16_t)(http->parsed + n);
	}
	return http->complete || HTTP_PARSER_ERRNO(&http->parser) != HPE_OK || http->len == MMDS_REQUEST_MAX;
}

bool mmds_http_answer(struct mmds_http *http, struct mmds *mmds, struct mmds_response *out)
{
	static const char room[HEADER_ROOM];
	struct answer a = { .status = HTTP_STATUS_OK, .type = "text/plain" };
	size_t left;

	if (!parse(http))
		return false;
	buffer_add(&a.out, room, sizeof(room));
	if (http->complete)
		answer_complete(http, mmds, &a);
	else
		answer_garbage(http, &a);
	out->close = !http->complete || http->has_body || !http_should_keep_alive(&http->parser);
	finish(http, &a, out);
	left = (size_t)(http->len - http->parsed);
	memmove(http->buf, http->buf + http->parsed, left);
	next_request(http);
	http->len = out->close ? 0 : (uint16_t)left;
	return true;
}
