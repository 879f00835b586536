/* oci_options.c: the command line of mayfly-oci, which is runc's, from one table. */
#include "oci_options.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "text.h"

#define BIT(command) (1u << (command))
#define GLOBAL       BIT(OCI_COMMANDS)
#define STARTS       (BIT(OCI_CREATE) | BIT(OCI_RUN))
#define INTO(member) offsetof(struct oci_options, member)

static const struct command {
	const char *name, *help;
	bool has_id;
} commands[] = {
	[OCI_CREATE] = { "create", "make a container from a bundle: its microVM boots and waits", true },
	[OCI_START] = { "start", "run the command of a container that was created", true },
	[OCI_STATE] = { "state", "print what a container is, as JSON", true },
	[OCI_KILL] = { "kill", "ID [SIGNAL]: send a signal, by number or name [TERM]", true },
	[OCI_DELETE] = { "delete", "remove what is left of a container", true },
	[OCI_EXEC] = { "exec", "ID [COMMAND [ARG]...]: run another command in a container", true },
	[OCI_PS] = { "ps", "list a container's processes", true },
	[OCI_LIST] = { "list", "list all containers", false },
	[OCI_RUN] = { "run", "create and start", true },
	[OCI_PAUSE] = { "pause", "stop the microVM's CPUs", true },
	[OCI_RESUME] = { "resume", "go on after pause", true },
	[OCI_UPDATE] = { "update", "change the limits of a container's cgroup", true },
	[OCI_EVENTS] = { "events", "print what a container uses, as JSON", true },
	[OCI_FEATURES] = { "features", "print what this runtime can do, as JSON", false },
	[OCI_SPEC] = { "spec", "write an example of a config.json", false },
};

/* value NULL: a flag. Those without help are taken because engines pass them, and mean nothing to a microVM. */
static const struct option {
	const char *name;
	char letter;
	unsigned int where;
	const char *value, *help;
	size_t offset;
} options[] = {
	{ "root", 0, GLOBAL, "DIR", "where the state of containers is [/run/mayfly-oci]", INTO(root) },
	{ "log", 0, GLOBAL, "FILE", "write errors there, too", INTO(log) },
	{ "log-format", 0, GLOBAL, "text|json", "of that file [text]", INTO(log_format) },
	{ "debug", 0, GLOBAL, NULL, NULL, INTO(nothing) },
	{ "systemd-cgroup", 0, GLOBAL, NULL, "cgroupsPath is SLICE:PREFIX:NAME (told by its colons anyway)",
	  INTO(nothing) },
	{ "rootless", 0, GLOBAL, "", NULL, INTO(unused) },
	{ "criu", 0, GLOBAL, "", NULL, INTO(unused) },
	{ "cgroup-manager", 0, GLOBAL, "", NULL, INTO(unused) },
	{ "bundle", 'b', STARTS | BIT(OCI_SPEC), "DIR", "the folder with config.json [.]", INTO(bundle) },
	{ "pid-file", 0, STARTS | BIT(OCI_EXEC), "FILE", "write the PID there that ends with the command's status",
	  INTO(pid_file) },
	{ "console-socket", 0, STARTS | BIT(OCI_EXEC), "SOCKET", "send the terminal there", INTO(console_socket) },
	{ "preserve-fds", 0, STARTS | BIT(OCI_EXEC), "N", NULL, INTO(unused) },
	{ "no-pivot", 0, STARTS, NULL, NULL, INTO(nothing) },
	{ "no-new-keyring", 0, STARTS, NULL, NULL, INTO(nothing) },
	{ "no-subreaper", 0, STARTS | BIT(OCI_EXEC), NULL, NULL, INTO(nothing) },
	{ "detach", 'd', BIT(OCI_RUN) | BIT(OCI_EXEC), NULL, "do not wait for the command's end", INTO(detach) },
	{ "process", 'p', BIT(OCI_EXEC), "FILE", "JSON with the process to start", INTO(process) },
	{ "cwd", 0, BIT(OCI_EXEC), "DIR", "of the command [that of the container]", INTO(cwd) },
	{ "env", 'e', BIT(OCI_EXEC), "NAME=VALUE", "one more; may be repeated", 0 },
	{ "tty", 't', BIT(OCI_EXEC), NULL, "with a terminal", INTO(tty) },
	{ "user", 'u', BIT(OCI_EXEC), "UID[:GID]", "of the command [that of the container]", INTO(user) },
	{ "ignore-paused", 0, BIT(OCI_EXEC), NULL, NULL, INTO(nothing) },
	{ "cap", 'c', BIT(OCI_EXEC), "", NULL, INTO(unused) },
	{ "apparmor", 0, BIT(OCI_EXEC), "", NULL, INTO(unused) },
	{ "process-label", 0, BIT(OCI_EXEC), "", NULL, INTO(unused) },
	{ "no-new-privs", 0, BIT(OCI_EXEC), NULL, NULL, INTO(nothing) },
	{ "all", 'a', BIT(OCI_KILL), NULL, "to all processes of the container", INTO(all) },
	{ "force", 'f', BIT(OCI_DELETE), NULL, "also when it runs, or when there is none", INTO(force) },
	{ "format", 'f', BIT(OCI_PS) | BIT(OCI_LIST), "table|json", "json: PIDs of the host [table]", INTO(format) },
	{ "quiet", 'q', BIT(OCI_LIST), NULL, "ids alone", INTO(quiet) },
	{ "stats", 0, BIT(OCI_EVENTS), NULL, "once", INTO(stats) },
	{ "interval", 0, BIT(OCI_EVENTS), "", NULL, INTO(unused) },
	{ "resources", 'r', BIT(OCI_UPDATE), "FILE", "JSON with the limits, - for standard input", INTO(resources) },
};

#define NR_OPTIONS (sizeof(options) / sizeof(options[0]))

const char *oci_command_name(enum oci_command command)
{
	return commands[command].name;
}

static const struct option *find(const char *word, enum oci_command where)
{
	const char *name = word + strspn(word, "-");
	const size_t len = strcspn(name, "=");
	unsigned int i;

	for (i = 0; i < NR_OPTIONS; i++)
		if (options[i].where & BIT(where) &&
		    ((strlen(options[i].name) == len && strncmp(options[i].name, name, len) == 0) ||
		     (len == 1 && options[i].letter == *name)))
			return &options[i];
	return NULL;
}

/* One option; *at is its word, and then the last of its words. */
static int take(int argc, char **argv, int *at, enum oci_command where, struct oci_options *out, struct error *err)
{
	const char *word = argv[*at], *equals = strchr(word, '='), *value;
	const struct option *o = find(word, where);
	char shown[64];

	if (!o) {
		text_escape(shown, sizeof(shown), word, strlen(word));
		return error_set(err, -EINVAL, "%s: no such option%s%s (--help lists all)", shown,
				 where == OCI_COMMANDS ? "" : " of ",
				 where == OCI_COMMANDS ? "" : commands[where].name);
	}
	if (!o->value) {
		*(bool *)((char *)out + o->offset) = !equals || strcmp(equals, "=false") != 0;
		return 0;
	}
	value = equals ? equals + 1 : *at + 1 < argc ? argv[++*at] : NULL;
	if (!value)
		return error_set(err, -EINVAL, "--%s: the value is missing", o->name);
	if (o->offset) {
		*(const char **)((char *)out + o->offset) = value;
		return 0;
	}
	if (out->nr_env == OCI_ENV_MAX || !strchr(value, '='))
		return error_set(err, -EINVAL, "--env: needs NAME=VALUE, at most %d of them", OCI_ENV_MAX);
	out->env[out->nr_env++] = value;
	return 0;
}

/* The words up to the first that is no option; --help anywhere among them is the command. */
static int take_all(int argc, char **argv, int *at, enum oci_command where, struct oci_options *out, struct error *err)
{
	int ret = 0;

	for (; !ret && *at < argc && argv[*at][0] == '-' && argv[*at][1]; ++*at) {
		if (strcmp(argv[*at], "--") == 0) {
			++*at;
			break;
		}
		if (strcmp(argv[*at], "--help") == 0 || strcmp(argv[*at], "-h") == 0)
			out->command = OCI_HELP;
		else if (strcmp(argv[*at], "--version") == 0 || strcmp(argv[*at], "-v") == 0)
			out->command = OCI_VERSION_PAGE;
		else
			ret = take(argc, argv, at, where, out, err);
	}
	return ret;
}

bool oci_is_id(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.");

	return len > 0 && len <= 200 && !text[len] && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

int oci_options_parse(int argc, char **argv, struct oci_options *out, struct error *err)
{
	unsigned int i;
	char shown[64];
	int at = 1, ret;

	*out = (struct oci_options){ .command = OCI_COMMANDS };
	ret = take_all(argc, argv, &at, OCI_COMMANDS, out, err);
	if (ret || out->command != OCI_COMMANDS)
		return ret;
	if (at == argc || strcmp(argv[at], "help") == 0) {
		out->command = OCI_HELP;
		return 0;
	}
	for (i = 0; i < OCI_COMMANDS && strcmp(argv[at], commands[i].name) != 0; i++)
		;
	text_escape(shown, sizeof(shown), argv[at], strlen(argv[at]));
	if (i == OCI_COMMANDS)
		return error_set(err, -EINVAL, "%s: no such command (--help lists all)", shown);
	out->command = (enum oci_command)i;
	at++;
	ret = take_all(argc, argv, &at, out->command, out, err);
	if (ret || out->command >= OCI_COMMANDS || !commands[out->command].has_id)
		return ret;
	if (at == argc || !oci_is_id(argv[at]))
		return error_set(err, -EINVAL, "%s: needs the id of a container, of letters, digits, _, +, - and .",
				 commands[out->command].name);
	out->id = argv[at++];
	/* Options may come behind the id as well, but for exec, where they are the command's. */
	if (out->command != OCI_EXEC)
		ret = take_all(argc, argv, &at, out->command, out, err);
	out->args = argv + at;
	out->nr_args = argc - at;
	if (out->command == OCI_KILL && out->nr_args)
		out->signal = out->args[0];
	return ret;
}

static void help_options(FILE *out, enum oci_command where)
{
	char name[48];
	unsigned int i;

	for (i = 0; i < NR_OPTIONS; i++) {
		if (!(options[i].where & BIT(where)) || !options[i].help)
			continue;
		snprintf(name, sizeof(name), "--%s%s%s", options[i].name, options[i].value ? " " : "",
			 options[i].value ? options[i].value : "");
		fprintf(out, "      %-26s %s\n", name, options[i].help);
	}
}

void oci_options_help(FILE *out)
{
	unsigned int i;

	fputs("Usage: " OCI_NAME " [OPTION]... COMMAND [OPTION]... [ID]\n\n"
	      "Runs OCI containers as microVMs, for podman, containerd, CRI-O and others that name a runtime.\n\n",
	      out);
	help_options(out, OCI_COMMANDS);
	for (i = 0; i < OCI_COMMANDS; i++) {
		fprintf(out, "\n  %-9s %s\n", commands[i].name, commands[i].help);
		help_options(out, (enum oci_command)i);
	}
}
