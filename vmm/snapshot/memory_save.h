/* memory_save.h: writes the guest's RAM to a memory file, a little at a time. */
#ifndef MAYFLY_MEMORY_SAVE_H
#define MAYFLY_MEMORY_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "guest_memory.h"
#include "snapshot/state.h"

struct memory_save {
	const struct guest_memory *gm;
	int fd;
	bool diff;       /* pages of zeros are written, since there may be something below them */
	uint64_t *dirty; /* a bit for each page written since the last snapshot; NULL: not tracked */
	uint8_t *bitmap; /* of a diff: memory_file.h */
	bool swaps;      /* the host swaps: a page that is not in memory may have been written, too */
	uint64_t at;     /* bytes of RAM, in the order of the file, that are done */
};

/*
 * memory_save_begin - fd is an empty file, open for writing, which stays the caller's
 * The guest is paused, and stays so until memory_save_end (background.h: or not). With gm->dirty, what was written
 * since the last snapshot is asked for and begins anew; vm_fd says what the guest wrote. diff: only that, or without
 * gm->dirty all that was ever touched. 0, or a negative errno with a sentence. Loop thread, as all of this.
 */
int memory_save_begin(struct memory_save *s, const struct guest_memory *gm, int vm_fd, int fd, bool diff,
		      struct error *err);

/*
 * memory_save_turn - the next piece, of a few milliseconds; 1: there is more, 0: that was the last, or a negative errno
 * with a sentence. Pages that nobody has touched are neither read nor written, zeros become holes.
 */
int memory_save_turn(struct memory_save *s, struct error *err);

/*
 * memory_save_choose, memory_save_pages - the same in parts, for background.c: which pages of [start, end), up to all,
 * belong into the file (bit 0 of wanted, one byte for each, zeroed before), and to put [at, end) there, all of which
 * do. Bytes of RAM, whole pages. 0, or a negative errno with a sentence.
 */
int memory_save_choose(const struct memory_save *s, uint64_t start, uint64_t end, uint8_t *wanted, struct error *err);
int memory_save_pages(struct memory_save *s, uint64_t at, uint64_t end, struct error *err);

/* memory_save_left - bytes of RAM written since the last snapshot, of one that has just begun; 0 if nobody noted them.
 * memory_save_is_zero - is the page, which may be written meanwhile, all zeros? Any thread. */
uint64_t memory_save_left(const struct memory_save *s);
bool memory_save_is_zero(const uint8_t *page);

/* memory_save_host_swaps - may a page that is not there have been swapped out? Any thread. */
bool memory_save_host_swaps(void);

/* memory_save_end - after the last turn, or instead of it when the file is given up: then what was written since the
 * snapshot before counts as not saved yet. */
void memory_save_end(struct memory_save *s, bool given_up);

#endif
