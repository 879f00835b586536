/* landlock.h: a Landlock domain: of all the host's files, the thread reaches those it was given. */
#ifndef MAYFLY_LANDLOCK_H
#define MAYFLY_LANDLOCK_H

#include "error.h"

/* What a rule grants. READ and WRITE: of a file, or of all files below a directory; REMOVE and MAKE (files): below a
 * directory, -EINVAL for anything else. MAKE also opens directories, whose fsync brings new names to the disk. */
enum landlock_grant {
	LANDLOCK_READ = 1,
	LANDLOCK_WRITE = 2,
	LANDLOCK_REMOVE = 4,
	LANDLOCK_MAKE = 8,
	LANDLOCK_MAKE_SOCK = 16
};

/* landlock_abi - the ABI version of the kernel's Landlock, from 1; a negative errno where there is none. Any thread. */
int landlock_abi(void);

/*
 * landlock_create - a set of rules that allows nothing: no file, directory or TCP port, no abstract Unix socket
 * outside, no signal to others, as far as this ABI knows of them. Its descriptor, or a negative errno with a sentence.
 * Descriptors that are open already are not affected, nor is connecting to a Unix socket by path.
 */
int landlock_create(int abi, struct error *err);

/*
 * landlock_allow - grant (landlock_grant, ORed) for the file or directory that fd, which may be O_PATH, refers to
 * The file itself counts, not its name: what is put in its place later is not covered. 0 or a negative errno.
 */
int landlock_allow(int rules, int abi, int fd, unsigned int grant);

/*
 * landlock_enter - confine this thread and those it creates from now on, for good. The thread needs no_new_privs.
 * rules stays the caller's to close. 0 or a negative errno.
 */
int landlock_enter(int rules);

#endif
