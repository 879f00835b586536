/* background.h: writes RAM as it was at a pause while the guest runs on. */
#ifndef MAYFLY_SNAPSHOT_BACKGROUND_H
#define MAYFLY_SNAPSHOT_BACKGROUND_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "event_loop.h"
#include "guest_memory.h"
#include "snapshot/memory_save.h"

/*
 * One for each microVM. Between background_begin and background_end, each page that belongs into the file is
 * write-protected by a userfaultfd until it is there. A vCPU that writes to one waits until this thread has saved it;
 * what this thread is about to write, it saves before (guest_memory.h, gm_written), since it cannot wait for itself.
 */
struct background {
	int open_code;          /* why there is no userfaultfd; 0 and is_open: there is one */
	bool is_open, is_begun; /* zeroed: neither */
	bool guards_missing;    /* pages that are not there can be protected, too */
	bool guards_shared;     /* shared RAM can be protected */
	struct event_fd faults;
	struct event_loop *loop;
	struct guest_memory *gm;
	struct memory_save *save;
	struct gm_watcher watcher;
	struct gm_mapped guarded[GM_MAX_MAPPED + 1]; /* the parts of RAM that can be protected, in order */
	unsigned int nr_guarded;
	uint64_t *left;         /* a bit for each page that is to be saved; in guarded parts, these are protected */
	unsigned int unguarded; /* of gm->mapped, those that are done */
	uint64_t at;            /* bytes of RAM, or of gm->mapped[unguarded], before which nothing is left */
	struct error err;       /* what went wrong first; nothing is protected any more then */
};

/* background_open - before the jail closes; where the host has nothing for it, background_begin says so. */
void background_open(struct background *b);

/*
 * background_begin - save, which has begun, is done by background_turn from now on
 * The guest is paused. 0, or a negative errno with a sentence and nothing to end. Loop thread, as all of this.
 */
int background_begin(struct background *b, struct event_loop *loop, struct guest_memory *gm, struct memory_save *save,
		     struct error *err);

/* background_may_resume - what cannot be protected is in the file: the guest may go on. */
bool background_may_resume(const struct background *b);

/* background_turn - as memory_save_turn, but shorter, since the guest runs. */
int background_turn(struct background *b, struct error *err);

/* background_end - nothing is protected any more, nobody waits; what was not saved is lost. Harmless if nothing is
 * under way. */
void background_end(struct background *b);

void background_close(struct background *b);

#endif
