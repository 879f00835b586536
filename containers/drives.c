/* drives.c: what becomes a disk of the machine: the image, volumes, scratch. */
#include "drives.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <unistd.h>

#include "instance.h"
#include "jailer/words.h"
#include "spawn.h"
#include "text.h"

#define EROFS_MAGIC_AT   1024
#define EROFS_MAGIC      0xe0f5e1e2u
#define EXT4_MAGIC_AT    1080
#define EXT4_MAGIC       0xef53u
#define VOLUME_SIZE      (16ull << 30) /* of a new volume: sparse, so it costs what is written */
#define SCRATCH_SIZE_MIN (4ull << 20)
#define SCRATCH_SIZE_MAX (16ull << 40)

static const char volume_needs[] = "SOURCE:DIR[:ro], SOURCE a folder (:ro alone), a disk image or the name of a volume";

void drives_image(struct drives *d, int fd)
{
	d->drive[0] = (struct drive){ .fd = fd, .read_only = true };
	d->nr = 1;
}

void drives_close(struct drives *d)
{
	unsigned int i;

	for (i = 0; i < d->nr; i++)
		close(d->drive[i].fd);
	d->nr = 0;
}

bool drives_is_disk(int fd, bool *writable)
{
	unsigned char b[4] = { 0 };

	*writable = false;
	if (pread(fd, b, 4, EROFS_MAGIC_AT) == 4 &&
	    (b[0] | (unsigned int)b[1] << 8 | (unsigned int)b[2] << 16 | (unsigned int)b[3] << 24) == EROFS_MAGIC)
		return true;
	*writable = pread(fd, b, 2, EXT4_MAGIC_AT) == 2 && (b[0] | (unsigned int)b[1] << 8) == EXT4_MAGIC;
	return *writable;
}

static int add(struct drives *d, const struct drive *drive, struct error *err)
{
	if (d->nr == DRIVES_MAX) {
		close(drive->fd);
		return error_set(err, -E2BIG, "--volume: more than %d disks", DRIVES_MAX);
	}
	d->drive[d->nr++] = *drive;
	return 0;
}

/* Two machines that write to one disk destroy it. */
static int lock(int fd, bool read_only, const char *what, struct error *err)
{
	if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
		return 0;
	return error_set(err, errno == EWOULDBLOCK ? -EBUSY : -errno, "%s: %s", what,
			 errno == EWOULDBLOCK ? "in use by another container" : strerror(errno));
}

/* A file that nobody else sees and that is gone with its last descriptor. */
static int make_nameless(const struct places *p, struct error *err)
{
	int folder = places_data(p, "tmp", err), fd;
	char name[32];

	if (folder < 0)
		return folder;
	fd = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		/* Some file systems cannot. */
		snprintf(name, sizeof(name), "%d", getpid());
		fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		(void)unlinkat(folder, name, 0);
	}
	if (fd < 0)
		error_set(err, -errno, "%s/tmp: %s", text_path_shown(p->data_path), strerror(errno));
	close(folder);
	return fd < 0 ? err->code : fd;
}

/* ---- scratch and volumes: ext4 ---- */

int drives_make_ext4(int fd, uint64_t size, bool journal, struct error *err)
{
	char path[32], blocks[32];
	const char *argv[] = { "mke2fs",
			       "-q",
			       "-F",
			       "-t",
			       "ext4",
			       "-m",
			       "0",
			       "-E",
			       "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
			       "-O",
			       journal ? "has_journal" : "^has_journal",
			       path,
			       blocks,
			       NULL };
	const int keep[] = { fd, -1 };
	struct spawn spawn = {
		.argv = argv, .in = -1, .out = -1, .err = STDERR_FILENO, .keep = keep, .death_signal = SIGKILL
	};

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	snprintf(blocks, sizeof(blocks), "%lluk", (unsigned long long)(size >> 10));
	if (ftruncate(fd, (off_t)size))
		return error_set(err, -errno, "a disk of %llu MiB: %s", (unsigned long long)(size >> 20),
				 strerror(errno));
	return spawn_run(&spawn, err);
}

static int open_scratch(struct drives *d, const char *word, const struct places *p, struct error *err)
{
	struct drive drive = { .is_scratch = true };
	bool writable;
	uint64_t size;
	int ret;

	if (words_size(word, &size)) {
		if (size < SCRATCH_SIZE_MIN || size > SCRATCH_SIZE_MAX)
			return error_set(err, -EINVAL, "--scratch: \"%s\" (needs 4M to 16T)", word);
		drive.fd = make_nameless(p, err);
		ret = drive.fd < 0 ? drive.fd : drives_make_ext4(drive.fd, size, false, err);
	} else {
		drive.fd = open(word, O_RDWR | O_CLOEXEC);
		if (drive.fd < 0)
			return error_set(err, -errno, "--scratch: %s: %s (needs a size, as in 2G, or an ext4 image)",
					 text_path_shown(word), strerror(errno));
		ret = lock(drive.fd, false, "--scratch", err);
		if (!ret && !(drives_is_disk(drive.fd, &writable) && writable))
			ret = error_set(err, -EINVAL, "--scratch: %s: no ext4 file system (`mke2fs -t ext4` makes one)",
					text_path_shown(word));
	}
	if (!ret)
		return add(d, &drive, err);
	if (drive.fd >= 0)
		close(drive.fd);
	return ret;
}

/* A disk under a name of this process until it is whole; whoever prunes takes what nobody has locked. */
static int make_volume(int volumes, const char *file, const struct places *p, struct error *err)
{
	int folder = places_data(p, "tmp", err), fd, ret;
	char name[32];

	if (folder < 0)
		return folder;
	snprintf(name, sizeof(name), "%d.ext4", getpid());
	fd = openat(folder, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		ret = error_set(err, -errno, "%s/tmp/%s: %s", text_path_shown(p->data_path), name, strerror(errno));
	else
		ret = lock(fd, false, name, err);
	if (!ret)
		ret = drives_make_ext4(fd, VOLUME_SIZE, true, err);
	/* EEXIST: somebody else was faster, and that one is as good. */
	if (!ret && syscall(SYS_renameat2, folder, name, volumes, file, RENAME_NOREPLACE) && errno != EEXIST)
		ret = error_set(err, -errno, "--volume: %s: %s", file, strerror(errno));
	(void)unlinkat(folder, name, 0);
	if (fd >= 0)
		close(fd);
	close(folder);
	return ret;
}

/* The disk of a volume's name, which is made when there is none. */
static int open_volume(const char *name, bool read_only, const struct places *p, struct error *err)
{
	int folder = places_data(p, "volumes", err), fd, ret = 0;
	const int flags = (read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_CLOEXEC;
	char file[INSTANCE_NAME_MAX + 8];

	if (folder < 0)
		return folder;
	snprintf(file, sizeof(file), "%s.ext4", name);
	fd = openat(folder, file, flags);
	if (fd < 0 && errno == ENOENT) {
		ret = make_volume(folder, file, p, err);
		fd = ret ? -1 : openat(folder, file, flags);
	}
	if (!ret && fd < 0)
		ret = error_set(err, -errno, "--volume: %s: %s", name, strerror(errno));
	close(folder);
	if (!ret)
		ret = lock(fd, read_only, "--volume", err);
	if (ret && fd >= 0)
		close(fd);
	return ret ? ret : fd;
}

void drives_prune(const struct places *p)
{
	int folder = places_data(p, "tmp", NULL), fd;
	DIR *stream = folder < 0 ? NULL : fdopendir(folder);
	struct dirent *entry;

	while (stream && (entry = readdir(stream)) != NULL) {
		fd = openat(dirfd(stream), entry->d_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			(void)unlinkat(dirfd(stream), entry->d_name, 0);
		if (fd >= 0)
			close(fd);
	}
	if (stream)
		closedir(stream);
}

/* ---- folders ---- */

int drives_make_erofs(const char *source, const char *without, const struct places *p, struct error *err)
{
	int fd = make_nameless(p, err), ret;
	char path[32], folder[PATH_MAX];
	const char *argv[] = { "mkfs.erofs", "--quiet", path, folder, without, NULL };
	const int keep[] = { fd, -1 };
	struct spawn spawn = {
		.argv = argv, .in = -1, .out = -1, .err = STDERR_FILENO, .keep = keep, .death_signal = SIGKILL
	};

	if (fd < 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* So that a name is never taken for an option. */
	snprintf(folder, sizeof(folder), "%s%s", *source == '-' ? "./" : "", source);
	ret = spawn_run(&spawn, err);
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

/* A path of the host: a folder becomes an image of what is in it now, an image is a disk. */
static int open_path(const char *source, bool *read_only, const struct places *p, struct error *err)
{
	struct stat st;
	bool writable;
	int fd, ret;

	if (stat(source, &st))
		return error_set(err, -errno, "--volume: %s: %s", text_path_shown(source), strerror(errno));
	if (S_ISDIR(st.st_mode) && *read_only)
		return drives_make_erofs(source, NULL, p, err);
	if (S_ISDIR(st.st_mode))
		return error_set(
			err, -EOPNOTSUPP,
			"--volume: %s: a folder of the host cannot be written to from a machine of its own (needs "
			":ro, a copy of what is in it now; a volume, NAME:DIR, keeps what is written; `cp` takes "
			"files out)",
			text_path_shown(source));
	fd = open(source, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(err, -errno, "--volume: %s: %s", text_path_shown(source), strerror(errno));
	if (!S_ISREG(st.st_mode) || !drives_is_disk(fd, &writable)) {
		close(fd);
		return error_set(err, -EINVAL, "--volume: %s: neither a folder nor an EROFS or ext4 image",
				 text_path_shown(source));
	}
	*read_only |= !writable;
	if (!*read_only) {
		close(fd);
		fd = open(source, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return error_set(err, -errno, "--volume: %s: %s", text_path_shown(source), strerror(errno));
	}
	ret = lock(fd, *read_only, "--volume", err);
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

static int open_one(struct drives *d, char *word, const struct places *p, struct error *err)
{
	char *target = strchr(word, ':'), *mode = target ? strchr(target + 1, ':') : NULL;
	struct drive drive = { 0 };

	if (!target || target == word || target[1] != '/' ||
	    (mode && strcmp(mode, ":ro") != 0 && strcmp(mode, ":rw") != 0))
		return error_set(err, -EINVAL, "--volume: \"%.96s\" (needs %s)", word, volume_needs);
	*target++ = '\0';
	if (mode) {
		drive.read_only = strcmp(mode, ":ro") == 0;
		*mode = '\0';
	}
	drive.target = target;
	/* As in every engine: what looks like a path is one. */
	if (strchr(word, '/') || *word == '.')
		drive.fd = open_path(word, &drive.read_only, p, err);
	else if (instance_is_name(word))
		drive.fd = open_volume(word, drive.read_only, p, err);
	else
		return error_set(err, -EINVAL, "--volume: \"%.96s\" (needs %s)", word, volume_needs);
	return drive.fd < 0 ? drive.fd : add(d, &drive, err);
}

int drives_open(struct drives *d, const struct options *o, const struct places *p, struct error *err)
{
	unsigned int i;
	int ret = o->scratch ? open_scratch(d, o->scratch, p, err) : 0;

	for (i = 0; i < o->volumes.nr && !ret; i++)
		ret = open_one(d, (char *)(uintptr_t)o->volumes.word[i], p, err);
	return ret;
}
