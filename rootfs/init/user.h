/* user.h: who runs a command, and what it may. */
#ifndef MAYFLY_USER_H
#define MAYFLY_USER_H

#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "error.h"
#include "frames.h"

#define USER_GROUPS 256
#define USER_LIMITS 16

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS]; /* supplementary */
	size_t group_count;
	char home[256];
};

/*
 * user_find - look up "", NAME, UID, NAME:GROUP, UID:GID and mixtures in /etc/passwd and /etc/group below root
 * A number need not be there; no user is uid 0. The user's supplementary groups count unless GROUP is given.
 * Returns 0, or a negative errno with err set.
 */
int user_find(int root, const char *spec, struct user *out, struct error *err);

/* user_add_group - one more supplementary group, by name or number. 0, or a negative errno with err set. */
int user_add_group(int root, const char *group, struct user *out, struct error *err);

/* What a command may do, besides what its user may. */
struct privileges {
	uint64_t caps; /* bit n: capability n; a command of uid 0 has these, any other may gain no more by setuid files
			*/
	uint64_t ambient;     /* those of caps that are ambient; a command of another uid has no others */
	uint64_t inheritable; /* those of caps that files with inheritable capabilities add, besides the ambient ones */
	bool no_new_privs;
	struct {
		int resource;
		struct rlimit limit;
	} limits[USER_LIMITS];
	int limit_count;
};

/* privileges_parse - from the fields caps, ambient, inheritable, no_new_privs and rlimit. 0, or a negative errno with
 * err set. */
int privileges_parse(const struct fields *f, struct privileges *out, struct error *err);

/* privileges_drop - become that user with no more than these. For a child before exec. 0, or -1 with errno. */
int privileges_drop(const struct user *user, const struct privileges *p);

#endif
