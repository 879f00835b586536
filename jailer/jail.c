/* jail.c: one jail: what the options name is opened, what it needs on the host is made, and it is started. */
#include "jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "exit_codes.h"
#include "privileges.h"
#include "program.h"
#include "text.h"

int jail_fail(const struct jail *jail, const struct error *err, int code)
{
	char shown[sizeof(err->message) + 64];

	text_escape(shown, sizeof(shown), err->message, strlen(err->message));
	dprintf(jail->errors, JAILER_NAME ": %s\n", shown);
	switch (-err->code) {
	case ENODEV: /* no KVM */
	case EMFILE:
	case ENFILE:
	case ENOMEM:
		return EXIT_HOST_CANNOT;
	case ENOEXEC: /* --exec-file */
	case ENOTBLK: /* --io-max */
		return EXIT_BAD_CONFIG;
	default:
		return code;
	}
}

static uint64_t now_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t jail_cpu_us(void)
{
	return now_us(CLOCK_PROCESS_CPUTIME_ID);
}

static int check_user(struct jail *jail, struct error *err)
{
	const struct options *o = &jail->options;

	jail->uid = o->uid_given ? o->uid : geteuid();
	jail->gid = o->gid_given ? o->gid : getegid();
	jail->rootless = geteuid() != 0;
	if (!jail->rootless)
		return 0;
	if (!o->new_user_ns)
		return error_set(err, -EPERM, "user: %u is not root (needs root, or --new-user-ns)", geteuid());
	if (jail->uid != geteuid() || jail->gid != getegid())
		return error_set(err, -EPERM,
				 "--uid %u --gid %u: only root can run it as someone else (leave them out)", jail->uid,
				 jail->gid);
	if (o->netns)
		return error_set(err, -EPERM, "--netns: only root can join one (--new-net-ns makes one)");
	return 0;
}

/* What is given by path is opened before anything is made, and once. */
static int open_places(struct jail *jail, struct error *err)
{
	const struct options *o = &jail->options;
	const char *slash = strrchr(o->exec_file, '/');
	unsigned int i;
	int ret = program_open(&jail->exec, o->exec_file, err);

	/* The name as given, so that a link called firecracker gets the paths that clients of Firecracker look for. */
	jail->program = slash ? slash + 1 : o->exec_file;
	if (!ret && !*jail->program)
		ret = error_set(err, -EINVAL, "--exec-file: %s: ends in a slash (needs the name of a file)",
				text_path_shown(o->exec_file));
	for (i = 0; i < o->nr_binds && !ret; i++)
		ret = place_open(&jail->sources[i], "--bind", o->binds[i].source, PLACE_NAMED, err);
	if (!ret && o->netns) {
		jail->netns = open(o->netns, O_RDONLY | O_CLOEXEC);
		if (jail->netns < 0)
			ret = error_set(err, -errno, "--netns: %s: %s", text_path_shown(o->netns), strerror(errno));
		else if (ioctl(jail->netns, NS_GET_NSTYPE) != CLONE_NEWNET)
			ret = error_set(err, -EINVAL, "--netns: %s: not a network namespace (needs /run/netns/NAME)",
					text_path_shown(o->netns));
	}
	if (!ret && o->new_user_ns) {
		jail->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (jail->proc < 0)
			ret = error_set(err, -errno, "/proc: %s", strerror(errno));
	}
	if (!ret && o->daemonize) {
		jail->null = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (jail->null < 0)
			ret = error_set(err, -errno, "/dev/null: %s", strerror(errno));
	}
	return ret;
}

/* Everything on the host that a jail consists of. Returns 0 or an exit code, with the sentence. */
static int make(struct jail *jail, struct error *err)
{
	const struct options *o = &jail->options;

	jail->umask = umask(0);
	jail->root.rootless = jail->rootless;
	jail->root.uid = jail->uid;
	jail->root.gid = jail->gid;
	jail->root.made = &jail->made;
	jail->cgroups.made = &jail->made;
	if (root_create(&jail->root, o, jail->program, jail->sources, err))
		return EXIT_BAD_CONFIG;
	return cgroups_create(&jail->cgroups, o, jail->program, err) ? EXIT_HOST_CANNOT : 0;
}

int jail_run(struct jail *jail)
{
	const struct options *o = &jail->options;
	struct error err = { 0 };
	int code, errors;

	/* Ignored by a caller, it would be inherited, and no child could be waited for. */
	(void)signal(SIGCHLD, SIG_DFL);
	jail->start_us = now_us(CLOCK_MONOTONIC);
	jail->netns = jail->proc = jail->null = -1;
	jail->errors = STDERR_FILENO;
	if (privileges_check_fds(o, &err))
		return jail_fail(jail, &err, EXIT_BAD_ARGUMENTS);
	/* The program's own may become /dev/null before the last thing that can fail. */
	errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (errors < 0) {
		error_set(&err, -errno, "standard error: %s", strerror(errno));
		return jail_fail(jail, &err, EXIT_HOST_CANNOT);
	}
	jail->errors = errors;
	if (check_user(jail, &err))
		return jail_fail(jail, &err, EXIT_HOST_CANNOT);
	if (open_places(jail, &err))
		return jail_fail(jail, &err, EXIT_BAD_CONFIG);
	code = make(jail, &err);
	if (!code && (o->new_pid_ns || o->daemonize || o->cleanup))
		return jail_keep(jail);
	if (!code) {
		jail_become(jail, -1, &err);
		code = EXIT_HOST_CANNOT;
		if (!jail->rootless)
			privileges_regain();
		cgroups_leave(&jail->cgroups);
	}
	place_close(&jail->exec); /* undoing takes a descriptor */
	made_undo(&jail->made);
	return jail_fail(jail, &err, code);
}
