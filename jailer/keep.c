/* keep.c: the process that starts the jailed program as its child and, with --cleanup, stays until its end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exit_codes.h"
#include "jail.h"
#include "process.h"
#include "remove.h"

#define CHILDREN_SIZE 4096  /* of a list of PIDs */
#define ROUNDS_MAX    10000 /* of ending children; each ends all that there are */

static const int watched[] = { SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 };

/* A process that fails tells its exit code; one that becomes the program closes the pipe by that or by its death. */
static void tell(int fd, int code)
{
	const unsigned char byte = (unsigned char)code;

	(void)!write(fd, &byte, 1);
}

/* Waits for either; returns the code, or what silence means. */
static int listen_to(int fd, int silence)
{
	unsigned char byte;
	ssize_t n;

	do {
		n = read(fd, &byte, 1);
	} while (n < 0 && errno == EINTR);
	return n == 1 ? byte : silence;
}

static pid_t start_child(const struct jail *jail)
{
	const int cgroup = cgroups_clone_fd(&jail->cgroups);
	struct clone_args args = {
		.flags = (jail->options.new_pid_ns ? CLONE_NEWPID : 0u) | (jail->rootless ? CLONE_NEWUSER : 0u) |
			 (cgroup >= 0 ? CLONE_INTO_CGROUP : 0u),
		.exit_signal = SIGCHLD,
		.cgroup = cgroup >= 0 ? (unsigned int)cgroup : 0,
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* ---- until the end ---- */

/* Files of other users, their processes; root without more than that can still remove a jail. */
static void keep_few_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	data[0].permitted = 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_KILL;
	data[0].effective = data[0].permitted;
	(void)syscall(SYS_capset, &header, data);
}

/*
 * Hands on the signals that a supervisor sends to the process it knows. Returns the program's wait status. Other
 * children are what the program left behind, or the caller's.
 */
static int wait_for_end(pid_t program)
{
	siginfo_t info;
	sigset_t set;
	pid_t ended;
	unsigned int i;
	int status;

	sigemptyset(&set);
	for (i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
		sigaddset(&set, watched[i]);
	while ((ended = waitpid(-1, &status, WNOHANG)) != program) {
		/* What comes from the terminal has reached the program, too. */
		if (ended <= 0 && sigwaitinfo(&set, &info) > 0 && info.si_signo != SIGCHLD && info.si_code != SI_KERNEL)
			(void)kill(program, info.si_signo);
	}
	return status;
}

static bool has_children(void)
{
	siginfo_t info;

	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static bool is_listed(const char *list, long pid)
{
	char *at = (char *)(uintptr_t)list;
	long listed;

	while ((listed = strtol(at, &at, 10)) > 0)
		if (listed == pid)
			return true;
	return false;
}

/* Ends and collects all children but the spared ones. Returns how many. */
static unsigned int end_children(char *children, const char *spared)
{
	unsigned int pass, nr = 0;
	char *at;
	long pid;

	/* First all, then the wait, so that none has the time to make more. */
	for (pass = 0; pass < 2; pass++) {
		for (at = children; (pid = strtol(at, &at, 10)) > 0;) {
			if (is_listed(spared, pid))
				continue;
			if (pass == 0)
				nr += kill((pid_t)pid, SIGKILL) == 0;
			else
				(void)waitpid((pid_t)pid, NULL, 0);
		}
	}
	return nr;
}

/* Whatever the program left running has become our child. spared: those that the caller had before it became us. */
static void end_left(const struct jail *jail, const char *spared)
{
	char children[CHILDREN_SIZE];
	struct error err = { 0 };
	unsigned int rounds;

	for (rounds = 0; rounds < ROUNDS_MAX && has_children(); rounds++) {
		if (!process_children(children, sizeof(children))) {
			error_set(&err, -errno,
				  "--cleanup: /proc/thread-self/children: %s (what the program left lives on)",
				  strerror(errno));
			break;
		}
		if (!end_children(children, spared))
			return;
	}
	if (rounds == ROUNDS_MAX)
		error_set(&err, -EAGAIN,
			  "--cleanup: processes multiply as fast as they are ended (needs --new-pid-ns)");
	if (err.code)
		jail_fail(jail, &err, 0);
}

static int clean_up(struct jail *jail, int status, const char *spared)
{
	struct error err = { 0 };

	end_left(jail, spared);
	if (cgroups_remove(&jail->cgroups, &err))
		jail_fail(jail, &err, 0);
	if (root_remove(&jail->root, jail->options.id, &err))
		jail_fail(jail, &err, 0);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- the start ---- */

static void watch_signals(void)
{
	sigset_t set;
	unsigned int i;

	sigemptyset(&set);
	for (i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
		sigaddset(&set, watched[i]);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
}

/* In the child: never returns. */
static void child(struct jail *jail, int report, bool new_session)
{
	struct error err = { 0 };

	/* Else the end of the process that leads it would send a hangup here. */
	if (new_session)
		(void)setsid();
	jail_become(jail, report, &err);
	tell(report, jail_fail(jail, &err, EXIT_HOST_CANNOT));
	_exit(EXIT_HOST_CANNOT);
}

/* Silence is what an exec sounds like, and a death before it: that of a process that nobody has waited for. */
static int check_exec(const struct jail *jail, pid_t pid)
{
	struct error err = { 0 };
	int status = 0;

	if (!process_proc_is_ours() || !(process_flags(pid) & PROCESS_NO_EXEC))
		return 0;
	(void)waitpid(pid, &status, 0);
	error_set(&err, -ECHILD, "process: ended by signal %d before it ran the program%s", WTERMSIG(status),
		  WTERMSIG(status) == SIGKILL ? " (is there memory enough, and --memory-max not too low?)" : "");
	return jail_fail(jail, &err, EXIT_HOST_CANNOT);
}

/* Returns the child's PID, or -1 with the exit code, the sentence said and everything undone. */
static pid_t start(struct jail *jail, int *failed)
{
	/* A daemon leads no session, or it could get a terminal again. */
	const bool new_session = getsid(0) == getpid() && !jail->options.daemonize && !jail->options.cleanup;
	struct error err = { 0 };
	int report[2], code = 0;
	pid_t pid = -1;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, report) == 0) {
		jail->cpu_us += jail_cpu_us();
		pid = start_child(jail);
		if (pid == 0) {
			close(report[0]);
			child(jail, report[1], new_session);
		}
		close(report[1]);
	}
	if (pid < 0) {
		error_set(&err, -errno, "%s: %s%s", jail->rootless ? "--new-user-ns" : "process", strerror(errno),
			  jail->rootless ? " (needs a host that lets users make them)" : "");
		code = jail_fail(jail, &err, EXIT_HOST_CANNOT);
	} else if (root_finish(&jail->root, pid, &err)) {
		code = jail_fail(jail, &err, EXIT_HOST_CANNOT);
		(void)kill(pid, SIGKILL);
	} else {
		/* It may go on, unless it has failed meanwhile. */
		(void)!send(report[0], "", 1, MSG_NOSIGNAL);
		code = listen_to(report[0], 0);
		if (!code)
			code = check_exec(jail, pid);
	}
	if (!code)
		return pid;
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	place_close(&jail->exec); /* undoing takes a descriptor */
	made_undo(&jail->made);
	*failed = code;
	return -1;
}

/* Whoever waits for the end of our output has waited long enough. */
static void become_daemon(struct jail *jail)
{
	int fd;

	for (fd = 0; fd <= STDERR_FILENO; fd++)
		(void)dup2(jail->null, fd);
	close(jail->errors);
	jail->errors = STDERR_FILENO;
}

/* In the process that leaves the session: what it becomes is told through report, -1 when there is nobody to tell. */
static int keep(struct jail *jail, int report)
{
	char spared[CHILDREN_SIZE] = "";
	int code = 0;
	pid_t pid;

	if (jail->options.cleanup) {
		watch_signals();
		if (has_children())
			(void)process_children(spared, sizeof(spared));
		(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	}
	pid = start(jail, &code);
	if (report >= 0) {
		if (pid > 0)
			become_daemon(jail);
		tell(report, code);
		close(report);
	}
	if (pid < 0 || !jail->options.cleanup)
		return code;
	place_close(&jail->exec); /* so that cleaning up is not short of descriptors */
	keep_few_capabilities();
	return clean_up(jail, wait_for_end(pid), spared);
}

static int cannot_start(struct jail *jail)
{
	struct error err = { 0 };

	error_set(&err, -errno, "process: %s", strerror(errno));
	place_close(&jail->exec); /* undoing takes a descriptor, which may be what was missing */
	made_undo(&jail->made);
	return jail_fail(jail, &err, EXIT_HOST_CANNOT);
}

int jail_keep(struct jail *jail)
{
	struct error err = { 0 };
	int report[2], code;
	pid_t pid;

	if (!jail->options.daemonize)
		return keep(jail, -1);
	if (pipe2(report, O_CLOEXEC))
		return cannot_start(jail);
	jail->cpu_us += jail_cpu_us();
	pid = fork();
	if (pid < 0)
		return cannot_start(jail);
	if (pid > 0) {
		close(report[1]);
		code = listen_to(report[0], -1);
		error_set(&err, -ECHILD, "process: ended before it could say whether the program runs");
		return code < 0 ? jail_fail(jail, &err, EXIT_HOST_CANNOT) : code;
	}
	close(report[0]);
	(void)setsid();
	return keep(jail, report[1]);
}
