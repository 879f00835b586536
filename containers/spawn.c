/* spawn.c: other programs that a container needs: started so that they end with us, and known beyond their PID. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL_PATIENCE_MS 5000 /* a process that was killed is gone long before */

static const char *name_of(const struct spawn *what)
{
	return what->path ? what->path : what->argv[0];
}

/* Where administrators' programs are is not in every user's PATH. */
static void execute(const struct spawn *what)
{
	char *const *argv = (char *const *)(uintptr_t)what->argv;
	const char *path = getenv("PATH");
	char longer[PATH_MAX];

	if (what->environment)
		environ = (char **)(uintptr_t)what->environment;
	if (what->path || strchr(argv[0], '/')) {
		execv(name_of(what), argv);
		return;
	}
	snprintf(longer, sizeof(longer), "%s:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin");
	(void)setenv("PATH", longer, 1);
	execvp(argv[0], argv);
}

static void set_up(const struct spawn *what, pid_t parent)
{
	const int wanted[] = { what->in, what->out, what->err };
	struct sigaction ignored;
	sigset_t none;
	int i, null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (what->new_session)
		(void)setsid();
	for (i = 0; i < 3; i++)
		(void)dup2(wanted[i] >= 0 ? wanted[i] : null, i);
	/* Nothing but what is named, also of what we inherited ourselves. */
	(void)syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	for (i = 0; what->keep && what->keep[i] >= 0; i++)
		(void)fcntl(what->keep[i], F_SETFD, 0);
	for (i = 1; i < NSIG; i++)
		if (sigaction(i, NULL, &ignored) == 0 && ignored.sa_handler == SIG_IGN)
			(void)signal(i, SIG_DFL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (what->death_signal) {
		(void)prctl(PR_SET_PDEATHSIG, what->death_signal);
		if (getppid() != parent)
			_exit(127);
	}
}

pid_t spawn_start(const struct spawn *what, struct error *err)
{
	const pid_t parent = getpid();
	int report[2], why = 0;
	pid_t pid;
	ssize_t n;

	if (pipe2(report, O_CLOEXEC))
		return error_set(err, -errno, "%s: %s", name_of(what), strerror(errno));
	pid = fork();
	if (pid == 0) {
		set_up(what, parent);
		if (!what->netns || setns(what->netns, CLONE_NEWNET) == 0)
			execute(what);
		why = errno;
		(void)!write(report[1], &why, sizeof(why));
		_exit(127);
	}
	if (pid < 0)
		why = errno;
	close(report[1]);
	do {
		n = read(report[0], &why, sizeof(why));
	} while (n < 0 && errno == EINTR);
	close(report[0]);
	if (!why)
		return pid;
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	return error_set(err, -why, "%s: %s%s", name_of(what), strerror(why),
			 why == ENOENT ? " (needs to be installed)" : "");
}

static bool ends_within(int pidfd, int ms)
{
	struct pollfd poll_fd = { .fd = pidfd, .events = POLLIN };

	return poll(&poll_fd, 1, ms) == 1;
}

/* Whether it ended by itself. */
static bool kill_after(pid_t pid, int seconds)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	bool ended = fd < 0 || ends_within(fd, seconds > INT_MAX / 1000 ? -1 : seconds * 1000);

	if (!ended)
		(void)kill(pid, SIGKILL);
	if (fd >= 0)
		close(fd);
	return ended;
}

int spawn_run(const struct spawn *what, struct error *err)
{
	pid_t pid = spawn_start(what, err);
	bool late;
	int status;

	if (pid < 0)
		return pid;
	late = what->seconds && !kill_after(pid, what->seconds);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_set(err, -errno, "%s: %s", name_of(what), strerror(errno));
	if (late)
		return error_set(err, -ETIMEDOUT, "%s: not done within %d s", name_of(what), what->seconds);
	if (WIFSIGNALED(status))
		return error_set(err, -EIO, "%s: ended by signal %d", name_of(what), WTERMSIG(status));
	if (WEXITSTATUS(status))
		return error_set(err, -EIO, "%s: failed with status %d", name_of(what), WEXITSTATUS(status));
	return 0;
}

/* The 22nd field of /proc/PID/stat: clock ticks from boot to its start. */
static uint64_t start_of(pid_t pid)
{
	char path[32], text[1024];
	const char *at;
	ssize_t len;
	int fd, field;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[len < 0 ? 0 : len] = '\0';
	/* The third follows the name in parentheses, which may hold anything. */
	at = strrchr(text, ')');
	for (field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

struct process process_find(pid_t pid)
{
	struct process found = { .pid = pid, .start = start_of(pid) };

	if (!found.start)
		found.pid = 0;
	return found;
}

int process_open(const struct process *process)
{
	int fd;

	if (process->pid <= 1)
		return -ESRCH;
	fd = (int)syscall(SYS_pidfd_open, process->pid, 0);
	if (fd < 0)
		return -errno;
	/* Only now: what the descriptor stands for cannot be exchanged any more. */
	if (start_of(process->pid) == process->start)
		return fd;
	close(fd);
	return -ESRCH;
}

int process_signal(const struct process *process, int number)
{
	int fd = process_open(process), ret;

	if (fd < 0)
		return fd;
	ret = syscall(SYS_pidfd_send_signal, fd, number, NULL, 0) ? -errno : 0;
	close(fd);
	return ret;
}

bool process_end(const struct process *process, int patience_ms)
{
	int fd = process_open(process);
	bool gone;

	if (fd < 0)
		return true;
	(void)syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0);
	gone = ends_within(fd, patience_ms);
	if (!gone) {
		(void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		gone = ends_within(fd, KILL_PATIENCE_MS);
	}
	close(fd);
	return gone;
}
