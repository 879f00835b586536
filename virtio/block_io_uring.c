/* block_io_uring.c: the io_uring engine: one small ring per drive, watched by the event loop through its own
 * descriptor. */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block_io.h"
#include "log.h"

/*
 * 64 submissions make one page of entries, 256 completions one page more: a drive's ring costs 12 kB, and can never
 * overflow, since a drive has at most BLOCK_IO_MAX_IN_FLIGHT operations out.
 */
#define SQ_ENTRIES 64u
#define RETRY_NS   1000000u
#define INLINE_MAX (256ull * 1024) /* bytes of one transfer */

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif

struct uring_io {
	struct block_io io; /* first: the shared part */
	struct io_uring ring;
	struct event_timer retry;
	struct block_io_op *again; /* to be queued anew by retry */
};

static struct uring_io *to_uring(struct block_io *io)
{
	return (struct uring_io *)io;
}

/* A large transfer to or from the page cache is a long copy: not inside io_uring_enter, on the loop's thread. */
static bool is_large(const struct block_io_op *op)
{
	uint64_t bytes = 0;
	unsigned int i;

	for (i = 0; i < op->nr_iov && bytes <= INLINE_MAX; i++)
		bytes += op->iov[i].iov_len;
	return bytes > INLINE_MAX;
}

static void prepare(struct io_uring_sqe *sqe, struct block_io_op *op)
{
	switch (op->type) {
	case BLOCK_IO_READ:
		io_uring_prep_readv(sqe, op->fd, op->iov, op->nr_iov, op->offset);
		break;
	case BLOCK_IO_WRITE:
		io_uring_prep_writev2(sqe, op->fd, op->iov, op->nr_iov, op->offset, op->durable ? RWF_DSYNC : 0);
		break;
	case BLOCK_IO_SYNC:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case BLOCK_IO_ALLOCATE:
		io_uring_prep_fallocate(sqe, op->fd, op->mode, (off_t)op->offset, (off_t)op->len);
		break;
	}
	if ((op->type == BLOCK_IO_READ || op->type == BLOCK_IO_WRITE) && is_large(op))
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, op);
}

static void try_later(struct uring_io *u)
{
	event_loop_arm(u->io.loop, &u->retry, event_loop_now_ns() + RETRY_NS);
}

static void queue_again(struct uring_io *u)
{
	struct block_io_op *op;

	while ((op = u->again)) {
		u->again = op->next;
		u->io.in_flight--; /* block_io_queue counts it */
		block_io_queue(&u->io, op);
	}
}

static void reap(struct uring_io *u)
{
	struct io_uring_cqe *cqe;
	struct block_io_op *op;
	int result;

	/* Each entry is given back before its operation is completed: done may queue more. */
	while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		op = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		if (result == -ECANCELED) {
			/* Nobody cancels here. The kernel could not make a worker (signals that do not end, no memory).
			 */
			op->next = u->again;
			u->again = op;
			try_later(u);
			continue;
		}
		block_io_complete(&u->io, op, result);
	}
}

/* Move what is pending into the ring as far as it has room. */
static void fill(struct uring_io *u)
{
	struct io_uring_sqe *sqe;

	while (u->io.pending) {
		sqe = io_uring_get_sqe(&u->ring);
		if (!sqe)
			return;
		prepare(sqe, block_io_next(&u->io));
	}
}

static void uring_kick(struct block_io *io)
{
	struct uring_io *u = to_uring(io);
	int ret;

	while (io->pending || io_uring_sq_ready(&u->ring)) {
		fill(u);
		ret = io_uring_submit(&u->ring);
		/* Reads that hit the page cache completed inside the call; the guest should not wait for epoll to say
		 * so. */
		reap(u);
		if (ret == -EINTR)
			continue;
		if (ret < 0) {
			/* The kernel is out of memory for now. What is in the ring stays there and is tried again. */
			log_warn_limited("io_uring: submitting: %s; trying again", strerror(-ret));
			try_later(u);
			return;
		}
	}
}

static void retry_expired(struct event_timer *timer)
{
	struct block_io *io = timer->opaque;

	queue_again(to_uring(io));
	uring_kick(io);
	io->client.reaped(io->client.opaque);
}

static void uring_ready(struct block_io *io)
{
	reap(to_uring(io));
	uring_kick(io);
}

static void uring_wait(struct block_io *io)
{
	struct uring_io *u = to_uring(io);

	if (u->again || io_uring_submit_and_wait(&u->ring, 1) < 0)
		poll(NULL, 0, RETRY_NS / 1000000);
	reap(u);
	queue_again(u);
}

static void uring_destroy(struct block_io *io)
{
	struct uring_io *u = to_uring(io);

	if (io->loop)
		event_loop_disarm(io->loop, &u->retry);
	io_uring_queue_exit(&u->ring);
	free(u);
}

static const struct block_io_ops uring_ops = {
	.kick = uring_kick,
	.ready = uring_ready,
	.wait = uring_wait,
	.destroy = uring_destroy,
};

/*
 * A ring can do almost anything that system calls can, and no filter sees it: so this one is told what it is for, and
 * from then on does nothing else, whoever writes to it. The kernel answers other operations with -EACCES (5.10).
 */
static int restrict_and_enable(const struct io_uring *ring)
{
	static const struct io_uring_restriction only[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FALLOCATE },
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_ASYNC },
	};

	/* Debian's liburing.so does not export its functions for these. */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, only,
		    sizeof(only) / sizeof(only[0])) < 0)
		return -errno;
	return syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0 ? -errno : 0;
}

/*
 * COOP_TASKRUN (5.19): a completion waits for this thread's next system call, instead of interrupting it; SINGLE_ISSUER
 * (6.0) spares locks. Older kernels do without. Not DEFER_TASKRUN: seen on 6.18, epoll is then never told that the ring
 * has something.
 */
static int setup(struct io_uring *ring)
{
	static const unsigned int flags[] = {
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN,
		0,
	};
	struct io_uring_params p;
	unsigned int i;
	int ret = -EINVAL;

	for (i = 0; i < sizeof(flags) / sizeof(flags[0]) && ret == -EINVAL; i++) {
		memset(&p, 0, sizeof(p));
		p.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;
		p.cq_entries = BLOCK_IO_MAX_IN_FLIGHT;
		ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
	}
	if (ret)
		return ret;
	ret = restrict_and_enable(ring);
	if (ret)
		io_uring_queue_exit(ring);
	return ret;
}

int block_io_uring_create(struct block_io **out, struct event_loop *loop, struct error *err)
{
	struct uring_io *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return error_set(err, -ENOMEM, "io_uring: no memory");
	ret = setup(&u->ring);
	if (ret) {
		free(u);
		return error_set(err, ret, "io_uring: %s", strerror(-ret));
	}
	u->io.ops = &uring_ops;
	u->io.loop = loop;
	u->io.ev.fd = u->ring.ring_fd;
	u->retry.expired = retry_expired;
	u->retry.opaque = &u->io;
	*out = &u->io;
	return 0;
}
