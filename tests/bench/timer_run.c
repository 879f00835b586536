/* timer_run.c: one measured run: start the command, wait for its marker, see it gone. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "timer.h"

/* How long the rest of the marker's line may take to come. */
#define LINE_PATIENCE_NS 300000000ull

/* The parent's ends of what the command reads and writes; -1: not there. */
struct wires {
	int in_read, in_write;
	int out_read, out_write;
	int err_read, err_write;
};

/* What was read so far from one stream: enough to find a marker that came in pieces. */
struct scan {
	char text[8192];
	size_t len;
};

struct watch {
	const struct plan *plan;
	struct outcome *out;
	struct scan scan[2];
	struct pollfd fd[3]; /* stdout, stderr, the process */
	uint64_t start, deadline;
	pid_t pid;
	bool line_ended;
};

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void close_all(struct wires *w)
{
	int *fd = &w->in_read;

	for (size_t i = 0; i < sizeof(*w) / sizeof(*fd); i++) {
		if (fd[i] >= 0)
			close(fd[i]);
		fd[i] = -1;
	}
}

static int open_pty(struct wires *w)
{
	char name[64];
	int lock = 0, number;

	w->out_read = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (w->out_read < 0 || ioctl(w->out_read, TIOCSPTLCK, &lock) || ioctl(w->out_read, TIOCGPTN, &number))
		return -errno;
	snprintf(name, sizeof(name), "/dev/pts/%d", number);
	w->out_write = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return w->out_write < 0 ? -errno : 0;
}

/* stdin is a pipe that stays open and empty: /dev/null would be an end of file, and cannot be polled by all. */
static int open_wires(const struct plan *plan, struct wires *w)
{
	int in[2], out[2], err[2];

	*w = (struct wires){ -1, -1, -1, -1, -1, -1 };
	if (plan->pty)
		return open_pty(w);
	if (pipe2(in, O_CLOEXEC))
		return -errno;
	w->in_read = in[0];
	w->in_write = in[1];
	if (pipe2(out, O_CLOEXEC))
		return -errno;
	w->out_read = out[0];
	w->out_write = out[1];
	if (pipe2(err, O_CLOEXEC))
		return -errno;
	w->err_read = err[0];
	w->err_write = err[1];
	return 0;
}

/* Runs in the child of vfork: system calls only. The clock is read last, into the parent's memory. */
static void become(const struct plan *plan, const struct wires *w, volatile uint64_t *start)
{
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(plan->pty ? w->out_write : w->in_read, 0);
	dup2(w->out_write, 1);
	dup2(plan->pty ? w->out_write : w->err_write, 2);
	if (plan->pty)
		ioctl(0, TIOCSCTTY, 0);
	*start = now_ns();
	execv(plan->program, plan->command);
	_exit(127);
}

static int start_command(const struct plan *plan, struct wires *w, struct watch *watch)
{
	static volatile uint64_t start;
	pid_t pid = vfork();

	if (pid == 0)
		become(plan, w, &start);
	if (pid < 0)
		return -errno;
	watch->pid = pid;
	watch->start = start;
	watch->deadline = start + (uint64_t)(plan->timeout * 1e9);
	watch->fd[2].fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return watch->fd[2].fd < 0 ? -errno : 0;
}

/* The line that begins at from, as far as it has come. True when it is complete. */
static bool keep_line(struct outcome *out, const char *from, const char *end)
{
	size_t n = 0;

	while (from + n < end && from[n] != '\n' && from[n] != '\r' && n < LINE_SIZE - 1)
		n++;
	memcpy(out->line, from, n);
	out->line[n] = '\0';
	return from + n < end;
}

/* Half of the space for each stream: either may hold the reason for a failure. */
static void keep_tails(struct outcome *out, const struct scan *both)
{
	const size_t half = LINE_SIZE / 2 - 1;
	size_t used = 0;

	for (int i = 0; i < 2; i++) {
		const struct scan *s = &both[i];
		size_t n = s->len < half ? s->len : half;

		memcpy(out->tail + used, s->text + s->len - n, n);
		used += n;
	}
	out->tail[used] = '\0';
}

/* New output: note the time first, then look for the marker in what has come so far. */
static void take_output(struct watch *w, int which)
{
	const char *marker = w->plan->marker;
	struct scan *s = &w->scan[which];
	uint64_t at = now_ns();
	const char *found;
	ssize_t n;

	if (s->len > sizeof(s->text) / 2) {
		memmove(s->text, s->text + s->len - 1024, 1024);
		s->len = 1024;
	}
	n = read(w->fd[which].fd, s->text + s->len, sizeof(s->text) - s->len);
	if (n <= 0) {
		w->fd[which].fd = -1;
		return;
	}
	s->len += (size_t)n;
	if (!marker || w->line_ended || (which == 1 && !w->plan->both))
		return;
	found = memmem(s->text, s->len, marker, strlen(marker));
	if (!found)
		return;
	if (!w->out->marker)
		w->out->marker = at - w->start;
	w->line_ended = keep_line(w->out, found, s->text + s->len);
}

/* Waits for one event. False when the time is over or the process has ended. */
static bool step(struct watch *w, uint64_t until)
{
	uint64_t now = now_ns();

	if (now >= until)
		return false;
	if (poll(w->fd, 3, (int)((until - now) / 1000000 + 1)) < 0)
		return errno == EINTR;
	for (int i = 0; i < 2; i++) {
		if (w->fd[i].revents)
			take_output(w, i);
	}
	if (!w->fd[2].revents)
		return true;
	w->out->gone = now_ns() - w->start;
	return false;
}

/* After the marker: the rest of its line, a quiet moment, and a look at the process. */
static void look(struct watch *w)
{
	const struct plan *plan = w->plan;
	uint64_t now = now_ns();
	uint64_t line_end = now + LINE_PATIENCE_NS, settled = now + (uint64_t)plan->settle_ms * 1000000;

	if (plan->kvm)
		kvm_exits(w->pid, &w->out->exits);
	while (!w->line_ended && step(w, line_end))
		;
	while (!w->out->gone && step(w, settled))
		;
	if (plan->memory && !w->out->gone)
		memory_read(plan, w->pid, &w->out->memory);
}

static void follow(struct watch *w)
{
	struct outcome *out = w->out;

	while (step(w, w->deadline) && !out->marker)
		;
	if (out->marker && !w->plan->wait && !out->gone)
		look(w);
	if (out->marker && w->plan->wait) {
		while (!out->gone && step(w, w->deadline))
			;
	}
	out->timed_out = !out->gone && (!out->marker || w->plan->wait);
}

static void finish(struct watch *w)
{
	int status = 0;

	if (!w->out->gone)
		kill(-w->pid, SIGKILL);
	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
		;
	/* Whatever it started itself is in the same session. */
	kill(-w->pid, SIGKILL);
	/* What it said last may still be in the pipe. */
	for (int i = 0; i < 2; i++) {
		struct pollfd p = { .fd = w->fd[i].fd, .events = POLLIN };

		while (p.fd >= 0 && poll(&p, 1, 0) > 0 && w->fd[i].fd >= 0)
			take_output(w, i);
	}
	keep_tails(w->out, w->scan);
	w->out->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int run_once(const struct plan *plan, struct outcome *out)
{
	struct watch *w = calloc(1, sizeof(*w));
	struct wires wires;
	int ret;

	*out = (struct outcome){ 0 };
	if (!w)
		return -ENOMEM;
	w->plan = plan;
	w->out = out;
	ret = open_wires(plan, &wires);
	if (ret)
		goto out;
	if (plan->kvm) {
		ret = kvm_trace_start();
		if (ret)
			goto out;
	}
	ret = start_command(plan, &wires, w);
	if (ret)
		goto out;
	/* The command has its own copies; while we hold these, no end of file would ever come. */
	close(wires.out_write);
	if (wires.err_write >= 0)
		close(wires.err_write);
	wires.out_write = wires.err_write = -1;
	for (int i = 0; i < 3; i++)
		w->fd[i].events = POLLIN;
	w->fd[0].fd = wires.out_read;
	w->fd[1].fd = wires.err_read;
	follow(w);
	finish(w);
	close(w->fd[2].fd);
	if (plan->kvm) {
		uint64_t first = kvm_trace_first();

		out->first_entry = first > w->start ? first - w->start : 0;
		kvm_trace_stop();
	}
out:
	close_all(&wires);
	free(w);
	return ret;
}
