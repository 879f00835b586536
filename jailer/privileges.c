/* privileges.c: what the program is left with: limits, user, capabilities, descriptors. */
#include "privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- descriptors ---- */

static int check_fd(int fd, const char *what, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return error_set(err, -EBADF, "%s %d: not open", what, fd);
	if (S_ISDIR(st.st_mode))
		return error_set(err, -EPERM, "%s %d: a directory, which would lead out of the jail", what, fd);
	return 0;
}

int privileges_check_fds(const struct options *options, struct error *err)
{
	unsigned int i, from = STDERR_FILENO + 1;
	struct stat st;
	int fd, ret = 0;

	for (fd = 0; fd <= STDERR_FILENO && !ret; fd++) {
		if (fstat(fd, &st) && open("/dev/null", O_RDWR) != fd)
			return error_set(err, -errno, "/dev/null: %s", strerror(errno));
		ret = check_fd(fd, "standard descriptor", err);
	}
	for (i = 0; i < options->nr_pass_fds && !ret; i++) {
		unsigned int kept = (unsigned int)options->pass_fds[i];

		ret = check_fd((int)kept, "--pass-fd", err);
		if (kept > from && syscall(SYS_close_range, from, kept - 1, 0))
			ret = error_set(err, -errno, "closing descriptors: %s", strerror(errno));
		from = kept + 1;
	}
	if (!ret && syscall(SYS_close_range, from, ~0u, 0))
		ret = error_set(err, -errno, "closing descriptors: %s", strerror(errno));
	return ret;
}

/* ---- limits ---- */

static int limit(int resource, const char *name, uint64_t most, bool lower_if_need_be, struct error *err)
{
	struct rlimit now, wanted = { most, most };

	/* Only root with CAP_SYS_RESOURCE can go above the limit that the caller has. */
	if (lower_if_need_be && getrlimit((__typeof__(RLIMIT_NOFILE))resource, &now) == 0 && now.rlim_max < most)
		wanted = (struct rlimit){ now.rlim_max, now.rlim_max };
	if (setrlimit((__typeof__(RLIMIT_NOFILE))resource, &wanted))
		return error_set(err, -errno, "--resource-limit: %s=%" PRIu64 ": %s", name, most,
				 errno == EPERM ? "above the caller's own limit" : strerror(errno));
	return 0;
}

int privileges_limits(const struct options *o, struct error *err)
{
	const bool given = o->no_file != NO_LIMIT;
	int ret = limit(RLIMIT_NOFILE, "no-file", given ? o->no_file : NO_FILE_DEFAULT, !given, err);

	if (!ret && o->fsize != NO_LIMIT)
		ret = limit(RLIMIT_FSIZE, "fsize", o->fsize, false, err);
	return ret;
}

/* ---- user ---- */

static int write_proc(int proc, const char *file, const char *text, struct error *err)
{
	int fd = openat(proc, file, O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		ret = error_set(err, -errno, "--new-user-ns: %s: %s", file, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}

int privileges_map_self(int proc, uid_t uid, gid_t gid, struct error *err)
{
	char uids[32], gids[32];
	int ret;

	snprintf(uids, sizeof(uids), "%u %u 1", uid, uid);
	snprintf(gids, sizeof(gids), "%u %u 1", gid, gid);
	ret = write_proc(proc, "self/setgroups", "deny", err);
	if (!ret)
		ret = write_proc(proc, "self/gid_map", gids, err);
	if (!ret)
		ret = write_proc(proc, "self/uid_map", uids, err);
	return ret;
}

void privileges_bound(void)
{
	int cap;

	/* Ends with the first number that the kernel lacks. */
	for (cap = 0; prctl(PR_CAPBSET_DROP, cap) == 0; cap++)
		;
}

int privileges_drop(uid_t uid, gid_t gid, struct error *err)
{
	if (uid != 0)
		privileges_bound();
	if (setgroups(0, NULL) || setresgid(gid, gid, gid))
		return error_set(err, -errno, "--gid %u: %s", gid, strerror(errno));
	/* They go by themselves only when the saved user changes as well, and exec would hand them on. */
	if (uid != 0 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		return error_set(err, -errno, "ambient capabilities: %s", strerror(errno));
	/* The saved user stays root until exec overwrites it with the new one: execve(2). */
	if (setresuid(uid, uid, 0))
		return error_set(err, -errno, "--uid %u: %s", uid, strerror(errno));
	return 0;
}

void privileges_regain(void)
{
	(void)setresuid((uid_t)-1, 0, (uid_t)-1);
}
