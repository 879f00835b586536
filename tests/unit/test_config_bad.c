/* test_config_bad.c: configuration files that must be refused, and the sentence each is refused with. */
#include "config_fixture.h"

#include <errno.h>

#include "json.h"

static void expect_refused(const char *text, size_t len, const char *fragment)
{
	struct config cfg;
	struct error err;
	int ret = parse_bytes(text, len, &cfg, &err);

	config_free(&cfg);
	if (ret >= 0)
		fail_msg("%s\n  was accepted; expected: %s", text, fragment);
	if (ret != err.code || !strstr(err.message, fragment))
		fail_msg("%s\n  said: %s\n  expected: %s", text, err.message, fragment);
	if (strpbrk(err.message, "\n\r\x1b"))
		fail_msg("%s\n  more than one line: %s", text, err.message);
}

/* ---- what is refused ---- */

struct bad {
	const char *text;
	const char *says;
};

#define MACHINE(members) "{\"machine-config\":{" members "}}"
#define BOOT(members)    "{\"boot-source\":{" members "}}"
#define DRIVE(members)   "{\"drives\":[{" members "}]}"
#define DRIVE1           "\"drive_id\":\"a\",\"path_on_host\":\"/a\",\"is_root_device\":false"
#define LOGGER(members)  "{\"logger\":{" members "}}"
#define METRICS(members) "{\"metrics\":{" members "}}"
#define SERIAL(members)  "{\"serial\":{" members "}}"

static const struct bad syntax[] = {
	{ "", ":1:1: empty (needs an object in braces)" },
	{ " \n\t\n", ":1:1: empty" },
	{ "{", ":1:1: the text ends in the middle" },
	{ "{\"drives\": [", "the text ends in the middle" },
	{ "{\"boot-source\": {\"boot_args\": \"abc", ":1:" },
	{ "{}\n{}", ":2:1: there is something after the end" },
	{ "{} x", ":1:4: there is something after the end" },
	{ "{\"drives\": []\n\n  \"logger\": null}", ":3:10: not JSON: " },
	{ "{\"drives\": [],}", ":1:15: not JSON: " },
	{ "{'drives': []}", ":1:2: not JSON: " },
	{ "hello", ":1:" },
	{ "{\"logger\": null,\n \"logger\": null}",
	  ":2:9: a key is given twice (duplicate object key near '\"logger\"')" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":1,\"vcpu_count\":2"), "a key is given twice" },
	{ MACHINE("\"vcpu_count\":99999999999999999999"), "the number is too large" },
	{ MACHINE("\"vcpu_count\":1e999"), "the number is too large" },
	{ BOOT("\"boot_args\":\"\xff\""), "not UTF-8 text" },
	{ BOOT("\"boot_args\":\"a\nb\""), ":1:30: not JSON: unexpected newline" },
	{ "{\"boot\\u0000source\":{}}", "NUL in a key" },
	{ "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", ":1:65: nested deeper than 64 levels" },
	{ "\"x\"", "\"x\" is a string (needs an object in braces)" },
	{ "[]", "[...] is a list (needs an object in braces)" },
	{ "17", "17 is a number (needs an object in braces)" },
	{ "null", "is null (needs an object in braces)" },
};

static const struct bad resources[] = {
	{ "{\"drive\":[]}", "unknown key \"drive\" (accepted: boot-source, machine-config, drives, logger, metrics, "
			    "serial, network-interfaces, vsock, mmds-config, cpu-config)" },
	{ "{\"\":1}", "unknown key \"\"" },
	{ "{\"a\\u001b[2Jb\":1}", "unknown key \"a\\x1b[2Jb\"" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\"}]}", "network-interfaces[0].host_dev_name: is missing" },
	{ "{\"network-interfaces\":{}}", "network-interfaces: {...} is an object (needs a list of interfaces" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"a-name-of-16-byt\"}]}",
	  "network-interfaces[0].host_dev_name: \"a-name-of-16-byt\" is not known (needs the name of a TAP" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"fd:x\"}]}",
	  "network-interfaces[0].host_dev_name: no number of a file descriptor" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"unix:\"}]}",
	  "network-interfaces[0].host_dev_name: a socket's path of 0 bytes (needs 1 to 107)" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"t\",\"mtu\":67}]}",
	  "network-interfaces[0].mtu: 67 bytes is out of range (needs an integer from 68" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"t\",\"guest_mac\":\"06:00:ac:10:00\"}]}",
	  "network-interfaces[0].guest_mac: not a MAC address" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"t\",\"guest_mac\":\"07:00:ac:10:00:02\"}]}",
	  "network-interfaces[0].guest_mac: a multicast address" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"t\"},{\"iface_id\":\"f\",\"host_dev_name\":"
	  "\"t\"}]}",
	  "network-interfaces[1].host_dev_name: interface \"e\" uses it already" },
	{ "{\"network-interfaces\":[{\"iface_id\":\"e\",\"host_dev_name\":\"t\"},{\"iface_id\":\"e\",\"host_dev_name\":"
	  "\"u\"}]}",
	  "network-interfaces[1].iface_id: \"e\" is the id of another interface" },
	{ "{\"vsock\":{\"guest_cid\":3}}", "vsock.uds_path: is missing" },
	{ "{\"vsock\":{\"guest_cid\":2,\"uds_path\":\"/v\"}}",
	  "vsock.guest_cid: 2 is out of range (needs an integer from 3 to 4294967294)" },
	{ "{\"vsock\":[]}", "vsock: [...] is a list (needs an object in braces)" },
	{ "{\"mmds-config\":{}}", "mmds-config.network_interfaces: is missing" },
	{ "{\"mmds-config\":{\"network_interfaces\":[]}}",
	  "mmds-config.network_interfaces: [...] is a list (needs a list of interfaces' ids, one at least)" },
	{ "{\"mmds-config\":{\"network_interfaces\":[\"a/b\"]}}",
	  "mmds-config.network_interfaces[0]: \"a/b\" has a '/' in it" },
	{ "{\"mmds-config\":{\"network_interfaces\":[\"a\"],\"version\":\"V3\"}}",
	  "mmds-config.version: \"V3\" is not known (needs one of \"V1\", \"V2\")" },
	{ "{\"mmds-config\":{\"network_interfaces\":[\"a\"],\"ipv4_address\":\"169.254.0.1\"}}",
	  "mmds-config.ipv4_address: \"169.254.0.1\" is out of range" },
	{ "{\"mmds-config\":{\"network_interfaces\":[\"a\"],\"ipv4_address\":\"10.0.0.1\"}}",
	  "mmds-config.ipv4_address: \"10.0.0.1\" is out of range" },
	{ "{\"balloon\":{\"amount_mib\":1}}", "balloon: left out of Mayfly by design" },
	{ "{\"entropy\":{}}", "entropy: left out of Mayfly by design" },
	{ "{\"pmem\":[{}]}", "pmem: left out of Mayfly by design" },
	{ "{\"memory-hotplug\":{}}", "memory-hotplug: left out of Mayfly by design" },
	{ "{\"boot-source\":7}", "boot-source: 7 is a number (needs an object in braces)" },
	{ "{\"drives\":{}}", "drives: {...} is an object (needs a list of drives in brackets)" },
	{ "{\"machine-config\":[]}", "machine-config: [...] is a list (needs an object in braces)" },
};

static const struct bad boot[] = {
	{ BOOT("\"kernel\":\"/k\""),
	  "boot-source: unknown key \"kernel\" (accepted: kernel_image_path, initrd_path, boot_args)" },
	{ BOOT("\"kernel_image_path\":\"\""),
	  "boot-source.kernel_image_path: is empty (needs a path of 1 to 4095 bytes; or leave it out)" },
	{ BOOT("\"kernel_image_path\":\"/a\\u0000b\""), "boot-source.kernel_image_path: \"/a\\x00b\" has a NUL in it" },
	{ BOOT("\"kernel_image_path\":[\"/k\"]"),
	  "boot-source.kernel_image_path: [...] is a list (needs a path of 1 to 4095 bytes)" },
	{ BOOT("\"initrd_path\":1"), "boot-source.initrd_path: 1 is a number (needs a path" },
	{ BOOT("\"initrd_path\":\"\\u0000\""), "boot-source.initrd_path: \"\\x00\" has a NUL in it" },
	{ BOOT("\"boot_args\":\"a\\u0000b\""), "boot-source.boot_args: \"a\\x00b\" has a NUL in it" },
	{ BOOT("\"boot_args\":\"a\\nb\""),
	  "boot-source.boot_args: \"a\\nb\" has byte 0x0a in it (needs printable ASCII text of at most 2047 bytes)" },
	{ BOOT("\"boot_args\":\"caf\xc3\xa9\""), "has byte 0xc3 in it (needs printable ASCII" },
	{ BOOT("\"boot_args\":true"), "boot-source.boot_args: true is a boolean" },
};

static const struct bad machine[] = {
	{ MACHINE("\"vcpu_count\":\"two\",\"mem_size_mib\":1"),
	  "machine-config.vcpu_count: \"two\" is a string (needs an integer from 1 to 32)" },
	{ MACHINE("\"vcpu_count\":0,\"mem_size_mib\":1"),
	  "machine-config.vcpu_count: 0 is out of range (needs an integer from 1 to 32)" },
	{ MACHINE("\"vcpu_count\":33,\"mem_size_mib\":1"), "machine-config.vcpu_count: 33 is out of range" },
	{ MACHINE("\"vcpu_count\":-1,\"mem_size_mib\":1"), "machine-config.vcpu_count: -1 is out of range" },
	{ MACHINE("\"vcpu_count\":4294967297,\"mem_size_mib\":1"),
	  "machine-config.vcpu_count: 4294967297 is out of range" },
	{ MACHINE("\"vcpu_count\":2.0,\"mem_size_mib\":1"),
	  "machine-config.vcpu_count: 2 is a number with a fraction or exponent (needs an integer" },
	{ MACHINE("\"vcpu_count\":true,\"mem_size_mib\":1"),
	  "machine-config.vcpu_count: true is a boolean (needs an integer" },
	{ MACHINE("\"vcpu_count\":null,\"mem_size_mib\":1"), "machine-config.vcpu_count: is null (needs an integer" },
	{ MACHINE("\"mem_size_mib\":128"), "machine-config.vcpu_count: is missing (needs an integer from 1 to 32)" },
	{ MACHINE("\"vcpu_count\":1"),
	  "machine-config.mem_size_mib: is missing (needs an integer from 1 to 4194304 MiB (4 TiB))" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":0"),
	  "machine-config.mem_size_mib: 0 MiB is out of range (needs an integer from 1 to 4194304 MiB (4 TiB))" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":10485760"),
	  "machine-config.mem_size_mib: 10485760 MiB (10 TiB) is out of range" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":4195328"),
	  "machine-config.mem_size_mib: 4195328 MiB (4097 GiB) is out of range" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":10995116277760"),
	  "is out of range (needs an integer from 1 to 4194304 MiB" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":\"10 TiB\""),
	  "machine-config.mem_size_mib: \"10 TiB\" is a string (needs an integer" },
	{ MACHINE("\"vcpu_count\":3,\"mem_size_mib\":2,\"smt\":true"),
	  "machine-config.vcpu_count: 3 is odd (with \"smt\" true" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"smt\":1"),
	  "machine-config.smt: 1 is a number (needs true or false)" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"track_dirty_pages\":\"no\""),
	  "machine-config.track_dirty_pages: \"no\" is a string (needs true or false)" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":129,\"huge_pages\":\"2M\""),
	  "machine-config.mem_size_mib: 129 MiB is odd (with \"huge_pages\" it needs to be even" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":129,\"huge_pages\":\"Transparent\""), "129 MiB is odd" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"huge_pages\":\"1G\""),
	  "machine-config.huge_pages: \"1G\" is not known (needs one of \"None\", \"Transparent\", \"2M\")" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"huge_pages\":\"2M\\u0000\""), "\"2M\\x00\" is not known" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"huge_pages\":false"),
	  "machine-config.huge_pages: false is a boolean (needs one of" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"cpu_template\":\"T3\""),
	  "machine-config.cpu_template: \"T3\" is not known (needs one of \"None\", \"C3\", \"T2\", \"T2S\", \"T2CL\", "
	  "\"T2A\")" },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"cpu_template\":{}"),
	  "machine-config.cpu_template: {...} is an object (needs one of \"None\", \"C3\", " },
	{ MACHINE("\"vcpu_count\":1,\"mem_size_mib\":2,\"ht_enabled\":true"),
	  "machine-config: unknown key \"ht_enabled\" (accepted: vcpu_count, mem_size_mib, smt, cpu_template, "
	  "track_dirty_pages, huge_pages)" },
};

static const struct bad drives[] = {
	{ "{\"drives\":[7]}", "drives[0]: 7 is a number (needs an object in braces)" },
	{ "{\"drives\":[null]}", "drives[0]: is null (needs an object" },
	{ DRIVE(""), "drives[0].drive_id: is missing (needs 1 to 63 letters, digits or any of _-)" },
	{ DRIVE("\"drive_id\":\"a\",\"is_root_device\":false"), "drives[0].path_on_host: is missing (needs a path" },
	{ DRIVE("\"drive_id\":\"a\",\"path_on_host\":\"/a\""),
	  "drives[0].is_root_device: is missing (needs true or false)" },
	{ DRIVE("\"drive_id\":\"\",\"path_on_host\":\"/a\",\"is_root_device\":true"),
	  "drives[0].drive_id: is empty (needs 1 to 63" },
	{ DRIVE("\"drive_id\":\"a/b\",\"path_on_host\":\"/a\",\"is_root_device\":true"),
	  "drives[0].drive_id: \"a/b\" has a '/' in it" },
	{ DRIVE("\"drive_id\":\"a\",\"path_on_host\":\"\",\"is_root_device\":true"),
	  "drives[0].path_on_host: is empty (needs a path of 1 to 4095 bytes)" },
	{ DRIVE("\"drive_id\":\"a\",\"path_on_host\":\"/\\u0000\",\"is_root_device\":true"),
	  "drives[0].path_on_host: \"/\\x00\" has a NUL in it" },
	{ DRIVE("\"drive_id\":\"a\",\"path_on_host\":null,\"is_root_device\":true"),
	  "drives[0].path_on_host: is null (needs a path" },
	{ DRIVE("\"drive_id\":\"a\",\"is_root_device\":true,\"socket\":\"/s\""),
	  "drives[0].socket: vhost-user drives are not supported by Mayfly" },
	{ DRIVE(DRIVE1 ",\"cache_type\":\"unsafe\""),
	  "drives[0].cache_type: \"unsafe\" is not known (needs one of \"Unsafe\", \"Writeback\")" },
	{ DRIVE(DRIVE1 ",\"io_engine\":\"io_uring\""),
	  "drives[0].io_engine: \"io_uring\" is not known (needs one of \"Sync\", \"Async\")" },
	{ DRIVE(DRIVE1 ",\"is_read_only\":\"true\""),
	  "drives[0].is_read_only: \"true\" is a string (needs true or false)" },
	{ DRIVE(DRIVE1 ",\"partuuid\":\"1 init=/bin/sh\""), "drives[0].partuuid: \"1 init=/bin/sh\" has a ' ' in it" },
	{ DRIVE(DRIVE1 ",\"readonly\":true"),
	  "drives[0]: unknown key \"readonly\" (accepted: drive_id, path_on_host, overlay_path, is_root_device," },
	{ DRIVE(DRIVE1 ",\"rate_limiter\":5"), "drives[0].rate_limiter: 5 is a number (needs an object" },
	{ DRIVE(DRIVE1 ",\"rate_limiter\":{\"bytes\":{}}"),
	  "drives[0].rate_limiter: unknown key \"bytes\" (accepted: bandwidth, ops)" },
	{ DRIVE(DRIVE1 ",\"rate_limiter\":{\"ops\":{\"size\":1}}"),
	  "drives[0].rate_limiter.ops.refill_time: is missing" },
	{ DRIVE(DRIVE1 ",\"rate_limiter\":{\"ops\":{\"size\":-1,\"refill_time\":1}}"),
	  "drives[0].rate_limiter.ops.size: -1 is out of range" },
	{ DRIVE(DRIVE1 ",\"rate_limiter\":{\"bandwidth\":{\"size\":1,\"refill_time\":9223372036855}}"),
	  "drives[0].rate_limiter.bandwidth.refill_time: 9223372036855 is out of range (needs an integer from 0 to "
	  "9223372036854)" },
	{ "{\"drives\":[{" DRIVE1 "},{" DRIVE1 "}]}", "drives[1].drive_id: \"a\" is the id of drives[0] already" },
	{ "{\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/a\",\"is_root_device\":true},{" DRIVE1
	  "},{\"drive_id\":\"b\",\"path_on_host\":\"/b\",\"is_root_device\":true}]}",
	  "drives[1].drive_id" },
	{ "{\"drives\":[{\"drive_id\":\"r\",\"path_on_host\":\"/a\",\"is_root_device\":true},{" DRIVE1
	  "},{\"drive_id\":\"b\",\"path_on_host\":\"/b\",\"is_root_device\":true}]}",
	  "drives[2].is_root_device: drives[0] (\"r\") is the root device already" },
};

static const struct bad outputs[] = {
	{ LOGGER("\"level\":\"Loud\""), "logger.level: \"Loud\" is not known (needs one of \"Off\", \"Error\", "
					"\"Warn\", \"Info\", \"Debug\", \"Trace\")" },
	{ LOGGER("\"level\":3"), "logger.level: 3 is a number (needs one of" },
	{ LOGGER("\"level\":\"Info\\u0000\""), "logger.level: \"Info\\x00\" is not known" },
	{ LOGGER("\"log_path\":\"\""), "logger.log_path: is empty" },
	{ LOGGER("\"show_level\":0"), "logger.show_level: 0 is a number (needs true or false)" },
	{ LOGGER("\"path\":\"/l\""),
	  "logger: unknown key \"path\" (accepted: log_path, level, show_level, show_log_origin, module)" },
	{ METRICS(""), "metrics.metrics_path: is missing" },
	{ METRICS("\"metrics_path\":false"), "metrics.metrics_path: false is a boolean" },
	{ METRICS("\"metrics_path\":\"/m\",\"properties\":[]"),
	  "metrics.properties: [...] is a list (needs an object of strings)" },
	{ METRICS("\"metrics_path\":\"/m\",\"properties\":{\"a\\nb\":1}"),
	  "metrics.properties.a\\nb: 1 is a number (needs a string)" },
	{ SERIAL("\"serial_out_path\":0"), "serial.serial_out_path: 0 is a number" },
	{ SERIAL("\"rate_limiter\":{\"bandwidth\":{}}"),
	  "serial.rate_limiter: unknown key \"bandwidth\" (accepted: size, one_time_burst, refill_time)" },
};

#define CHECK_ALL(table)                                                                              \
	do {                                                                                          \
		size_t i_;                                                                            \
		for (i_ = 0; i_ < sizeof(table) / sizeof((table)[0]); i_++)                           \
			expect_refused((table)[i_].text, strlen((table)[i_].text), (table)[i_].says); \
	} while (0)

static void bad_syntax(void **state)
{
	(void)state;
	CHECK_ALL(syntax);
	expect_refused("{\0}", 3, ":1:");
}

static void bad_resources(void **state)
{
	(void)state;
	CHECK_ALL(resources);
}

static void bad_boot_source(void **state)
{
	(void)state;
	CHECK_ALL(boot);
}

static void bad_machine_config(void **state)
{
	(void)state;
	CHECK_ALL(machine);
}

static void bad_drives(void **state)
{
	(void)state;
	CHECK_ALL(drives);
}

static void bad_outputs(void **state)
{
	(void)state;
	CHECK_ALL(outputs);
}

/* A string of n letters in the place of %s. */
static char *with_long(const char *format, size_t n)
{
	char *letters = malloc(n + 1), *text = NULL;

	assert_non_null(letters);
	memset(letters, 'x', n);
	letters[n] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	assert_true(asprintf(&text, format, letters) > 0);
#pragma GCC diagnostic pop
	free(letters);
	return text;
}

static void bad_lengths(void **state)
{
	static const struct {
		const char *format;
		size_t longest;
		const char *says;
	} cases[] = {
		{ "{\"boot-source\":{\"kernel_image_path\":\"%s\"}}", 4095,
		  "4096 bytes long (needs a path of 1 to 4095 bytes)" },
		{ "{\"boot-source\":{\"boot_args\":\"%s\"}}", 2047,
		  "2048 bytes long (needs printable ASCII text of at most 2047" },
		{ "{\"drives\":[{\"path_on_host\":\"/\",\"is_root_device\":false,\"drive_id\":\"%s\"}]}", 63,
		  "drives[0].drive_id: \"xxx" },
		{ "{\"logger\":{\"module\":\"%s\"}}", 63, "logger.module: \"xxx" },
		{ "{\"metrics\":{\"metrics_path\":\"/m\",\"properties\":{\"k\":\"%s\"}}}", 1016,
		  "metrics.properties: 1025 bytes of JSON are too many" },
	};
	struct config cfg;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *text = with_long(cases[i].format, cases[i].longest);

		parse_good(text, &cfg);
		config_free(&cfg);
		free(text);
		text = with_long(cases[i].format, cases[i].longest + 1);
		expect_refused(text, strlen(text), cases[i].says);
		free(text);
	}
}

static void bad_files(void **state)
{
	char *text = with_long("{\"boot-source\":{\"boot_args\":\"%s\"}}", CONFIG_FILE_MAX);
	struct config cfg;
	struct error err;

	(void)state;
	expect_refused(text, strlen(text), "too large for a configuration (at most 1024 KiB)");
	free(text);
	config_init(&cfg);
	assert_int_equal(config_parse_file("/nowhere/vm.json", &cfg, &err), -ENOENT);
	assert_string_equal(err.message,
			    "/nowhere/vm.json: No such file or directory (needs a JSON file that can be read)");
	assert_int_equal(config_parse_file("/tmp", &cfg, &err), -EISDIR);
	assert_string_equal(err.message, "/tmp: Is a directory");
	assert_int_equal(config_parse_file("/dev/zero", &cfg, &err), -EFBIG);
	assert_int_equal(config_parse_file("/a\nb", &cfg, &err), -ENOENT);
	assert_string_equal(err.message, "/a\\nb: No such file or directory (needs a JSON file that can be read)");
	config_free(&cfg);
}

static void too_many_drives(void **state)
{
	char text[8192] = "{\"drives\":[";
	struct config cfg;
	size_t i;

	(void)state;
	for (i = 0; i <= CONFIG_MAX_DRIVES; i++) {
		char one[128];

		snprintf(one, sizeof(one), "%s{\"drive_id\":\"d%zu\",\"path_on_host\":\"/d\",\"is_root_device\":false}",
			 i ? "," : "", i);
		strcat(text, one);
		if (i == CONFIG_MAX_DRIVES - 1) {
			char full[8192];

			snprintf(full, sizeof(full), "%.8000s]}", text);
			parse_good(full, &cfg);
			assert_int_equal(cfg.nr_drives, CONFIG_MAX_DRIVES);
			assert_string_equal(cfg.drives[15].drive_id, "d15");
			config_free(&cfg);
		}
	}
	strcat(text, "]}");
	expect_refused(text, strlen(text), "drives: 17 drives are too many (at most 16)");
}

/* However a file is cut short or has a byte changed, it is accepted or refused, never worse (the sanitizers watch). */
static void damaged_files(void **state)
{
	static const char text[] = "{\"boot-source\":{\"kernel_image_path\":\"/k\\u00e9\",\"boot_args\":\"a b\"},"
				   "\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":64,\"huge_pages\":\"2M\"},"
				   "\"drives\":[{\"drive_id\":\"r\",\"path_on_host\":\"/r\",\"is_root_device\":true,"
				   "\"rate_limiter\":{\"ops\":{\"size\":10,\"refill_time\":100}}}],"
				   "\"metrics\":{\"metrics_path\":\"/m\",\"properties\":{\"a\":\"b\"}}}";
	static const char bytes[] = { '\0', '"', '\\', '[', '}', ',', '0', '-', '\n', '\xff' };
	char copy[sizeof(text)];
	json_t *json = NULL;
	struct error err;
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(text) - 1; i++)
		expect_refused(text, i, ":1:");
	for (i = 0; i < sizeof(text) - 1; i++) {
		for (j = 0; j < sizeof(bytes); j++) {
			struct config cfg;
			int ret;

			memcpy(copy, text, sizeof(text));
			copy[i] = bytes[j];
			ret = parse_bytes(copy, sizeof(text) - 1, &cfg, &err);
			assert_true(ret == 0 || (ret == err.code && err.message[0]));
			config_free(&cfg);
		}
	}
	/* A request's body ends where its length says, not at a NUL. */
	memset(copy, ' ', sizeof(copy));
	assert_int_equal(json_parse(copy, sizeof(copy), "body", &json, &err), -EINVAL);
	assert_string_equal(err.message, "body:1:1: empty (needs an object in braces)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_syntax),      cmocka_unit_test(bad_resources),
		cmocka_unit_test(bad_boot_source), cmocka_unit_test(bad_machine_config),
		cmocka_unit_test(bad_drives),      cmocka_unit_test(bad_outputs),
		cmocka_unit_test(bad_lengths),     cmocka_unit_test(bad_files),
		cmocka_unit_test(too_many_drives), cmocka_unit_test(damaged_files),
	};

	return cmocka_run_group_tests_name("config, bad", tests, make_file, remove_file);
}
