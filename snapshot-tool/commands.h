/* commands.h: what mayfly-snapshot can do, and what a command line asks of it. */
#ifndef MAYFLY_SNAPSHOT_COMMANDS_H
#define MAYFLY_SNAPSHOT_COMMANDS_H

#include <stdbool.h>

#include "error.h"

#define MAX_FILES 2
#define MAX_EDITS 64 /* 16 drives, 16 interfaces with host device and MAC, vsock: 49 that make sense */

enum edit_kind { EDIT_VSOCK_PATH, EDIT_NET, EDIT_DRIVE, EDIT_MAC };

/* One change to the configuration: of what, and to what. Both point into argv. */
struct edit {
	enum edit_kind kind;
	const char *id; /* NULL for vsock, of which there is one */
	const char *value;
};

struct options {
	const char *file[MAX_FILES]; /* in the order given, NULL after the last */
	const char *output;          /* NULL: not given */
	bool json, verbose, force;
	struct edit edit[MAX_EDITS];
	unsigned int nr_edits;
};

/* Each writes its answer to standard output. 0; 1: refused, or different; negative: refused, with a sentence in err. */
int command_info(const struct options *o, struct error *err);
int command_verify(const struct options *o, struct error *err);
int command_rebase(const struct options *o, struct error *err);
int command_edit(const struct options *o, struct error *err);
int command_diff(const struct options *o, struct error *err);

#endif
