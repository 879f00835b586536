/* memory_file.c: the page at the end of a memory file. */
#include "memory_file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "retry.h"

_Static_assert(sizeof(struct memory_trailer) == 72, "no holes");

uint64_t memory_bitmap_size(uint64_t size)
{
	const uint64_t bytes = (size / MEMORY_PAGE + 7) / 8;

	return (bytes + MEMORY_PAGE - 1) & ~(uint64_t)(MEMORY_PAGE - 1);
}

void memory_trailer_seal(struct memory_trailer *t)
{
	memcpy(t->magic, MEMORY_MAGIC, sizeof(t->magic));
	t->version = MEMORY_VERSION;
	t->zero = 0;
	t->crc = crc64(0, t, offsetof(struct memory_trailer, crc));
}

int memory_trailer_read(struct memory_trailer *t, int fd, uint64_t file_size, struct error *err)
{
	uint64_t before;
	ssize_t n = -1;

	if (file_size < MEMORY_TRAILER_SIZE)
		return error_set(err, -EINVAL, "the memory file is cut short");
	n = RETRY_INTERRUPTED(pread(fd, t, sizeof(*t), (off_t)(file_size - MEMORY_TRAILER_SIZE)));
	if (n < 0)
		return error_set(err, -errno, "the memory file: %s", strerror(errno));
	if (n != (ssize_t)sizeof(*t) || memcmp(t->magic, MEMORY_MAGIC, sizeof(t->magic)) != 0 ||
	    t->version != MEMORY_VERSION || t->crc != crc64(0, t, offsetof(struct memory_trailer, crc)))
		return error_set(err, -EINVAL,
				 "the memory file is no whole one of Mayfly's (cut short, or never finished?)");
	if (t->kind != MEMORY_FULL && t->kind != MEMORY_DIFF)
		return error_set(err, -EINVAL, "the memory file is of an unknown kind (%u)", t->kind);
	before = file_size - MEMORY_TRAILER_SIZE;
	if (t->kind == MEMORY_DIFF && t->size <= before)
		before -= memory_bitmap_size(t->size) <= before ? memory_bitmap_size(t->size) : before;
	if (t->size != before)
		return error_set(err, -EINVAL, "the memory file is for %llu bytes of RAM and has %llu",
				 (unsigned long long)t->size, (unsigned long long)before);
	return 0;
}
