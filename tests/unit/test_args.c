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
	{ "", "nothing to run (needs --no-api --config-file PATH; --probe looks at this host, --help lists all)" },
	{ "--id a", "nothing to run" },
	{ "--no-api", "--no-api: needs --config-file PATH too" },
	{ "--config-file vm.json", "--config-file: needs --no-api too: this version of Mayfly has no REST API" },
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
	{ "--id a --id=b", "--id: given twice" },
	{ "--probe --probe", "--probe: given twice" },
	{ "--id=", "--id: the value is empty (needs 1 to 63 letters, digits or -)" },
	{ "--id ''", "--id: the value is empty" },
	{ "--id a_b", "--id: \"a_b\" (needs 1 to 63 letters, digits or -)" },
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
	{ "--api-sock /s", "--api-sock: the REST API is not part of this version of Mayfly" },
	{ "--http-api-max-payload-size=1", "--http-api-max-payload-size: the REST API is not part of" },
	{ "--metadata /m", "--metadata: the metadata service is not part of this version of Mayfly" },
	{ "--mmds-size-limit 1", "--mmds-size-limit: the metadata service is not part of" },
	{ "--snapshot-version", "--snapshot-version: snapshots are not part of this version of Mayfly" },
	{ "--describe-snapshot /s", "--describe-snapshot: snapshots are not part of" },
	{ "--seccomp-filter /f", "--seccomp-filter: this version of Mayfly installs no seccomp filters" },
	{ "--no-seccomp", "--no-seccomp: this version of Mayfly installs no seccomp filters" },
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
	} cases[] = { { "--id", 63 }, { "--module", 63 }, { "--log-path", 4095 }, { "--config-file", 4095 } };
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
		assert_int_equal(args_parse(0, argv + 2, &args, &err), -EINVAL);
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

/* The page names every option that is accepted, in lines that fit a terminal. */
static void help(void **state)
{
	static const char *const names[] = { "--config-file PATH",
					     "--no-api ",
					     "--id ID",
					     "--boot-timer",
					     "--log-path PATH",
					     "--level LEVEL",
					     "--show-level",
					     "--show-log-origin",
					     "--module PREFIX",
					     "--metrics-path",
					     "--start-time-us",
					     "--start-time-cpu-us",
					     "--probe",
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(run),     cmocka_unit_test(other_actions), cmocka_unit_test(refused),
		cmocka_unit_test(lengths), cmocka_unit_test(override),      cmocka_unit_test(help),
	};

	return cmocka_run_group_tests_name("args", tests, NULL, NULL);
}
