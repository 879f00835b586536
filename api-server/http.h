/* http.h: HTTP/1.1 framing (RFC 9112): a client's bytes to requests; the heads of answers. */
#ifndef MAYFLY_HTTP_H
#define MAYFLY_HTTP_H

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>

#define HTTP_PATH_MAX 256  /* bytes with the final NUL; ours need 90 */
#define HTTP_HEAD_MAX 8192 /* bytes of request line and headers together */

enum http_verb { HTTP_VERB_GET, HTTP_VERB_PUT, HTTP_VERB_PATCH, HTTP_VERB_DELETE, HTTP_VERB_OTHER };

struct http_request {
	enum http_verb verb;
	const char *method;       /* as the client wrote it */
	char path[HTTP_PATH_MAX]; /* up to the '?', not decoded: no id needs that */
	char *body;               /* body_len bytes, or NULL; the reader's */
	size_t body_len;
	bool keep_alive;
	bool no_answer_body; /* HEAD */
};

enum http_progress {
	HTTP_NEEDS_MORE,
	HTTP_NEEDS_CONTINUE, /* the client waits for "100 Continue" before it sends the body */
	HTTP_COMPLETE,
	HTTP_FAILED, /* fail_status and fail_why say how to answer; nothing more can be read */
};

/* One client's requests, one after the other. Zero it, then http_reader_init. */
struct http_reader {
	http_parser parser;
	struct http_request request;
	size_t body_max, body_room, path_len, head_len;
	bool started;         /* bytes of the next request have come */
	bool query;           /* past the '?' */
	bool expect_name;     /* the header being read is "Expect" so far */
	bool expect_continue; /* … and says 100-continue */
	unsigned int name_at;
	enum http_progress progress;
	int fail_status;
	const char *fail_why;
};

void http_reader_init(struct http_reader *reader, size_t body_max);

/*
 * http_read - take bytes up to the end of one request
 * Returns how many of len were used; *progress says what for. After HTTP_COMPLETE, reader->request is valid until
 * http_next(), which has to be called before the next http_read. Any thread.
 */
size_t http_read(struct http_reader *reader, const char *data, size_t len, enum http_progress *progress);
void http_next(struct http_reader *reader);
void http_reader_free(struct http_reader *reader);

/*
 * http_head - status line and headers of an answer into out; returns their length, below HTTP_ANSWER_HEAD_MAX
 * content_type NULL: no body. len: bytes of the body that follows, or HTTP_CHUNKED.
 */
#define HTTP_ANSWER_HEAD_MAX 256
#define HTTP_CHUNKED         ((size_t)-1)
size_t http_head(char out[HTTP_ANSWER_HEAD_MAX], int status, const char *content_type, size_t len, bool keep_alive);

#endif
