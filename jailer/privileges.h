/* privileges.h: what the program is left with: limits, user, capabilities, descriptors. */
#ifndef MAYFLY_JAILER_PRIVILEGES_H
#define MAYFLY_JAILER_PRIVILEGES_H

#include <sys/types.h>

#include "options.h"

/*
 * privileges_check_fds - close every inherited descriptor but 0 to 2 and those of --pass-fd
 * A directory among those that stay would be a way out of the jail and is refused, as is a descriptor that is not open.
 * Opens /dev/null as 0 to 2 where they are closed. Returns 0 or the sentence.
 */
int privileges_check_fds(const struct options *options, struct error *err);

/* privileges_limits - set the limits of --resource-limit. Returns 0 or the sentence. */
int privileges_limits(const struct options *options, struct error *err);

/*
 * privileges_map_self - in a user namespace that is new, keep the numbers of user and group
 * proc: a directory descriptor of the host's /proc. Returns 0 or the sentence.
 */
int privileges_map_self(int proc, uid_t uid, gid_t gid, struct error *err);

/* privileges_bound - empty the capability bounding set: no program that is executed from here on gives any back. */
void privileges_bound(void);

/*
 * privileges_drop - become uid and gid, for good once the process execs
 * Until then privileges_regain works, so that what was made can be undone. Returns 0 or the sentence.
 */
int privileges_drop(uid_t uid, gid_t gid, struct error *err);
void privileges_regain(void);

#endif
