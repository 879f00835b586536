/* cgroup.h: the cgroups of one jail, version 1 or 2. */
#ifndef MAYFLY_JAILER_CGROUP_H
#define MAYFLY_JAILER_CGROUP_H

#include <limits.h>

#include "made.h"
#include "options.h"

#define CGROUPS_MAX         16 /* version 1 has one for each controller */
#define CGROUP_SETTINGS_MAX (6 * LIST_MAX)
#define CONTROLLER_LEN      32

struct cgroups {
	unsigned int version, count, nr_settings;
	struct cgroup {
		char controller[CONTROLLER_LEN]; /* "" for the one of version 2 */
		int top, parent, dir;            /* of the hierarchy; around the cgroup; itself */
		int join;                        /* writing "0" there moves the writer in */
		bool lent;                       /* was not made for this jail and will not be removed with it */
	} group[CGROUPS_MAX];
	struct cgroup_setting {
		const char *file;
		char *value; /* allocated, lives as long as the process */
	} settings[CGROUP_SETTINGS_MAX];
	char path[PATH_MAX]; /* PARENT/ID */
	struct made *made;
};

/*
 * cgroups_create - make the cgroups that the options ask for and write their limits; joins none
 * program: the parent when --parent-cgroup is not given. What it makes goes to cgroups->made. Returns 0, or a negative
 * errno with the sentence.
 */
int cgroups_create(struct cgroups *cgroups, const struct options *options, const char *program, struct error *err);

/* cgroups_clone_fd - the one that clone3 can start a process in, -1 for none. */
int cgroups_clone_fd(const struct cgroups *cgroups);

/* cgroups_join - move this process into all of them; cloned: it was started in the one of cgroups_clone_fd. */
int cgroups_join(const struct cgroups *cgroups, bool cloned, struct error *err);

/* cgroups_leave - move this process back to the top of each hierarchy: a start that failed. */
void cgroups_leave(const struct cgroups *cgroups);

/* cgroups_remove - end what still runs in them (version 2) and remove them. Returns 0 or the sentence. */
int cgroups_remove(const struct cgroups *cgroups, struct error *err);

#endif
