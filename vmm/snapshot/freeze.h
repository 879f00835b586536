/* freeze.h: a paused microVM as two sealed files in memory, for any number of others to begin with. */
#ifndef MAYFLY_SNAPSHOT_FREEZE_H
#define MAYFLY_SNAPSHOT_FREEZE_H

#include "error.h"
#include "machine.h"

/* Neither can be written to by anybody any more. */
struct frozen {
	int state_fd;  /* a state file */
	int memory_fd; /* a memory file; the machine's own */
};

/*
 * machine_freeze - what the microVM is at this moment; config as for snapshot_create
 * Its RAM goes on as a private copy of the memory file, of which the kernel makes only the pages that are written. The
 * first time that costs nothing (with config's allow_fork), later what was written has to be copied. state_fd is the
 * caller's to close. 0, or a negative errno with a sentence. It is paused, and nothing else saves it. Loop thread.
 */
int machine_freeze(struct machine *m, const char *config, struct frozen *out, struct error *err);

#endif
