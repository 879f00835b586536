/* unix_socket.h: listening at a path, and accepting without ever spinning. */
#ifndef MAYFLY_UNIX_SOCKET_H
#define MAYFLY_UNIX_SOCKET_H

#include <stdbool.h>

#include "error.h"
#include "event_loop.h"

/*
 * unix_socket_listen - a stream socket bound to path, not blocking; its descriptor, or -errno with a sentence
 * A path that exists already is refused, as in Firecracker: it may be another microVM's. who, an option or a field,
 * starts the sentence. Any thread.
 */
int unix_socket_listen(const char *path, int backlog, const char *who, struct error *err);

/* unix_socket_connect - a stream socket connected to whoever listens at path, not blocking; its descriptor, or -errno.
 * Any thread. */
int unix_socket_connect(const char *path);

/* unix_socket_remove - unlink path; what is in the way is logged, since the next start will stumble over it. Any
 * thread. */
void unix_socket_remove(const char *path, const char *who);

/* Owned by the caller; loop thread. */
struct unix_listener {
	struct event_loop *loop;
	struct event_fd ev;
	struct event_timer retry;
	void (*accepted)(void *opaque, int fd); /* fd is the callee's now: not blocking, closed on exec */
	/* No descriptor is free: true when the callee has closed one. NULL: it has none to spare. */
	bool (*starved)(void *opaque);
	void *opaque;
};

/* unix_listener_start - hand every connection to fd, which stays the caller's, to accepted(). 0 or -errno. */
int unix_listener_start(struct unix_listener *l, struct event_loop *loop, int fd);
void unix_listener_stop(struct unix_listener *l);

#endif
