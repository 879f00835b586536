/* working_set.h: which pages a loaded guest touches first, written down by one load and brought ahead by the next. */
#ifndef MAYFLY_SNAPSHOT_WORKING_SET_H
#define MAYFLY_SNAPSHOT_WORKING_SET_H

#include <stdint.h>

#include "error.h"
#include "guest_memory.h"
#include "snapshot/state.h"

#define WORKING_SET_SUFFIX  ".ws"      /* behind the name of the memory file */
#define WORKING_SET_MAGIC   "MAYFLYWS" /* 8 bytes, no NUL */
#define WORKING_SET_VERSION 1

/*
 * File: this, then nr numbers of pages of the memory file (uint32_t, page 0 is its first), none twice, in the order in
 * which they were touched. Written last, so that a list that was not finished has none. Little-endian.
 */
struct working_set_header {
	char magic[8];
	uint16_t version;
	uint16_t zero;
	uint32_t nr;
	uint8_t memory_id[STATE_ID_SIZE]; /* of the memory file (memory_file.h) */
	uint64_t crc;                     /* crc64 of all before, then of the numbers */
};

/* A thread that records, or one that prefetches. Ours until working_set_end. */
struct working_set;

/* The memory file that RAM comes from. */
struct working_set_source {
	const char *path;
	const uint8_t *memory_id; /* STATE_ID_SIZE bytes */
	int fd;                   /* whole, and of as much RAM as there is */
};

/*
 * working_set_record - have a thread bring gm's pages from the memory file one by one, and note those that hold data
 * gm is as gm_create left it; afterwards it stands for the file as after gm_restore, and its fd is gm's. The list goes
 * to the file whose name has the suffix, which is opened, not emptied. 0, or a negative errno with a sentence and
 * nothing done. Start-up thread.
 */
int working_set_record(struct working_set **out, const struct working_set_source *source, struct guest_memory *gm,
		       struct error *err);

/*
 * working_set_prefetch - if there is a list of this memory file, which gm shows, have a thread read those pages and put
 * them into the page tables
 * Nobody waits for it. *out is NULL if there is none; what is wrong with it is a line in the log. Start-up thread.
 */
void working_set_prefetch(struct working_set **out, const struct working_set_source *source,
			  const struct guest_memory *gm);

/* working_set_complete - pages touched from now on are no part of the list, which is written, if there is one to write
 * and it was not before. Returns at once. Loop thread; ws may be NULL. */
void working_set_complete(struct working_set *ws);

/*
 * working_set_end - wait for the thread, which finishes what working_set_complete asked for and nothing else, and free
 * all. Pages that were not brought by then are zeros, so nobody may look at RAM any more. ws may be NULL.
 */
void working_set_end(struct working_set *ws);

#endif
