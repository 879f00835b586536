/* options.c: the command line of mayfly-run: its sub-commands and their options, from one table. */
#include "options.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "jailer/words.h"
#include "text.h"

#define SHOWN_SIZE     96
#define DEFAULT_CPUS   1
#define DEFAULT_MEMORY (512ull << 20)
#define MEMORY_MIN     (32ull << 20)
#define MEMORY_MAX     (1ull << 42)
#define CPUS_MAX       32
#define DEFAULT_SIZE   (16ull << 30)
#define SECONDS_MAX    31536000 /* a year */

enum option_kind { FLAG, TEXT, LIST, MEMORY, BYTES, CPUS, SECONDS, LINES };

#define RUN     (1u << COMMAND_RUN)
#define PS      (1u << COMMAND_PS)
#define EXEC    (1u << COMMAND_EXEC)
#define LOGS    (1u << COMMAND_LOGS)
#define STOP    (1u << COMMAND_STOP)
#define KILL    (1u << COMMAND_KILL)
#define RM      (1u << COMMAND_RM)
#define CP      (1u << COMMAND_CP)
#define WAIT    (1u << COMMAND_WAIT)
#define INSPECT (1u << COMMAND_INSPECT)

struct option {
	const char *name;
	char letter; /* 0: none */
	unsigned int commands;
	enum option_kind kind;
	const char *value; /* what --help calls it, NULL for those that take none */
	const char *help;
	size_t offset; /* in struct options */
};

#define INTO(member) offsetof(struct options, member)

static const struct option options[] = {
	{ "interactive", 'i', RUN | EXEC, FLAG, NULL, "hand standard input on", INTO(interactive) },
	{ "tty", 't', RUN | EXEC, FLAG, NULL, "give the command a terminal", INTO(tty) },
	{ "detach", 'd', RUN, FLAG, NULL, "run in the background and print the id", INTO(detach) },
	{ "rm", 0, RUN, FLAG, NULL, "leave nothing behind at the end", INTO(remove) },
	{ "name", 0, RUN, TEXT, "NAME", "a name to use in place of the id", INTO(name) },
	{ "cpus", 0, RUN, CPUS, "N", "CPUs of the machine, 1 to 32 [1]", INTO(cpus) },
	{ "memory", 'm', RUN, MEMORY, "SIZE", "memory of the machine, as in 256M or 2G [512M]", INTO(memory) },
	{ "net", 0, RUN, TEXT, "none|user|tap:NAME", "network [user where the host has one, else none]", INTO(net) },
	{ "publish", 'p', RUN, LIST, "[IP:]PORT:PORT[/udp]", "a port of the host that leads to one of the container",
	  INTO(ports) },
	{ "ip", 0, RUN, TEXT, "ADDRESS/BITS", "the container's address, with tap:NAME", INTO(ip) },
	{ "gateway", 0, RUN, TEXT, "ADDRESS", "its way out, with tap:NAME", INTO(gateway) },
	{ "dns", 0, RUN, LIST, "ADDRESS", "a name server to use", INTO(dns) },
	{ "volume", 'v', RUN, LIST, "SOURCE:DIR[:ro]", "a folder (only :ro), a disk image, or a named volume",
	  INTO(volumes) },
	{ "scratch", 0, RUN, TEXT, "SIZE|FILE", "what is written goes to a disk, not to memory", INTO(scratch) },
	{ "env", 'e', RUN | EXEC, LIST, "NAME[=VALUE]", "an environment variable", INTO(env) },
	{ "env-file", 0, RUN | EXEC, LIST, "FILE", "more of them, one a line", INTO(env_files) },
	{ "user", 'u', RUN | EXEC, TEXT, "USER[:GROUP]", "who runs the command", INTO(user) },
	{ "workdir", 'w', RUN | EXEC, TEXT, "DIR", "where it starts", INTO(workdir) },
	{ "entrypoint", 0, RUN, TEXT, "PROGRAM", "in place of the image's entrypoint", INTO(entrypoint) },
	{ "hostname", 'h', RUN, TEXT, "NAME", "the container's host name [its id]", INTO(hostname) },
	{ "read-only", 0, RUN, FLAG, NULL, "the command cannot write to the root file system", INTO(read_only) },
	{ "cap-add", 0, RUN, LIST, "CAP", "one more capability, or ALL", INTO(cap_add) },
	{ "cap-drop", 0, RUN, LIST, "CAP", "one capability less, or ALL", INTO(cap_drop) },
	{ "no-new-privs", 0, RUN, FLAG, NULL, "setuid programs gain nothing", INTO(no_new_privs) },
	{ "ulimit", 0, RUN, LIST, "NAME=SOFT[:HARD]", "a resource limit, as in nofile=1024:4096", INTO(ulimits) },
	{ "label", 'l', RUN, LIST, "NAME[=VALUE]", "a note that inspect shows", INTO(labels) },
	{ "stop-signal", 0, RUN, TEXT, "SIGNAL", "what stop sends [the image's, else TERM]", INTO(stop_signal) },
	{ "stop-timeout", 0, RUN, SECONDS, "SECONDS", "how long stop waits before it kills [10]", INTO(stop_timeout) },
	{ "pull", 0, RUN, TEXT, "missing|always|never", "when to look for the image's source [missing]", INTO(pull) },
	{ "kernel", 0, RUN, TEXT, "FILE", "another kernel for the machine", INTO(kernel) },
	{ "kernel-arg", 0, RUN, LIST, "WORD", "one more word for the kernel's command line", INTO(kernel_args) },
	{ "all", 'a', PS | RM, FLAG, NULL, "also those that have ended (rm: all of those)", INTO(all) },
	{ "json", 0, PS, FLAG, NULL, "as JSON", INTO(json) },
	{ "quiet", 'q', PS, FLAG, NULL, "ids alone", INTO(quiet) },
	{ "prune", 0, PS, FLAG, NULL, "first remove what killed processes left", INTO(prune) },
	{ "follow", 'f', LOGS, FLAG, NULL, "go on until the container ends", INTO(follow) },
	{ "tail", 'n', LOGS, LINES, "N", "the last N lines alone", INTO(tail) },
	{ "timestamps", 't', LOGS, FLAG, NULL, "with the time of each line", INTO(timestamps) },
	{ "time", 't', STOP, SECONDS, "SECONDS", "how long to wait before it is killed", INTO(stop_timeout) },
	{ "signal", 's', KILL, TEXT, "SIGNAL", "by name or number [KILL]", INTO(signal) },
	{ "max-size", 0, CP, BYTES, "SIZE", "what a container may send at most; a file counts as 16K at least [16G]",
	  INTO(max_size) },
	{ "force", 'f', RM, FLAG, NULL, "kill it first when it runs", INTO(force) },
};

#define NR_OPTIONS (sizeof(options) / sizeof(options[0]))

static const struct {
	const char *name, *usage, *help;
	int min, max; /* of arguments; -1: any number, and they end the options */
} commands[COMMANDS] = {
	[COMMAND_RUN] = { "run", "[OPTION]... IMAGE [COMMAND [ARG]...]", "run a command in a new container", 1, -1 },
	[COMMAND_PS] = { "ps", "[OPTION]...", "list containers", 0, 0 },
	[COMMAND_EXEC] = { "exec", "[OPTION]... CONTAINER COMMAND [ARG]...", "run one more command in a container", 2,
			   -1 },
	[COMMAND_LOGS] = { "logs", "[OPTION]... CONTAINER", "print what a container has said", 1, 1 },
	[COMMAND_STOP] = { "stop", "[OPTION]... CONTAINER...", "end containers, kindly at first", 1, 1000 },
	[COMMAND_KILL] = { "kill", "[OPTION]... CONTAINER...", "send containers' commands a signal", 1, 1000 },
	[COMMAND_RM] = { "rm", "[OPTION]... CONTAINER...", "remove containers that have ended", 0, 1000 },
	[COMMAND_CP] = { "cp", "[OPTION]... CONTAINER:PATH PATH | PATH CONTAINER:PATH",
			 "copy files out of or into a container", 2, 2 },
	[COMMAND_WAIT] = { "wait", "CONTAINER...", "wait for their ends and print their exit statuses", 1, 1000 },
	[COMMAND_INSPECT] = { "inspect", "CONTAINER...", "all that is known of containers, as JSON", 1, 1000 },
};

const char *options_command_name(enum command command)
{
	return commands[command].name;
}

enum command options_command(const char *name)
{
	unsigned int i;

	for (i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			break;
	return (enum command)i;
}

/* ---- values ---- */

static const char *show(char shown[SHOWN_SIZE], const char *text)
{
	text_escape(shown, SHOWN_SIZE, text, strlen(text));
	return shown;
}

static int fail_value(struct error *err, const struct option *o, const char *value, const char *needs)
{
	char shown[SHOWN_SIZE];

	if (!*value)
		return error_set(err, -EINVAL, "--%s: the value is empty (needs %s)", o->name, needs);
	return error_set(err, -EINVAL, "--%s: \"%s\" (needs %s)", o->name, show(shown, value), needs);
}

static int add_word(struct words *list, const char *value, struct error *err)
{
	const char **more = realloc(list->word, (list->nr + 1) * sizeof(*more));

	if (!more)
		return error_set(err, -ENOMEM, "no memory");
	list->word = more;
	list->word[list->nr++] = value;
	return 0;
}

/* 256M, 256m, 256MB, 256MiB are the same. */
static bool read_size(const char *value, uint64_t *out)
{
	char text[32], *unit;
	size_t len = strlen(value);

	if (len >= sizeof(text))
		return false;
	memcpy(text, value, len + 1);
	unit = text + strspn(text, "0123456789");
	if (*unit && (strcmp(unit + 1, "iB") == 0 || strcmp(unit + 1, "B") == 0 || strcmp(unit + 1, "b") == 0))
		unit[1] = '\0';
	if (*unit >= 'a' && *unit <= 'z')
		*unit = (char)(*unit - 'a' + 'A');
	return words_size(text, out);
}

static int store(struct options *out, const struct option *o, const char *value, struct error *err)
{
	void *dst = (char *)out + o->offset;
	uint64_t n;

	switch (o->kind) {
	case FLAG:
		*(bool *)dst = true;
		return 0;
	case LIST:
		return *value ? add_word(dst, value, err) : fail_value(err, o, value, o->value);
	case MEMORY:
		if (!read_size(value, dst) || *(uint64_t *)dst < MEMORY_MIN || *(uint64_t *)dst > MEMORY_MAX)
			return fail_value(err, o, value, "32M or more, as in 256M or 2G");
		return 0;
	case BYTES:
		return read_size(value, dst) ? 0 : fail_value(err, o, value, "a size, as in 256M or 2G");
	case CPUS:
		if (!words_number(value, dst) || *(uint64_t *)dst < 1 || *(uint64_t *)dst > CPUS_MAX)
			return fail_value(err, o, value, "a whole number of CPUs, 1 to 32");
		return 0;
	case SECONDS:
		if (!words_number(value, &n) || n > SECONDS_MAX)
			return fail_value(err, o, value, "a number of seconds");
		*(int64_t *)dst = (int64_t)n;
		return 0;
	case LINES:
		if (!words_number(value, &n) || n > INT32_MAX)
			return fail_value(err, o, value, "a number of lines");
		*(int64_t *)dst = (int64_t)n;
		return 0;
	case TEXT:
	default:
		/* An empty entrypoint takes the image's away. */
		if (!*value && o->offset != INTO(entrypoint))
			return fail_value(err, o, value, o->value);
		*(const char **)dst = value;
		return 0;
	}
}

/* ---- the command line ---- */

static const struct option *find(enum command command, const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < NR_OPTIONS; i++)
		if ((options[i].commands & 1u << command) && strlen(options[i].name) == len &&
		    memcmp(options[i].name, name, len) == 0)
			return &options[i];
	/* Other names that people know from elsewhere. */
	if (len == 7 && memcmp(name, "network", len) == 0)
		return find(command, "net", 3);
	return NULL;
}

static const struct option *find_letter(enum command command, char letter)
{
	size_t i;

	for (i = 0; i < NR_OPTIONS; i++)
		if ((options[i].commands & 1u << command) && options[i].letter == letter)
			return &options[i];
	return NULL;
}

static int fail_unknown(const struct options *out, const char *word, struct error *err)
{
	char shown[SHOWN_SIZE];

	return error_set(err, -EINVAL, "%s: unknown option (`" RUN_NAME " %s --help` lists all)", show(shown, word),
			 commands[out->command].name);
}

static int fail_missing(const struct option *o, struct error *err)
{
	return error_set(err, -EINVAL, "--%s: the value is missing (needs --%s %s)", o->name, o->name, o->value);
}

/* --name, --name=value or --name value at argv[*i]; *i is left on the last word used. */
static int take_long(int argc, char **argv, int *i, struct options *out, struct error *err)
{
	char *word = argv[*i], *equals = strchr(word, '='), shown[SHOWN_SIZE];
	const size_t len = (equals ? (size_t)(equals - word) : strlen(word)) - 2;
	const struct option *o = find(out->command, word + 2, len);

	if (!o)
		return fail_unknown(out, word, err);
	if (!o->value && equals && strcmp(equals, "=true") != 0)
		return error_set(err, -EINVAL, "--%s: takes no value (leave out \"%s\")", o->name, show(shown, equals));
	if (!o->value)
		return store(out, o, "", err);
	if (equals)
		return store(out, o, equals + 1, err);
	return *i + 1 < argc ? store(out, o, argv[++*i], err) : fail_missing(o, err);
}

/* -x, -xyz, -nvalue, -n value. */
static int take_short(int argc, char **argv, int *i, struct options *out, struct error *err)
{
	const char *word = argv[*i], *at;

	for (at = word + 1; *at; at++) {
		const struct option *o = find_letter(out->command, *at);
		int ret;

		if (!o)
			return fail_unknown(out, word, err);
		if (o->value) {
			if (at[1])
				return store(out, o, at[1] == '=' ? at + 2 : at + 1, err);
			return *i + 1 < argc ? store(out, o, argv[++*i], err) : fail_missing(o, err);
		}
		ret = store(out, o, "", err);
		if (ret)
			return ret;
	}
	return 0;
}

static int check_args(const struct options *o, struct error *err)
{
	const int min = commands[o->command].min, max = commands[o->command].max;

	if (o->command == COMMAND_RM && o->nr_args == 0 && !o->all)
		return error_set(err, -EINVAL, "rm: no container named (needs " RUN_NAME " rm CONTAINER..., or -a)");
	if (o->nr_args < min)
		return error_set(err, -EINVAL, "%s: too few words (needs " RUN_NAME " %s %s)",
				 commands[o->command].name, commands[o->command].name, commands[o->command].usage);
	if (max >= 0 && o->nr_args > max)
		return error_set(err, -EINVAL, "%s: too many words (needs " RUN_NAME " %s %s)",
				 commands[o->command].name, commands[o->command].name, commands[o->command].usage);
	return 0;
}

/* Words that are no options are moved to the front of argv, and stay in order. */
static int take_all(int argc, char **argv, int first, struct options *out, struct error *err)
{
	const bool stops = commands[out->command].max < 0;
	int i, to = first, ret = 0;

	for (i = first; i < argc && !ret; i++) {
		if (strcmp(argv[i], "--help") == 0) {
			out->action = ACTION_HELP;
			return 0;
		}
		if (strcmp(argv[i], "--") == 0 || (stops && (argv[i][0] != '-' || !argv[i][1]))) {
			for (i += argv[i][0] == '-' && argv[i][1]; i < argc; i++)
				argv[to++] = argv[i];
			break;
		}
		if (argv[i][0] != '-' || !argv[i][1])
			argv[to++] = argv[i];
		else
			ret = argv[i][1] == '-' ? take_long(argc, argv, &i, out, err)
						: take_short(argc, argv, &i, out, err);
	}
	out->args = argv + first;
	out->nr_args = to - first;
	argv[to] = NULL;
	return ret;
}

int options_parse(int argc, char **argv, struct options *out, struct error *err)
{
	int first = 1, ret;

	*out = (struct options){
		.cpus = DEFAULT_CPUS, .memory = DEFAULT_MEMORY, .max_size = DEFAULT_SIZE, .stop_timeout = -1, .tail = -1
	};
	out->command = argc > 1 ? options_command(argv[1]) : COMMANDS;
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		out->command = argc > 2 ? options_command(argv[2]) : COMMANDS;
		out->action = ACTION_HELP;
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		out->action = ACTION_VERSION;
		return 0;
	}
	if (strcmp(argv[1], "__words") == 0) {
		out->command = argc > 2 ? options_command(argv[2]) : COMMANDS;
		out->action = ACTION_WORDS;
		return 0;
	}
	if (out->command == COMMANDS)
		out->command = COMMAND_RUN;
	else
		first++;
	ret = take_all(argc, argv, first, out, err);
	return ret || out->action != ACTION_DO ? ret : check_args(out, err);
}

void options_free(struct options *o)
{
	struct words *lists[] = { &o->ports,   &o->volumes,  &o->env,     &o->env_files, &o->labels,
				  &o->cap_add, &o->cap_drop, &o->ulimits, &o->dns,       &o->kernel_args };
	unsigned int i;

	for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		free(lists[i]->word);
}

/* ---- what is printed of it ---- */

void options_help(FILE *out, enum command command)
{
	char left[64];
	unsigned int i;

	if (command == COMMANDS) {
		fprintf(out, "Mayfly " MAYFLY_VERSION ": runs containers, each in a virtual machine of its own\n\n");
		for (i = 0; i < COMMANDS; i++)
			fprintf(out, "  " RUN_NAME " %-8s %s\n", commands[i].name, commands[i].help);
		fprintf(out, "\n" RUN_NAME " COMMAND --help lists its options. \"run\" may be left out: " RUN_NAME
			     " IMAGE\nAll of it is explained in docs/run.md.\n");
		return;
	}
	fprintf(out, RUN_NAME " %s %s: %s\n\n", commands[command].name, commands[command].usage,
		commands[command].help);
	for (i = 0; i < NR_OPTIONS; i++) {
		const struct option *o = &options[i];

		if (!(o->commands & 1u << command))
			continue;
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
			 o->letter ? "," : " ", o->name, o->value ? " " : "", o->value ? o->value : "");
		fprintf(out, "  %-36s %s%s\n", left, o->help, o->kind == LIST ? " (may be repeated)" : "");
	}
}

void options_words(FILE *out, enum command command)
{
	unsigned int i;

	for (i = 0; command == COMMANDS && i < COMMANDS; i++)
		fprintf(out, "%s\n", commands[i].name);
	for (i = 0; command != COMMANDS && i < NR_OPTIONS; i++)
		if (options[i].commands & 1u << command)
			fprintf(out, "--%s%s\n", options[i].name, options[i].value ? "=" : "");
}
