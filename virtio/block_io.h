/* block_io.h: host file I/O that never blocks the event loop; io_uring, or a worker thread where io_uring is denied. */
#ifndef MAYFLY_VIRTIO_BLOCK_IO_H
#define MAYFLY_VIRTIO_BLOCK_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "error.h"
#include "event_loop.h"

enum block_io_type { BLOCK_IO_READ, BLOCK_IO_WRITE, BLOCK_IO_SYNC, BLOCK_IO_ALLOCATE };

/* One operation. Owned by the engine from block_io_queue until done is called; the caller embeds it in its request. */
struct block_io_op {
	enum block_io_type type;
	int fd;
	int mode;          /* ALLOCATE: FALLOC_FL_* */
	bool durable;      /* WRITE: on stable storage before it completes */
	struct iovec *iov; /* READ, WRITE: straight into and out of guest memory */
	unsigned int nr_iov;
	uint64_t offset; /* bytes */
	uint64_t len;    /* ALLOCATE: bytes */
	int64_t result;  /* bytes moved (may be fewer than asked for), 0, or a negative errno */
	struct block_io_op *next;
};

/* Both run on the loop thread. done may queue the next operation; reaped follows each batch that came in by itself. */
struct block_io_client {
	void (*done)(void *opaque, struct block_io_op *op);
	void (*reaped)(void *opaque);
	void *opaque;
};

/* AUTO is what drives use, whatever io_engine says: io_uring, else the thread. The others are for tests. */
enum block_io_engine { BLOCK_IO_AUTO, BLOCK_IO_URING, BLOCK_IO_THREAD };

struct block_io;

/* The engines' side of it. */
struct block_io_ops {
	void (*kick)(struct block_io *io);
	void (*ready)(struct block_io *io); /* ev.fd is readable: take in what has completed */
	void (*wait)(struct block_io *io);  /* block until something has completed */
	void (*destroy)(struct block_io *io);
};

struct block_io {
	const struct block_io_ops *ops;
	struct event_loop *loop;
	struct event_fd ev;
	struct block_io_client client;
	struct block_io_op *pending, **pending_tail; /* queued, not handed over yet */
	unsigned int in_flight;                      /* pending or handed over */
};

/* block_io_create - make an engine for up to BLOCK_IO_MAX_IN_FLIGHT operations; 0 or -errno. Loop thread, as all of
 * this. */
#define BLOCK_IO_MAX_IN_FLIGHT 256
int block_io_create(struct block_io **out, enum block_io_engine engine, struct event_loop *loop,
		    const struct block_io_client *client, struct error *err);

/* block_io_queue - take op; it starts with the next kick, so that a sweep over the ring costs one system call. */
void block_io_queue(struct block_io *io, struct block_io_op *op);

/* block_io_kick - start what was queued, and call done for all that has completed (page cache hits have, by then). */
void block_io_kick(struct block_io *io);

/* block_io_drain - wait until nothing is in flight; done is called for each, and should not queue more. */
void block_io_drain(struct block_io *io);
/* block_io_destroy - drain, then free. */
void block_io_destroy(struct block_io *io);

/* For engines: take the oldest pending operation (NULL: none), and hand a finished one to the client. */
struct block_io_op *block_io_next(struct block_io *io);
void block_io_complete(struct block_io *io, struct block_io_op *op, int64_t result);

int block_io_uring_create(struct block_io **out, struct event_loop *loop, struct error *err);
int block_io_thread_create(struct block_io **out, struct event_loop *loop, struct error *err);

#endif
