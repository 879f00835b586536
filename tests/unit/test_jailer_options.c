/* test_jailer_options.c: the jailer's command lines, good and bad. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jailer/options.h"

#define MAX_WORDS 128
#define USER      "--id a --exec-file x --uid 1 --gid 2 "

/* Splits a line at blanks into argv; '' is an empty word. The words live in the caller's copy. */
static int parse_line(char *copy, size_t size, const char *line, struct options *out, struct error *err)
{
	static char *argv[MAX_WORDS + 1];
	char *word, *rest = copy;
	int argc = 1;

	snprintf(copy, size, "%s", line);
	memset(argv, 0, sizeof(argv));
	argv[0] = "jailer";
	while ((word = strsep(&rest, " ")) != NULL && argc < MAX_WORDS) {
		if (*word)
			argv[argc++] = strcmp(word, "''") == 0 ? "" : word;
	}
	memset(err, 0, sizeof(*err));
	return options_parse(argc, argv, out, err);
}

static char copy[8192];

static void good(const char *line, struct options *out)
{
	struct error err;

	if (parse_line(copy, sizeof(copy), line, out, &err))
		fail_msg("%s\n  was refused: %s", line, err.message);
}

static void defaults(void **state)
{
	struct options o;

	(void)state;
	good(USER, &o);
	assert_int_equal(o.action, OPTIONS_RUN);
	assert_string_equal(o.chroot_base, "/srv/jailer");
	assert_null(o.netns);
	assert_null(o.parent_cgroup);
	assert_int_equal(o.uid, 1);
	assert_int_equal(o.gid, 2);
	assert_int_equal(o.cgroup_version, 0);
	assert_true(o.memory_max == NO_LIMIT && o.cpu_max == NO_LIMIT && o.fsize == NO_LIMIT && o.no_file == NO_LIMIT);
	assert_int_equal(o.nr_binds + o.nr_settings + o.nr_io + o.nr_pass_fds, 0);
	assert_false(o.daemonize || o.cleanup || o.new_pid_ns || o.new_user_ns || o.new_net_ns || o.new_ipc_ns ||
		     o.new_uts_ns);
	assert_null(o.vmm_args[0]);
}

static void everything(void **state)
{
	struct options o;

	(void)state;
	good("--id=vm-1 --exec-file /bin/a=b --uid=4294967294 --gid 0 --chroot-base-dir=/c --netns /n --cgroup-version "
	     "2 "
	     "--parent-cgroup a//b/c/ --cgroup cpuset.cpus=0-3 --cgroup io.max=8:0=x --resource-limit no-file=10 "
	     "--resource-limit fsize=0 --daemonize --new-pid-ns --new-user-ns --new-ipc-ns --new-uts-ns --cleanup "
	     "--bind /s:/d --bind=/a:b:c:ro --bind rel://x/y --pass-fd 9 --pass-fd 3 --pass-fd 7 --memory-max 256M "
	     "--cpu-max 150% --io-max /srv:a:rbps=1K,wiops=7 -- --id other --api-sock x --",
	     &o);
	assert_string_equal(o.id, "vm-1");
	assert_string_equal(o.exec_file, "/bin/a=b");
	assert_true(o.uid == 4294967294u && o.gid == 0);
	assert_string_equal(o.parent_cgroup, "a/b/c");
	assert_int_equal(o.cgroup_version, 2);
	assert_int_equal(o.nr_settings, 2);
	assert_string_equal(o.settings[0].file, "cpuset.cpus");
	assert_string_equal(o.settings[0].value, "0-3");
	assert_string_equal(o.settings[1].file, "io.max");
	assert_string_equal(o.settings[1].value, "8:0=x");
	assert_true(o.no_file == 10 && o.fsize == 0);
	assert_int_equal(o.nr_binds, 3);
	assert_string_equal(o.binds[0].source, "/s");
	assert_string_equal(o.binds[0].target, "d");
	assert_false(o.binds[0].read_only);
	assert_string_equal(o.binds[1].source, "/a:b");
	assert_string_equal(o.binds[1].target, "c");
	assert_true(o.binds[1].read_only);
	assert_string_equal(o.binds[2].target, "x/y");
	assert_true(o.nr_pass_fds == 3 && o.pass_fds[0] == 3 && o.pass_fds[1] == 7 && o.pass_fds[2] == 9);
	assert_true(o.memory_max == 256u << 20 && o.cpu_max == 150000);
	assert_int_equal(o.nr_io, 1);
	assert_string_equal(o.io[0].path, "/srv:a");
	assert_true(o.io[0].most[IO_RBPS] == 1024 && o.io[0].most[IO_WIOPS] == 7);
	assert_true(o.io[0].most[IO_WBPS] == 0 && o.io[0].most[IO_RIOPS] == 0);
	assert_string_equal(o.vmm_args[0], "--id");
	assert_string_equal(o.vmm_args[4], "--");
	assert_null(o.vmm_args[5]);
}

static void actions(void **state)
{
	struct options o;

	(void)state;
	good("--version --nonsense", &o);
	assert_int_equal(o.action, OPTIONS_VERSION);
	good("--id --version --help", &o);
	assert_int_equal(o.action, OPTIONS_HELP);
	good("-h", &o);
	assert_int_equal(o.action, OPTIONS_HELP);
	/* Those of the VMM are its own. */
	good(USER "-- --help --version", &o);
	assert_int_equal(o.action, OPTIONS_RUN);
	good("--id a --exec-file x --new-user-ns", &o);
	assert_false(o.uid_given || o.gid_given);
}

static const struct {
	const char *line, *sentence;
} bad[] = {
	{ "", "--id: missing" },
	{ "--id a", "--exec-file: missing" },
	{ "--id a --exec-file x", "--uid: missing" },
	{ "--id a --exec-file x --uid 1", "--gid: missing" },
	{ "--id a --exec-file x --gid 1", "--uid: missing" },
	{ USER "--id b", "--id: given too often (needs to be there once)" },
	{ USER "--nonsense", "--nonsense: unknown option" },
	{ USER "word", "word: unknown option" },
	{ USER "''", "\"\": unknown option" },
	{ USER "--daemonize=1", "--daemonize: takes no value (leave out \"=1\")" },
	{ USER "--netns", "--netns: the value is missing (needs --netns PATH)" },
	{ USER "--netns --daemonize", "--netns: the value is missing" },
	{ USER "--netns --", "--netns: the value is missing" },
	{ USER "--netns=", "--netns: the value is empty" },
	{ USER "--netns /n --new-net-ns", "--new-net-ns: --netns names one already" },
	{ "--id a --exec-file x --uid 4294967295 --gid 1", "--uid: \"4294967295\" (needs a number, 0 to 4294967294)" },
	{ "--id a --exec-file x --uid 1 --gid -1", "--gid: \"-1\"" },
	{ "--id a --exec-file x --uid 0x1 --gid 1", "--uid: \"0x1\"" },
	{ "--id a --exec-file x --uid 18446744073709551617 --gid 1", "--uid: " },
	{ USER "--cgroup-version 3", "--cgroup-version: \"3\" (needs 1 or 2)" },
	{ USER "--cgroup-version 11", "--cgroup-version: \"11\" (needs 1 or 2)" },
	{ USER "--cgroup cpuset.cpus", "--cgroup: \"cpuset.cpus\" (needs FILE=VALUE" },
	{ USER "--cgroup cpuset.cpus=", "--cgroup: \"cpuset.cpus=\"" },
	{ USER "--cgroup tasks=1", "--cgroup: \"tasks=1\"" },
	{ USER "--cgroup tasks=1.5", "--cgroup: \"tasks=1.5\"" },
	{ USER "--cgroup .x=1", "--cgroup: \".x=1\"" },
	{ USER "--cgroup ../a.b=1", "--cgroup: \"../a.b=1\"" },
	{ USER "--resource-limit files=1", "--resource-limit: \"files=1\" (needs fsize=BYTES or no-file=N)" },
	{ USER "--resource-limit no-file", "--resource-limit: " },
	{ USER "--resource-limit no-file=", "--resource-limit: " },
	{ USER "--resource-limit no-file=1K", "--resource-limit: " },
	{ USER "--bind /s", "--bind: \"/s\"" },
	{ USER "--bind :/d", "--bind: \":/d\"" },
	{ USER "--bind /s:", "--bind: \"/s:\"" },
	{ USER "--bind /s:ro", "--bind: \"/s:ro\"" },
	{ USER "--bind :ro", "--bind: \":ro\"" },
	{ USER "--bind /s::ro", "--bind: \"/s::ro\"" },
	{ USER "--bind /s:/..", "--bind: \"..\"" },
	{ USER "--bind /s:/a/../b:ro", "--bind: \"a/../b\"" },
	{ USER "--pass-fd 2", "--pass-fd: \"2\"" },
	{ USER "--pass-fd 2147483648", "--pass-fd: \"2147483648\"" },
	{ USER "--pass-fd 5 --pass-fd 5", "--pass-fd: \"5\" (needs each descriptor once)" },
	{ USER "--memory-max 0", "--memory-max: \"0\"" },
	{ USER "--memory-max 1k", "--memory-max: \"1k\"" },
	{ USER "--memory-max 1KB", "--memory-max: \"1KB\"" },
	{ USER "--memory-max 16777216T", "--memory-max: \"16777216T\"" },
	{ USER "--cpu-max 100", "--cpu-max: \"100\"" },
	{ USER "--cpu-max 0%", "--cpu-max: \"0%\"" },
	{ USER "--cpu-max 1000001%", "--cpu-max: " },
	{ USER "--io-max /srv", "--io-max: " },
	{ USER "--io-max :rbps=1", "--io-max: " },
	{ USER "--io-max /srv:", "--io-max: " },
	{ USER "--io-max /srv:rbps", "--io-max: " },
	{ USER "--io-max /srv:rbps=0", "--io-max: " },
	{ USER "--io-max /srv:bps=1", "--io-max: " },
	{ USER "--io-max /srv:rbps=1,rbps=2", "--io-max: " },
	{ USER "--io-max /srv:rbps=1,", "--io-max: " },
};

static void refused(void **state)
{
	struct options o;
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int ret = parse_line(copy, sizeof(copy), bad[i].line, &o, &err);

		if (ret != -EINVAL || strncmp(err.message, bad[i].sentence, strlen(bad[i].sentence)) != 0)
			fail_msg("%s\n  gave %d: %s", bad[i].line, ret, err.message);
	}
}

/* Each list at its longest, then one longer. */
static void lists(void **state)
{
	static const char *const options[] = { "--bind /s:/d", "--pass-fd", "--cgroup a.b=c", "--io-max /s:rbps=1",
					       "--resource-limit fsize=1" };
	struct options o;
	struct error err;
	char line[4096];
	size_t i, len;
	int n;

	(void)state;
	for (i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		len = (size_t)snprintf(line, sizeof(line), USER);
		for (n = 0; n < LIST_MAX; n++)
			len += (size_t)snprintf(line + len, sizeof(line) - len, i == 1 ? "%s %d " : "%s ", options[i],
						n + 3);
		good(line, &o);
		snprintf(line + len, sizeof(line) - len, i == 1 ? "%s %d" : "%s", options[i], n + 3);
		assert_int_equal(parse_line(copy, sizeof(copy), line, &o, &err), -EINVAL);
		assert_non_null(strstr(err.message, "given too often (needs to be there 32 times at most)"));
	}
}

static void help(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	options_help(out);
	fclose(out);
	assert_non_null(strstr(text, "--bind SRC:DST[:ro]"));
	assert_non_null(strstr(text, "(may be repeated)"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults), cmocka_unit_test(everything), cmocka_unit_test(actions),
		cmocka_unit_test(refused),  cmocka_unit_test(lists),      cmocka_unit_test(help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
