/* jail.h: one jail from the command line to the program's end. */
#ifndef MAYFLY_JAILER_JAIL_H
#define MAYFLY_JAILER_JAIL_H

#include "cgroup.h"
#include "made.h"
#include "options.h"
#include "place.h"
#include "root.h"

struct jail {
	struct options options;
	const char *program; /* the last part of --exec-file */
	bool rootless;
	uid_t uid;
	gid_t gid;
	mode_t umask;                  /* the caller's, which the program gets */
	uint64_t start_us, cpu_us;     /* when we were started; CPU time of the processes before this one */
	int netns, proc, null, errors; /* descriptors, -1 where not needed */
	struct place exec, sources[LIST_MAX];
	struct root root;
	struct cgroups cgroups;
	struct made made;
};

/*
 * jail_run - make the jail that jail->options describe, and start the program in it
 * Everything else in jail is zero. Returns an exit code, with the sentence said when it is one of failure; does not
 * return when this process became the program.
 */
int jail_run(struct jail *jail);

/*
 * jail_fail - say on the caller's standard error what went wrong
 * Returns code, or the exit code that an errno stands for wherever it comes from.
 */
int jail_fail(const struct jail *jail, const struct error *err, int code);

/*
 * jail_become - turn this process into the jailed program
 * report: -1; or it was started for that, in the cgroup and with the namespaces that clone3 makes, by a process that
 * notes its PID, sends a byte through this socket then, and reads from it. Returns only when that failed, a negative
 * errno with the sentence; what was made on the host is still there, and the process may undo it if there is no report.
 */
int jail_become(struct jail *jail, int report, struct error *err);

/*
 * jail_keep - start the program as a child, for --new-pid-ns, --daemonize and --cleanup
 * Returns the exit code of this process: at once when the program runs, after its end with --cleanup.
 */
int jail_keep(struct jail *jail);

/* jail_cpu_us - CPU time of this process. */
uint64_t jail_cpu_us(void);

#endif
