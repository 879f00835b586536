/* root.h: the jail's directory on the host: BASE/PROGRAM/ID/root, its device nodes and mount points. */
#ifndef MAYFLY_JAILER_ROOT_H
#define MAYFLY_JAILER_ROOT_H

#include <sys/types.h>

#include "made.h"
#include "options.h"
#include "place.h"

#define ROOT_DEVICES 4

struct root {
	struct place base;
	int program_dir, id_dir, dir; /* BASE/PROGRAM, BASE/PROGRAM/ID, BASE/PROGRAM/ID/root */
	int lock;
	bool lock_stays; /* to the end, which removes it with the rest */
	bool rootless;   /* devices are the host's own, mounted, and nothing changes hands */
	uid_t uid;
	gid_t gid;
	char shown[256];             /* its path for sentences, maybe shortened */
	char path[PATH_MAX];         /* the whole */
	char pid_file[NAME_MAX + 1]; /* in root */
	bool has_device[ROOT_DEVICES];
	struct made *made;
};

/* Relative to the host's root and to the jail's. */
extern const char *const root_devices[ROOT_DEVICES];

/*
 * root_create - make the directory and everything in it that a jail needs
 * program is the last part of --exec-file as it was given. sources are those of options->binds. Refuses an id that is
 * in use. What it makes goes to root->made; on failure the caller undoes it. Returns 0, or a negative errno with the
 * sentence.
 */
int root_create(struct root *root, const struct options *options, const char *program, const struct place *sources,
		struct error *err);

/*
 * root_finish - note pid in PROGRAM.pid
 * Without --cleanup other jailers may look at the id again. Returns 0 or the sentence.
 */
int root_finish(struct root *root, pid_t pid, struct error *err);

/* root_remove - remove the directory with all that is in it, and the id is free. Returns 0, or what is left. */
int root_remove(struct root *root, const char *id, struct error *err);

#endif
