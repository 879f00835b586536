/* main.c: mayfly-snapshot: a command and its options in, an exit code out. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "files.h"

#define PROGRAM  "mayfly-snapshot"
#define EXIT_USE 2
#define SEE_HELP " (" PROGRAM " --help tells more)"

/* Options, as bits of those that a command takes. */
enum { JSON = 1, VERBOSE = 2, FORCE = 4, OUTPUT = 8, EDITS = 16 };

static const struct command {
	const char *name, *arguments, *help;
	unsigned int least, most; /* files */
	unsigned int options, needs;
	int (*run)(const struct options *o, struct error *err);
} commands[] = {
	{ "info", "STATE|MEMORY", "show what a file is and what is in it", 1, 1, JSON | VERBOSE, 0, command_info },
	{ "verify", "STATE [MEMORY]", "check that a state file is whole, and that the memory file belongs to it", 1, 2,
	  0, 0, command_verify },
	{ "rebase", "BASE DIFF", "write the pages of a diff over the memory file it was taken from", 2, 2,
	  FORCE | OUTPUT, 0, command_rebase },
	{ "edit", "STATE", "change host paths and addresses (below); needs --output", 1, 1, OUTPUT | EDITS,
	  OUTPUT | EDITS, command_edit },
	{ "diff", "STATE STATE", "show in what two state files differ", 2, 2, JSON, 0, command_diff },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct choice {
	const char *name, *value, *help;
	char letter; /* what getopt_long returns; also an option of one letter if it stands in `letters` */
	unsigned int bit;
	enum edit_kind edit;
} choices[] = {
	{ "output", "FILE", "rebase, edit: write to this file, which appears whole or not at all", 'o', OUTPUT, 0 },
	{ "force", NULL, "rebase: even if the diff is for another base", 'f', FORCE, 0 },
	{ "json", NULL, "info, diff: as JSON", 'j', JSON, 0 },
	{ "verbose", NULL, "info: all records, too", 'v', VERBOSE, 0 },
	{ "vsock-path", "PATH", "edit: the socket of vsock", 's', EDITS, EDIT_VSOCK_PATH },
	{ "net", "IFACE=HOSTDEV", "edit: the host's device of a network interface (may be repeated)", 'n', EDITS,
	  EDIT_NET },
	{ "mac", "IFACE=MAC", "edit: the MAC address of a network interface (may be repeated)", 'm', EDITS, EDIT_MAC },
	{ "drive", "ID=PATH", "edit: the file of a drive (may be repeated)", 'd', EDITS, EDIT_DRIVE },
};

#define NR_CHOICES (sizeof(choices) / sizeof(choices[0]))

static const char letters[] = ":o:fv";

static void print_help(void)
{
	char left[40];
	size_t i;

	printf("Mayfly " MAYFLY_VERSION " snapshot tool: looks at snapshots and changes them, no microVM needed\n\n");
	for (i = 0; i < NR_COMMANDS; i++) {
		snprintf(left, sizeof(left), "%s %s", commands[i].name, commands[i].arguments);
		printf("  " PROGRAM " %-24s %s\n", left, commands[i].help);
	}
	putchar('\n');
	for (i = 0; i < NR_CHOICES; i++) {
		const struct choice *c = &choices[i];

		snprintf(left, sizeof(left), "%s%.*s%s--%s%s%s", strchr(letters, c->letter) ? "-" : "",
			 strchr(letters, c->letter) ? 1 : 0, &c->letter, strchr(letters, c->letter) ? ", " : "",
			 c->name, c->value ? " " : "", c->value ? c->value : "");
		printf("  %-28s %s\n", left, c->help);
	}
	printf("  %-28s %s\n  %-28s %s\n", "--version", "print the version", "--help", "print this page");
	printf("\nExit status: 0 good (diff: the same), 1 refused or failed (diff: different), 2 a command line that "
	       "makes "
	       "no sense.\nAll of it is explained in docs/snapshot-tool.md.\n");
}

static const struct choice *find_choice(int letter)
{
	size_t i;

	for (i = 0; i < NR_CHOICES; i++)
		if (choices[i].letter == letter)
			return &choices[i];
	return NULL;
}

static int take_edit(struct options *o, const struct choice *c, char *value, struct error *err)
{
	struct edit *e = &o->edit[o->nr_edits];
	char *equals;

	if (o->nr_edits == MAX_EDITS)
		return error_set(err, -EINVAL, "--%s: more than %u changes", c->name, MAX_EDITS);
	*e = (struct edit){ .kind = c->edit, .value = value };
	if (c->edit != EDIT_VSOCK_PATH) {
		equals = strchr(value, '=');
		if (!equals || equals == value)
			return error_set(err, -EINVAL, "--%s: needs %s", c->name, c->value);
		*equals = '\0';
		e->id = value;
		e->value = equals + 1;
	}
	o->nr_edits++;
	return 0;
}

static int take_option(struct options *o, const struct command *command, const struct choice *c, struct error *err)
{
	if (!(command->options & c->bit))
		return error_set(err, -EINVAL, "--%s: not an option of %s" SEE_HELP, c->name, command->name);
	if (c->bit == OUTPUT && !*optarg)
		return error_set(err, -EINVAL, "--%s: the value is empty", c->name);
	switch (c->bit) {
	case OUTPUT:
		o->output = optarg;
		return 0;
	case EDITS:
		return take_edit(o, c, optarg, err);
	case JSON:
		o->json = true;
		return 0;
	case VERBOSE:
		o->verbose = true;
		return 0;
	default:
		o->force = true;
		return 0;
	}
}

static int take_files(struct options *o, const struct command *command, char **files, unsigned int nr,
		      struct error *err)
{
	unsigned int i;

	if (nr < command->least || nr > command->most)
		return error_set(err, -EINVAL, "%s: needs %s" SEE_HELP, command->name, command->arguments);
	for (i = 0; i < nr; i++)
		o->file[i] = files[i];
	if ((command->needs & OUTPUT) && !o->output)
		return error_set(err, -EINVAL, "%s: needs --output FILE", command->name);
	if ((command->needs & EDITS) && !o->nr_edits)
		return error_set(err, -EINVAL, "%s: needs something to change" SEE_HELP, command->name);
	return 0;
}

/* What getopt_long did not take. */
static int fail_option(int letter, int argc, char **argv, struct error *err)
{
	const struct choice *choice = find_choice(optopt);
	const char one[] = { '-', (char)optopt, '\0' };
	char shown[FILES_SHOWN];

	/* Only the last argument has none behind it. */
	if (letter == ':')
		return error_set(err, -EINVAL, "%s: needs a value", files_show(shown, argv[argc - 1]));
	if (choice && !strchr(letters, choice->letter))
		return error_set(err, -EINVAL, "--%s: takes no value", choice->name);
	return error_set(err, -EINVAL, "%s: unknown option" SEE_HELP,
			 files_show(shown, optopt ? one : argv[optind - 1]));
}

static int parse(int argc, char **argv, const struct command *command, struct options *o, struct error *err)
{
	struct option table[NR_CHOICES + 1] = { 0 };
	size_t i;
	int letter, ret;

	for (i = 0; i < NR_CHOICES; i++)
		table[i] = (struct option){ .name = choices[i].name,
					    .has_arg = choices[i].value ? required_argument : no_argument,
					    .val = choices[i].letter };
	opterr = 0;
	while ((letter = getopt_long(argc, argv, letters, table, NULL)) != -1) {
		if (letter == ':' || letter == '?')
			return fail_option(letter, argc, argv, err);
		ret = take_option(o, command, find_choice(letter), err);
		if (ret)
			return ret;
	}
	return take_files(o, command, argv + optind, (unsigned int)(argc - optind), err);
}

static const struct command *find_command(const char *name)
{
	size_t i;

	for (i = 0; i < NR_COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int fail(const struct error *err, int code)
{
	fprintf(stderr, PROGRAM ": %s\n", err->message);
	return code;
}

static int run(int argc, char **argv, const struct command *command)
{
	static struct options options;
	struct error err = { 0 };
	int ret;

	if (parse(argc, argv, command, &options, &err))
		return fail(&err, EXIT_USE);
	ret = command->run(&options, &err);
	if (ret < 0)
		return fail(&err, EXIT_FAILURE);
	if (fflush(stdout) || ferror(stdout)) {
		error_set(&err, -errno, "standard output: %s", strerror(errno));
		return fail(&err, EXIT_FAILURE);
	}
	return ret;
}

int main(int argc, char **argv)
{
	const struct command *command = argc > 1 ? find_command(argv[1]) : NULL;
	char shown[FILES_SHOWN];
	struct error err;
	int i;

	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_help();
			return 0;
		}
		if (strcmp(argv[i], "--version") == 0) {
			printf("Mayfly snapshot tool v" MAYFLY_VERSION "\n");
			return 0;
		}
	}
	if (command)
		return run(argc - 1, argv + 1, command);
	if (argc > 1)
		error_set(&err, -EINVAL, "%s: unknown command (needs info, verify, rebase, edit or diff)" SEE_HELP,
			  files_show(shown, argv[1]));
	else
		error_set(&err, -EINVAL, "needs info, verify, rebase, edit or diff" SEE_HELP);
	return fail(&err, EXIT_USE);
}
