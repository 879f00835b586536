/* test_metrics.c: the metrics line is JSON, has every counter once, and loses nothing. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "metrics.h"

static char dir[] = "/tmp/test_metrics_XXXXXX";
static char path[64];
static char content[65536];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/metrics", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

static int start(void **state)
{
	(void)state;
	return metrics_open(path, NULL);
}

static int end(void **state)
{
	(void)state;
	metrics_set_labels(NULL, NULL);
	return metrics_open(NULL, NULL) || unlink(path);
}

static void read_all(void)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, content, sizeof(content) - 1);
	assert_true(n >= 0);
	content[n] = '\0';
	close(fd);
}

/* Line number n of what was written, as JSON; the caller's to json_decref. */
static json_t *line(unsigned int n)
{
	char *text = content, *stop;
	json_error_t e;
	json_t *json;

	read_all();
	for (; n; n--) {
		text = strchr(text, '\n');
		assert_non_null(text);
		text++;
	}
	stop = strchr(text, '\n');
	assert_non_null(stop);
	json = json_loadb(text, (size_t)(stop - text), JSON_REJECT_DUPLICATES, &e);
	if (!json)
		fail_msg("%s\n  is not JSON: %s at %d", text, e.text, e.column);
	return json;
}

static json_int_t value(const json_t *json, const char *group, const char *name)
{
	const json_t *counter = json_object_get(json_object_get(json, group), name);

	if (!json_is_integer(counter))
		fail_msg("%s.%s is not in the line", group, name);
	return json_integer_value(counter);
}

static void every_counter(void **state)
{
	static const char *const names[][2] = {
#define NAME(group, name) { #group, #name },
		METRICS_LEVELS(NAME) METRICS_LIST(NAME)
#undef NAME
	};
	const size_t nr = sizeof(names) / sizeof(names[0]);
	json_int_t now = (json_int_t)time(NULL) * 1000;
	size_t i, seen = 0;
	const char *key;
	json_t *json, *group;

	(void)state;
	assert_int_equal(metrics_flush(), 0);
	json = line(0);
	for (i = 0; i < nr; i++)
		assert_int_equal(value(json, names[i][0], names[i][1]), 0);
	json_object_foreach(json, key, group) seen += json_object_size(group);
	assert_int_equal(seen, nr);
	assert_true(json_integer_value(json_object_get(json, "utc_timestamp_ms")) >= now - 1000);
	assert_true(json_integer_value(json_object_get(json, "utc_timestamp_ms")) <= now + 60000);
	assert_null(json_object_get(json, "id"));
	assert_null(json_object_get(json, "properties"));
	json_decref(json);
}

/* A level is what it was set to last, in every line. */
static void levels(void **state)
{
	json_t *json;

	(void)state;
	metrics_set(latencies_us_pause_vm, 70);
	metrics_set(latencies_us_pause_vm, 50);
	assert_int_equal(metrics_flush(), 0);
	assert_int_equal(metrics_flush(), 0);
	json = line(0);
	assert_int_equal(value(json, "latencies_us", "pause_vm"), 50);
	json_decref(json);
	json = line(1);
	assert_int_equal(value(json, "latencies_us", "pause_vm"), 50);
	json_decref(json);
}

/* Each metric has its type and a line; counters are the sum since the start, whatever was flushed. */
static void prometheus(void **state)
{
	char *text;

	(void)state;
	metrics_add(block_read_bytes, 4096);
	metrics_set(latencies_us_pause_vm, 7);
	assert_int_equal(metrics_flush(), 0);
	metrics_add(block_read_bytes, 1);
	text = metrics_prometheus();
	assert_non_null(text);
	assert_non_null(strstr(text, "# TYPE mayfly_block_read_bytes_total counter\n"
				     "mayfly_block_read_bytes_total 4097\n"));
	assert_non_null(strstr(text, "# TYPE mayfly_latencies_us_pause_vm gauge\nmayfly_latencies_us_pause_vm 7\n"));
	assert_int_equal(text[strlen(text) - 1], '\n');
	free(text);
	assert_int_equal(metrics_flush(), 0);
}

static void since_the_last_line(void **state)
{
	json_t *json;

	(void)state;
	metrics_add(block_read_bytes, 4096);
	metrics_inc(vmm_panic_count);
	assert_int_equal(metrics_flush(), 0);
	metrics_add(block_read_bytes, 1);
	assert_int_equal(metrics_flush(), 0);
	json = line(0);
	assert_int_equal(value(json, "block", "read_bytes"), 4096);
	assert_int_equal(value(json, "vmm", "panic_count"), 1);
	json_decref(json);
	json = line(1);
	assert_int_equal(value(json, "block", "read_bytes"), 1);
	assert_int_equal(value(json, "vmm", "panic_count"), 0);
	json_decref(json);
}

static void labels(void **state)
{
	json_t *json;

	(void)state;
	metrics_set_labels("vm-7", "{\"zone\":\"a\"}");
	assert_int_equal(metrics_flush(), 0);
	json = line(0);
	assert_string_equal(json_string_value(json_object_get(json, "id")), "vm-7");
	assert_string_equal(json_string_value(json_object_get(json_object_get(json, "properties"), "zone")), "a");
	json_decref(json);
}

/* Everything at its longest still makes one whole line. */
static void longest_line(void **state)
{
	static char properties[METRICS_PROPERTIES_MAX + 1], id[64];
	_Atomic uint64_t *counter = (_Atomic uint64_t *)&metrics;
	struct metrics saved = metrics;
	json_t *json;
	size_t i;

	(void)state;
	memset(id, 'i', sizeof(id) - 1);
	memset(properties, 'p', METRICS_PROPERTIES_MAX);
	memcpy(properties, "{\"k\":\"", 6);
	memcpy(properties + METRICS_PROPERTIES_MAX - 2, "\"}", 2);
	metrics_set_labels(id, properties);
	/* Just short of what was written before, modulo 2^64: 20 digits each. */
	for (i = 0; i < sizeof(metrics) / sizeof(*counter); i++)
		atomic_fetch_sub(&counter[i], 1);
	assert_int_equal(metrics_flush(), 0);
	read_all();
	assert_non_null(strstr(content, "\"read_bytes\":18446744073709551615"));
	assert_non_null(strstr(content, "\"panic_count\":18446744073709551615}}\n"));
	/* jansson's integers end at 2^63: make it readable for it. */
	for (i = 0; content[i]; i++)
		if (strncmp(content + i, "18446744073709551615", 20) == 0)
			content[i] = content[i + 1] = ' ';
	json = json_loads(content, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(json);
	json_decref(json);
	memcpy(&metrics, &saved, sizeof(metrics));
	assert_int_equal(metrics_flush(), 0);
}

static void *count(void *unused)
{
	unsigned int i;

	(void)unused;
	for (i = 0; i < 20000; i++)
		metrics_inc(vcpu_exit_io_out);
	return NULL;
}

static void many_threads(void **state)
{
	json_int_t sum = 0;
	pthread_t thread[4];
	unsigned int i;

	(void)state;
	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, count, NULL), 0);
	for (i = 0; i < 4; i++) {
		assert_int_equal(metrics_flush(), 0);
		pthread_join(thread[i], NULL);
	}
	assert_int_equal(metrics_flush(), 0);
	for (i = 0; i < 5; i++) {
		json_t *json = line(i);

		sum += value(json, "vcpu", "exit_io_out");
		json_decref(json);
	}
	assert_int_equal(sum, 80000);
}

/* A FIFO nobody reads fills up; what did not get through comes with the line that does. */
static void fifo_without_reader(void **state)
{
	unsigned int lines = 0, tries = 0;
	json_int_t sum = 0;
	json_t *json;
	int ret, fd;
	ssize_t n;

	(void)state;
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(metrics_open(path, NULL), 0);
	do {
		metrics_inc(uart_flush_count);
		ret = metrics_flush();
		tries++;
	} while (ret == 0 && tries < 1000);
	assert_int_equal(ret, -EAGAIN);
	fd = open(path, O_RDONLY | O_NONBLOCK);
	assert_true(fd >= 0);
	n = read(fd, content, sizeof(content) - 1);
	assert_true(n > 0);
	content[n] = '\0';
	for (char *text = content, *stop; (stop = strchr(text, '\n')) != NULL; text = stop + 1, lines++) {
		json = json_loadb(text, (size_t)(stop - text), 0, NULL);
		assert_non_null(json);
		sum += value(json, "uart", "flush_count");
		json_decref(json);
	}
	assert_int_equal(lines, tries - 1);
	assert_int_equal(sum, tries - 1);
	close(fd);
	metrics_inc(uart_flush_count);
	assert_int_equal(metrics_flush(), 0);
	json = line(0);
	assert_int_equal(value(json, "uart", "flush_count"), 2);
	assert_int_equal(value(json, "logger", "missed_metrics_count"), 1);
	json_decref(json);
}

static void nowhere(void **state)
{
	struct error err;
	char file[] = "/nowhere/a\nb";

	(void)state;
	/* A path that fails leaves the one that was there. */
	assert_int_equal(metrics_open(file, &err), -ENOENT);
	assert_string_equal(err.message,
			    "metrics.metrics_path: /nowhere/a\\nb: No such file or directory (needs a file or FIFO "
			    "that can be written)");
	assert_int_equal(metrics_flush(), 0);
	json_decref(line(0));
	assert_int_equal(metrics_open("/dev/full", &err), 0);
	assert_int_equal(metrics_flush(), -ENOSPC);
	assert_int_equal(metrics_open("", &err), 0);
	assert_int_equal(metrics_flush(), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_counter), TEST(levels),       TEST(prometheus),   TEST(since_the_last_line),
		TEST(labels),        TEST(longest_line), TEST(many_threads), TEST(fifo_without_reader),
		TEST(nowhere),
	};

	return cmocka_run_group_tests_name("metrics", tests, make_dir, remove_dir);
}
