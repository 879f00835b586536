/* options.h: the command line of mayfly-run: its sub-commands and their options, from one table. */
#ifndef MAYFLY_CONTAINERS_OPTIONS_H
#define MAYFLY_CONTAINERS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "error.h"

#define RUN_NAME "mayfly-run"

enum command {
	COMMAND_RUN,
	COMMAND_PS,
	COMMAND_EXEC,
	COMMAND_LOGS,
	COMMAND_STOP,
	COMMAND_KILL,
	COMMAND_RM,
	COMMAND_CP,
	COMMAND_WAIT,
	COMMAND_INSPECT,
	COMMANDS,
};

enum options_action { ACTION_DO, ACTION_HELP, ACTION_VERSION, ACTION_WORDS };

struct words {
	const char **word;
	unsigned int nr;
};

/* Strings point into argv. NULL, 0, false: not given, unless said otherwise. */
struct options {
	enum command command;
	enum options_action action;
	bool interactive, tty, detach, remove, read_only, no_new_privs;
	bool all, json, prune, quiet, force, follow, timestamps;
	const char *name, *net, *ip, *gateway, *user, *workdir, *entrypoint, *hostname, *scratch, *kernel, *pull;
	const char *stop_signal, *signal;
	struct words ports, volumes, env, env_files, labels, cap_add, cap_drop, ulimits, dns, kernel_args;
	uint64_t cpus, memory; /* bytes */
	uint64_t max_size;     /* bytes that cp takes from a guest */
	int64_t stop_timeout;  /* seconds; -1: not given */
	int64_t tail;          /* lines; -1: all */
	char **args;           /* what is no option, ended by NULL */
	int nr_args;
};

/*
 * options_parse - read the command line
 * As podman does: "--name value", "--name=value", "-n value", "-nvalue", "-it" for "-i -t"; run and exec take no option
 * behind the image or container. Returns 0, or -EINVAL with a sentence that begins with the option. options_free for
 * the lists, also after an error. Makes no system call.
 */
int options_parse(int argc, char **argv, struct options *out, struct error *err);
void options_free(struct options *options);

/* options_help - what --help prints of a command. */
void options_help(FILE *out, enum command command);

/* options_words - the command's options one a line, for shells to complete; commands as well when it is COMMANDS. */
void options_words(FILE *out, enum command command);

/* options_command - what a command is called, and by its name (COMMANDS: there is none). */
const char *options_command_name(enum command command);
enum command options_command(const char *name);

#endif
