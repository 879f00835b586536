/* log.c: formats one line per event and hands it to the kernel in one write(2). */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "metrics.h"
#include "retry.h"
#include "text.h"

#define TEXT_SIZE    1024 /* of one event, before escaping */
#define LINE_SIZE    2048 /* below PIPE_BUF, so that lines of several threads never mix in a FIFO */
#define ID_SIZE      65
#define LIMIT_LINES  10u
#define LIMIT_WINDOW 1000000000ull /* ns */
#define DEFAULT_ID   "anonymous-instance"

/* Written by log_init before any other thread exists, only read afterwards. */
static struct {
	int fd;
	enum log_level level;
	bool show_level;
	bool show_log_origin;
	char id[ID_SIZE];
	char module[sizeof(((struct log_config *)0)->module)];
} logger = { .fd = STDERR_FILENO, .level = LOG_INFO, .id = DEFAULT_ID };

static __thread const char *thread_name;

static const char level_names[][6] = {
	[LOG_OFF] = "OFF",   [LOG_ERROR] = "ERROR", [LOG_WARN] = "WARN",
	[LOG_INFO] = "INFO", [LOG_DEBUG] = "DEBUG", [LOG_TRACE] = "TRACE",
};

void log_config_init(struct log_config *cfg)
{
	if (cfg->log_path[0]) /* a page that is only read stays shared */
		cfg->log_path[0] = '\0';
	cfg->level = LOG_INFO;
	cfg->level_given = false;
	cfg->show_level = false;
	cfg->show_log_origin = false;
	cfg->module[0] = '\0';
}

int log_level_parse(const char *name, enum log_level *level)
{
	unsigned int i;

	for (i = LOG_OFF; i <= LOG_TRACE; i++) {
		if (strcasecmp(name, level_names[i]) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	}
	/* The name that Firecracker's API document uses for Warn. */
	if (strcasecmp(name, "warning") == 0) {
		*level = LOG_WARN;
		return 0;
	}
	return -EINVAL;
}

/*
 * Read-write although we never read: a FIFO then opens without a reader and stays open when the reader goes away, so a
 * restarted collector goes on where the old one stopped. Write-only is for files whose mode allows no more.
 */
static int open_output(const char *path)
{
	const int flags = O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
	int fd = RETRY_INTERRUPTED(openat(AT_FDCWD, path, O_RDWR | flags, 0644));

	if (fd < 0 && errno == EACCES)
		fd = RETRY_INTERRUPTED(openat(AT_FDCWD, path, O_WRONLY | flags, 0644));
	return fd < 0 ? -errno : fd;
}

int log_init(const struct log_config *cfg, const char *instance_id, struct error *err)
{
	int fd = STDERR_FILENO;

	if (cfg->log_path[0]) {
		fd = open_output(cfg->log_path);
		if (fd < 0) {
			char shown[200];

			text_escape(shown, sizeof(shown), cfg->log_path, strlen(cfg->log_path));
			return error_set(err, fd, "logger.log_path: %s: %s (needs a file or FIFO that can be written)",
					 shown, strerror(-fd));
		}
	}
	if (logger.fd != STDERR_FILENO)
		close(logger.fd);
	logger.fd = fd;
	logger.level = cfg->level;
	logger.show_level = cfg->show_level;
	logger.show_log_origin = cfg->show_log_origin;
	snprintf(logger.module, sizeof(logger.module), "%s", cfg->module);
	snprintf(logger.id, sizeof(logger.id), "%s", instance_id ? instance_id : DEFAULT_ID);
	if (!thread_name)
		thread_name = "main";
	return 0;
}

void log_thread_name(const char *name)
{
	thread_name = name;
}

bool log_enabled(enum log_level level)
{
	return level != LOG_OFF && level <= logger.level;
}

/* "time [id:thread:LEVEL:file:line] "; at most about 350 bytes, the parts are bounded. Also for signal handlers. */
static size_t format_head(char *dst, size_t size, enum log_level level, const char *file, int line)
{
	struct timespec now;
	size_t at;

	clock_gettime(CLOCK_REALTIME, &now);
	at = text_time(dst, size, &now);
	at = text_put(dst, at, size, " [");
	at = text_put(dst, at, size, logger.id);
	at = text_put(dst, at, size, ":");
	at = text_put(dst, at, size, thread_name ? thread_name : "-");
	if (logger.show_level) {
		at = text_put(dst, at, size, ":");
		at = text_put(dst, at, size, level_names[level]);
	}
	if (logger.show_log_origin) {
		at = text_put(dst, at, size, ":");
		at = text_put(dst, at, size, file);
		at = text_put(dst, at, size, ":");
		at = text_put_number(dst, at, size, (uint64_t)line, false, 1);
	}
	return text_put(dst, at, size, "] ");
}

/*
 * stderr is shared with whoever started us, so it cannot be made O_NONBLOCK; a pipe that nobody drains must not stop a
 * vCPU or the loop. A pipe that polls writable takes PIPE_BUF bytes, and a line is shorter.
 */
static bool takes_a_line(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };

	return fd != STDERR_FILENO || poll(&pfd, 1, 0) > 0;
}

static void put_line(const char *line, size_t len)
{
	if (!takes_a_line(logger.fd) || RETRY_INTERRUPTED(write(logger.fd, line, len)) != (ssize_t)len)
		metrics_inc(logger_missed_log_count);
}

void log_write(enum log_level level, const char *file, int line, const char *fmt, ...)
{
	int saved_errno = errno, n;
	char text[TEXT_SIZE], out[LINE_SIZE];
	size_t len, text_len;
	va_list ap;

	if (!log_enabled(level) || strncmp(file, logger.module, strlen(logger.module)) != 0)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;
	text_len = (size_t)n;
	if (text_len >= sizeof(text)) {
		text_len = sizeof(text) - 1;
		memset(text + text_len - 3, '.', 3);
	}
	len = format_head(out, sizeof(out), level, file, line);
	len += text_escape(out + len, sizeof(out) - len - 1, text, text_len);
	out[len++] = '\n';
	put_line(out, len);
	errno = saved_errno;
}

void log_from_handler(enum log_level level, const char *file, int line, const char *text)
{
	char out[LINE_SIZE];
	size_t len;

	if (!log_enabled(level))
		return;
	len = format_head(out, sizeof(out), level, file, line);
	len = text_put(out, len, sizeof(out) - 1, text);
	out[len++] = '\n';
	put_line(out, len);
}

bool log_ratelimit_ok(struct log_ratelimit *rl, enum log_level level, const char *file, int line)
{
	unsigned long long now_ns, start;
	unsigned int left_out;
	struct timespec now;

	if (!log_enabled(level))
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec;
	start = atomic_load(&rl->window_start_ns);
	/* 0 is a place that never logged. Of the threads that find the window over, one opens the next. */
	if ((!start || now_ns - start >= LIMIT_WINDOW) &&
	    atomic_compare_exchange_strong(&rl->window_start_ns, &start, now_ns)) {
		atomic_store(&rl->in_window, 0);
		left_out = atomic_exchange(&rl->suppressed, 0);
		if (left_out)
			log_write(level, file, line, "%u lines like the next were left out", left_out);
	}
	if (atomic_fetch_add(&rl->in_window, 1) < LIMIT_LINES)
		return true;
	atomic_fetch_add(&rl->suppressed, 1);
	return false;
}
