/* inherited.h: what whoever started Mayfly has opened for it: a file, socket or TAP called "fd:N" instead of by name.
 */
#ifndef MAYFLY_INHERITED_H
#define MAYFLY_INHERITED_H

#include <poll.h>
#include <stdbool.h>

#include "error.h"

/*
 * Which descriptors these are is the process's, as its table of them is: those that were open when it began, from 3 to
 * 255, and are nobody else's. Until inherited_note (in unit tests, for instance) all count. When the microVM starts,
 * those are closed that are not to be kept, and their numbers become others', which nobody may reach by "fd:N". Loop
 * thread.
 */
#define INHERITED_FIRST 3   /* behind standard input, output and error */
#define INHERITED_FDS   256 /* from here up, descriptors can only be named on the command line */

/* inherited_is_name - does it mean a descriptor ("fd:…")? A file of such a name in the working directory is "./fd:7".
 */
bool inherited_is_name(const char *name);

/* inherited_number - N of "fd:N"; -1: no such name, or no number. Whether it is open is not looked at. */
int inherited_number(const char *name);

/*
 * inherited_open - the descriptor that a name ("fd:N") means, as one of the caller's own, closed on exec
 * It is a duplicate: position and flags are shared with everybody who has it, so read and write by offset. where begins
 * the sentence ("drives[d0].path_on_host: fd:7"). May be asked again for the same. A negative errno with a sentence.
 */
int inherited_open(const char *name, const char *where, struct error *err);

/* inherited_open_file - the same, found to be open for what access (O_RDONLY, O_WRONLY, O_RDWR) says, at any offset. */
int inherited_open_file(const char *name, int access, const char *where, struct error *err);

/* inherited_note - these are they: at the beginning of the process. poll() takes at_once of them. */
void inherited_note(nfds_t at_once);

/* inherited_claim - this one is somebody else's, who looks after it. Any number; not open: nothing. */
void inherited_claim(int fd);

/* inherited_keep - leave this one open beyond inherited_close. 0, or -EBADF: there is none. */
int inherited_keep(int fd);

/* inherited_close - close all others, for the microVM starts. */
void inherited_close(void);

/* inherited_forget - there is none any more: this is a process for copies, where somebody else has closed them. */
void inherited_forget(void);

#endif
