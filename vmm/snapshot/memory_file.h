/* memory_file.h: the memory file of a snapshot: RAM as it is, and a page behind it that says whose RAM it is. */
#ifndef MAYFLY_MEMORY_FILE_H
#define MAYFLY_MEMORY_FILE_H

#include <stdint.h>

#include "error.h"
#include "snapshot/state.h"

/*
 * File: all of RAM in the order of guest addresses, without the gap below 4 GiB, pages of zeros as holes; then one page
 * with struct memory_trailer at its start. So the file can be mapped, and a state file finds out whether it has its own
 * memory before it.
 *
 * A diff holds only pages written since `base` was made; it is to be written over that (mayfly-snapshot rebase) before
 * it can be loaded. Which they are, a bitmap says that lies between RAM and that page: bit n % 8 of byte n / 8 is page
 * n, zeros up to memory_bitmap_size(). Holes do not: cp, tar and file systems make some and fill others as they like.
 */
#define MEMORY_PAGE         4096u
#define MEMORY_TRAILER_SIZE 4096u
#define MEMORY_MAGIC        "MAYFLYMM" /* 8 bytes, no NUL */
#define MEMORY_VERSION      1

enum memory_kind { MEMORY_FULL = 1, MEMORY_DIFF = 2 };

struct memory_trailer {
	char magic[8];
	uint16_t version;
	uint16_t kind; /* enum memory_kind */
	uint32_t zero;
	uint64_t size;               /* bytes of RAM, before this page */
	uint8_t id[STATE_ID_SIZE];   /* struct state_info, memory_id */
	uint8_t base[STATE_ID_SIZE]; /* of a diff: the id of what it is to be written over */
	uint64_t bitmap_crc;         /* of a diff: crc64 of its bitmap, else 0 */
	uint64_t crc;                /* crc64 of all before */
};

/* memory_bitmap_size - bytes between the RAM of a diff, of `size` bytes, and its trailer: a multiple of MEMORY_PAGE. */
uint64_t memory_bitmap_size(uint64_t size);

/* memory_trailer_seal - fill in magic, version and checksum of t, whose other fields are set. */
void memory_trailer_seal(struct memory_trailer *t);

/* memory_trailer_read - of a memory file of file_size bytes; 0, or a negative errno with a sentence that begins with
 * "the memory file". */
int memory_trailer_read(struct memory_trailer *t, int fd, uint64_t file_size, struct error *err);

#endif
