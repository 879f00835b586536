/* place.h: paths that others may try to bend, opened once and checked on the way. */
#ifndef MAYFLY_JAILER_PLACE_H
#define MAYFLY_JAILER_PLACE_H

#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "error.h"

/* What a path led to: both descriptors are O_PATH and close on exec. */
struct place {
	int parent;              /* the directory it is in */
	int fd;                  /* itself, never a symbolic link */
	char name[NAME_MAX + 1]; /* in parent; "/" for the root */
	struct stat st;
};

enum place_trust {
	PLACE_NAMED,   /* symbolic links on the way must be root's or the caller's */
	PLACE_TRUSTED, /* so must every directory, and no one else may write there */
};

/*
 * place_open - follow path component by component
 * A directory that others may write to passes as PLACE_TRUSTED only when it is sticky and not the last one. option is
 * how the sentence of an error begins ("--exec-file"). Returns 0, or a negative errno with the sentence and nothing
 * open.
 */
int place_open(struct place *place, const char *option, const char *path, enum place_trust trust, struct error *err);

void place_close(struct place *place);

/* place_is_ours - whether a file belongs to root or to whoever runs this. */
bool place_is_ours(const struct stat *st);

/* place_openat - openat2: no symbolic link on the way, never out of dir. Returns a descriptor that closes on exec, or
 * -1 and errno. */
int place_openat(int dir, const char *path, int flags);

#endif
