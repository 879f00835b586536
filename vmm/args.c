/* args.c: one table of options that both the parser and --help read. */
#include "args.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "snapshot/stream.h"
#include "text.h"

#define DEFAULT_ID   "anonymous-instance"
#define DEFAULT_SOCK "/run/firecracker.socket" /* where Firecracker's clients look for it */
#define PAYLOAD_MAX  (1ull << 30)
#define FD_MAX       (1ull << 20)
#define ID_MAX       64
#define SHOWN_SIZE   64 /* of a value in a sentence */

#define NO_PCI "left out of Mayfly by design, devices are on virtio-mmio (leave it out)"

enum option_kind { FLAG, ACTION, TEXT, JSON, PATH, ALLOW_PATH, ALLOW_FD, ID, LEVEL, MICROSECONDS, BYTES, FD, REFUSED };
enum option_group { GROUP_RUN, GROUP_API, GROUP_LOG, GROUP_JAILER, GROUP_OTHER, GROUP_NONE };

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
	{ "load-snapshot", PATH, GROUP_RUN, "PATH", "state file, fd:N or unix:SOCKET (docs/snapshots.md)",
	  INTO(load_snapshot) },
	{ "memory", PATH, GROUP_RUN, "PATH", "its memory file, fd:N or uffd:SOCKET", INTO(memory) },
	{ "override", JSON, GROUP_RUN, "JSON", "what is different now, as in PUT /snapshot/load", INTO(override) },
	{ "no-api", FLAG, GROUP_RUN, NULL, "run what the file says, without a REST API", INTO(no_api) },
	{ "id", ID, GROUP_RUN, "ID", "name of the microVM in logs and metrics [" DEFAULT_ID "]", INTO(id) },
	{ "boot-timer", FLAG, GROUP_RUN, NULL, "log how long the guest took to reach user space", INTO(boot_timer) },
	{ "allow-path", ALLOW_PATH, GROUP_RUN, "PATH", "file or folder for drives and snapshots to come; repeatable",
	  INTO(allow_path) },
	{ "allow-fd", ALLOW_FD, GROUP_RUN, "N", "inherited descriptor to keep for such, too; repeatable",
	  INTO(allow_fds) },
	{ "allow-fork", FLAG, GROUP_RUN, NULL, "let PUT /fork copy the microVM (docs/forks.md)", INTO(allow_fork) },
	{ "no-seccomp", FLAG, GROUP_RUN, NULL, "without seccomp filters, for debugging (docs/seccomp.md)",
	  INTO(no_seccomp) },
	{ "seccomp-filter", PATH, GROUP_RUN, "PATH", "filters of mayfly-seccompiler's instead of the built-in ones",
	  INTO(seccomp_filter) },
	{ "api-sock", PATH, GROUP_API, "PATH", "Unix socket to make for the REST API [" DEFAULT_SOCK "]",
	  INTO(api_sock) },
	{ "api-fd", FD, GROUP_API, "N", "inherited listening Unix socket, instead of --api-sock", INTO(api_fd) },
	{ "ready-fd", FD, GROUP_API, "N", "inherited descriptor that gets one byte once the API answers",
	  INTO(ready_fd) },
	{ "http-api-max-payload-size", BYTES, GROUP_API, "BYTES", "largest body of a request [51200]",
	  INTO(api_max_payload) },
	{ "metadata", PATH, GROUP_RUN, "PATH", "JSON file that the metadata service starts with [none]",
	  INTO(metadata) },
	{ "mmds-size-limit", BYTES, GROUP_RUN, "BYTES", "most JSON it keeps [the payload size]",
	  INTO(mmds_size_limit) },
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
	{ "snapshot-version", ACTION, GROUP_OTHER, NULL, "print the format of state files",
	  .action = ARGS_SNAPSHOT_VERSION },
	{ "describe-snapshot", PATH, GROUP_OTHER, "PATH", "print the format of a state file, and what it is of",
	  INTO(describe_snapshot), .action = ARGS_DESCRIBE_SNAPSHOT },
	{ "version", ACTION, GROUP_OTHER, NULL, "print the version", .action = ARGS_VERSION },
	{ "help", ACTION, GROUP_OTHER, NULL, "print this page", .action = ARGS_HELP },
	REFUSE("enable-pci", NO_PCI),
};

#define NR_OPTIONS (sizeof(options) / sizeof(options[0]))

static const char *const group_titles[] = {
	[GROUP_RUN] = "Run a microVM",   [GROUP_API] = "REST API (docs/api.md)",
	[GROUP_LOG] = "Log and metrics", [GROUP_JAILER] = "Told by a jailer",
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

	return len > 0 && len <= ID_MAX && text[len] == '\0';
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
	uint64_t n;

	switch (o->kind) {
	case FLAG:
		*(bool *)dst = true;
		return 0;
	case ACTION:
		args->action = o->action;
		return 0;
	case PATH:
	case ALLOW_PATH:
		if (!*value || strlen(value) >= PATH_MAX)
			return fail_value(err, o, value, "a path of 1 to 4095 bytes");
		if (o->kind == PATH)
			break;
		if (args->nr_allow_path == JAIL_MAX_ALLOWED)
			return error_set(err, -EINVAL,
					 "--%s: given more than %d times (a folder stands for all that is in it)",
					 o->name, JAIL_MAX_ALLOWED);
		args->allow_path[args->nr_allow_path++] = value;
		return 0;
	case ALLOW_FD:
		if (!parse_u64(value, &n) || n < INHERITED_FIRST || n >= INHERITED_FDS)
			return fail_value(err, o, value, "the number of an open descriptor, 3 to 255");
		args->allow_fds[n / 64] |= 1ull << n % 64;
		return 0;
	case JSON:
		if (*value != '{')
			return fail_value(err, o, value, "an object in braces");
		break;
	case TEXT:
		if (!*value || strlen(value) >= sizeof(((struct log_config *)0)->module))
			return fail_value(err, o, value, "1 to 63 bytes, the beginning of a source file's name");
		break;
	case ID:
		if (!is_id(value))
			return fail_value(err, o, value, "1 to 64 letters, digits or -");
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
	case BYTES:
		if (!parse_u64(value, (uint64_t *)(void *)dst) || *(uint64_t *)(void *)dst > PAYLOAD_MAX)
			return fail_value(err, o, value, "a number of bytes, 0 to 1073741824");
		return 0;
	case FD:
		if (!parse_u64(value, (uint64_t *)(void *)dst) || *(uint64_t *)(void *)dst > FD_MAX)
			return fail_value(err, o, value, "the number of an open descriptor, 0 to 1048576");
		return 0;
	case REFUSED:
	default:
		return error_set(err, -EINVAL, "--%s: %s", o->name, o->help);
	}
	*(const char **)(void *)dst = value;
	if (o->action != ARGS_RUN)
		args->action = o->action;
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
static int take(int argc, char **argv, int *i, struct args *out, uint64_t *seen, struct error *err)
{
	const char *word = argv[*i], *value = "", *equals;
	const struct option *o;
	char shown[SHOWN_SIZE];
	uint64_t bit;
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
	bit = 1ull << (o - options);
	if ((*seen & bit) && o->kind != ALLOW_PATH && o->kind != ALLOW_FD)
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

static int check_run(struct args *args, struct error *err)
{
	bool api_options = args->api_sock || args->api_fd != ARGS_NOT_GIVEN || args->ready_fd != ARGS_NOT_GIVEN;

	if (args->no_seccomp && args->seccomp_filter)
		return error_set(err, -EINVAL,
				 "--no-seccomp: --seccomp-filter says what to install (needs one of them)");
	if (!args->load_snapshot != !args->memory && !(args->load_snapshot && stream_has_name(args->load_snapshot)))
		return error_set(err, -EINVAL, "--%s: a snapshot has two files (needs --load-snapshot and --memory)",
				 args->memory ? "memory" : "load-snapshot");
	if (args->override && !args->load_snapshot)
		return error_set(err, -EINVAL, "--override: there is no snapshot (needs --load-snapshot and --memory)");
	if (args->load_snapshot && args->config_file)
		return error_set(err, -EINVAL, "--load-snapshot: --config-file says what to run (needs one of them)");
	if (args->no_api && !args->config_file && !args->load_snapshot)
		return error_set(
			err, -EINVAL,
			"--no-api: needs --config-file PATH or --load-snapshot PATH too, which say what to run");
	if (args->no_api && api_options)
		return error_set(err, -EINVAL,
				 "--no-api: there is no API for --api-sock, --api-fd or --ready-fd (leave one or the "
				 "other out)");
	if (args->api_sock && args->api_fd != ARGS_NOT_GIVEN)
		return error_set(err, -EINVAL,
				 "--api-fd: --api-sock says where the API is already (needs one of them)");
	if (!args->no_api && !args->api_sock && args->api_fd == ARGS_NOT_GIVEN)
		args->api_sock = DEFAULT_SOCK;
	return 0;
}

int args_parse(int argc, char **argv, struct args *out, struct error *err)
{
	uint64_t seen = 0;
	int i, ret;

	_Static_assert(NR_OPTIONS <= 64, "one bit of `seen` for each option");
	*out = (struct args){
		.id = DEFAULT_ID,
		.level = LOG_INFO,
		.api_fd = ARGS_NOT_GIVEN,
		.ready_fd = ARGS_NOT_GIVEN,
		.api_max_payload = 51200,
		.mmds_size_limit = ARGS_NOT_GIVEN,
	};
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
	cfg->allow_fork = args->allow_fork;
	cfg->mmds_size_limit = args->mmds_size_limit == ARGS_NOT_GIVEN ? args->api_max_payload : args->mmds_size_limit;
	cfg->log.show_level |= args->show_level;
	cfg->log.show_log_origin |= args->show_log_origin;
}

void args_help(FILE *out)
{
	enum option_group group;
	size_t i;

	fprintf(out, "Mayfly " MAYFLY_VERSION ": a virtual machine monitor for serverless work\n\n"
		     "  mayfly --api-sock PATH [--config-file PATH] [--id ID] [more options]\n"
		     "  mayfly --no-api --config-file PATH [more options]\n"
		     "  mayfly --load-snapshot PATH --memory PATH [more options]\n"
		     "  mayfly --probe\n");
	for (group = GROUP_RUN; group < GROUP_NONE; group++) {
		fprintf(out, "\n%s:\n", group_titles[group]);
		for (i = 0; i < NR_OPTIONS; i++) {
			const struct option *o = &options[i];
			char left[40];

			if (o->group != group)
				continue;
			snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
				 o->value ? o->value : "");
			fprintf(out, "  %-33s %s\n", left, o->help);
		}
	}
	fprintf(out, "\nOptions of Firecracker that are not here are refused with the reason.\n"
		     "Exit codes: docs/exit-codes.md\n");
}
