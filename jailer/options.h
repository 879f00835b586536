/* options.h: the jailer's command line, with Firecracker's options and Mayfly's own. */
#ifndef MAYFLY_JAILER_OPTIONS_H
#define MAYFLY_JAILER_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "error.h"
#include "words.h"

#define JAILER_NAME     "mayfly-jailer"
#define LIST_MAX        32 /* of each option that may be repeated */
#define NO_LIMIT        UINT64_MAX
#define NO_FILE_DEFAULT 2048 /* Firecracker's */

enum options_action { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION };

struct cgroup_option {
	const char *file, *value; /* cpuset.cpus and 0-3 */
};

struct bind {
	const char *source; /* on the host */
	const char *target; /* in the jail, without leading slashes and without . or .. */
	bool read_only;
};

/* Strings point into argv (which options_parse cuts up where one value holds several). NULL, 0, false: not given. */
struct options {
	enum options_action action;
	const char *id;        /* 1-64 of [A-Za-z0-9-] */
	const char *exec_file; /* not empty */
	const char *chroot_base;
	const char *netns;
	const char *parent_cgroup; /* NULL: the name of exec_file */
	uint32_t uid, gid;
	bool uid_given, gid_given;
	bool daemonize, cleanup;
	bool new_pid_ns, new_user_ns, new_net_ns, new_ipc_ns, new_uts_ns;
	unsigned int cgroup_version; /* 0: not given */
	unsigned int nr_settings, nr_binds, nr_pass_fds, nr_io;
	struct cgroup_option settings[LIST_MAX];
	struct bind binds[LIST_MAX];
	int pass_fds[LIST_MAX]; /* rising */
	struct io_limit io[LIST_MAX];
	uint64_t memory_max, cpu_max; /* bytes; µs in 100 ms; NO_LIMIT when not given */
	uint64_t fsize, no_file;      /* NO_LIMIT when not given */
	char **vmm_args;              /* what came after --, up to the NULL */
};

/*
 * options_parse - read the command line: "--name value" or "--name=value", then "--" and what the VMM gets
 * --help and --version win over everything before the "--". Returns 0, or -EINVAL with a sentence that starts with
 * the option. Makes no system call.
 */
int options_parse(int argc, char **argv, struct options *out, struct error *err);

/* options_help - the page that --help prints, made from the table that options_parse reads. */
void options_help(FILE *out);

#endif
