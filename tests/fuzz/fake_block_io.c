/* fake_block_io.c: in the place of io_uring, an I/O engine whose operations complete when and how a target says. */
#include "fake_block_io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fuzz.h"

struct fake_block_io fake_block_io;

static int64_t carry_out(const struct block_io_op *op)
{
	ssize_t n = 0;

	switch (op->type) {
	case BLOCK_IO_READ:
		n = preadv(op->fd, op->iov, (int)op->nr_iov, (off_t)op->offset);
		break;
	case BLOCK_IO_WRITE:
		n = pwritev(op->fd, op->iov, (int)op->nr_iov, (off_t)op->offset);
		break;
	case BLOCK_IO_SYNC:
		break;
	case BLOCK_IO_ALLOCATE:
		n = fallocate(op->fd, op->mode, (off_t)op->offset, (off_t)op->len);
		break;
	}
	return n < 0 ? -errno : n;
}

static void complete(struct block_io *io, struct block_io_op *op)
{
	static const int errors[] = { EIO, ENOSPC, EINTR, EAGAIN, EOPNOTSUPP, EFBIG };
	struct fake_block_io *fake = &fake_block_io;
	int64_t result = carry_out(op);
	uint8_t fault = fake->fault;

	fake->fault = 0;
	if (fault & 0x80)
		result = -errors[fault % 6];
	else if (fault && result > 0)
		result = result * fault / 0x80;
	block_io_complete(io, op, result);
}

/* Those handed over wait in a list, unless they complete at once as page cache hits do. */
static void kick(struct block_io *io)
{
	struct fake_block_io *fake = &fake_block_io;
	struct block_io_op *op;

	while ((op = block_io_next(io))) {
		if (!fake->deferred) {
			complete(io, op);
			continue;
		}
		CHECK(fake->nr_waiting < BLOCK_IO_MAX_IN_FLIGHT);
		fake->waiting[fake->nr_waiting++] = op;
	}
}

static void complete_one(struct block_io *io)
{
	struct fake_block_io *fake = &fake_block_io;
	unsigned int i;
	struct block_io_op *op;

	if (!fake->nr_waiting)
		return;
	i = fake->choice % fake->nr_waiting;
	op = fake->waiting[i];
	fake->waiting[i] = fake->waiting[--fake->nr_waiting];
	complete(io, op);
}

static void ready(struct block_io *io)
{
	uint64_t n = 0;

	CHECK(read(io->ev.fd, &n, sizeof(n)) == sizeof(n));
	for (; n; n--)
		complete_one(io);
}

static void engine_destroy(struct block_io *io)
{
	close(io->ev.fd);
	free(io);
	fake_block_io.io = NULL;
}

void fake_block_io_finish(uint64_t n)
{
	const struct block_io *io = fake_block_io.io;

	if (io && n)
		CHECK(write(io->ev.fd, &n, sizeof(n)) == sizeof(n));
}

int block_io_uring_create(struct block_io **out, struct event_loop *loop, struct error *err)
{
	static const struct block_io_ops ops = {
		.kick = kick, .ready = ready, .wait = complete_one, .destroy = engine_destroy
	};
	struct block_io *io = calloc(1, sizeof(*io));

	(void)loop;
	(void)err;
	CHECK(io);
	io->ops = &ops;
	io->ev.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(io->ev.fd >= 0);
	fake_block_io.io = io;
	*out = io;
	return 0;
}
