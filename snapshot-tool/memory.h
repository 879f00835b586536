/* memory.h: an open memory file, whole or half way through a rebase. */
#ifndef MAYFLY_SNAPSHOT_MEMORY_H
#define MAYFLY_SNAPSHOT_MEMORY_H

#include <stdbool.h>
#include <sys/stat.h>

#include "error.h"
#include "snapshot/memory_file.h"

/*
 * What stands in the place of the trailer while a diff is written over a base: nobody loads that file, and the same
 * rebase can be made again to finish it. In one sector, so that it is there or not.
 */
#define REBASE_MAGIC "MAYFLYRB" /* 8 bytes, no NUL */

struct rebase_mark {
	char magic[8];
	struct memory_trailer base;  /* what was here */
	uint8_t diff[STATE_ID_SIZE]; /* what is being written over it */
	uint64_t crc;                /* crc64 of all before */
};

struct memory {
	const char *path;
	int fd;
	struct stat stat;
	struct memory_trailer trailer; /* of what it was before, if it is half way */
	bool half_way;
	uint8_t diff[STATE_ID_SIZE]; /* if so: of which diff */
	uint8_t *bitmap;             /* of a diff, memory_bitmap_size() bytes; else NULL */
};

/* memory_open - open it (flags: O_RDONLY or O_RDWR) and read who it is. 0, or a negative errno with a sentence that
 * begins with the path. memory_close in either case. */
int memory_open(struct memory *m, const char *path, int flags, struct error *err);
void memory_close(struct memory *m);

/* memory_whole - refuse one that is half way. */
int memory_whole(const struct memory *m, struct error *err);

/* memory_lock - nobody else may write it (exclusive: use it) meanwhile; 0, or -EBUSY with a sentence. Kept until
 * memory_close. */
int memory_lock(const struct memory *m, bool exclusive, struct error *err);

/*
 * memory_run - the next run of pages, from *at on, that may hold something: those that a diff has, else those that are
 * not in a hole; moves *at behind it. 1: [*from, *to), in bytes; 0: that was all; or a negative errno.
 */
int memory_run(const struct memory *m, uint64_t *at, uint64_t *from, uint64_t *to);

/* memory_set_trailer, memory_set_mark - write the page at the end, and see to it that it is on disk. memory_set_bitmap
 * - write a diff's bitmap, and its checksum into the trailer, which is not written. 0 or a negative errno. */
int memory_set_trailer(int fd, struct memory_trailer *trailer);
int memory_set_mark(int fd, const struct memory_trailer *base, const uint8_t diff[STATE_ID_SIZE]);
int memory_set_bitmap(int fd, const uint8_t *bitmap, struct memory_trailer *trailer);

#endif
