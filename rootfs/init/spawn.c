/* spawn.c: starts a command: its streams, its terminal, its user, its program. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"
#include "files.h"

/* What a child tells when it cannot become the command. */
struct report {
	enum { AT_TERMINAL, AT_READONLY, AT_CWD, AT_PRIVILEGES, AT_PROGRAM } step;
	int error;
};

/* exec as a shell would: a name without slash is looked for in the command's own PATH. Returns only on failure, errno
 * set. */
static void exec_in_path(const struct command *c)
{
	const char *path = "", *name = c->argv[0];
	char full[PATH_MAX];
	int error = ENOENT;

	if (strchr(name, '/')) {
		execve(name, c->argv, c->envp);
		return;
	}
	for (char **e = c->envp; *e; e++)
		if (!strncmp(*e, "PATH=", 5))
			path = *e + 5;
	for (size_t len; *path; path += len + (path[len] == ':')) {
		len = strcspn(path, ":");
		if (snprintf(full, sizeof(full), "%.*s/%s", len ? (int)len : 1, len ? path : ".", name) >=
		    (int)sizeof(full))
			continue;
		execve(full, c->argv, c->envp);
		if (errno != ENOENT && errno != ENOTDIR)
			error = errno;
	}
	errno = error;
}

/* The child, up to exec. Returns the step that failed. */
static int become(const struct agent *agent, const struct command *c, const int stdio[3])
{
	struct sigaction standard = { .sa_handler = SIG_DFL };
	char oom_score[8];
	sigset_t none;

	for (int sig = 1; sig < _NSIG; sig++)
		sigaction(sig, &standard, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], i) < 0)
			return AT_TERMINAL;
	if (c->tty && (ioctl(0, TIOCSCTTY, 0) || fchown(0, c->user.uid, (gid_t)-1)))
		return AT_TERMINAL;
	syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
	snprintf(oom_score, sizeof(oom_score), "%d", (int)c->oom_score_adj);
	write_setting("/proc/self/oom_score_adj", oom_score);
	if (c->readonly && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL))
		return AT_READONLY;
	if (c->make_cwd)
		root_make_folders(agent->root, c->cwd); /* a read-only root: chdir says it */
	if (chdir(c->cwd))
		return AT_CWD;
	if (privileges_drop(&c->user, &c->privileges))
		return AT_PRIVILEGES;
	umask(c->umask);
	exec_in_path(c);
	return AT_PROGRAM;
}

static int failed(struct command *c, const struct report *r, struct error *err)
{
	static const char *const what[] = { "its terminal", "a read-only root", "cwd",
					    "its user, capabilities or limits" };

	bool missing = r->error == ENOENT || (r->error == ENOTDIR && r->step == AT_PROGRAM);

	c->exit_code = missing ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
	if (r->step == AT_PROGRAM)
		return error_set(err, -r->error, "%.200s: %s", c->argv[0],
				 r->error == ENOENT && !strchr(c->argv[0], '/') ? "not found in PATH"
										: strerror(r->error));
	return error_set(err, -r->error, "%.200s: %s%s%.100s: %s", c->argv[0], what[r->step],
			 r->step == AT_CWD ? "=" : "", r->step == AT_CWD ? c->cwd : "", strerror(r->error));
}

/* A terminal: ours to relay, theirs as standard streams. */
static int open_terminal(const struct command *c, struct process *p, int stdio[3])
{
	int unlock = 0, ours = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC), theirs;

	if (ours < 0 || ioctl(ours, TIOCSPTLCK, &unlock))
		return -1;
	theirs = ioctl(ours, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	p->output[0] = ours;
	p->input = fcntl(ours, F_DUPFD_CLOEXEC, 3);
	if (c->size.ws_row || c->size.ws_col)
		ioctl(ours, TIOCSWINSZ, &c->size);
	stdio[0] = stdio[1] = stdio[2] = theirs;
	return theirs < 0 || p->input < 0 ? -1 : 0;
}

/* A pipe: *ours does not block, theirs belongs to the command's user, who may want to open /dev/stdout. */
static int open_pipe(const struct command *c, int *ours, int *theirs, bool input)
{
	int fd[2];

	if (pipe2(fd, O_CLOEXEC))
		return -1;
	*ours = fd[input];
	*theirs = fd[!input];
	fchown(*theirs, c->user.uid, c->user.gid);
	return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static int open_streams(const struct command *c, struct process *p, int stdio[3])
{
	if (c->tty)
		return open_terminal(c, p, stdio);
	stdio[1] = stdio[2] = 2; /* the console */
	if (!c->input)
		stdio[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	else if (open_pipe(c, &p->input, &stdio[0], true))
		return -1;
	if (!c->detach &&
	    (open_pipe(c, &p->output[0], &stdio[1], false) || open_pipe(c, &p->output[1], &stdio[2], false)))
		return -1;
	return stdio[0] < 0 ? -1 : 0;
}

int command_start(const struct agent *agent, struct command *c, struct process *p, struct error *err)
{
	int stdio[3] = { -1, -1, -1 }, told[2];
	struct report report = { .step = AT_TERMINAL };
	ssize_t n = sizeof(report);

	*p = (struct process){ .pid = -1, .pidfd = -1, .input = -1, .output = { -1, -1 }, .tty = c->tty };
	if (open_streams(c, p, stdio) || pipe2(told, O_CLOEXEC)) {
		report.error = errno;
		return failed(c, &report, err);
	}
	p->pid = fork();
	if (p->pid == 0) {
		report.step = (unsigned int)become(agent, c, stdio);
		report.error = errno;
		n = write(told[1], &report, sizeof(report));
		_exit(EXIT_NOT_FOUND);
	}
	report.error = errno;
	for (int i = 0; i < 3; i++)
		if (stdio[i] > 2 && (!i || stdio[i] != stdio[i - 1]))
			close(stdio[i]);
	close(told[1]);
	if (p->pid > 0)
		n = read(told[0], &report, sizeof(report));
	close(told[0]);
	if (n == sizeof(report)) {
		if (p->pid > 0)
			waitpid(p->pid, NULL, 0);
		return failed(c, &report, err);
	}
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	return 0;
}
