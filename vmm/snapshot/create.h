/* create.h: writes a snapshot of a paused microVM, so that at no moment a wrong one can be found. */
#ifndef MAYFLY_SNAPSHOT_CREATE_H
#define MAYFLY_SNAPSHOT_CREATE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "error.h"
#include "machine.h"

struct snapshot_request {
	char state_path[PATH_MAX];  /* a file, or "fd:N" (inherited.h); is_stream: as stream_open takes it */
	char memory_path[PATH_MAX]; /* the same; is_stream: empty */
	bool is_stream;             /* for stream_send */
	bool diff;
	bool background;
};

/*
 * snapshot_create - write state and memory to new files beside the two paths, and put these in their place once they
 * are whole and on stable storage; a file that is given by descriptor is written itself, and is empty if that fails
 * config is what the STATE_CONFIG record is to hold (copied). The microVM is paused, and is not resumed before the end.
 * Memory is written in turns on the event loop; done is called at the end: 0, or a negative errno with a sentence, when
 * what was there before still is. In the background, may_resume is called once the microVM may be resumed, long before
 * the end, unless that comes sooner by an error. Returns 0 or, when nothing begins and neither is ever called, a
 * negative errno with a sentence. Loop thread.
 */
struct snapshot_progress {
	void (*may_resume)(void *opaque);
	void (*done)(void *opaque, int ret, const struct error *err);
	void *opaque;
};
int snapshot_create(struct machine *m, const struct snapshot_request *request, const char *config,
		    const struct snapshot_progress *progress, struct error *err);

/*
 * snapshot_state - all of a state file, whose memory has this id; config as above. w is for state_free in any case. 0,
 * or a negative errno with a sentence. The microVM is paused. Loop thread.
 */
int snapshot_state(struct machine *m, const char *config, const uint8_t memory_id[STATE_ID_SIZE],
		   struct state_writer *w, struct error *err);

#endif
