/* server.h: the clients of a Unix socket: many connections, one request at a time each, answers at once or later. */
#ifndef MAYFLY_SERVER_H
#define MAYFLY_SERVER_H

#include <stddef.h>

#include "error.h"
#include "event_loop.h"
#include "http.h"

/* At most so many connections at once; the one that has been silent longest makes room for another. */
#define SERVER_MAX_CLIENTS 128
/* A request has to be complete this long after it began, and a new connection has to begin one. */
#define SERVER_REQUEST_NS (10 * 1000000000ull)
/* What may wait for a client that does not read: one answer, or this much of a stream. Then it is let go. */
#define SERVER_STREAM_MAX 65536

struct server;
struct client;

/*
 * Called for each request. It must be answered with client_reply(), at once or later; until then nothing more is read
 * from this client, and the others go on. request is valid until then, even if the client goes away meanwhile.
 */
typedef void server_handler(void *opaque, struct client *client, const struct http_request *request);

/* server_create - serve listen_fd, which becomes the server's. Loop thread, as all of this. 0 or -errno with a
 * sentence. */
int server_create(struct server **out, struct event_loop *loop, int listen_fd, size_t body_max, server_handler *handler,
		  void *opaque, struct error *err);

/* client_reply - answer the request; text is copied. content_type NULL: no body. */
void client_reply(struct client *client, int status, const char *content_type, const char *text, size_t len);

/*
 * client_stream - answer with a stream that ends when either side closes; client_send adds to it
 * gone(opaque) is called when the client is no more: it closed, or did not read what it was sent. Sending is over then.
 */
void client_stream(struct client *client, const char *content_type, void (*gone)(void *opaque), void *opaque);
void client_send(struct client *client, const char *text, size_t len);

/* client_stream_end - the stream is whole; the client is closed. */
void client_stream_end(struct client *client);

#endif
