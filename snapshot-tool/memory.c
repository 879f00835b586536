/* memory.c: an open memory file, whole or half way through a rebase. */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "config.h"
#include "files.h"
#include "retry.h"
#include "write_all.h"

#define MAX_RAM (CONFIG_MAX_MEM_MIB << 20)

_Static_assert(sizeof(struct rebase_mark) == 8 + sizeof(struct memory_trailer) + STATE_ID_SIZE + 8 &&
		       sizeof(struct rebase_mark) <= 512,
	       "no holes, one sector");

static uint64_t trailer_offset(const struct memory_trailer *t)
{
	return t->size + (t->kind == MEMORY_DIFF ? memory_bitmap_size(t->size) : 0);
}

static bool read_mark(const struct memory *m, uint64_t size, struct rebase_mark *mark)
{
	if (size < MEMORY_TRAILER_SIZE ||
	    RETRY_INTERRUPTED(pread(m->fd, mark, sizeof(*mark), (off_t)(size - MEMORY_TRAILER_SIZE))) !=
		    (ssize_t)sizeof(*mark))
		return false;
	return memcmp(mark->magic, REBASE_MAGIC, sizeof(mark->magic)) == 0 &&
	       mark->crc == crc64(0, mark, offsetof(struct rebase_mark, crc)) && mark->base.size < size &&
	       trailer_offset(&mark->base) == size - MEMORY_TRAILER_SIZE;
}

static int read_end(struct memory *m, struct error *err)
{
	const uint64_t size = (uint64_t)m->stat.st_size;
	struct rebase_mark mark;

	if (memory_trailer_read(&m->trailer, m->fd, size, err) == 0)
		return 0;
	if (!read_mark(m, size, &mark))
		return err->code;
	m->half_way = true;
	m->trailer = mark.base;
	memcpy(m->diff, mark.diff, sizeof(m->diff));
	return 0;
}

static int read_bitmap(struct memory *m, struct error *err)
{
	const uint64_t len = memory_bitmap_size(m->trailer.size);
	uint64_t done = 0;
	ssize_t n = 1;

	if (m->trailer.kind != MEMORY_DIFF)
		return 0;
	m->bitmap = malloc(len + 1);
	if (!m->bitmap)
		return error_set(err, -ENOMEM, "no memory for the list of its pages");
	while (done < len && n > 0) {
		n = RETRY_INTERRUPTED(pread(m->fd, m->bitmap + done, len - done, (off_t)(m->trailer.size + done)));
		done += n > 0 ? (uint64_t)n : 0;
	}
	if (done < len)
		return error_set(err, n < 0 ? -errno : -EIO, "the memory file: %s", strerror(n < 0 ? errno : EIO));
	/* Half way, each of its bytes is the old one or the new one: good enough for doing it again. */
	if (!m->half_way && m->trailer.bitmap_crc != crc64(0, m->bitmap, len))
		return error_set(err, -EINVAL, "the memory file is damaged: its list of pages has another checksum");
	return 0;
}

int memory_open(struct memory *m, const char *path, int flags, struct error *err)
{
	int ret;

	*m = (struct memory){ .path = path, .fd = -1 };
	m->fd = files_open(path, flags, &m->stat, err);
	if (m->fd < 0)
		return m->fd;
	ret = read_end(m, err);
	if (!ret && m->trailer.size > MAX_RAM)
		ret = error_set(err, -EINVAL, "the memory file is for more RAM than any microVM has");
	if (!ret)
		ret = read_bitmap(m, err);
	return ret ? files_blame(err, path) : 0;
}

void memory_close(struct memory *m)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	free(m->bitmap);
	m->bitmap = NULL;
}

int memory_whole(const struct memory *m, struct error *err)
{
	char diff[2 * STATE_ID_SIZE + 1];

	if (!m->half_way)
		return 0;
	error_set(err, -EINVAL,
		  "the memory file is half way through a rebase (needs the same rebase again, with the diff of id %s)",
		  hex_text(diff, m->diff, sizeof(m->diff)));
	return files_blame(err, m->path);
}

int memory_lock(const struct memory *m, bool exclusive, struct error *err)
{
	/* Where locks do not work at all we go without. */
	if (flock(m->fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0 || errno != EWOULDBLOCK)
		return 0;
	error_set(err, -EBUSY, "the memory file is in use: another process has it locked");
	return files_blame(err, m->path);
}

static bool has_page(const struct memory *m, uint64_t at)
{
	const uint64_t page = at / MEMORY_PAGE;

	return m->bitmap[page / 8] >> page % 8 & 1;
}

/* Of the last page there may be a part: then it is none of RAM's, which has whole ones. */
static int run_of_bits(const struct memory *m, uint64_t *at, uint64_t *from, uint64_t *to)
{
	const uint64_t end = m->trailer.size & ~(uint64_t)(MEMORY_PAGE - 1), byte = 8ul * MEMORY_PAGE;

	while (*at < end && !has_page(m, *at))
		*at += m->bitmap[*at / MEMORY_PAGE / 8] ? MEMORY_PAGE : byte - *at % byte;
	*from = *at;
	while (*at < end && has_page(m, *at))
		*at += MEMORY_PAGE;
	*to = *at;
	return *to > *from;
}

int memory_run(const struct memory *m, uint64_t *at, uint64_t *from, uint64_t *to)
{
	const uint64_t end = m->trailer.size, page = MEMORY_PAGE;
	off_t data, hole;

	if (m->bitmap)
		return run_of_bits(m, at, from, to);
	if (*at >= end)
		return 0;
	data = lseek(m->fd, (off_t)*at, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? 0 : -errno;
	if ((uint64_t)data >= end)
		return 0;
	hole = lseek(m->fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	/* A file that changes under our hands. */
	if (hole <= data || (uint64_t)data < *at)
		return -EIO;
	/* File systems with blocks smaller than a page can have a part of one. */
	*from = (uint64_t)data & ~(page - 1);
	*to = ((uint64_t)hole + page - 1) & ~(page - 1);
	if (*to > end)
		*to = end;
	*at = *to;
	return 1;
}

static int set_page(int fd, const void *what, size_t len, uint64_t offset)
{
	uint8_t page[MEMORY_TRAILER_SIZE] = { 0 };
	int ret;

	memcpy(page, what, len);
	ret = write_all(fd, page, sizeof(page), (off_t)offset);
	if (!ret && fsync(fd))
		ret = -errno;
	return ret;
}

int memory_set_trailer(int fd, struct memory_trailer *trailer)
{
	memory_trailer_seal(trailer);
	return set_page(fd, trailer, sizeof(*trailer), trailer_offset(trailer));
}

int memory_set_mark(int fd, const struct memory_trailer *base, const uint8_t diff[STATE_ID_SIZE])
{
	struct rebase_mark mark = { .base = *base };

	memcpy(mark.magic, REBASE_MAGIC, sizeof(mark.magic));
	memcpy(mark.diff, diff, sizeof(mark.diff));
	mark.crc = crc64(0, &mark, offsetof(struct rebase_mark, crc));
	return set_page(fd, &mark, sizeof(mark), trailer_offset(base));
}

int memory_set_bitmap(int fd, const uint8_t *bitmap, struct memory_trailer *trailer)
{
	const uint64_t len = memory_bitmap_size(trailer->size);

	trailer->bitmap_crc = crc64(0, bitmap, len);
	return write_all(fd, bitmap, len, (off_t)trailer->size);
}
