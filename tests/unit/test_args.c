/* test_args.c: command lines, good and bad. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"

#define MAX_WORDS 32

/* Splits a line at blanks into argv; '' is an empty word. The words live in the caller's copy. */
static int parse_line(char *copy, struct args *args, struct error *err)
{
	char *argv[MAX_WORDS + 1] = { "mayfly" }, *word, *rest = copy;
	int argc = 1;

	while ((word = strsep(&rest, " ")) != NULL && argc < MAX_WORDS) {
		if (*word)
			argv[argc++] = strcmp(word, "''") == 0 ? "" : word;
	}
	memset(err, 0, sizeof(*err));
	return args_parse(argc, argv, args, err);
}

static void good(char *copy, size_t size, const char *line, struct args *args)
{
	struct error err;

	snprintf(copy, size, "%s", line);
	if (parse_line(copy, args, &err))
		fail_msg("%s\n  was refused: %s", line, err.message);
}

#define RUN "--no-api --config-file vm.json"

static void run(void **state)
{
	struct args args;
	char copy[512];

	(void)state;
	good(copy, sizeof(copy), RUN, &args);
	assert_int_equal(args.action, ARGS_RUN);
	assert_true(args.no_api);
	assert_string_equal(args.config_file, "vm.json");
	assert_string_equal(args.id, "anonymous-instance");
	assert_int_equal(args.level, LOG_INFO);
	assert_false(args.level_given || args.show_level || args.show_log_origin || args.boot_timer);
	assert_null(args.log_path);
	assert_null(args.metrics_path);
	assert_null(args.module);

	good(copy, sizeof(copy),
	     "--config-file=a=b.json --id vm-1 --no-api --log-path=/l --level WARNING --show-level --show-log-origin "
	     "--module vmm/ --metrics-path -m --boot-timer --start-time-us=18446744073709551615 --start-time-cpu-us 0 "
	     "--parent-cpu-time-us 007",
	     &args);
	assert_string_equal(args.config_file, "a=b.json");
	assert_string_equal(args.id, "vm-1");
	assert_string_equal(args.log_path, "/l");
	assert_int_equal(args.level, LOG_WARN);
	assert_true(args.level_given && args.show_level && args.show_log_origin && args.boot_timer);
	assert_string_equal(args.module, "vmm/");
	assert_string_equal(args.metrics_path, "-m");
	assert_true(args.start_time_us == UINT64_MAX);
	assert_int_equal(args.start_time_cpu_us, 0);
	assert_int_equal(args.parent_cpu_time_us, 7);
}

static void other_actions(void **state)
{
	static const struct {
		const char *line;
		enum args_action action;
	} cases[] = {
		{ "--help", ARGS_HELP },
		{ "-h", ARGS_HELP },
		{ "--version", ARGS_VERSION },
		{ "--probe", ARGS_PROBE },
		/* As in Firecracker these two win, whatever else is wrong; --help over --version. */
		{ "--nonsense --help", ARGS_HELP },
		{ "--version --help", ARGS_HELP },
		{ "--id ? --version", ARGS_VERSION },
		{ "--probe --level Debug", ARGS_PROBE },
		{ "--snapshot-version", ARGS_SNAPSHOT_VERSION },
		{ "--describe-snapshot /s --no-api", ARGS_DESCRIBE_SNAPSHOT },
	};
	struct args args;
	char copy[128];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		good(copy, sizeof(copy), cases[i].line, &args);
		assert_int_equal(args.action, cases[i].action);
	}
}

static const struct {
	const char *line;
	const char *says;
} bad[] = {
	{ "--no-api", "--no-api: needs --config-file PATH or --load-snapshot PATH too" },
	{ "--api-sock /s " RUN, "--no-api: there is no API for --api-sock, --api-fd or --ready-fd" },
	{ "--api-fd 3 " RUN, "--no-api: there is no API for" },
	{ "--ready-fd 3 " RUN, "--no-api: there is no API for" },
	{ "--api-fd 3 --api-sock /s", "--api-fd: --api-sock says where the API is already" },
	{ "--api-sock=", "--api-sock: the value is empty" },
	{ "--api-fd -1", "--api-fd: \"-1\" (needs the number of an open descriptor" },
	{ "--ready-fd 1048577", "--ready-fd: \"1048577\" (needs" },
	{ "--http-api-max-payload-size 1k", "--http-api-max-payload-size: \"1k\" (needs a number of bytes" },
	{ "--http-api-max-payload-size 1073741825", "--http-api-max-payload-size: \"1073741825\" (needs" },
	{ "vm.json", "vm.json: not an option (they start with --; --help lists them all)" },
	{ "''", "\"\": not an option" },
	{ "--", "--: not an option" },
	{ "-v", "-v: not an option" },
	{ "a\x1b[2Jb\n", "a\\x1b[2Jb\\n: not an option" },
	{ "--cofnig-file vm.json", "--cofnig-file: unknown option (did you mean --config-file?)" },
	{ "--show-levle", "--show-levle: unknown option (did you mean --show-level?)" },
	{ "--leve=Info", "--leve: unknown option (did you mean --level?)" },
	{ "--xyz", "--xyz: unknown option (--help lists them all)" },
	{ "--=x", "--: unknown option" },
	{ "--a\nb", "--a\\nb: unknown option" },
	{ "--level", "--level: the value is missing (needs --level LEVEL)" },
	{ "--id --no-api", "--id: the value is missing (needs --id ID)" },
	{ "--no-api=yes", "--no-api: takes no value (leave out \"=yes\")" },
	{ "--no-api --no-api", "--no-api: given twice" },
	{ "--allow-path=", "--allow-path: the value is empty (needs a path of 1 to 4095 bytes)" },
	{ "--allow-fd 2", "--allow-fd: \"2\" (needs the number of an open descriptor, 3 to 255)" },
	{ "--allow-fd 256", "--allow-fd: \"256\" (needs" },
	{ "--allow-fd x", "--allow-fd: \"x\" (needs" },
	{ "--allow-path", "--allow-path: the value is missing (needs --allow-path PATH)" },
	{ "--id a --id=b", "--id: given twice" },
	{ "--probe --probe", "--probe: given twice" },
	{ "--id=", "--id: the value is empty (needs 1 to 64 letters, digits or -)" },
	{ "--id ''", "--id: the value is empty" },
	{ "--id a_b", "--id: \"a_b\" (needs 1 to 64 letters, digits or -)" },
	{ "--id a/../b", "--id: \"a/../b\" (needs" },
	{ "--id caf\xc3\xa9", "--id: \"caf\xc3\xa9\" (needs" },
	{ "--config-file= --no-api", "--config-file: the value is empty (needs a path of 1 to 4095 bytes)" },
	{ "--log-path ''", "--log-path: the value is empty" },
	{ "--metrics-path=", "--metrics-path: the value is empty" },
	{ "--module=", "--module: the value is empty" },
	{ "--level loud",
	  "--level: \"loud\" (needs one of \"Off\", \"Error\", \"Warn\", \"Info\", \"Debug\", \"Trace\")" },
	{ "--start-time-us -1", "--start-time-us: \"-1\" (needs a number of microseconds" },
	{ "--start-time-us 18446744073709551616", "--start-time-us: \"18446744073709551616\" (needs" },
	{ "--start-time-us 99999999999999999999999", "(needs a number of microseconds" },
	{ "--start-time-cpu-us=", "--start-time-cpu-us: the value is empty" },
	{ "--parent-cpu-time-us 1e3", "--parent-cpu-time-us: \"1e3\" (needs" },
	{ "--parent-cpu-time-us 0x10", "--parent-cpu-time-us: \"0x10\" (needs" },
	{ "--metadata=", "--metadata: the value is empty" },
	{ "--mmds-size-limit x", "--mmds-size-limit: \"x\" (needs a number of bytes" },
	{ "--snapshot-version=1", "--snapshot-version: takes no value" },
	{ "--describe-snapshot", "--describe-snapshot: the value is missing (needs --describe-snapshot PATH)" },
	{ "--describe-snapshot=", "--describe-snapshot: the value is empty" },
	{ "--load-snapshot=s", "--load-snapshot: a snapshot has two files (needs --load-snapshot and --memory)" },
	{ "--memory m", "--memory: a snapshot has two files" },
	{ "--override {}", "--override: there is no snapshot (needs --load-snapshot and --memory)" },
	{ "--load-snapshot s --memory m --override []", "--override: \"[]\" (needs an object in braces)" },
	{ "--load-snapshot s --memory m --config-file c", "--load-snapshot: --config-file says what to run" },
	{ "--seccomp-filter=", "--seccomp-filter: the value is empty" },
	{ "--seccomp-filter /f --no-seccomp", "--no-seccomp: --seccomp-filter says what to install" },
	{ "--enable-pci", "--enable-pci: left out of Mayfly by design, devices are on virtio-mmio" },
};

static void refused(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct args args;
		struct error err;
		char copy[128];

		snprintf(copy, sizeof(copy), "%s", bad[i].line);
		if (parse_line(copy, &args, &err) != -EINVAL || err.code != -EINVAL)
			fail_msg("%s\n  was accepted", bad[i].line);
		if (!strstr(err.message, bad[i].says) || strpbrk(err.message, "\n\x1b"))
			fail_msg("%s\n  said: %s\n  expected: %s", bad[i].line, err.message, bad[i].says);
	}
}

/* Each at its longest, then one byte longer. */
static void lengths(void **state)
{
	static const struct {
		char *option;
		size_t longest;
	} cases[] = { { "--id", 64 }, { "--module", 63 }, { "--log-path", 4095 }, { "--config-file", 4095 } };
	char value[4098];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *argv[] = { "mayfly", "--probe", cases[i].option, value, NULL };
		struct args args;
		struct error err;

		memset(value, 'a', sizeof(value));
		value[cases[i].longest] = '\0';
		assert_int_equal(args_parse(4, argv, &args, &err), 0);
		value[cases[i].longest] = 'a';
		value[cases[i].longest + 1] = '\0';
		assert_int_equal(args_parse(4, argv, &args, &err), -EINVAL);
		assert_non_null(strstr(err.message, cases[i].option));
	}
	/* An unknown option of any length. */
	memset(value, '-', sizeof(value));
	value[sizeof(value) - 1] = '\0';
	{
		char *argv[] = { "mayfly", value, NULL };
		struct args args;
		struct error err;

		assert_int_equal(args_parse(2, argv, &args, &err), -EINVAL);
		assert_non_null(strstr(err.message, "...: unknown option"));
		/* A process may be started without so much as its name. */
		assert_int_equal(args_parse(0, argv + 2, &args, &err), 0);
	}
}

static void override(void **state)
{
	static struct config cfg;
	struct args args;
	char copy[256];

	(void)state;
	config_init(&cfg);
	strcpy(cfg.log.log_path, "/from-file");
	strcpy(cfg.metrics_path, "/m-from-file");
	cfg.log.level = LOG_ERROR;
	cfg.log.show_level = true;
	good(copy, sizeof(copy), RUN, &args);
	args_override(&args, &cfg);
	assert_string_equal(cfg.log.log_path, "/from-file");
	assert_string_equal(cfg.metrics_path, "/m-from-file");
	assert_int_equal(cfg.log.level, LOG_ERROR);
	assert_true(cfg.log.show_level);
	assert_false(cfg.log.show_log_origin);

	good(copy, sizeof(copy), RUN " --log-path /l --level Off --show-log-origin --module virtio/ --metrics-path /m",
	     &args);
	args_override(&args, &cfg);
	assert_string_equal(cfg.log.log_path, "/l");
	assert_string_equal(cfg.metrics_path, "/m");
	assert_string_equal(cfg.log.module, "virtio/");
	assert_int_equal(cfg.log.level, LOG_OFF);
	assert_true(cfg.log.level_given && cfg.log.show_level && cfg.log.show_log_origin);
	config_free(&cfg);
}

static void snapshot(void **state)
{
	struct args args;
	char copy[512];

	(void)state;
	good(copy, sizeof(copy), "--no-api --load-snapshot=/s --memory /m --override {\"a\":1}", &args);
	assert_string_equal(args.load_snapshot, "/s");
	assert_string_equal(args.memory, "/m");
	assert_string_equal(args.override, "{\"a\":1}");
	good(copy, sizeof(copy), "--describe-snapshot /s", &args);
	assert_string_equal(args.describe_snapshot, "/s");
	assert_null(args.load_snapshot);
}

/* Without a word about it the API is where Firecracker's clients look, and takes as much as Firecracker. */
static void api(void **state)
{
	struct args args;
	char copy[512];

	(void)state;
	good(copy, sizeof(copy), "", &args);
	assert_string_equal(args.api_sock, "/run/firecracker.socket");
	assert_true(args.api_fd == ARGS_NOT_GIVEN && args.ready_fd == ARGS_NOT_GIVEN);
	assert_int_equal(args.api_max_payload, 51200);
	assert_null(args.config_file);

	good(copy, sizeof(copy), "--api-fd 3 --ready-fd=4 --config-file vm.json --http-api-max-payload-size 0", &args);
	assert_null(args.api_sock);
	assert_true(args.api_fd == 3 && args.ready_fd == 4 && args.api_max_payload == 0);

	good(copy, sizeof(copy), "--api-sock /s --no-seccomp", &args);
	assert_string_equal(args.api_sock, "/s");
	assert_true(args.no_seccomp);
	assert_null(args.seccomp_filter);
	good(copy, sizeof(copy), "--api-sock /s --seccomp-filter /f", &args);
	assert_string_equal(args.seccomp_filter, "/f");
	assert_false(args.no_seccomp);
	good(copy, sizeof(copy), RUN, &args);
	assert_null(args.api_sock);
}

/* The page names every option that is accepted, in lines that fit a terminal. */
static void help(void **state)
{
	static const char *const names[] = { "--config-file PATH",
					     "--no-api ",
					     "--id ID",
					     "--api-sock PATH",
					     "--api-fd N",
					     "--ready-fd N",
					     "--http-api-max-payload-size BYTES",
					     "--no-seccomp",
					     "--seccomp-filter PATH",
					     "--metadata PATH",
					     "--mmds-size-limit BYTES",
					     "--boot-timer",
					     "--log-path PATH",
					     "--level LEVEL",
					     "--show-level",
					     "--show-log-origin",
					     "--module PREFIX",
					     "--metrics-path",
					     "--start-time-us",
					     "--start-time-cpu-us",
					     "--load-snapshot PATH",
					     "--memory PATH",
					     "--override JSON",
					     "--probe",
					     "--snapshot-version",
					     "--describe-snapshot PATH",
					     "--version",
					     "--parent-cpu-time-us" };
	char *page = NULL, *line, *rest;
	size_t size = 0, i;
	FILE *out = open_memstream(&page, &size);

	(void)state;
	assert_non_null(out);
	args_help(out);
	assert_int_equal(fclose(out), 0);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strstr(page, names[i]))
			fail_msg("--help does not name %s", names[i]);
	for (rest = page; (line = strsep(&rest, "\n")) != NULL;)
		if (strlen(line) > 100)
			fail_msg("too wide: %s", line);
	free(page);
}

static void allow_fd(void **state)
{
	char copy[200];
	struct args args;

	(void)state;
	good(copy, sizeof(copy), RUN " --allow-fd 3 --allow-fd=255 --id x --allow-fd 64 --allow-fd 3", &args);
	assert_int_equal(args.allow_fds[0], 1 << 3);
	assert_int_equal(args.allow_fds[1], 1);
	assert_int_equal(args.allow_fds[2], 0);
	assert_true(args.allow_fds[3] == 1ull << 63);
}

static void allow_path(void **state)
{
	char copy[1100], line[1024] = RUN;
	struct error err;
	struct args args;
	unsigned int i;

	(void)state;
	good(copy, sizeof(copy), RUN, &args);
	assert_int_equal(args.nr_allow_path, 0);
	good(copy, sizeof(copy), RUN " --allow-path /a --id x --allow-path=b --allow-path /a", &args);
	assert_int_equal(args.nr_allow_path, 3);
	assert_string_equal(args.allow_path[0], "/a");
	assert_string_equal(args.allow_path[1], "b");
	assert_string_equal(args.allow_path[2], "/a");

	for (i = 0; i < JAIL_MAX_ALLOWED; i++)
		strcat(line, " --allow-path=/x");
	good(copy, sizeof(copy), line, &args);
	assert_int_equal(args.nr_allow_path, JAIL_MAX_ALLOWED);
	snprintf(copy, sizeof(copy), "%s --allow-path=/x", line);
	assert_int_equal(parse_line(copy, &args, &err), -EINVAL);
	assert_string_equal(err.message,
			    "--allow-path: given more than 16 times (a folder stands for all that is in it)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run),      cmocka_unit_test(other_actions), cmocka_unit_test(refused),
		cmocka_unit_test(lengths),  cmocka_unit_test(override),      cmocka_unit_test(snapshot),
		cmocka_unit_test(help),     cmocka_unit_test(api),           cmocka_unit_test(allow_path),
		cmocka_unit_test(allow_fd),
	};

	return cmocka_run_group_tests_name("args", tests, NULL, NULL);
}
