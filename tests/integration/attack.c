/*
 * attack.c: linked to the release's objects as build/mayfly-attack: what somebody could do who has taken over a thread.
 *
 * MAYFLY_ATTACK=CALL,ARG,... says which system call, by number, and its arguments: numbers, or @TEXT for a pointer to
 * the text. A thread makes it when it is sent SIGUSR2, so the test chooses which; the thread of a drive's I/O, which
 * takes no signals, makes it before its first read. MAYFLY_ATTACK=ring,PATH has the drive's ring open the file PATH
 * instead. What the call returned is printed, unless the filters had a say, and the process ends with 0.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_ARGS 6

static struct {
	long call;
	long arg[MAX_ARGS];
	char *path; /* for the ring, instead of a call */
	bool in_io; /* in the thread of a drive's I/O */
} attack;

static struct io_uring *drive_ring;

static void finish(long result)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "attack: returned %ld\n", result);

	if (write(STDERR_FILENO, line, (size_t)n) != n)
		_exit(1);
	_exit(0);
}

static void attack_by_ring(void)
{
	struct io_uring_sqe *sqe = drive_ring ? io_uring_get_sqe(drive_ring) : NULL;
	struct io_uring_cqe *cqe;

	if (!sqe)
		finish(-ENODEV);
	io_uring_prep_openat(sqe, AT_FDCWD, attack.path, O_RDONLY, 0);
	if (io_uring_submit(drive_ring) != 1 || io_uring_wait_cqe(drive_ring, &cqe))
		finish(-EPROTO);
	finish(cqe->res);
}

static void strike(void)
{
	const long *a = attack.arg;
	long result;

	if (attack.path)
		attack_by_ring();
	result = syscall(attack.call, a[0], a[1], a[2], a[3], a[4], a[5]);
	finish(result < 0 ? -errno : result);
}

static void on_signal(int signo)
{
	(void)signo;
	strike();
}

/* Linked with --wrap. */
ssize_t __real_preadv(int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __wrap_preadv(int fd, const struct iovec *iov, int n, off_t offset);
int __real_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring, struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring, struct io_uring_params *p);

ssize_t __wrap_preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
	if (attack.in_io)
		strike();
	return __real_preadv(fd, iov, n, offset);
}

int __wrap_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring, struct io_uring_params *p)
{
	drive_ring = ring;
	return __real_io_uring_queue_init_params(entries, ring, p);
}

static void __attribute__((constructor)) prepare(void)
{
	const struct sigaction action = { .sa_handler = on_signal };
	char *text = getenv("MAYFLY_ATTACK"), *word, *rest = NULL;
	unsigned int i;

	if (!text)
		return;
	attack.in_io = getenv("MAYFLY_ATTACK_IO") != NULL;
	word = strtok_r(text, ",", &rest);
	if (word && strcmp(word, "ring") == 0)
		attack.path = strtok_r(NULL, ",", &rest);
	else if (word)
		attack.call = strtol(word, NULL, 0);
	for (i = 0; i < MAX_ARGS && (word = strtok_r(NULL, ",", &rest)); i++)
		attack.arg[i] = *word == '@' ? (long)(intptr_t)(word + 1) : (long)strtoull(word, NULL, 0);
	sigaction(SIGUSR2, &action, NULL);
}
