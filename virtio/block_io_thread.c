/* block_io_thread.c: the engine for hosts that deny io_uring: one thread that does a drive's I/O in order. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block_io.h"
#include "jail.h"
#include "log.h"
#include "syscall_filter.h"
#include "worker.h"

struct thread_io {
	struct block_io io; /* first: the shared part */
	pthread_t thread;
	pthread_mutex_t lock; /* guards the lists and stop */
	pthread_cond_t work;
	struct block_io_op *todo, **todo_tail;
	struct block_io_op *done, **done_tail;
	bool stop;
};

static struct thread_io *to_thread(struct block_io *io)
{
	return (struct thread_io *)io;
}

static int64_t perform_once(const struct block_io_op *op)
{
	ssize_t n;

	switch (op->type) {
	case BLOCK_IO_READ:
		return preadv(op->fd, op->iov, (int)op->nr_iov, (off_t)op->offset);
	case BLOCK_IO_WRITE:
		n = pwritev(op->fd, op->iov, (int)op->nr_iov, (off_t)op->offset);
		if (n > 0 && op->durable && fdatasync(op->fd))
			return -1;
		return n;
	case BLOCK_IO_SYNC:
		return fdatasync(op->fd);
	case BLOCK_IO_ALLOCATE:
		return fallocate(op->fd, op->mode, (off_t)op->offset, (off_t)op->len);
	}
	errno = EINVAL;
	return -1;
}

static int64_t perform(const struct block_io_op *op)
{
	int64_t n;

	do
		n = perform_once(op);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void append(struct block_io_op ***tail, struct block_io_op *op)
{
	op->next = NULL;
	**tail = op;
	*tail = &op->next;
}

static struct block_io_op *next_todo(struct thread_io *t)
{
	struct block_io_op *op;

	while (!t->todo && !t->stop)
		pthread_cond_wait(&t->work, &t->lock);
	op = t->todo;
	if (op) {
		t->todo = op->next;
		if (!t->todo)
			t->todo_tail = &t->todo;
	}
	return op;
}

static void *worker(void *arg)
{
	struct thread_io *t = arg;
	struct block_io_op *op;
	struct error err = { 0 };
	uint64_t one = 1;

	log_thread_name("block_io");
	/* The main thread's jail comes later, and holds the threads made after it. */
	jail_helper();
	/* Reads and writes of the guest's disk, and nothing else, from here on; not even these if it cannot be
	 * confined. */
	if (seccomp_install(FILTER_BLOCK_IO, &err))
		log_error("block I/O: %s", err.message);
	pthread_mutex_lock(&t->lock);
	while ((op = next_todo(t))) {
		pthread_mutex_unlock(&t->lock);
		op->result = err.code ? err.code : perform(op);
		pthread_mutex_lock(&t->lock);
		append(&t->done_tail, op);
		/* The counter cannot reach its limit, and a full one is readable all the same. */
		if (write(t->io.ev.fd, &one, sizeof(one)) < 0)
			continue;
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void thread_kick(struct block_io *io)
{
	struct thread_io *t = to_thread(io);
	struct block_io_op *op;

	if (!io->pending)
		return;
	pthread_mutex_lock(&t->lock);
	while ((op = block_io_next(io)))
		append(&t->todo_tail, op);
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
}

static void thread_ready(struct block_io *io)
{
	struct thread_io *t = to_thread(io);
	struct block_io_op *op, *next;
	uint64_t count;

	/* Emptied before the list is taken, so that a completion in between wakes us again. EAGAIN: nothing was there.
	 */
	if (read(io->ev.fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return;
	pthread_mutex_lock(&t->lock);
	op = t->done;
	t->done = NULL;
	t->done_tail = &t->done;
	pthread_mutex_unlock(&t->lock);
	for (; op; op = next) {
		next = op->next;
		block_io_complete(io, op, op->result);
	}
	thread_kick(io);
}

static void thread_wait(struct block_io *io)
{
	struct pollfd pfd = { .fd = io->ev.fd, .events = POLLIN };

	poll(&pfd, 1, -1);
	thread_ready(io);
}

static void thread_destroy(struct block_io *io)
{
	struct thread_io *t = to_thread(io);

	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->work);
	pthread_mutex_destroy(&t->lock);
	close(io->ev.fd);
	free(t);
}

static const struct block_io_ops thread_ops = {
	.kick = thread_kick,
	.ready = thread_ready,
	.wait = thread_wait,
	.destroy = thread_destroy,
};

int block_io_thread_create(struct block_io **out, struct event_loop *loop, struct error *err)
{
	struct thread_io *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return error_set(err, -ENOMEM, "block I/O thread: no memory");
	t->io.ops = &thread_ops;
	t->io.loop = loop;
	t->todo_tail = &t->todo;
	t->done_tail = &t->done;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	t->io.ev.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = t->io.ev.fd < 0 ? -errno : worker_start(&t->thread, "block_io", worker, t);
	if (!ret) {
		*out = &t->io;
		return 0;
	}
	if (t->io.ev.fd >= 0)
		close(t->io.ev.fd);
	pthread_cond_destroy(&t->work);
	pthread_mutex_destroy(&t->lock);
	free(t);
	return error_set(err, ret, "block I/O thread: %s", strerror(-ret));
}
