/* test_containers_options.c: mayfly-run's command lines, ports and capabilities, good and bad. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "containers/capabilities.h"
#include "containers/network.h"
#include "containers/options.h"
#include "containers/signal_names.h"

#define MAX_WORDS 64

static char *argv[MAX_WORDS + 1];

/* Splits a line at blanks; '' is an empty word. */
static int parse(const char *line, struct options *out, struct error *err)
{
	static char copy[4096];
	char *word, *rest = copy;
	int argc = 0;

	snprintf(copy, sizeof(copy), "mayfly-run %s", line);
	while ((word = strsep(&rest, " ")) != NULL && argc < MAX_WORDS)
		if (*word)
			argv[argc++] = strcmp(word, "''") == 0 ? "" : word;
	argv[argc] = NULL;
	*err = (struct error){ 0 };
	return options_parse(argc, argv, out, err);
}

static void good(const char *line, struct options *out)
{
	struct error err;

	if (parse(line, out, &err))
		fail_msg("%s\n  was refused: %s", line, err.message);
}

static void bad(const char *line, const char *says)
{
	struct options o;
	struct error err;

	assert_int_equal(parse(line, &o, &err), -EINVAL);
	if (!strstr(err.message, says))
		fail_msg("%s\n  says: %s\n  not: %s", line, err.message, says);
	options_free(&o);
}

static void defaults(void **state)
{
	struct options o;

	(void)state;
	good("run image", &o);
	assert_int_equal(o.command, COMMAND_RUN);
	assert_int_equal(o.cpus, 1);
	assert_true(o.memory == 512ull << 20);
	assert_int_equal(o.stop_timeout, -1);
	assert_int_equal(o.tail, -1);
	assert_null(o.net);
	assert_int_equal(o.nr_args, 1);
	assert_string_equal(o.args[0], "image");
	assert_null(o.args[1]);
	options_free(&o);
}

static void words_of_the_command_are_its_own(void **state)
{
	struct options o;

	(void)state;
	good("-it --rm -e A=1 image -x --rm -e B=2 -- y", &o);
	assert_true(o.interactive && o.tty && o.remove && !o.detach);
	assert_int_equal(o.env.nr, 1);
	assert_int_equal(o.nr_args, 7);
	assert_string_equal(o.args[1], "-x");
	assert_string_equal(o.args[5], "--");
	options_free(&o);
	good("run -- -image -d", &o);
	assert_int_equal(o.nr_args, 2);
	assert_string_equal(o.args[0], "-image");
	options_free(&o);
	good("exec -u app box ls -l --all", &o);
	assert_string_equal(o.user, "app");
	assert_int_equal(o.nr_args, 4);
	options_free(&o);
}

static void options_behind_containers(void **state)
{
	struct options o;

	(void)state;
	good("rm box -f other", &o);
	assert_true(o.force);
	assert_int_equal(o.nr_args, 2);
	assert_string_equal(o.args[1], "other");
	options_free(&o);
	good("logs -fn 5 box -t", &o);
	assert_true(o.follow && o.timestamps);
	assert_int_equal(o.tail, 5);
	options_free(&o);
	good("stop -t0 box", &o);
	assert_int_equal(o.stop_timeout, 0);
	options_free(&o);
}

static void values(void **state)
{
	struct options o;

	(void)state;
	good("-m256m --cpus=4 -p 1:2 -p 3:4 -v a:/b --network none --entrypoint '' image", &o);
	assert_true(o.memory == 256ull << 20);
	assert_int_equal(o.cpus, 4);
	assert_int_equal(o.ports.nr, 2);
	assert_string_equal(o.ports.word[1], "3:4");
	assert_string_equal(o.net, "none");
	assert_string_equal(o.entrypoint, "");
	options_free(&o);
	good("--memory 2GiB image", &o);
	assert_true(o.memory == 2ull << 30);
	options_free(&o);
}

static void refused(void **state)
{
	(void)state;
	bad("run", "too few words");
	bad("run --rm", "too few words");
	bad("exec box", "too few words");
	bad("ps box", "too many words");
	bad("cp a", "too few words");
	bad("rm", "no container named");
	bad("--nosuch image", "--nosuch: unknown option");
	bad("-z image", "-z: unknown option");
	bad("ps --follow", "unknown option");
	bad("--rm=yes image", "takes no value");
	bad("--memory", "the value is missing");
	bad("--memory 1K image", "needs 32M or more");
	bad("--memory x image", "needs 32M or more");
	bad("--memory 99999999999999999999 image", "needs 32M or more");
	bad("--cpus 33 image", "needs a whole number");
	bad("--cpus 0.5 image", "needs a whole number");
	bad("--user '' image", "the value is empty");
	bad("-p '' image", "the value is empty");
	bad("stop -t -1 box", "needs a number of seconds");
	bad("logs -n x box", "needs a number of lines");
	bad("--\x1b[31m image", "\\x1b[31m");
}

static void port(const char *text, const char *address, unsigned int host, unsigned int guest, bool udp)
{
	struct error err = { 0 };
	struct port p;

	assert_int_equal(network_parse_port(text, &p, &err), 0);
	assert_string_equal(p.address, address);
	assert_int_equal(p.host, host);
	assert_int_equal(p.guest, guest);
	assert_int_equal(p.udp, udp);
}

static void ports(void **state)
{
	static const char *const wrong[] = { "",
					     "x",
					     ":",
					     "80:",
					     ":80",
					     "0:80",
					     "80:0",
					     "65536:1",
					     "1:2:3:4",
					     "1.2.3:4:5",
					     "80/",
					     "80/sctp",
					     "8080:80/tcp/udp",
					     "-1:80",
					     "+1:80",
					     "80 :80",
					     "256.0.0.1:1:2",
					     "[::1]:1:2",
					     ":1:2",
					     "99999999999999999999:1" };
	struct error err = { 0 };
	struct port p;
	unsigned int i;

	(void)state;
	port("8080:80", "", 8080, 80, false);
	port("80", "", 80, 80, false);
	port("127.0.0.1:53:5353/udp", "127.0.0.1", 53, 5353, true);
	port("1:65535/tcp", "", 1, 65535, false);
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		if (network_parse_port(wrong[i], &p, &err) != -EINVAL)
			fail_msg("%s was taken", wrong[i]);
}

static void capability_sets(void **state)
{
	const char *all[] = { "ALL" }, *raw[] = { "cap_net_raw" }, *no[] = { "fly" }, *chown[] = { "CHOWN" };
	const struct words none = { 0 }, every = { all, 1 }, one = { raw, 1 }, wrong = { no, 1 }, first = { chown, 1 };
	char text[CAPABILITIES_TEXT_MAX];
	struct error err = { 0 };

	(void)state;
	assert_int_equal(capabilities_list(&one, &every, text, &err), 0);
	assert_string_equal(text, "CAP_NET_RAW");
	assert_int_equal(capabilities_list(&none, &first, text, &err), 0);
	assert_null(strstr(text, "CHOWN"));
	assert_non_null(strstr(text, "CAP_SETUID"));
	assert_int_equal(capabilities_list(&none, &every, text, &err), 0);
	assert_string_equal(text, "");
	assert_int_equal(capabilities_list(&every, &none, text, &err), 0);
	assert_non_null(strstr(text, "CAP_CHECKPOINT_RESTORE"));
	assert_int_equal(capabilities_list(&wrong, &none, text, &err), -EINVAL);
}

static void signals(void **state)
{
	(void)state;
	assert_int_equal(signal_number("TERM"), 15);
	assert_int_equal(signal_number("sigkill"), 9);
	assert_int_equal(signal_number("64"), 64);
	assert_int_equal(signal_number("0"), -1);
	assert_int_equal(signal_number("65"), -1);
	assert_int_equal(signal_number(""), -1);
	assert_int_equal(signal_number("SIG"), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(words_of_the_command_are_its_own),
		cmocka_unit_test(options_behind_containers),
		cmocka_unit_test(values),
		cmocka_unit_test(refused),
		cmocka_unit_test(ports),
		cmocka_unit_test(capability_sets),
		cmocka_unit_test(signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
