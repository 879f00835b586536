/* block_io.c: what both I/O engines share: choosing one, the queue in front of it, and the way back. */
#include "block_io.h"

#include <stddef.h>
#include <sys/epoll.h>

#include "log.h"

static void io_ready(struct event_fd *ev, uint32_t epoll_events)
{
	struct block_io *io = ev->opaque;

	(void)epoll_events;
	io->ops->ready(io);
	io->client.reaped(io->client.opaque);
}

static int create_any(struct block_io **out, enum block_io_engine engine, struct event_loop *loop, struct error *err)
{
	struct error why = { 0 };
	int ret;

	if (engine == BLOCK_IO_THREAD)
		return block_io_thread_create(out, loop, err);
	ret = block_io_uring_create(out, loop, &why);
	if (!ret)
		return 0;
	if (engine == BLOCK_IO_URING)
		return error_set(err, ret, "%s", why.message);
	/* EPERM by policy, ENOSYS without CONFIG_IO_URING, ENOMEM by limits: the reason changes nothing. */
	log_warn_limited("%s; the drive uses a worker thread instead", why.message);
	return block_io_thread_create(out, loop, err);
}

int block_io_create(struct block_io **out, enum block_io_engine engine, struct event_loop *loop,
		    const struct block_io_client *client, struct error *err)
{
	struct block_io *io;
	int ret;

	ret = create_any(&io, engine, loop, err);
	if (ret)
		return ret;
	io->loop = loop;
	io->client = *client;
	io->pending_tail = &io->pending;
	io->ev.ready = io_ready;
	io->ev.opaque = io;
	ret = event_loop_add(loop, &io->ev, EPOLLIN);
	if (ret) {
		io->ops->destroy(io);
		return error_set(err, ret, "block I/O: the event loop does not take its descriptor");
	}
	*out = io;
	return 0;
}

void block_io_queue(struct block_io *io, struct block_io_op *op)
{
	op->next = NULL;
	*io->pending_tail = op;
	io->pending_tail = &op->next;
	io->in_flight++;
}

struct block_io_op *block_io_next(struct block_io *io)
{
	struct block_io_op *op = io->pending;

	if (!op)
		return NULL;
	io->pending = op->next;
	if (!io->pending)
		io->pending_tail = &io->pending;
	return op;
}

void block_io_complete(struct block_io *io, struct block_io_op *op, int64_t result)
{
	op->result = result;
	io->in_flight--;
	io->client.done(io->client.opaque, op);
}

void block_io_kick(struct block_io *io)
{
	io->ops->kick(io);
}

void block_io_drain(struct block_io *io)
{
	while (io->in_flight) {
		io->ops->kick(io);
		if (io->in_flight)
			io->ops->wait(io);
	}
}

void block_io_destroy(struct block_io *io)
{
	event_loop_remove(io->loop, &io->ev);
	block_io_drain(io);
	io->ops->destroy(io);
}
