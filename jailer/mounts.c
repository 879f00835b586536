/* mounts.c: a mount namespace that holds the jail's directory and nothing else. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "process.h"
#include "text.h"

#define PIDS_TRIED 8192 /* more than the threads of a kernel with a thousand CPUs when it starts kdevtmpfs */

#define BIND_ATTRIBUTES (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
#define MAX_TREES       (1 + LIST_MAX + ROOT_DEVICES)

/* A copy of a mount that is nowhere yet, and where in the jail it goes. */
struct tree {
	int fd;
	const char *target;
};

static int fail(struct error *err, const char *path)
{
	return error_set(err, -errno, "mounts: %s: %s", text_path_shown(path), strerror(errno));
}

/*
 * Copies the mount at path and what is mounted below it. fd is path as it was checked, or -1 for a path that nobody can
 * bend. A mount can be copied only from within its namespace, and without root that is one made after the check: then
 * path is opened again and has to lead to the same file.
 */
static int clone_tree(struct tree *tree, int fd, const char *path, const struct mount_attr *attr, struct error *err)
{
	const unsigned int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE;
	struct stat checked, now;

	tree->fd = (int)syscall(SYS_open_tree, fd, "", flags | AT_EMPTY_PATH);
	if (tree->fd < 0) {
		tree->fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, flags);
		if (tree->fd < 0 || fstat(tree->fd, &now) || (fd >= 0 && fstat(fd, &checked)))
			return fail(err, path);
		if (fd >= 0 && (checked.st_dev != now.st_dev || checked.st_ino != now.st_ino))
			return error_set(err, -ESTALE, "mounts: %s: not what it was a moment ago",
					 text_path_shown(path));
	}
	if (syscall(SYS_mount_setattr, tree->fd, "", AT_EMPTY_PATH | AT_RECURSIVE, attr, sizeof(*attr)))
		return fail(err, path);
	return 0;
}

/* The root first. Returns how many trees there are, or a negative errno. */
static int clone_trees(struct tree trees[MAX_TREES], const struct root *root, const struct options *options,
		       const struct place *sources, struct error *err)
{
	/* What the host mounts below the jail later appears in it: clients of Firecracker hand in disks that way. */
	const struct mount_attr root_attr = { .attr_set = BIND_ATTRIBUTES, .propagation = MS_SLAVE };
	const struct mount_attr device_attr = { .attr_set = BIND_ATTRIBUTES, .propagation = MS_PRIVATE };
	int nr = 0, ret = clone_tree(&trees[nr++], root->dir, root->path, &root_attr, err);
	unsigned int i;

	for (i = 0; i < options->nr_binds && !ret; i++) {
		const struct bind *bind = &options->binds[i];
		const mode_t mode = sources[i].st.st_mode;
		struct mount_attr attr = device_attr;

		attr.attr_set |= bind->read_only ? MOUNT_ATTR_RDONLY : 0;
		attr.attr_set |= S_ISBLK(mode) || S_ISCHR(mode) ? 0 : MOUNT_ATTR_NODEV;
		trees[nr].target = bind->target;
		ret = clone_tree(&trees[nr++], sources[i].fd, bind->source, &attr, err);
	}
	for (i = 0; i < ROOT_DEVICES && !ret && root->rootless; i++) {
		char host[32];

		if (!root->has_device[i])
			continue;
		snprintf(host, sizeof(host), "/%s", root_devices[i]);
		trees[nr].target = root_devices[i];
		ret = clone_tree(&trees[nr++], -1, host, &device_attr, err);
	}
	return ret ? ret : nr;
}

/* A name anyone can take; the flag only the kernel gives. */
static bool is_kdevtmpfs(int pid)
{
	return process_is(pid, "kdevtmpfs") && (process_flags(pid) & PROCESS_KERNEL_THREAD);
}

/*
 * The kernel thread that keeps /dev has had a mount namespace of its own since the host started, with /dev in it and
 * nothing else. A new namespace is a copy of the one it is made from, and this one is copied in no time however many
 * mounts the host has. In a container it cannot be seen: then it is the container's that is copied.
 */
static void join_smallest(void)
{
	char text[32];
	int pid, fd;

	if (!process_is(2, "kthreadd"))
		return;
	for (pid = 3; pid < PIDS_TRIED && !is_kdevtmpfs(pid); pid++)
		;
	snprintf(text, sizeof(text), "/proc/%d/ns/mnt", pid);
	fd = pid < PIDS_TRIED ? open(text, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	(void)setns(fd, CLONE_NEWNS);
	close(fd);
}

/* The tree becomes the root, and everything else goes. */
static int pivot(int tree, const char *path, struct error *err)
{
	/* Nothing that happens here may reach the namespace that this one is a copy of. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    syscall(SYS_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) || fchdir(tree) ||
	    syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return fail(err, path);
	return 0;
}

static int attach(const struct tree *tree, struct error *err)
{
	/* Below the root, through no symbolic link: the jail's user may have been here before. */
	int target = place_openat(AT_FDCWD, tree->target, O_PATH), ret = 0;

	if (target < 0 ||
	    syscall(SYS_move_mount, tree->fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH))
		ret = fail(err, tree->target);
	if (target >= 0)
		close(target);
	return ret;
}

int mounts_enter(const struct root *root, const struct options *options, const struct place *sources, int more,
		 struct error *err)
{
	struct tree trees[MAX_TREES] = { 0 };
	int i, nr, ret;

	if (root->rootless && unshare(CLONE_NEWNS | more))
		return error_set(err, -errno, "namespaces: %s", strerror(errno));
	nr = clone_trees(trees, root, options, sources, err);
	if (nr < 0)
		return nr;
	if (!root->rootless) {
		join_smallest();
		if (unshare(CLONE_NEWNS | more))
			return error_set(err, -errno, "namespaces: %s (needs root, or --new-user-ns)", strerror(errno));
	}
	ret = pivot(trees[0].fd, root->shown, err);
	for (i = 1; i < nr && !ret; i++)
		ret = attach(&trees[i], err);
	return ret;
}
