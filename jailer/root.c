/* root.c: the jail's directory on the host: BASE/PROGRAM/ID/root, its device nodes and mount points. */
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "remove.h"
#include "text.h"

#define LOCK_NAME ".jailer.lock"

const char *const root_devices[ROOT_DEVICES] = { "dev/kvm", "dev/net/tun", "dev/urandom", "dev/userfaultfd" };

/* Where Firecracker's API socket is made, and what the devices need. */
static const char *const owned_dirs[] = { "dev", "dev/net", "run" };

static int fail(const struct root *root, struct error *err, int code, const char *name, const char *why)
{
	return error_set(err, code, "%s/%s: %s", root->shown, name, why);
}

static int fail_in_use(const struct root *root, const char *id, struct error *err)
{
	return error_set(err, -EBUSY,
			 "--id: %s: a jail with this id runs or was left behind in %s (needs another id, or that "
			 "directory removed)",
			 id, root->shown);
}

static int note(const struct root *root, struct error *err, int dir, const char *path, bool is_dir)
{
	return made_add(root->made, dir, path, is_dir) ? fail(root, err, -E2BIG, path, "too much to make") : 0;
}

/*
 * Opens a directory that may be there already, or makes it. Only root, the caller and `also` may own it. keep: it stays
 * when this jail fails, since others may be using it.
 */
static int open_dir(struct root *root, int parent, const char *name, uid_t also, bool keep, int *fd, struct error *err)
{
	bool made = mkdirat(parent, name, 0755) == 0;
	struct stat st;
	int ret;

	if (!made && errno != EEXIST)
		return fail(root, err, -errno, name, strerror(errno));
	ret = made && !keep ? note(root, err, parent, name, true) : 0;
	if (ret)
		return ret;
	*fd = place_openat(parent, name, O_RDONLY | O_DIRECTORY);
	if (*fd < 0)
		return fail(root, err, -errno, name,
			    errno == ELOOP ? "a symbolic link (needs to be a directory)" : strerror(errno));
	if (fstat(*fd, &st))
		return fail(root, err, -errno, name, strerror(errno));
	if (!place_is_ours(&st) && st.st_uid != also)
		return fail(root, err, -EPERM, name, "belongs to someone else (needs to be root's or yours)");
	if (st.st_uid != also && (st.st_mode & (S_IWGRP | S_IWOTH)))
		return fail(root, err, -EPERM, name, "others can write to it (needs chmod go-w)");
	return 0;
}

/* One jailer at a time looks at an id. The file is for root alone: nobody else can stand in the way. */
static int lock(struct root *root, const char *id, struct error *err)
{
	struct stat st;

	root->lock = openat(root->id_dir, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (root->lock < 0 && errno != ENOENT)
		return fail(root, err, -errno, LOCK_NAME, strerror(errno));
	/* Without a name, or in a directory without one, it is that of a jailer that has just finished. */
	if (flock(root->lock, LOCK_EX | LOCK_NB) || fstat(root->lock, &st) || st.st_nlink == 0)
		return fail_in_use(root, id, err);
	return note(root, err, root->id_dir, LOCK_NAME, false);
}

/* While it is being furnished nobody else may write to it: the user of the jail could bend what we make there. */
static int take(struct root *root, int fd, const char *name, struct error *err)
{
	struct stat before;

	if (fstat(fd, &before) || made_changed(root->made, fd, &before))
		return fail(root, err, -E2BIG, name, "too much to change");
	if ((!root->rootless && fchown(fd, 0, 0)) || fchmod(fd, 0700))
		return fail(root, err, -errno, name, strerror(errno));
	return 0;
}

static int make_device(struct root *root, unsigned int i, struct error *err)
{
	const char *path = root_devices[i];
	char host[32];
	struct stat st;
	int fd;

	snprintf(host, sizeof(host), "/%s", path);
	if (stat(host, &st) || !S_ISCHR(st.st_mode))
		return i == 0 ? error_set(err, -ENODEV, "%s: not there (needs a host with KVM)", host) : 0;
	if (root->rootless) {
		fd = openat(root->dir, path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return fail(root, err, -errno, path, strerror(errno));
		close(fd);
	} else if (mknodat(root->dir, path, S_IFCHR | 0600, st.st_rdev)) {
		return fail(root, err, -errno, path,
			    errno == EPERM ? "mknod is not permitted (needs root, or --new-user-ns without root)"
					   : strerror(errno));
	}
	root->has_device[i] = true;
	if (note(root, err, root->dir, path, false))
		return -E2BIG;
	if (!root->rootless && fchownat(root->dir, path, root->uid, root->gid, AT_SYMLINK_NOFOLLOW))
		return fail(root, err, -errno, path, strerror(errno));
	return 0;
}

/* One part of a target's path, in parent; path is the way to it from the root. Returns a descriptor or -errno. */
static int make_part(struct root *root, int parent, const char *name, const char *path, bool is_dir, struct error *err)
{
	int fd = place_openat(parent, name, O_PATH);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) == is_dir)
		return fd;
	if (fd >= 0) {
		close(fd);
		return fail(root, err, -ENOTDIR, path,
			    is_dir ? "is a file (needs to be a directory)"
				   : "is a directory (needs to be a file, as the source)");
	}
	if (errno != ENOENT)
		return fail(root, err, -errno, path, strerror(errno));
	if (is_dir) {
		fd = mkdirat(parent, name, 0755) ? -1 : place_openat(parent, name, O_PATH | O_DIRECTORY);
	} else {
		fd = openat(parent, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
	}
	if (fd < 0)
		return fail(root, err, -errno, path, strerror(errno));
	if (!note(root, err, root->dir, path, is_dir))
		return fd;
	close(fd);
	return -E2BIG;
}

/* A file or directory to mount a bind on; what is there already is taken as it is, the mount checks its type. */
static int make_target(struct root *root, const struct bind *bind, bool is_dir, struct error *err)
{
	char path[PATH_MAX], *name = path, *slash;
	int parent = root->dir, fd;

	snprintf(path, sizeof(path), "%s", bind->target);
	do {
		slash = strchr(name, '/');
		if (slash)
			*slash = '\0';
		fd = make_part(root, parent, name, path, is_dir || slash, err);
		if (parent != root->dir)
			close(parent);
		if (fd < 0)
			return fd;
		parent = fd;
		if (slash) {
			*slash = '/';
			name = slash + 1;
		}
	} while (slash);
	close(fd);
	return 0;
}

static int furnish(struct root *root, const struct options *options, const struct place *sources, struct error *err)
{
	int dirs[1 + sizeof(owned_dirs) / sizeof(owned_dirs[0])] = { root->dir };
	const unsigned int nr_dirs = sizeof(dirs) / sizeof(dirs[0]);
	unsigned int i;
	int ret = take(root, root->dir, "", err);

	for (i = 1; i < nr_dirs && !ret; i++) {
		ret = open_dir(root, root->dir, owned_dirs[i - 1], root->uid, false, &dirs[i], err);
		if (!ret)
			ret = take(root, dirs[i], owned_dirs[i - 1], err);
	}
	for (i = 0; i < ROOT_DEVICES && !ret; i++)
		ret = make_device(root, i, err);
	for (i = 0; i < options->nr_binds && !ret; i++)
		ret = make_target(root, &options->binds[i], S_ISDIR(sources[i].st.st_mode), err);
	for (i = 0; i < nr_dirs && !ret && !root->rootless; i++)
		if (fchown(dirs[i], root->uid, root->gid))
			ret = fail(root, err, -errno, "", strerror(errno));
	return ret;
}

static int open_root(struct root *root, const struct options *options, const char *program, struct error *err)
{
	int ret = open_dir(root, root->base.fd, program, (uid_t)-1, true, &root->program_dir, err);

	if (!ret)
		ret = open_dir(root, root->program_dir, options->id, (uid_t)-1, false, &root->id_dir, err);
	if (ret)
		return ret;
	snprintf(root->shown, sizeof(root->shown), "%s/%s/%s", text_path_shown(options->chroot_base), program,
		 options->id);
	ret = lock(root, options->id, err);
	if (!ret)
		ret = open_dir(root, root->id_dir, "root", root->uid, false, &root->dir, err);
	return ret;
}

int root_create(struct root *root, const struct options *options, const char *program, const struct place *sources,
		struct error *err)
{
	struct statvfs fs;
	struct stat st;
	ssize_t len;
	char self[32];
	int ret;

	root->lock_stays = options->cleanup;
	snprintf(root->shown, sizeof(root->shown), "%s", text_path_shown(options->chroot_base));
	ret = place_open(&root->base, "--chroot-base-dir", options->chroot_base, PLACE_TRUSTED, err);
	if (ret)
		return ret;
	if (snprintf(root->pid_file, sizeof(root->pid_file), "%s.pid", program) >= (int)sizeof(root->pid_file))
		return error_set(err, -ENAMETOOLONG, "--exec-file: its name is too long");
	ret = open_root(root, options, program, err);
	if (ret)
		return ret;
	if (fstatat(root->dir, root->pid_file, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
	    fstatat(root->dir, root_devices[0], &st, AT_SYMLINK_NOFOLLOW) == 0)
		return fail_in_use(root, options->id, err);
	if (fstatvfs(root->dir, &fs) == 0 && (fs.f_flag & ST_NODEV) && !root->rootless)
		return fail(root, err, -EPERM, "", "on a file system mounted nodev, devices would not work");
	snprintf(self, sizeof(self), "/proc/self/fd/%d", root->dir);
	len = readlink(self, root->path, sizeof(root->path) - 1);
	if (len < 0)
		return error_set(err, -errno, "%s: %s (needs /proc)", self, strerror(errno));
	return furnish(root, options, sources, err);
}

int root_finish(struct root *root, pid_t pid, struct error *err)
{
	int fd = openat(root->dir, root->pid_file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

	if (fd < 0)
		return fail(root, err, -errno, root->pid_file, strerror(errno));
	if (note(root, err, root->dir, root->pid_file, false)) {
		close(fd);
		return -E2BIG;
	}
	if (dprintf(fd, "%d", pid) < 0) {
		close(fd);
		return fail(root, err, -EIO, root->pid_file, "cannot be written");
	}
	close(fd);
	if (!root->lock_stays)
		(void)unlinkat(root->id_dir, LOCK_NAME, 0);
	return 0;
}

int root_remove(struct root *root, const char *id, struct error *err)
{
	char *slash = strrchr(root->path, '/');

	if (slash)
		*slash = '\0'; /* of the whole jail */
	return remove_tree(root->program_dir, id, LOCK_NAME, root->path, err);
}
