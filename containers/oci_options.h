/* oci_options.h: the command line of mayfly-oci, which is runc's: what engines pass, and what people type. */
#ifndef MAYFLY_CONTAINERS_OCI_OPTIONS_H
#define MAYFLY_CONTAINERS_OCI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "error.h"

#define OCI_NAME    "mayfly-oci"
#define OCI_ENV_MAX 256

enum oci_command {
	OCI_CREATE,
	OCI_START,
	OCI_STATE,
	OCI_KILL,
	OCI_DELETE,
	OCI_EXEC,
	OCI_PS,
	OCI_LIST,
	OCI_RUN,
	OCI_PAUSE,
	OCI_RESUME,
	OCI_UPDATE,
	OCI_EVENTS,
	OCI_FEATURES,
	OCI_SPEC,
	OCI_COMMANDS,
	OCI_HELP,
	OCI_VERSION_PAGE,
};

/* Strings point into argv. NULL, 0, false: not given. */
struct oci_options {
	enum oci_command command;
	const char *root, *log, *log_format, *id;
	const char *bundle, *pid_file, *console_socket, *process, *cwd, *user, *format, *resources, *signal;
	const char *unused; /* of options that mean nothing here */
	bool detach, force, all, tty, stats, quiet, nothing;
	const char *env[OCI_ENV_MAX];
	unsigned int nr_env;
	char **args; /* behind the container's id, ended by NULL */
	int nr_args;
};

/*
 * oci_options_parse - read the command line: [OPTION]... COMMAND [OPTION]... [ID [WORD]...]
 * Returns 0 or -EINVAL with a sentence. What was read until then is in *out, so that --log is known. No system call.
 */
int oci_options_parse(int argc, char **argv, struct oci_options *out, struct error *err);

/* oci_options_help - what --help prints. */
void oci_options_help(FILE *out);

/* oci_is_id - whether a container can be called so; below --root it is a folder's name. */
bool oci_is_id(const char *text);

const char *oci_command_name(enum oci_command command);

#endif
