/* stream_receive.h: takes in a microVM that another process sends, as two files in memory. */
#ifndef MAYFLY_SNAPSHOT_STREAM_RECEIVE_H
#define MAYFLY_SNAPSHOT_STREAM_RECEIVE_H

#include "error.h"
#include "event_loop.h"

/* What has come: a state file and a memory file, both whole; whether their contents make sense is for who loads them.
 */
struct stream_received {
	int state_fd, memory_fd; /* the callee's now */
};

/*
 * stream_receive - read fd, a socket or pipe, to its end, and call done: with 0 and what has come, or a negative errno
 * with a sentence
 * Nothing that comes is believed. fd is the stream's if this returns 0; otherwise it is a negative errno with a
 * sentence, and done is never called. Loop thread.
 */
typedef void stream_received_fn(void *opaque, int ret, const struct stream_received *received, const struct error *err);
int stream_receive(struct event_loop *loop, int fd, stream_received_fn *done, void *opaque, struct error *err);

#endif
