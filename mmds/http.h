/* http.h: the requests of one connection, taken apart by libhttp-parser, and the service's answers to them. */
#ifndef MAYFLY_MMDS_HTTP_H
#define MAYFLY_MMDS_HTTP_H

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mmds.h"

/* Bytes of request line and headers, or of whatever a client sends ahead of our answers. */
#define MMDS_REQUEST_MAX 3840u

/* A piece of the request: where it starts in buf. len 0 and at 0: not there. */
struct mmds_span {
	uint16_t at, len;
};

struct mmds_http {
	struct http_parser parser;
	uint16_t len;    /* bytes in buf */
	uint16_t parsed; /* of these, seen by the parser */
	bool in_value;   /* of the header line that the parser is in */
	bool headers_done, complete, has_body;
	bool json; /* Accept: application/json */
	struct mmds_span name, value;
	struct mmds_span url, token, ttl_name, ttl, forwarded_name;
	char buf[MMDS_REQUEST_MAX];
};

/* What goes back, owned by the caller, who frees block. block NULL: there was no memory for it. */
struct mmds_response {
	char *block;
	const char *bytes; /* in block */
	size_t len;
	bool close; /* nothing that comes after the request is answered */
};

/* mmds_http_init - before the first byte of a connection. vmm thread, as everything here. */
void mmds_http_init(struct mmds_http *http);

/* mmds_http_room - how many more bytes fit. mmds_http_added - len of them were written to buf + len. */
static inline size_t mmds_http_room(const struct mmds_http *http)
{
	return MMDS_REQUEST_MAX - http->len;
}

static inline void mmds_http_added(struct mmds_http *http, size_t len)
{
	http->len = (uint16_t)(http->len + len);
}

/*
 * mmds_http_answer - answer the next request, and make room for those behind it
 * true: out is filled. false: more bytes are needed. Statuses and bodies are Firecracker's; what it resets the
 * connection for (a request that does not fit) gets a status as well.
 */
bool mmds_http_answer(struct mmds_http *http, struct mmds *mmds, struct mmds_response *out);

#endif
