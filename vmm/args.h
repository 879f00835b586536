/* args.h: the command line, with Firecracker's options. */
#ifndef MAYFLY_ARGS_H
#define MAYFLY_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "config.h"
#include "error.h"
#include "jail.h"

#define ARGS_NOT_GIVEN UINT64_MAX

enum args_action { ARGS_RUN, ARGS_HELP, ARGS_VERSION, ARGS_PROBE, ARGS_SNAPSHOT_VERSION, ARGS_DESCRIBE_SNAPSHOT };

/* Strings point into argv. NULL or false: not given. */
struct args {
	enum args_action action;
	const char *config_file; /* NULL: the API configures the microVM; with no_api there is this or load_snapshot */
	const char *load_snapshot; /* NULL: none; with memory, and never with config_file */
	const char *memory;
	const char *override;          /* JSON, NULL: not given; only with load_snapshot */
	const char *describe_snapshot; /* a path; only with that action */
	bool no_api;
	const char *api_sock;     /* NULL: not given */
	uint64_t api_fd;          /* ARGS_NOT_GIVEN: not given */
	uint64_t ready_fd;        /* ARGS_NOT_GIVEN: not given */
	uint64_t api_max_payload; /* bytes */
	const char *metadata;     /* NULL: not given */
	uint64_t mmds_size_limit; /* bytes; ARGS_NOT_GIVEN: as api_max_payload */
	const char *id;           /* 1-64 of [A-Za-z0-9-], "anonymous-instance" when not given */
	bool boot_timer;
	const char *log_path;
	enum log_level level;
	bool level_given;
	bool show_level;
	bool show_log_origin;
	const char *module;
	const char *metrics_path;
	/* From a jailer, for its own start-up time in metrics: µs; the clocks are CLOCK_MONOTONIC and CPU time. */
	uint64_t start_time_us, start_time_cpu_us, parent_cpu_time_us;
	bool allow_fork;
	bool no_seccomp;
	const char *allow_path[JAIL_MAX_ALLOWED];
	unsigned int nr_allow_path;
	uint64_t allow_fds[INHERITED_FDS / 64]; /* a bit for each */
	const char *seccomp_filter;             /* NULL: the built-in ones; never together with no_seccomp */
};

/*
 * args_parse - read the command line: "--name value" or "--name=value", each at most once but for --allow-path and -fd
 * --help and --version win over everything else, as in Firecracker. Returns 0, or -EINVAL with a sentence that starts
 * with the option (the process then ends with EXIT_BAD_ARGUMENTS). Makes no system call.
 */
int args_parse(int argc, char **argv, struct args *out, struct error *err);

/* args_override - what the command line says about log and metrics wins over what the file said. After
 * config_parse_file. */
void args_override(const struct args *args, struct config *cfg);

/* args_help - the page that --help prints, made from the table that args_parse reads. */
void args_help(FILE *out);

#endif
