/* snapshots.h: a microVM from a snapshot, for the API and for the command line. */
#ifndef MAYFLY_SNAPSHOTS_H
#define MAYFLY_SNAPSHOTS_H

#include <jansson.h>

#include "machine.h"

/*
 * snapshot_load - make the microVM that a snapshot holds, and resume it if the body (of PUT /snapshot/load) says so
 * cfg, the machine's, has nothing of a microVM in it yet; it is filled from the snapshot. 0, or a negative errno with a
 * sentence, *blame saying whose mistake it was, and cfg as it was. SNAPSHOT_COMES: it comes through a socket, and
 * loaded is called when it is there, with what would have been returned; the body is kept until then. Loop thread.
 */
#define SNAPSHOT_COMES 1
typedef void snapshot_loaded_fn(void *opaque, int ret, enum board_blame blame, const struct error *err);
int snapshot_load(struct machine *m, struct config *cfg, json_t *body, snapshot_loaded_fn *loaded, void *opaque,
		  enum board_blame *blame, struct error *err);

/* snapshot_load_fds - the same where both files are open; they are its own from now on. The body's paths are for
 * sentences. */
struct snapshot_fds {
	int state, memory;
	bool memory_is_ours; /* a memfd that nobody else has: the guest may write to it */
};
int snapshot_load_fds(struct machine *m, struct config *cfg, const json_t *body, const struct snapshot_fds *fds,
		      enum board_blame *blame, struct error *err);

/* snapshot_config - the configuration as a state file has it; the caller's to free. NULL without memory. */
char *snapshot_config(const struct config *cfg);

/* snapshot_body - such a body from the command line; it is resumed. memory_path: NULL when a stream has it; override: a
 * JSON object with more members, or NULL. The caller's; NULL with a sentence. */
json_t *snapshot_body(const char *state_path, const char *memory_path, const char *override, struct error *err);

/*
 * snapshot_describe - print the format of a state file, as "v1.0.0", and on the next lines what it is of
 * 0, or a negative errno with a sentence, when nothing is printed. Start-up thread.
 */
int snapshot_describe(const char *state_path, struct error *err);

#endif
