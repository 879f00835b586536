/* become.c: the last steps, in the process that turns into the jailed program. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "jail.h"
#include "mounts.h"
#include "privileges.h"
#include "retry.h"
#include "text.h"

#define OWN_WORDS 11 /* of the program's arguments come from us */

/*
 * What the program gets before the caller's arguments: Firecracker's four. Options of Mayfly's own go here, too, such
 * as the paths that its inner jail may open. CPU times add up over the processes that a jail took.
 */
static char **arguments(const struct jail *jail)
{
	static char name[NAME_MAX + 2], start[24], start_cpu[24], parent_cpu[24];
	const uint64_t cpu = jail_cpu_us();
	char **argv, **rest = jail->options.vmm_args;
	size_t nr = 0;

	snprintf(name, sizeof(name), "/%s", jail->program);
	snprintf(start, sizeof(start), "%" PRIu64, jail->start_us);
	snprintf(start_cpu, sizeof(start_cpu), "%" PRIu64, cpu);
	snprintf(parent_cpu, sizeof(parent_cpu), "%" PRIu64, jail->cpu_us + cpu);
	while (rest[nr])
		nr++;
	argv = calloc(OWN_WORDS + nr + 1, sizeof(*argv));
	if (!argv)
		return NULL;
	memcpy(argv,
	       (char *[OWN_WORDS]){ name, "--id", (char *)(uintptr_t)jail->options.id, "--start-time-us", start,
				    "--start-time-cpu-us", start_cpu, "--parent-cpu-time-us", parent_cpu,
				    /* What is in the jail is there for this microVM; drives may change within it. */
				    "--allow-path", "/" },
	       OWN_WORDS * sizeof(*argv));
	memcpy(argv + OWN_WORDS, rest, nr * sizeof(*argv));
	return argv;
}

/* Never more than one user in it: the program is the same one outside and inside, and has no capability over more. */
static int new_user_ns(const struct jail *jail, struct error *err)
{
	if (unshare(CLONE_NEWUSER))
		return error_set(err, -errno, "--new-user-ns: %s (needs a host that lets users make them)",
				 strerror(errno));
	return privileges_map_self(jail->proc, jail->uid, jail->gid, err);
}

static int enter(struct jail *jail, bool cloned, struct error *err)
{
	const struct options *o = &jail->options;
	const int more = (o->new_net_ns ? CLONE_NEWNET : 0) | (o->new_ipc_ns ? CLONE_NEWIPC : 0) |
			 (o->new_uts_ns ? CLONE_NEWUTS : 0);
	int ret = cgroups_join(&jail->cgroups, cloned, err);

	if (!ret && jail->rootless)
		ret = cloned ? privileges_map_self(jail->proc, jail->uid, jail->gid, err) : new_user_ns(jail, err);
	if (!ret && jail->netns >= 0 && setns(jail->netns, CLONE_NEWNET))
		ret = error_set(err, -errno, "--netns: %s: %s", text_path_shown(o->netns), strerror(errno));
	if (!ret)
		ret = mounts_enter(&jail->root, o, jail->sources, more, err);
	if (!ret && o->new_uts_ns && sethostname(o->id, strlen(o->id)))
		ret = error_set(err, -errno, "--new-uts-ns: %s", strerror(errno));
	return ret ? ret : privileges_limits(o, err);
}

static int drop(const struct jail *jail, struct error *err)
{
	int ret = 0;

	/* The caller's keys would come along. EPERM, ENOSYS: nobody here has any. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM)
		ret = error_set(err, -errno, "session keyring: %s", strerror(errno));
	if (!ret && !jail->rootless)
		ret = privileges_drop(jail->uid, jail->gid, err);
	if (!ret && syscall(SYS_faccessat2, jail->exec.fd, "", X_OK, AT_EMPTY_PATH | AT_EACCESS))
		ret = error_set(err, -ENOEXEC, "--exec-file: %s: %s (needs to be executable by uid %u)",
				text_path_shown(jail->options.exec_file), strerror(errno), jail->uid);
	if (ret || jail->rootless || !jail->options.new_user_ns)
		return ret;
	/* Whoever changed its user may not write to its own files in /proc until it says so. */
	(void)prctl(PR_SET_DUMPABLE, 1);
	return new_user_ns(jail, err);
}

static int execute(const struct jail *jail, struct error *err)
{
	char *no_env[] = { NULL }, **argv = arguments(jail);

	if (!argv)
		return error_set(err, -ENOMEM, "no memory");
	syscall(SYS_execveat, jail->exec.fd, "", argv, no_env, AT_EMPTY_PATH);
	error_set(err, -errno, "--exec-file: %s: %s", text_path_shown(jail->options.exec_file), strerror(errno));
	free(argv);
	return err->code;
}

int jail_become(struct jail *jail, int report, struct error *err)
{
	const bool cloned = report >= 0;
	struct pollfd parent = { .fd = report };
	sigset_t none;
	char byte;
	int fd, ret = enter(jail, cloned, err);

	/* Its own PID, unless a process outside of its namespace does that. */
	if (!ret && !cloned)
		ret = root_finish(&jail->root, getpid(), err);
	if (!ret)
		ret = drop(jail, err);
	if (ret)
		return ret;
	/* A new user namespace came with every capability over it. */
	if (jail->options.new_user_ns && jail->uid != 0)
		privileges_bound();
	for (fd = 0; jail->options.daemonize && fd <= STDERR_FILENO; fd++)
		(void)dup2(jail->null, fd);
	/* After every change of user, which would take it back. */
	if (jail->options.cleanup)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The byte: its PID is noted, so whoever hears of the program finds it. A hangup: its parent died before that
	 * signal was asked for. */
	if (cloned &&
	    (RETRY_INTERRUPTED(read(report, &byte, 1)) != 1 || (jail->options.cleanup && poll(&parent, 1, 0) != 0)))
		return error_set(err, -ECHILD, "process: the jailer has ended before the program began");
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)umask(jail->umask);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_set(err, -errno, "no_new_privs: %s", strerror(errno));
	return execute(jail, err);
}
