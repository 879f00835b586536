/* test_config.c: configuration files that must be accepted, and what they become. */
#include "config_fixture.h"

#include <errno.h>
#include <jansson.h>

/* ---- what is accepted ---- */

static void defaults(void **state)
{
	struct config cfg;

	(void)state;
	parse_good("{}", &cfg);
	assert_false(cfg.boot.present);
	assert_string_equal(cfg.boot.kernel_image_path, "");
	assert_string_equal(cfg.boot.initrd_path, "");
	assert_false(cfg.boot.boot_args_given);
	assert_int_equal(cfg.machine.vcpu_count, 1);
	assert_int_equal(cfg.machine.mem_size_mib, 128);
	assert_int_equal(cfg.machine.huge_pages, HUGE_PAGES_NONE);
	assert_false(cfg.machine.smt);
	assert_false(cfg.machine.track_dirty_pages);
	assert_int_equal(cfg.nr_drives, 0);
	assert_null(cfg.drives);
	assert_string_equal(cfg.serial.serial_out_path, "");
	assert_int_equal(cfg.serial.rate_limiter.size, 0);
	assert_string_equal(cfg.log.log_path, "");
	assert_int_equal(cfg.log.level, LOG_INFO);
	assert_false(cfg.log.level_given);
	assert_string_equal(cfg.metrics_path, "");
	assert_null(cfg.metrics_properties);
	config_free(&cfg);
}

/* In the form Firecracker itself writes, everything named. */
static void firecracker_file(void **state)
{
	struct config cfg;

	(void)state;
	parse_good("{\"boot-source\":{\"kernel_image_path\":\"vmlinux\",\"boot_args\":\"console=ttyS0\",\"initrd_"
		   "path\":null},"
		   "\"drives\":[{\"drive_id\":\"rootfs\",\"partuuid\":null,\"is_root_device\":true,\"cache_type\":"
		   "\"Unsafe\","
		   "\"is_read_only\":false,\"path_on_host\":\"r.ext4\",\"io_engine\":\"Sync\",\"rate_limiter\":null,"
		   "\"socket\":null}],\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":1024,\"smt\":false,"
		   "\"track_dirty_pages\":false,\"huge_pages\":\"None\"},\"cpu-config\":null,\"balloon\":null,"
		   "\"network-interfaces\":[],\"vsock\":null,\"logger\":null,\"metrics\":null,\"mmds-config\":null,"
		   "\"entropy\":null,\"pmem\":[],\"memory-hotplug\":null}",
		   &cfg);
	assert_true(cfg.boot.present);
	assert_string_equal(cfg.boot.kernel_image_path, "vmlinux");
	assert_string_equal(cfg.boot.boot_args, "console=ttyS0");
	assert_true(cfg.boot.boot_args_given);
	assert_int_equal(cfg.machine.vcpu_count, 2);
	assert_int_equal(cfg.machine.mem_size_mib, 1024);
	assert_int_equal(cfg.nr_drives, 1);
	assert_string_equal(cfg.drives[0].drive_id, "rootfs");
	assert_string_equal(cfg.drives[0].path_on_host, "r.ext4");
	assert_string_equal(cfg.drives[0].partuuid, "");
	assert_true(cfg.drives[0].is_root_device);
	assert_int_equal(cfg.drives[0].cache_type, CACHE_UNSAFE);
	config_free(&cfg);
}

/* The file that the README starts with; tests run from the top of the tree. */
static void example_file(void **state)
{
	struct config cfg;
	struct error err;

	(void)state;
	config_init(&cfg);
	if (config_parse_file("config.example.json", &cfg, &err))
		fail_msg("%s", err.message);
	assert_int_equal(cfg.nr_drives, 1);
	assert_true(cfg.drives[0].is_root_device);
	assert_string_equal(cfg.boot.kernel_image_path, "");
	config_free(&cfg);
}

static void every_field(void **state)
{
	struct config cfg;

	(void)state;
	parse_good(
		"{\"boot-source\":{\"boot_args\":\"\"},"
		"\"machine-config\":{\"vcpu_count\":32,\"mem_size_mib\":4194304,\"smt\":true,\"cpu_template\":\"None\","
		"\"track_dirty_pages\":true,\"huge_pages\":\"Transparent\"},"
		"\"drives\":[{\"drive_id\":\"data-1\",\"path_on_host\":\"/d\\u00e9\",\"is_root_device\":false,"
		"\"is_read_only\":true,\"cache_type\":\"Writeback\",\"io_engine\":\"Async\","
		"\"partuuid\":\"0eaa91a0-01\",\"rate_limiter\":{\"bandwidth\":{\"size\":1000,\"one_time_burst\":7,"
		"\"refill_time\":100},\"ops\":{\"size\":10,\"refill_time\":0}}}],"
		"\"logger\":{\"log_path\":\"/l\",\"level\":\"wArNiNg\",\"show_level\":true,\"show_log_origin\":true,"
		"\"module\":\"vmm/\"},\"metrics\":{\"metrics_path\":\"/"
		"m\",\"emit_id\":true,\"properties\":{\"zone\":\"\xc3\xa9\"}},"
		"\"serial\":{\"serial_out_path\":\"/"
		"s\",\"rate_limiter\":{\"size\":5,\"refill_time\":6,\"one_time_burst\":null}}}",
		&cfg);
	assert_true(cfg.boot.boot_args_given);
	assert_string_equal(cfg.boot.boot_args, "");
	assert_int_equal(cfg.machine.vcpu_count, 32);
	assert_int_equal(cfg.machine.mem_size_mib, 4194304);
	assert_true(cfg.machine.smt);
	assert_true(cfg.machine.track_dirty_pages);
	assert_string_equal(cfg.machine.cpu_template, "None");
	assert_int_equal(cfg.machine.huge_pages, HUGE_PAGES_TRANSPARENT);
	assert_string_equal(cfg.drives[0].path_on_host, "/d\xc3\xa9");
	assert_string_equal(cfg.drives[0].partuuid, "0eaa91a0-01");
	assert_true(cfg.drives[0].is_read_only);
	assert_int_equal(cfg.drives[0].cache_type, CACHE_WRITEBACK);
	assert_int_equal(cfg.drives[0].io_engine, IO_ENGINE_ASYNC);
	assert_int_equal(cfg.drives[0].rate_limiter.bandwidth.size, 1000);
	assert_int_equal(cfg.drives[0].rate_limiter.bandwidth.one_time_burst, 7);
	assert_int_equal(cfg.drives[0].rate_limiter.bandwidth.refill_time, 100);
	/* No refill time: no limit. */
	assert_int_equal(cfg.drives[0].rate_limiter.ops.size, 0);
	assert_string_equal(cfg.log.log_path, "/l");
	assert_int_equal(cfg.log.level, LOG_WARN);
	assert_true(cfg.log.level_given && cfg.log.show_level && cfg.log.show_log_origin);
	assert_string_equal(cfg.log.module, "vmm/");
	assert_string_equal(cfg.metrics_path, "/m");
	assert_true(cfg.metrics_emit_id);
	assert_string_equal(cfg.metrics_properties, "{\"zone\":\"\\u00E9\"}");
	assert_string_equal(cfg.serial.serial_out_path, "/s");
	assert_int_equal(cfg.serial.rate_limiter.size, 5);
	assert_int_equal(cfg.serial.rate_limiter.refill_time, 6);
	config_free(&cfg);
}

static void from_a_pipe(void **state)
{
	char path[64], text[9000];
	struct config cfg;
	struct error err;
	int fd[2];

	(void)state;
	/* Larger than the first read, and no size to ask for. */
	memset(text, ' ', sizeof(text));
	memcpy(text, "{\"machine-config\":{\"vcpu_count\":4,", 34);
	memcpy(text + 8900, "\"mem_size_mib\":64}}", 19);
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], text, sizeof(text)), sizeof(text));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd[0]);
	config_init(&cfg);
	close(fd[1]);
	assert_int_equal(config_parse_file(path, &cfg, &err), 0);
	assert_int_equal(cfg.machine.vcpu_count, 4);
	config_free(&cfg);
	close(fd[0]);
}

/* ---- round trip: any valid configuration written as JSON is read back as it was ---- */

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* 1 to max letters of the alphabet given. */
static void random_text(uint64_t *s, char *dst, size_t max, const char *alphabet)
{
	size_t n = 1 + next_random(s) % max, i;

	for (i = 0; i < n; i++)
		dst[i] = alphabet[next_random(s) % strlen(alphabet)];
	dst[n] = '\0';
}

static json_t *bucket_json(const struct token_bucket_config *b)
{
	return json_pack("{s:I,s:I,s:I}", "size", (json_int_t)b->size, "one_time_burst", (json_int_t)b->one_time_burst,
			 "refill_time", (json_int_t)b->refill_time);
}

static void random_drive(uint64_t *s, struct drive_config *d, unsigned int i)
{
	struct token_bucket_config *b = &d->rate_limiter.bandwidth;

	memset(d, 0, sizeof(*d));
	snprintf(d->drive_id, sizeof(d->drive_id), "d%u_", i);
	random_text(s, d->drive_id + strlen(d->drive_id), 50, "abcXYZ019_-");
	random_text(s, d->path_on_host, 4000, "/ab \"\\\n\t'.");
	random_text(s, d->partuuid, 63, "0123456789abcdef-");
	d->is_read_only = next_random(s) & 1;
	d->cache_type = next_random(s) & 1 ? CACHE_WRITEBACK : CACHE_UNSAFE;
	d->io_engine = next_random(s) & 1 ? IO_ENGINE_ASYNC : IO_ENGINE_SYNC;
	b->size = 1 + next_random(s) % INT64_MAX;
	b->one_time_burst = next_random(s) % INT64_MAX;
	b->refill_time = 1 + next_random(s) % 1000000;
}

static json_t *drive_json(const struct drive_config *d)
{
	return json_pack("{s:s,s:s,s:s,s:b,s:b,s:s,s:s,s:{s:o}}", "drive_id", d->drive_id, "path_on_host",
			 d->path_on_host, "partuuid", d->partuuid, "is_root_device", (int)d->is_root_device,
			 "is_read_only", (int)d->is_read_only, "cache_type",
			 d->cache_type == CACHE_UNSAFE ? "Unsafe" : "Writeback", "io_engine",
			 d->io_engine == IO_ENGINE_SYNC ? "Sync" : "Async", "rate_limiter", "bandwidth",
			 bucket_json(&d->rate_limiter.bandwidth));
}

static void assert_same_drive(const struct drive_config *a, const struct drive_config *b)
{
	assert_string_equal(a->drive_id, b->drive_id);
	assert_string_equal(a->path_on_host, b->path_on_host);
	assert_string_equal(a->partuuid, b->partuuid);
	assert_int_equal(a->is_root_device, b->is_root_device);
	assert_int_equal(a->is_read_only, b->is_read_only);
	assert_int_equal(a->cache_type, b->cache_type);
	assert_int_equal(a->io_engine, b->io_engine);
	assert_memory_equal(&a->rate_limiter, &b->rate_limiter, sizeof(a->rate_limiter));
}

static void round_trip(void **state)
{
	static struct drive_config want[CONFIG_MAX_DRIVES];
	uint64_t s = 0x9e3779b97f4a7c15ull;
	unsigned int round, i;

	(void)state;
	for (round = 0; round < 100; round++) {
		unsigned int n = (unsigned int)(next_random(&s) % (CONFIG_MAX_DRIVES + 1));
		unsigned int vcpus = 1 + (unsigned int)(next_random(&s) % 32);
		uint64_t mem = 1 + next_random(&s) % CONFIG_MAX_MEM_MIB;
		json_t *drive_list = json_array(), *json;
		struct config cfg;
		char *text;

		for (i = 0; i < n; i++) {
			random_drive(&s, &want[i], i);
			want[i].is_root_device = i == round % CONFIG_MAX_DRIVES;
			json_array_append_new(drive_list, drive_json(&want[i]));
		}
		json = json_pack("{s:o,s:{s:i,s:I}}", "drives", drive_list, "machine-config", "vcpu_count", (int)vcpus,
				 "mem_size_mib", (json_int_t)mem);
		assert_non_null(json);
		text = json_dumps(json, round & 1 ? JSON_INDENT(2) : JSON_COMPACT);
		parse_good(text, &cfg);
		assert_int_equal(cfg.machine.vcpu_count, vcpus);
		assert_int_equal(cfg.machine.mem_size_mib, mem);
		assert_int_equal(cfg.nr_drives, n);
		for (i = 0; i < n; i++)
			assert_same_drive(&cfg.drives[i], &want[i]);
		config_free(&cfg);
		json_decref(json);
		free(text);
	}
}

/* ---- one resource at a time, as the API will ask for them ---- */

static void single_resources(void **state)
{
	struct drive_config drive;
	struct rate_limiter_config limiter;
	struct boot_source_config source;
	struct error err;
	json_t *json = json_pack("{s:s,s:s,s:b}", "drive_id", "a", "path_on_host", "/a", "is_root_device", 0);

	(void)state;
	memset(&drive, 0xa5, sizeof(drive));
	assert_int_equal(config_parse_drive(json, &drive, &err), 0);
	assert_false(drive.is_read_only);
	assert_int_equal(drive.rate_limiter.ops.size, 0);
	json_object_set_new(json, "path_on_host", json_integer(4));
	assert_int_equal(config_parse_drive(json, &drive, &err), -EINVAL);
	assert_string_equal(err.message, "drive.path_on_host: 4 is a number (needs a path of 1 to 4095 bytes)");
	/* The caller may not care why. */
	assert_int_equal(config_parse_drive(json, &drive, NULL), -EINVAL);
	json_decref(json);

	json = json_pack("{s:{s:i,s:i}}", "ops", "size", 3, "refill_time", 4);
	memset(&limiter, 0xa5, sizeof(limiter));
	assert_int_equal(config_parse_rate_limiter(json, &limiter, &err), 0);
	assert_int_equal(limiter.ops.size, 3);
	assert_int_equal(limiter.ops.one_time_burst, 0);
	assert_int_equal(limiter.bandwidth.size, 0);
	json_decref(json);

	json = json_pack("{s:n}", "boot_args");
	memset(&source, 0xa5, sizeof(source));
	assert_int_equal(config_parse_boot_source(json, &source, &err), 0);
	assert_true(source.present);
	assert_false(source.boot_args_given);
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),         cmocka_unit_test(firecracker_file), cmocka_unit_test(example_file),
		cmocka_unit_test(every_field),      cmocka_unit_test(from_a_pipe),      cmocka_unit_test(round_trip),
		cmocka_unit_test(single_resources),
	};

	return cmocka_run_group_tests_name("config", tests, make_file, remove_file);
}
