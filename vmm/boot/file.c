/* file.c: open and read image files, with sentences that name field and file. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/image.h"
#include "retry.h"
#include "text.h"

/* A path may be longer than a whole sentence has room for; its end tells more than its beginning. */

int boot_fail(const struct boot_file *file, struct error *err, int code, const char *fmt, ...)
{
	char text[sizeof(err->message)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return error_set(err, code, "%s: %s: %s", file->field, text_path_shown(file->path), text);
}

int boot_file_open(struct boot_file *file, const char *field, const char *path, struct error *err)
{
	struct stat st;
	int ret;

	*file = (struct boot_file){ .field = field, .path = path };
	/* O_NONBLOCK: a FIFO must be refused below, not waited for. */
	file->fd = RETRY_INTERRUPTED(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
	if (file->fd < 0)
		return boot_fail(file, err, -errno, "%s (needs a file that can be read)", strerror(errno));
	if (fstat(file->fd, &st) < 0)
		ret = boot_fail(file, err, -errno, "%s", strerror(errno));
	else if (!S_ISREG(st.st_mode))
		ret = boot_fail(file, err, -EINVAL, "is %s; must be a regular file",
				S_ISDIR(st.st_mode) ? "a directory" : "not a file but a device, pipe or socket");
	else if (st.st_size <= 0)
		ret = boot_fail(file, err, -EINVAL, "is empty");
	else
		ret = 0;
	if (ret) {
		boot_file_close(file);
		return ret;
	}
	file->size = (uint64_t)st.st_size;
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

int boot_file_read(const struct boot_file *file, uint64_t offset, void *dst, size_t len, struct error *err)
{
	size_t done = 0;

	if (offset > file->size || len > file->size - offset)
		return boot_fail(file, err, -EIO, "is cut short: %zu bytes at offset %llu lie past its end at %llu",
				 len, (unsigned long long)offset, (unsigned long long)file->size);
	while (done < len) {
		ssize_t n = pread(file->fd, (uint8_t *)dst + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return boot_fail(file, err, -errno, "cannot be read: %s", strerror(errno));
		if (n == 0)
			return boot_fail(file, err, -EIO, "was cut short while it was read");
		done += (size_t)n;
	}
	return 0;
}

int boot_file_load(const struct boot_file *file, struct guest_memory *gm, uint64_t gpa, uint64_t offset, uint64_t len,
		   enum gm_load how, struct error *err)
{
	struct error why = { 0 };
	int ret = gm_load_file(gm, gpa, file->fd, file->size, offset, len, how, &why);

	return ret ? boot_fail(file, err, ret, "%s", why.message) : 0;
}
