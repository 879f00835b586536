/* block_file.c: open a drive's file, refuse what is no disk, and find out how large it is. */
#include "block_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "text.h"

static const char *advice(int code, bool read_only)
{
	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
		return " (needs an existing file or block device)";
	case -EACCES:
	case -EPERM:
		return read_only ? " (needs to be readable" : " (needs to be readable and writable";
	case -EROFS:
	case -ETXTBSY:
		return " (needs to be writable, or is_read_only: true)";
	case -EISDIR:
		return " (needs a regular file or block device)";
	default:
		return "";
	}
}

static int open_failed(struct error *err, int code, const char *drive_id, const char *path, bool read_only)
{
	if (code == -EACCES || code == -EPERM)
		return error_set(err, code, "drives[%s].path_on_host: %s: %s%s by uid %u%s)", drive_id,
				 text_path_shown(path), strerror(-code), advice(code, read_only),
				 (unsigned int)geteuid(), read_only ? "" : ", or is_read_only: true");
	return error_set(err, code, "drives[%s].path_on_host: %s: %s%s", drive_id, text_path_shown(path),
			 strerror(-code), advice(code, read_only));
}

static const char *kind_of(mode_t mode)
{
	if (S_ISDIR(mode))
		return "Is a directory";
	if (S_ISFIFO(mode))
		return "Is a FIFO";
	if (S_ISCHR(mode))
		return "Is a character device";
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

/* Open without waiting (a FIFO without a writer would hang us), look at what it is, then take O_NONBLOCK off. */
static int open_disk(const char *drive_id, const char *path, bool read_only, struct error *err)
{
	int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	int ret;

	if (fd < 0 && errno == ENXIO)
		return error_set(err, -ENXIO,
				 "drives[%s].path_on_host: %s: No such device (needs a regular file or block device)",
				 drive_id, text_path_shown(path));
	if (fd < 0)
		return open_failed(err, -errno, drive_id, path, read_only);
	if (fstat(fd, &st)) {
		ret = open_failed(err, -errno, drive_id, path, read_only);
		goto close_fd;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		ret = error_set(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
				"drives[%s].path_on_host: %s: %s (needs a regular file or block device)", drive_id,
				text_path_shown(path), kind_of(st.st_mode));
		goto close_fd;
	}
	/* io_uring takes the flag at its word and fails with EAGAIN where it would have to wait for the disk. */
	if (fcntl(fd, F_SETFL, 0)) {
		ret = open_failed(err, -errno, drive_id, path, read_only);
		goto close_fd;
	}
	return fd;

close_fd:
	close(fd);
	return ret;
}

int block_file_open(struct block_file **out, const char *drive_id, const char *path, bool read_only, struct error *err)
{
	struct block_file *file = calloc(1, sizeof(*file));
	int ret;

	if (!file)
		return error_set(err, -ENOMEM, "drives[%s]: no memory", drive_id);
	file->refs = 1;
	file->fd = open_disk(drive_id, path, read_only, err);
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
	close(file->fd);
	free(file);
}
