/* mounts.c: the container's root: the image below, a writable layer above, and what every program takes for granted. */
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "files.h"

#define QUIET        (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define MAX_WRITABLE 26

/* The writable disks, to be frozen at the end: once they are below the root no path leads to them. */
static int writable[MAX_WRITABLE], writable_count;

/* A disk with whichever of the two file systems it has. dev: the folder of the devices. */
static int mount_disk(int dev, const char *device, const char *where, bool ro, struct error *err)
{
	const char *name = strncmp(device, "/dev/", 5) ? "" : device + 5;
	int ret = *name && !strchr(name, '/') ? fchdir(dev) : -1;

	if (ret)
		return error_set(err, -EINVAL, "%.60s: no disk (disks are /dev/vda and the following)", device);
	ret = mount(name, where, "erofs", MS_RDONLY | MS_NODEV, NULL);
	if (ret)
		ret = mount(name, where, "ext4", MS_NODEV | (ro ? MS_RDONLY : 0), NULL);
	if (ret)
		return error_set(err, -errno, "%.60s on %.100s: %s: must be a disk with EROFS or ext4", device, where,
				 strerror(errno));
	if (!ro && writable_count < MAX_WRITABLE)
		writable[writable_count++] = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return chdir("/");
}

/* What is written goes to the scratch disk or into memory. */
static int mount_upper(int dev, const struct fields *args, struct error *err)
{
	const char *scratch = field_get(args, "scratch"), *size = field_get(args, "tmpfs_size");
	char options[64];

	if (scratch)
		return mount_disk(dev, scratch, "/upper", false, err);
	snprintf(options, sizeof(options), "mode=700,size=%.20s", size ? size : "50%");
	if (strchr(options + strlen("mode=700,"), ',') || mount("tmpfs", "/upper", "tmpfs", MS_NODEV, options))
		return error_set(err, -EINVAL, "tmpfs_size=%.20s: must be as 64m or 50%%", size ? size : "");
	return 0;
}

/* The overlay. Its root looks as the upper folder does, so that gets the image's owner and mode. */
static int mount_overlay(struct error *err)
{
	struct stat st;

	if (stat("/image", &st))
		return error_set(err, -errno, "the image's root: %s", strerror(errno));
	if (!mkdir("/upper/data", 0700)) {
		chown("/upper/data", st.st_uid, st.st_gid);
		chmod("/upper/data", st.st_mode & 07777);
	}
	mkdir("/upper/work", 0700);
	if (mount("overlay", "/root", "overlay", MS_NODEV, "lowerdir=/image,upperdir=/upper/data,workdir=/upper/work"))
		return error_set(err, -errno, "a writable layer over the image: %s", strerror(errno));
	/* As switch_root does, since the first file system can neither be left by pivot_root nor unmounted. */
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return error_set(err, -errno, "the root cannot be changed: %s", strerror(errno));
	return 0;
}

/* The devices every container has, and no others: the image's own files have no right to be devices. */
static void make_devices(void)
{
	static const struct {
		const char *name;
		unsigned int minor;
	} nodes[] = {
		{ "/dev/null", 3 }, { "/dev/zero", 5 }, { "/dev/full", 7 }, { "/dev/random", 8 }, { "/dev/urandom", 9 }
	};
	static const char *const links[][2] = { { "/proc/self/fd", "/dev/fd" },
						{ "/proc/self/fd/0", "/dev/stdin" },
						{ "/proc/self/fd/1", "/dev/stdout" },
						{ "/proc/self/fd/2", "/dev/stderr" },
						{ "pts/ptmx", "/dev/ptmx" } };
	mode_t mask = umask(0);

	for (size_t i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
		mknod(nodes[i].name, S_IFCHR | 0666, makedev(1, nodes[i].minor));
	mknod("/dev/tty", S_IFCHR | 0666, makedev(5, 0));
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++)
		symlink(links[i][0], links[i][1]);
	umask(mask);
}

/* An image need not have the mount points, and may have links in their place: they lead nowhere but into itself. */
static int mount_system(struct error *err)
{
	static const struct {
		const char *source, *type, *where, *options;
		unsigned long flags;
		bool optional;
	} mounts[] = {
		{ "proc", "proc", "/proc", NULL, QUIET, false },
		{ "tmpfs", "tmpfs", "/dev", "mode=755,size=1m", MS_NOSUID | MS_NOEXEC, false },
		{ "devpts", "devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC, false },
		{ "shm", "tmpfs", "/dev/shm", "mode=1777", QUIET, false },
		{ "mqueue", "mqueue", "/dev/mqueue", NULL, QUIET, true },
		{ "sysfs", "sysfs", "/sys", NULL, QUIET | MS_RDONLY, false },
		{ "cgroup2", "cgroup2", "/sys/fs/cgroup", NULL, QUIET | MS_RDONLY, true },
		{ "tmpfs", "tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV, false },
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
		mkdir(mounts[i].where, 0755);
		if (mount(mounts[i].source, mounts[i].where, mounts[i].type, mounts[i].flags, mounts[i].options) &&
		    !mounts[i].optional)
			return error_set(err, -errno, "%s: %s", mounts[i].where, strerror(errno));
	}
	make_devices();
	return 0;
}

/* "/dev/vdb:/path" or "/dev/vdb:/path:ro" */
static int mount_further(int dev, const char *what, struct error *err)
{
	char device[32], where[256], how[4] = "";
	int n = sscanf(what, "%31[^:]:%255[^:]:%3s", device, where, how), root, ret;

	if (n < 2 || *where != '/' || (n == 3 && strcmp(how, "ro")))
		return error_set(err, -EINVAL, "mount=%.100s: must be as /dev/vdb:/path or /dev/vdb:/path:ro", what);
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	ret = root_make_folders(root, where);
	close(root);
	if (ret)
		return error_set(err, ret, "mount=%.100s: %s", what, strerror(-ret));
	return mount_disk(dev, device, where, n == 3, err);
}

int mounts_enter_root(const struct fields *args, struct error *err)
{
	static const char *const folders[] = { "/image", "/upper", "/root" };
	const char *more = NULL;
	int dev = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;

	for (size_t i = 0; i < sizeof(folders) / sizeof(*folders); i++)
		mkdir(folders[i], 0755);
	ret = mount_disk(dev, "/dev/vda", "/image", true, err);
	if (!ret)
		ret = mount_upper(dev, args, err);
	if (!ret)
		ret = mount_overlay(err);
	if (!ret)
		ret = mount_system(err);
	while (!ret && (more = field_next(args, "mount", more)))
		ret = mount_further(dev, more, err);
	close(dev);
	return ret;
}

void mounts_settle(void)
{
	sync();
	/* Frozen, a file system's journal is empty, and nothing is written any more. */
	while (writable_count)
		ioctl(writable[--writable_count], FIFREEZE, 0);
}
