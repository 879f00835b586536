/* block_file.c: open a drive's file, refuse what is no disk, and find out how large it is. */
#include "block_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block_overlay.h"
#include "inherited.h"
#include "log.h"
#include "retry.h"
#include "text.h"

static int open_failed(struct error *err, int code, const struct block_place *at, int flags)
{
	const bool read_only = (flags & O_ACCMODE) == O_RDONLY;
	char advice[96] = "";

	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
		snprintf(advice, sizeof(advice), " (needs an existing %s)", flags & O_CREAT ? "folder" : at->kind);
		break;
	case -EACCES:
	case -EPERM:
		snprintf(advice, sizeof(advice), " (needs to be readable%s by uid %u%s)",
			 read_only ? "" : " and writable", (unsigned int)geteuid(),
			 read_only ? "" : ", or is_read_only: true");
		break;
	case -EROFS:
	case -ETXTBSY:
		snprintf(advice, sizeof(advice), " (needs to be writable, or is_read_only: true)");
		break;
	case -ENXIO: /* a socket, or a device that is not there */
	case -EISDIR:
		snprintf(advice, sizeof(advice), " (needs a regular %s)", at->kind);
		break;
	}
	return error_set(err, code, "drives[%s].%s: %s: %s%s", at->drive_id, at->field, text_path_shown(at->path),
			 code == -ENXIO ? "No such device" : strerror(-code), advice);
}

static const char *kind_of(mode_t mode)
{
	if (S_ISDIR(mode))
		return "Is a directory";
	if (S_ISFIFO(mode))
		return "Is a FIFO";
	if (S_ISCHR(mode))
		return "Is a character device";
	if (S_ISBLK(mode))
		return "Is a block device";
	if (S_ISSOCK(mode))
		return "Is a socket";
	return "Is no disk";
}

static int size_of(int fd, uint64_t *bytes)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd, BLKGETSIZE64, bytes) ? -errno : 0;
	*bytes = (uint64_t)st.st_size;
	return 0;
}

int block_file_measure(struct block_file *file, const char *drive_id, struct error *err)
{
	uint64_t bytes = 0;
	int ret = size_of(file->fd, &bytes);

	if (ret)
		return error_set(err, ret, "drives[%s].path_on_host: size: %s", drive_id, strerror(-ret));
	if (bytes % BLOCK_SECTOR_SIZE)
		log_warn("drives[%s]: the last %llu bytes of the file are no whole sector and are left out", drive_id,
			 (unsigned long long)(bytes % BLOCK_SECTOR_SIZE));
	/* Allowed, since a drive may be a placeholder until a PATCH brings the real file. */
	if (bytes < BLOCK_SECTOR_SIZE)
		log_warn("drives[%s]: the file is empty, and so is the guest's disk", drive_id);
	file->sectors = bytes / BLOCK_SECTOR_SIZE;
	return 0;
}

static int open_by_name(const struct block_place *at, int flags, struct error *err)
{
	char where[128 + TEXT_PATH_ROOM];
	int fd;

	snprintf(where, sizeof(where), "drives[%s].%s: %s", at->drive_id, at->field, text_path_shown(at->path));
	if (inherited_is_name(at->path))
		return inherited_open_file(at->path, flags & O_ACCMODE, where, err);
	/* Without waiting: a FIFO that nobody writes to would hang us. */
	fd = RETRY_INTERRUPTED(open(at->path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600));
	return fd < 0 ? open_failed(err, -errno, at, flags) : fd;
}

int block_place_open(const struct block_place *at, int flags, struct error *err)
{
	int fd = open_by_name(at, flags, err), ret;
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st)) {
		ret = open_failed(err, -errno, at, flags);
		goto close_fd;
	}
	if (!S_ISREG(st.st_mode) && !(S_ISBLK(st.st_mode) && at->may_be_device)) {
		ret = error_set(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
				"drives[%s].%s: %s: %s (needs a regular %s)", at->drive_id, at->field,
				text_path_shown(at->path), kind_of(st.st_mode), at->kind);
		goto close_fd;
	}
	/* io_uring takes the flag at its word and fails with EAGAIN where it would have to wait for the disk. */
	if (fcntl(fd, F_SETFL, 0)) {
		ret = open_failed(err, -errno, at, flags);
		goto close_fd;
	}
	return fd;

close_fd:
	close(fd);
	return ret;
}

int block_file_open(struct block_file **out, const char *drive_id, const char *path, bool read_only, struct error *err)
{
	const struct block_place place = { drive_id, "path_on_host", path, "file or block device", true };
	struct block_file *file = calloc(1, sizeof(*file));
	int ret;

	if (!file)
		return error_set(err, -ENOMEM, "drives[%s]: no memory", drive_id);
	file->refs = 1;
	file->fd = block_place_open(&place, read_only ? O_RDONLY : O_RDWR, err);
	if (file->fd < 0) {
		ret = file->fd;
		goto free_file;
	}
	ret = block_file_measure(file, drive_id, err);
	if (ret)
		goto close_fd;
	*out = file;
	return 0;

close_fd:
	close(file->fd);
free_file:
	free(file);
	return ret;
}

struct block_file *block_file_get(struct block_file *file)
{
	file->refs++;
	return file;
}

void block_file_put(struct block_file *file)
{
	if (--file->refs)
		return;
	if (file->overlay)
		block_overlay_close(file->overlay);
	close(file->fd);
	free(file);
}
