/* log.h: one log line per event, to stderr, a file or a FIFO, in Firecracker's format. */
#ifndef MAYFLY_LOG_H
#define MAYFLY_LOG_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "error.h"

enum log_level { LOG_OFF, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

struct log_config {
	char log_path[PATH_MAX]; /* empty: stderr */
	enum log_level level;    /* default LOG_INFO */
	bool level_given;
	bool show_level;
	bool show_log_origin;
	char module[64]; /* only origins that start with it; empty: all */
};

/* log_config_init - Firecracker's defaults: stderr, Info, neither level nor origin, all modules. */
void log_config_init(struct log_config *cfg);

/*
 * log_level_parse - Off, Error, Warn (or Warning), Info, Debug, Trace in any letter case
 * Returns 0, or -EINVAL with *level untouched. LOG_LEVEL_NAMES is for sentences that list them.
 */
int log_level_parse(const char *name, enum log_level *level);
#define LOG_LEVEL_NAMES "\"Off\", \"Error\", \"Warn\", \"Info\", \"Debug\", \"Trace\""

/*
 * log_init - apply cfg; the file is opened O_NONBLOCK|O_APPEND and made if missing (a FIFO without a reader must not
 * stop us) Returns 0 or a negative errno with a sentence naming the field. May be called again. vmm thread, before
 * vCPUs run. Lines look like Firecracker's: 2026-11-21T03:51:00.123456789 [id:main:INFO:vmm/machine.c:12] text (UTC;
 * instance id, thread name; level and origin only when asked for). Control characters in the text are escaped, text
 * past 1 KiB is cut. Lost lines are counted in metrics, never waited for. A logger on stderr costs no system call here.
 * instance_id NULL: "anonymous-instance".
 */
int log_init(const struct log_config *cfg, const char *instance_id, struct error *err);

/*
 * log_thread_name - what lines of the calling thread carry as thread name, in Firecracker's words "fc_vcpu 0" and the
 * like name must outlive the thread. The thread that calls log_init is "main"; one that never said is "-".
 */
void log_thread_name(const char *name);

/* log_enabled - whether a line of this level would be written: skip expensive formatting when not. */
bool log_enabled(enum log_level level);

/* log_write - use the macros below. One write(2), any thread, errno kept. */
void log_write(enum log_level level, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* log_from_handler - the same from a signal handler, whatever was under way; text has no control characters. */
void log_from_handler(enum log_level level, const char *file, int line, const char *text);

#define log_error(...) log_write(LOG_ERROR, __FILE__, __LINE__, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __FILE__, __LINE__, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __FILE__, __LINE__, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __FILE__, __LINE__, __VA_ARGS__)

#define log_trace(...) log_write(LOG_TRACE, __FILE__, __LINE__, __VA_ARGS__)

/*
 * For lines a guest can cause at will: at most 10 per second and place. The first line after a second in which some
 * were left out is preceded by one that says how many. Any thread.
 */
struct log_ratelimit {
	_Atomic unsigned long long window_start_ns;
	_Atomic unsigned int in_window;
	_Atomic unsigned int suppressed;
};
bool log_ratelimit_ok(struct log_ratelimit *rl, enum log_level level, const char *file, int line);
#define log_limited__(level, ...)                                          \
	do {                                                               \
		static struct log_ratelimit limit__;                       \
		if (log_ratelimit_ok(&limit__, level, __FILE__, __LINE__)) \
			log_write(level, __FILE__, __LINE__, __VA_ARGS__); \
	} while (0)
#define log_error_limited(...) log_limited__(LOG_ERROR, __VA_ARGS__)
#define log_warn_limited(...)  log_limited__(LOG_WARN, __VA_ARGS__)

#endif
