/* args.c: one table of options that both the parser and --help read. */
#include "args.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "text.h"

#define DEFAULT_ID "anonymous-instance"
#define SHOWN_SIZE 64 /* of a value in a sentence */

#define NO_API       "the REST API is not part of this version of Mayfly (needs --no-api --config-file PATH)"
#define NO_MMDS      "the metadata service is not part of this version of Mayfly (leave it out)"
#define NO_SNAPSHOTS "snapshots are not part of this version of Mayfly (leave it out)"
#define NO_SECCOMP   "this version of Mayfly installs no seccomp filters (leave it out)"
#define NO_PCI       "left out of Mayfly by design, devices are on virtio-mmio (leave it out)"

enum option_kind { FLAG, ACTION, TEXT, PATH, ID, LEVEL, MICROSECONDS, REFUSED };
enum option_group { GROUP_RUN, GROUP_LOG, GROUP_JAILER, GROUP_OTHER, GROUP_NONE };

struct option {
	const char *name; /* without the two dashes */
	enum option_kind kind;
	enum option_group group;
	const char *value; /* what --help calls it, NULL for those that take none */
	const char *help;  /* for REFUSED: the sentence */
	size_t offset;     /* in struct args */
	enum args_action action;
};

#define REFUSE(option, sentence)                                                       \
	{                                                                              \
		.name = option, .kind = REFUSED, .group = GROUP_NONE, .help = sentence \
	}
#define INTO(member) .offset = offsetof(struct args, member)

static const struct option options[] = {
	{ "config-file", PATH, GROUP_RUN, "PATH", "the microVM as a file of JSON (docs/configuration.md)",
	  INTO(config_file) },
	{ "no-api", FLAG, GROUP_RUN, NULL, "run what the file says, without a REST API", INTO(no_api) },
	{ "id", ID, GROUP_RUN, "ID", "name of the microVM in logs and metrics [" DEFAULT_ID "]", INTO(id) },
	{ "boot-timer", FLAG, GROUP_RUN, NULL, "log how long the guest took to reach user space", INTO(boot_timer) },
	{ "log-path", PATH, GROUP_LOG, "PATH", "file or FIFO for the log [standard error]", INTO(log_path) },
	{ "level", LEVEL, GROUP_LOG, "LEVEL", "Off, Error, Warn, Info, Debug or Trace [Info]", INTO(level) },
	{ "show-level", FLAG, GROUP_LOG, NULL, "put the level on every line", INTO(show_level) },
	{ "show-log-origin", FLAG, GROUP_LOG, NULL, "put source file and line number on every line",
	  INTO(show_log_origin) },
	{ "module", TEXT, GROUP_LOG, "PREFIX", "only lines from source files that start so, as in vmm/", INTO(module) },
	{ "metrics-path", PATH, GROUP_LOG, "PATH", "file or FIFO for metrics, one line of JSON each [none]",
	  INTO(metrics_path) },
	{ "start-time-us", MICROSECONDS, GROUP_JAILER, "US", "when the jailer was started, on the monotonic clock",
	  INTO(start_time_us) },
	{ "start-time-cpu-us", MICROSECONDS, GROUP_JAILER, "US", "CPU time of the process when it was started",
	  INTO(start_time_cpu_us) },
	{ "parent-cpu-time-us", MICROSECONDS, GROUP_JAILER, "US", "CPU time the jailer had used",
	  INTO(parent_cpu_time_us) },
	{ "probe", ACTION, GROUP_OTHER, NULL, "say what this host's KVM can run", .action = ARGS_PROBE },
	{ "version", ACTION, GROUP_OTHER, NULL, "print the version", .action = ARGS_VERSION },
	{ "help", ACTION, GROUP_OTHER, NULL, "print this page", .action = ARGS_HELP },
	REFUSE("api-sock", NO_API),
	REFUSE("http-api-max-payload-size", NO_API),
	REFUSE("metadata", NO_MMDS),
	REFUSE("mmds-size-limit", NO_MMDS),
	REFUSE("snapshot-version", NO_SNAPSHOTS),
	REFUSE("describe-snapshot", NO_SNAPSHOTS),
	REFUSE("seccomp-filter", NO_SECCOMP),
	REFUSE("no-seccomp", NO_SECCOMP),
	REFUSE("enable-pci", NO_PCI),
};

#define NR_OPTIONS (sizeof(options) / sizeof(options[0]))

static const char *const group_titles[] = {
	[GROUP_RUN] = "Run a microVM",
	[GROUP_LOG] = "Log and metrics",
	[GROUP_JAILER] = "Told by a jailer",
	[GROUP_OTHER] = "Other",
};

/* ---- values ---- */

static const char *show(char shown[SHOWN_SIZE], const char *text)
{
	text_escape(shown, SHOWN_SIZE, text, strlen(text));
	return shown;
}

static bool is_id(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

	return len > 0 && len < CONFIG_ID_LEN && text[len] == '\0';
}

/* strtoull takes blanks, signs and other bases, none of which belong here. */
static bool parse_u64(const char *text, uint64_t *out)
{
	uint64_t n = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(n, 10u, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			return false;
	}
	*out = n;
	return true;
}

static int fail_value(struct error *err, const struct option *o, const char *value, const char *needs)
{
	char shown[SHOWN_SIZE];

	if (!*value)
		return error_set(err, -EINVAL, "--%s: the value is empty (needs %s)", o->name, needs);
	return error_set(err, -EINVAL, "--%s: \"%s\" (needs %s)", o->name, show(shown, value), needs);
}

static int store(struct args *args, const struct option *o, const char *value, struct error *err)
{
	char *dst = (char *)args + o->offset;

	switch (o->kind) {
	case FLAG:
		*(bool *)dst = true;
		return 0;
	case ACTION:
		args->action = o->action;
		return 0;
	case PATH:
		if (!*value || strlen(value) >= PATH_MAX)
			return fail_value(err, o, value, "a path of 1 to 4095 bytes");
		break;
	case TEXT:
		if (!*value || strlen(value) >= sizeof(((struct log_config *)0)->module))
			return fail_value(err, o, value, "1 to 63 bytes, the beginning of a source file's name");
		break;
	case ID:
		if (!is_id(value))
			return fail_value(err, o, value, "1 to 63 letters, digits or -");
		break;
	case LEVEL:
		if (log_level_parse(value, &args->level))
			return fail_value(err, o, value, "one of " LOG_LEVEL_NAMES);
		args->level_given = true;
		return 0;
	case MICROSECONDS:
		if (!parse_u64(value, (uint64_t *)(void *)dst))
			return fail_value(err, o, value, "a number of microseconds, 0 to 18446744073709551615");
		return 0;
	case REFUSED:
	default:
		return error_set(err, -EINVAL, "--%s: %s", o->name, o->help);
	}
	*(const char **)(void *)dst = value;
	return 0;
}

/* ---- the command line ---- */

static const struct option *find(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < NR_OPTIONS; i++)
		if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
			return &options[i];
	return NULL;
}

static int fail_unknown(struct error *err, const char *word, size_t name_len)
{
	unsigned int best = 4, distance;
	const struct option *nearest = NULL;
	char name[SHOWN_SIZE], shown[SHOWN_SIZE];
	size_t i;

	text_escape(shown, sizeof(shown), word, name_len + 2);
	snprintf(name, sizeof(name), "%.*s", (int)(name_len < INT_MAX ? name_len : 0), word + 2);
	for (i = 0; i < NR_OPTIONS; i++) {
		distance = text_distance(name, options[i].name);
		/* An option that shares too little with it is no help. */
		if (options[i].kind != REFUSED && distance < best && distance <= strlen(options[i].name) / 2) {
			best = distance;
			nearest = &options[i];
		}
	}
	if (nearest)
		return error_set(err, -EINVAL, "%s: unknown option (did you mean --%s?)", shown, nearest->name);
	return error_set(err, -EINVAL, "%s: unknown option (--help lists them all)", shown);
}

/* Takes the option at argv[*i] and its value; *i is left on the last word used. */
static int take(int argc, char **argv, int *i, struct args *out, uint32_t *seen, struct error *err)
{
	const char *word = argv[*i], *value = "", *equals;
	const struct option *o;
	char shown[SHOWN_SIZE];
	uint32_t bit;
	size_t len;

	if (strncmp(word, "--", 2) != 0 || !word[2])
		return error_set(err, -EINVAL, "%s: not an option (they start with --; --help lists them all)",
				 *word ? show(shown, word) : "\"\"");
	equals = strchr(word, '=');
	len = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
	o = find(word + 2, len);
	if (!o)
		return fail_unknown(err, word, len);
	if (o->kind == REFUSED)
		return store(out, o, "", err);
	bit = 1u << (o - options);
	if (*seen & bit)
		return error_set(err, -EINVAL, "--%s: given twice (needs to be there once)", o->name);
	*seen |= bit;
	if (!o->value && equals)
		return error_set(err, -EINVAL, "--%s: takes no value (leave out \"%s\")", o->name, show(shown, equals));
	if (o->value && equals) {
		value = equals + 1;
	} else if (o->value) {
		if (*i + 1 == argc || strncmp(argv[*i + 1], "--", 2) == 0)
			return error_set(err, -EINVAL, "--%s: the value is missing (needs --%s %s)", o->name, o->name,
					 o->value);
		value = argv[++*i];
	}
	return store(out, o, value, err);
}

static bool has_word(int argc, char **argv, const char *word)
{
	int i;

	for (i = 1; i < argc; i++)
		if (strcmp(argv[i], word) == 0)
			return true;
	return false;
}

static int check_run(const struct args *args, struct error *err)
{
	if (args->config_file && args->no_api)
		return 0;
	if (args->config_file)
		return error_set(err, -EINVAL,
				 "--config-file: needs --no-api too: this version of Mayfly has no REST API");
	if (args->no_api)
		return error_set(err, -EINVAL, "--no-api: needs --config-file PATH too, which says what to run");
	return error_set(
		err, -EINVAL,
		"nothing to run (needs --no-api --config-file PATH; --probe looks at this host, --help lists all)");
}

int args_parse(int argc, char **argv, struct args *out, struct error *err)
{
	uint32_t seen = 0;
	int i, ret;

	_Static_assert(NR_OPTIONS <= 32, "one bit of `seen` for each option");
	*out = (struct args){ .id = DEFAULT_ID, .level = LOG_INFO };
	if (has_word(argc, argv, "--help") || has_word(argc, argv, "-h")) {
		out->action = ARGS_HELP;
		return 0;
	}
	if (has_word(argc, argv, "--version")) {
		out->action = ARGS_VERSION;
		return 0;
	}
	for (i = 1; i < argc; i++) {
		ret = take(argc, argv, &i, out, &seen, err);
		if (ret)
			return ret;
	}
	return out->action == ARGS_RUN ? check_run(out, err) : 0;
}

void args_override(const struct args *args, struct config *cfg)
{
	/* args_parse has bounded all three strings. */
	if (args->log_path)
		snprintf(cfg->log.log_path, sizeof(cfg->log.log_path), "%s", args->log_path);
	if (args->module)
		snprintf(cfg->log.module, sizeof(cfg->log.module), "%s", args->module);
	if (args->metrics_path)
		snprintf(cfg->metrics_path, sizeof(cfg->metrics_path), "%s", args->metrics_path);
	if (args->level_given) {
		cfg->log.level = args->level;
		cfg->log.level_given = true;
	}
	cfg->log.show_level |= args->show_level;
	cfg->log.show_log_origin |= args->show_log_origin;
}

void args_help(FILE *out)
{
	enum option_group group;
	size_t i;

	fprintf(out, "Mayfly " MAYFLY_VERSION ": a virtual machine monitor for serverless work\n\n"
		     "  mayfly --no-api --config-file PATH [--id ID] [more options]\n"
		     "  mayfly --probe\n");
	for (group = GROUP_RUN; group < GROUP_NONE; group++) {
		fprintf(out, "\n%s:\n", group_titles[group]);
		for (i = 0; i < NR_OPTIONS; i++) {
			const struct option *o = &options[i];
			char left[32];

			if (o->group != group)
				continue;
			snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
				 o->value ? o->value : "");
			fprintf(out, "  %-25s %s\n", left, o->help);
		}
	}
	fprintf(out, "\nOptions of Firecracker that are not here are refused with the reason.\n"
		     "Exit codes: docs/exit-codes.md\n");
}
