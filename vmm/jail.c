/* jail.c: gives up privileges, files, descriptors and environment, each as early as it can go. */
#include "jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inherited.h"
#include "landlock.h"
#include "log.h"
#include "retry.h"
#include "text.h"

/* ---- at the beginning ---- */

/*
 * No more than 1024 open files are usual, which the connections of a guest alone could use up: then nobody would reach
 * the API. What is in memory (guests' secrets) goes into no core file. Returns how many files may be open.
 */
static nfds_t set_limits(void)
{
	const struct rlimit no_core = { 0, 0 };
	struct rlimit files = { 0, 0 };

	(void)setrlimit(RLIMIT_CORE, &no_core);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	return files.rlim_cur;
}

/* Whoever started us may keep secrets there, and /proc shows the original: the words themselves go. */
static void clear_environment(void)
{
	char **word;

	for (word = environ; word && *word; word++)
		memset(*word, 0, strlen(*word));
	if (environ)
		environ[0] = NULL;
}

/* Above INHERITED_FDS nothing is noted but all closed, up to the next named descriptor each time. */
static void close_high_fds(const int *named, unsigned int nr_named)
{
	unsigned int from = INHERITED_FDS, next, i;

	do {
		next = ~0u;
		for (i = 0; i < nr_named; i++) {
			if (named[i] >= (int)from && (unsigned int)named[i] < next)
				next = (unsigned int)named[i];
		}
		/* Linux 5.9 has it. Where it is denied, what a careless parent left open up there stays open. */
		if (next > from)
			(void)syscall(SYS_close_range, from, next == ~0u ? next : next - 1, 0u);
		from = next + 1;
	} while (next != ~0u);
}

int jail_begin(const int *named, unsigned int nr_named, struct error *err)
{
	unsigned int i;

	/* Landlock asks for the first, and set-uid programs end with it. The second also shuts /proc/PID/mem. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_set(err, -errno, "no_new_privs: %s", strerror(errno));
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return error_set(err, -errno, "PR_SET_DUMPABLE: %s", strerror(errno));
	inherited_note(set_limits());
	close_high_fds(named, nr_named);
	for (i = 0; i < nr_named; i++)
		inherited_claim(named[i]);
	clear_environment();
	return 0;
}

int jail_allow(struct jail *jail, const char *const *paths, unsigned int nr, struct error *err)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		int fd = RETRY_INTERRUPTED(open(paths[i], O_PATH | O_CLOEXEC));

		if (fd < 0)
			return error_set(err, -errno, "--allow-path: %s: %s (needs a file or folder that is there)",
					 text_path_shown(paths[i]), strerror(errno));
		jail->allowed[jail->nr_allowed++] = fd;
		jail->may_write = true;
	}
	return 0;
}

int jail_allow_fds(struct jail *jail, const uint64_t fds[INHERITED_FDS / 64], struct error *err)
{
	int fd;

	for (fd = 0; fd < INHERITED_FDS; fd++) {
		if (!(fds[fd / 64] >> fd % 64 & 1))
			continue;
		if (inherited_keep(fd))
			return error_set(err, -EBADF,
					 "--allow-fd: %d: %s (needs a descriptor that is open when Mayfly starts)", fd,
					 strerror(EBADF));
		jail->may_write = true;
	}
	return 0;
}

/* ---- before the guest runs ---- */

static void close_inherited(const struct config *cfg)
{
	unsigned int i;

	for (i = 0; i < cfg->nr_nets; i++)
		inherited_claim(inherited_number(cfg->nets[i].host_dev_name));
	inherited_close();
}

/*
 * Effective, permitted and inheritable; the ambient set, never more than these, goes with them. The bounding set may
 * stay: what it holds comes back by exec alone, and with no_new_privs exec gives nobody, not even root, what is gone.
 */
static int drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0, 0, 0 }, { 0, 0, 0 } };

	return syscall(SYS_capset, &header, none) ? -errno : 0;
}

/* The directory that the socket at path is in may lose files, so that the socket can be removed at the end. */
static int allow_removal(int rules, int abi, const char *path, const char *what, struct error *err)
{
	char dir[PATH_MAX];
	int fd, ret;

	text_folder(dir, path);
	fd = RETRY_INTERRUPTED(open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC));
	ret = fd < 0 ? -errno : landlock_allow(rules, abi, fd, LANDLOCK_REMOVE);
	if (fd >= 0)
		close(fd);
	return ret ? error_set(err, ret, "%s: the folder of %s: %s", what, text_path_shown(path), strerror(-ret)) : 0;
}

static int allow_sockets(const struct jail *jail, int rules, int abi, const struct config *cfg, struct error *err)
{
	int ret = 0;

	if (jail->api_sock)
		ret = allow_removal(rules, abi, jail->api_sock, "--api-sock", err);
	if (!ret && cfg->vsock.present)
		ret = allow_removal(rules, abi, cfg->vsock.uds_path, "vsock.uds_path", err);
	if (!ret && cfg->serial.serial_socket_path[0])
		ret = allow_removal(rules, abi, cfg->serial.serial_socket_path, "serial.serial_socket_path", err);
	return ret;
}

/* A folder is for snapshots, too: written under another name, then put in place of the old one. */
static int allow_files(int rules, int abi, int fd, unsigned int more)
{
	const unsigned int files = LANDLOCK_READ | LANDLOCK_WRITE;
	int ret = landlock_allow(rules, abi, fd, files | LANDLOCK_MAKE | LANDLOCK_REMOVE | more);

	return ret == -EINVAL ? landlock_allow(rules, abi, fd, files) : ret;
}

static int allow_disks(const struct jail *jail, int rules, int abi, const struct config *cfg, const int *drive_fd,
		       struct error *err)
{
	bool read_only;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < cfg->nr_drives && !ret; i++) {
		/* The base of an overlay is shared, and its delta is never opened a second time. */
		read_only = cfg->drives[i].is_read_only || cfg->drives[i].overlay_path[0];
		ret = landlock_allow(rules, abi, drive_fd[i],
				     read_only ? LANDLOCK_READ : LANDLOCK_READ | LANDLOCK_WRITE);
	}
	for (i = 0; i < jail->nr_allowed && !ret; i++)
		ret = allow_files(rules, abi, jail->allowed[i], 0);
	return ret ? error_set(err, ret, "Landlock: a rule for a disk: %s", strerror(-ret)) : 0;
}

/* All that this microVM may open or remove from now on, as a set of rules. */
static int make_rules(const struct jail *jail, int abi, const struct config *cfg, const int *drive_fd,
		      struct error *err)
{
	int rules = landlock_create(abi, err), ret;

	if (rules < 0)
		return rules;
	ret = allow_disks(jail, rules, abi, cfg, drive_fd, err);
	if (!ret)
		ret = allow_sockets(jail, rules, abi, cfg, err);
	if (!ret)
		return rules;
	close(rules);
	return ret;
}

int jail_enter(struct jail *jail, const struct config *cfg, const int *drive_fd, struct error *err)
{
	int abi = landlock_abi(), rules = -1, ret = 0;

	if (abi < 0)
		log_info("Landlock: %s: this kernel cannot confine the process to its files", strerror(-abi));
	else
		rules = make_rules(jail, abi, cfg, drive_fd, err);
	if (abi >= 0 && rules < 0)
		return rules;
	/* No way back from here. */
	jail->entered = true;
	close_inherited(cfg);
	for (; jail->nr_allowed; jail->nr_allowed--)
		close(jail->allowed[jail->nr_allowed - 1]);
	if (rules >= 0) {
		ret = landlock_enter(rules);
		close(rules);
	}
	if (ret)
		return error_set(err, ret, "Landlock: %s", strerror(-ret));
	jail->landlock = rules >= 0 ? abi : 0;
	ret = drop_capabilities();
	return ret ? error_set(err, ret, "capset: %s", strerror(-ret)) : 0;
}

void jail_helper(void)
{
	int abi = landlock_abi(), rules = abi < 0 ? -1 : landlock_create(abi, NULL);

	/* It was split off before the jail, and gets on without whatever fails here. */
	if (rules >= 0) {
		(void)landlock_enter(rules);
		close(rules);
	}
	(void)drop_capabilities();
}

/* A device that is not there is none that a copy could use. */
static int allow_device(int rules, int abi, const char *path)
{
	int fd = RETRY_INTERRUPTED(open(path, O_PATH | O_CLOEXEC));
	int ret = fd < 0 ? 0 : landlock_allow(rules, abi, fd, LANDLOCK_READ | LANDLOCK_WRITE);

	if (fd >= 0)
		close(fd);
	return ret;
}

static int make_fork_rules(const struct jail *jail, int abi, struct error *err)
{
	static const char *const devices[] = { "/dev/kvm", "/dev/net/tun", "/dev/urandom", "/dev/null" };
	int rules = landlock_create(abi, err), ret = 0;
	unsigned int i;

	for (i = 0; rules >= 0 && i < sizeof(devices) / sizeof(devices[0]) && !ret; i++)
		ret = allow_device(rules, abi, devices[i]);
	for (i = 0; rules >= 0 && i < jail->nr_allowed && !ret; i++)
		ret = allow_files(rules, abi, jail->allowed[i], LANDLOCK_MAKE_SOCK);
	if (!ret)
		return rules;
	close(rules);
	return error_set(err, ret, "--allow-fork: Landlock: %s", strerror(-ret));
}

/* Of what the caller has open, copies get what --allow-path named, and standard error for the log. */
static void close_all_but(const struct jail *jail, int keep)
{
	int from = INHERITED_FIRST, next;
	unsigned int i;

	do {
		next = keep >= from ? keep : -1;
		for (i = 0; i < jail->nr_allowed; i++) {
			if (jail->allowed[i] >= from && (next < 0 || jail->allowed[i] < next))
				next = jail->allowed[i];
		}
		if (next != from)
			(void)syscall(SYS_close_range, (unsigned int)from, next < 0 ? ~0u : (unsigned int)next - 1, 0u);
		from = next + 1;
	} while (next >= 0);
}

int jail_fork_server(struct jail *jail, int keep, struct error *err)
{
	int abi = landlock_abi(), rules, null, ret;

	close_all_but(jail, keep);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		return error_set(err, -errno, "--allow-fork: /dev/null: %s", strerror(errno));
	close(null);
	inherited_forget();
	if (abi < 0)
		return 0;
	rules = make_fork_rules(jail, abi, err);
	if (rules < 0)
		return rules;
	ret = landlock_enter(rules);
	close(rules);
	return ret ? error_set(err, ret, "--allow-fork: Landlock: %s", strerror(-ret)) : 0;
}

bool jail_refuses(const struct jail *jail, const char *path, bool read_only)
{
	/* Landlock leaves access(2) alone. */
	return jail->landlock && access(path, read_only ? R_OK : R_OK | W_OK) == 0;
}
