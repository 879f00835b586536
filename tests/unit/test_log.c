/* test_log.c: what log lines look like, which are written, and that nothing makes us wait. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "metrics.h"
#include "text.h"

static char dir[] = "/tmp/test_log_XXXXXX";
static struct log_config cfg;
static char content[65536];

static int make_dir(void **state)
{
	(void)state;
	return !mkdtemp(dir);
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

/* A fresh log file under its own name for each test. */
static int start_log(void **state)
{
	struct error err;

	(void)state;
	log_config_init(&cfg);
	snprintf(cfg.log_path, sizeof(cfg.log_path), "%s/log", dir);
	return log_init(&cfg, "vm-7", &err);
}

static int end_log(void **state)
{
	struct log_config on_stderr;
	char path[64];

	(void)state;
	log_config_init(&on_stderr);
	snprintf(path, sizeof(path), "%s/log", dir);
	return log_init(&on_stderr, NULL, NULL) || unlink(path);
}

static void again(void)
{
	struct error err;

	assert_int_equal(log_init(&cfg, "vm-7", &err), 0);
}

static const char *read_log(void)
{
	int fd = open(cfg.log_path, O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, content, sizeof(content) - 1);
	assert_true(n >= 0);
	content[n] = '\0';
	close(fd);
	return content;
}

static unsigned int count_lines(const char *text)
{
	unsigned int n = 0;

	for (; *text; text++)
		n += *text == '\n';
	return n;
}

static void assert_matches(const char *text, const char *pattern)
{
	regex_t re;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	if (regexec(&re, text, 0, NULL, 0))
		fail_msg("%s\n  does not match %s", text, pattern);
	regfree(&re);
}

#define TIME "^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{9} "

static void format(void **state)
{
	(void)state;
	log_info("hello %d", 5);
	assert_matches(read_log(), TIME "\\[vm-7:main\\] hello 5\n$");
	cfg.show_level = true;
	again();
	log_write(LOG_WARN, "vmm/machine.c", 12, "two");
	assert_matches(strchr(read_log(), '\n') + 1, TIME "\\[vm-7:main:WARN\\] two\n$");
	assert_int_equal(truncate(cfg.log_path, 0), 0);
	cfg.show_log_origin = true;
	again();
	log_write(LOG_ERROR, "vmm/machine.c", 12, "three");
	assert_matches(read_log(), TIME "\\[vm-7:main:ERROR:vmm/machine\\.c:12\\] three\n$");
	assert_int_equal(truncate(cfg.log_path, 0), 0);
	cfg.show_level = false;
	again();
	log_info("four");
	assert_matches(read_log(), TIME "\\[vm-7:main:[^:]*test_log\\.c:[0-9]+\\] four\n$");
}

/* The calendar is ours: every day of two centuries, and some far ones, against the C library's. */
static void calendar(void **state)
{
	struct timespec moment = { .tv_nsec = 7 };
	char got[40], want[40];
	struct tm tm;
	long day;

	(void)state;
	for (day = 0; day < 2900000; day += day < 73100 ? 1 : 997) {
		moment.tv_sec = day * 86400 + day % 86400;
		gmtime_r(&moment.tv_sec, &tm);
		strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%S.000000007", &tm);
		assert_int_equal(text_time(got, sizeof(got), &moment), 29);
		assert_string_equal(got, want);
	}
}

static void time_is_now(void **state)
{
	char before[40], after[40];
	struct timespec now;

	(void)state;
	clock_gettime(CLOCK_REALTIME, &now);
	text_time(before, sizeof(before), &now);
	log_info("now");
	clock_gettime(CLOCK_REALTIME, &now);
	text_time(after, sizeof(after), &now);
	read_log();
	assert_true(strncmp(before, content, 29) <= 0);
	assert_true(strncmp(content, after, 29) <= 0);
}

static void *named_thread(void *name)
{
	if (name)
		log_thread_name(name);
	log_info("from a thread");
	return NULL;
}

static void thread_names(void **state)
{
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, named_thread, "fc_vcpu 3"), 0);
	pthread_join(thread, NULL);
	assert_matches(read_log(), TIME "\\[vm-7:fc_vcpu 3\\] from a thread\n$");
	assert_int_equal(truncate(cfg.log_path, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, named_thread, NULL), 0);
	pthread_join(thread, NULL);
	assert_matches(read_log(), TIME "\\[vm-7:-\\] from a thread\n$");
}

static void levels(void **state)
{
	enum log_level level, line;

	(void)state;
	for (level = LOG_OFF; level <= LOG_TRACE; level++) {
		cfg.level = level;
		again();
		assert_int_equal(truncate(cfg.log_path, 0), 0);
		for (line = LOG_ERROR; line <= LOG_TRACE; line++) {
			log_write(line, "a.c", 1, "x");
			assert_int_equal(log_enabled(line), line <= level);
		}
		assert_int_equal(count_lines(read_log()), level);
		assert_false(log_enabled(LOG_OFF));
	}
}

static void level_names(void **state)
{
	static const struct {
		const char *name;
		enum log_level level;
	} names[] = { { "Off", LOG_OFF },   { "ERROR", LOG_ERROR }, { "warn", LOG_WARN },  { "Warning", LOG_WARN },
		      { "iNFO", LOG_INFO }, { "Debug", LOG_DEBUG }, { "trace", LOG_TRACE } };
	enum log_level level = LOG_DEBUG;
	size_t i;

	(void)state;
	assert_int_equal(log_level_parse("", &level), -EINVAL);
	assert_int_equal(log_level_parse("infos", &level), -EINVAL);
	assert_int_equal(level, LOG_DEBUG);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(log_level_parse(names[i].name, &level), 0);
		assert_int_equal(level, names[i].level);
	}
}

static void module_filter(void **state)
{
	(void)state;
	strcpy(cfg.module, "virtio/");
	again();
	log_write(LOG_INFO, "vmm/machine.c", 1, "no");
	log_write(LOG_INFO, "virtio/queue.c", 1, "yes");
	assert_matches(read_log(), TIME "\\[vm-7:main\\] yes\n$");
}

/* Nobody can forge a line, steer a terminal, or grow a line past what a FIFO takes in one piece. */
static void hostile_text(void **state)
{
	char huge[5000];

	(void)state;
	log_info("%s", "a\n2026-01-01 [x] forged\r\t\x1b[2J\x7f\xff\xc2\x9b\xe2\x82\xac\\");
	assert_int_equal(count_lines(read_log()), 1);
	assert_non_null(
		strstr(content, "] a\\n2026-01-01 [x] forged\\r\\t\\x1b[2J\\x7f\\xff\\xc2\\x9b\xe2\x82\xac\\\n"));
	assert_int_equal(truncate(cfg.log_path, 0), 0);
	memset(huge, 'A', sizeof(huge));
	huge[sizeof(huge) - 1] = '\0';
	log_info("%s", huge);
	assert_matches(read_log(), "AAA\\.\\.\\.\n$");
	assert_true(strlen(content) < 1100);
	assert_int_equal(truncate(cfg.log_path, 0), 0);
	memset(huge, '\x01', sizeof(huge) - 1);
	log_info("%s", huge);
	assert_matches(read_log(), "x01\\.\\.\\.\n$");
	assert_true(strlen(content) <= 2048);
	assert_int_equal(count_lines(content), 1);
}

static void escape(void **state)
{
	static const struct {
		const char *in;
		const char *out;
		size_t size;
	} cases[] = {
		{ "abc", "abc", 16 },
		{ "abc", "abc", 4 },
		{ "abcd", "...", 4 },
		{ "abcdef", "a...", 5 },
		{ "a\nb\x01", "a\\nb\\x01", 16 },
		{ "\n\n\n\n", "\\n\\n...", 8 },
		{ "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 16 },
		/* A letter is never cut in half. */
		{ "ab\xe2\x82\xac\xe2\x82\xac", "ab...", 8 },
		/* Overlong, surrogate, beyond Unicode, cut short, stray. */
		{ "\xc0\xaf", "\\xc0\\xaf", 16 },
		{ "\xe0\x80\xaf", "\\xe0\\x80\\xaf", 16 },
		{ "\xed\xa0\x80", "\\xed\\xa0\\x80", 16 },
		{ "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", 20 },
		{ "\xe2\x82", "\\xe2\\x82", 16 },
		{ "\x80z", "\\x80z", 16 },
	};
	char out[32];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t n = text_escape(out, cases[i].size, cases[i].in, strlen(cases[i].in));

		assert_string_equal(out, cases[i].out);
		assert_int_equal(n, strlen(out));
	}
	assert_int_equal(text_distance("level", "level"), 0);
	assert_int_equal(text_distance("levle", "level"), 2);
	assert_int_equal(text_distance("", "abc"), 3);
	assert_int_equal(text_distance("kitten", "sitting"), 3);
}

static void appends(void **state)
{
	struct stat st;

	(void)state;
	log_info("one");
	again();
	log_info("two");
	assert_int_equal(count_lines(read_log()), 2);
	assert_int_equal(stat(cfg.log_path, &st), 0);
	assert_int_equal(st.st_mode & 0133, 0);
}

static void errno_is_kept(void **state)
{
	(void)state;
	errno = ENOTTY;
	log_info("%s", "x");
	assert_int_equal(errno, ENOTTY);
}

static uint64_t missed(void)
{
	return atomic_load(&metrics.logger_missed_log_count);
}

static void fifo_without_reader(void **state)
{
	uint64_t before = missed();
	unsigned int i, lines = 0;
	ssize_t n;
	int fd;

	(void)state;
	assert_int_equal(unlink(cfg.log_path), 0);
	assert_int_equal(mkfifo(cfg.log_path, 0600), 0);
	again();
	/* About 100 bytes each: more than the 64 KiB a FIFO holds. */
	for (i = 0; i < 2000; i++)
		log_info("line %60u", i);
	assert_true(missed() > before);
	fd = open(cfg.log_path, O_RDONLY | O_NONBLOCK);
	assert_true(fd >= 0);
	while ((n = read(fd, content, sizeof(content) - 1)) > 0) {
		content[n] = '\0';
		lines += count_lines(content);
	}
	assert_int_equal(lines + (missed() - before), 2000);
	/* There is room again, and a reader that goes away kills nobody. */
	before = missed();
	log_info("again");
	close(fd);
	log_info("nobody listens");
	assert_int_equal(missed(), before);
}

static void full_disk(void **state)
{
	uint64_t before = missed();
	struct log_config full;

	(void)state;
	log_config_init(&full);
	strcpy(full.log_path, "/dev/full");
	assert_int_equal(log_init(&full, NULL, NULL), 0);
	log_info("lost");
	assert_int_equal(missed(), before + 1);
}

static void bad_path(void **state)
{
	struct log_config bad = cfg;
	struct error err;

	(void)state;
	strcpy(bad.log_path, "/nowhere/a\nb");
	assert_int_equal(log_init(&bad, NULL, &err), -ENOENT);
	assert_string_equal(err.message,
			    "logger.log_path: /nowhere/a\\nb: No such file or directory (needs a file or FIFO "
			    "that can be written)");
	strcpy(bad.log_path, "/tmp");
	assert_int_equal(log_init(&bad, NULL, &err), -EISDIR);
	/* The log that was there goes on. */
	log_info("still here");
	assert_int_equal(count_lines(read_log()), 1);
}

static void burst(unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		log_warn_limited("burst %u", i);
}

static void rate_limit(void **state)
{
	const struct timespec second = { .tv_sec = 1, .tv_nsec = 20000000 };

	(void)state;
	burst(100);
	assert_int_equal(count_lines(read_log()), 10);
	assert_non_null(strstr(content, "burst 9\n"));
	nanosleep(&second, NULL);
	burst(1);
	assert_int_equal(count_lines(read_log()), 12);
	assert_non_null(strstr(content, "] 90 lines like the next were left out\n"));
	/* Another place has its own allowance. */
	log_warn_limited("elsewhere");
	assert_int_equal(count_lines(read_log()), 13);
	/* Lines that are not wanted are not counted either. */
	cfg.level = LOG_ERROR;
	again();
	burst(100);
	assert_int_equal(count_lines(read_log()), 13);
}

static void *limited_thread(void *unused)
{
	(void)unused;
	burst(1000);
	return NULL;
}

/* However many threads: ten a second and place, none torn. */
static void rate_limit_threads(void **state)
{
	const struct timespec second = { .tv_sec = 1, .tv_nsec = 20000000 };
	pthread_t thread[4];
	unsigned int i;

	(void)state;
	nanosleep(&second, NULL);
	for (i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, limited_thread, NULL), 0);
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	read_log();
	assert_true(count_lines(content) >= 10);
	/* Threads that meet at the opening of the window may each slip one more line through. */
	assert_true(count_lines(content) <= 32);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start_log, end_log)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(format),    TEST(calendar),    TEST(time_is_now),   TEST(thread_names),
		TEST(levels),    TEST(level_names), TEST(module_filter), TEST(hostile_text),
		TEST(escape),    TEST(appends),     TEST(errno_is_kept), TEST(fifo_without_reader),
		TEST(full_disk), TEST(bad_path),    TEST(rate_limit),    TEST(rate_limit_threads),
	};

	return cmocka_run_group_tests_name("log", tests, make_dir, remove_dir);
}
