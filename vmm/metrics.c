/* metrics.c: the counters, and the line of JSON they are written as. */
#include "metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "retry.h"
#include "text.h"

struct metrics metrics;

/* Arrays, not pointers: nothing to relocate in a position-independent program. */
struct counter {
	char group[20];
	char name[40];
	uint16_t offset;
	bool is_level;
};

static const struct counter counters[] = {
#define LEVEL(group, name)   { #group, #name, offsetof(struct metrics, group##_##name), true },
#define COUNTER(group, name) { #group, #name, offsetof(struct metrics, group##_##name), false },
	METRICS_LEVELS(LEVEL) METRICS_LIST(COUNTER)
#undef COUNTER
#undef LEVEL
};

#define NR_COUNTERS (sizeof(counters) / sizeof(counters[0]))

/* A line at its longest: for each counter its group opened and closed, its name, 20 digits, punctuation. */
#define COUNTER_LEN(group, name) +sizeof(#group) + sizeof(#name) + 32
#define LINE_SIZE                (256 + METRICS_PROPERTIES_MAX METRICS_LEVELS(COUNTER_LEN) METRICS_LIST(COUNTER_LEN))

static struct {
	int fd; /* plus 1, so that 0 is closed */
	const char *id;
	const char *properties;
	uint64_t written[NR_COUNTERS]; /* value of each counter in the last line that got through */
} sink;

int metrics_open(const char *path, struct error *err)
{
	const int flags = O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
	int fd = -1;

	if (path && path[0]) {
		/* Read-write for the same reason as the log: a FIFO needs no reader. */
		fd = RETRY_INTERRUPTED(openat(AT_FDCWD, path, O_RDWR | flags, 0644));
		if (fd < 0 && errno == EACCES)
			fd = RETRY_INTERRUPTED(openat(AT_FDCWD, path, O_WRONLY | flags, 0644));
		if (fd < 0) {
			int code = -errno;
			char shown[200];

			text_escape(shown, sizeof(shown), path, strlen(path));
			return error_set(err, code,
					 "metrics.metrics_path: %s: %s (needs a file or FIFO that can be written)",
					 shown, strerror(-code));
		}
	}
	if (sink.fd)
		close(sink.fd - 1);
	sink.fd = fd + 1;
	return 0;
}

void metrics_set_labels(const char *id, const char *properties)
{
	sink.id = id;
	sink.properties = properties;
}

struct line {
	size_t len;
	char text[LINE_SIZE];
};

static void __attribute__((format(printf, 2, 3))) add(struct line *l, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(l->text + l->len, sizeof(l->text) - l->len, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->len += (size_t)n;
	if (l->len >= sizeof(l->text))
		l->len = sizeof(l->text) - 1;
}

static uint64_t counter_value(size_t i)
{
	const void *field = (const char *)&metrics + counters[i].offset;

	return atomic_load_explicit((const _Atomic uint64_t *)field, memory_order_relaxed);
}

static void format_line(struct line *l, uint64_t values[NR_COUNTERS])
{
	struct timespec now;
	size_t i;

	clock_gettime(CLOCK_REALTIME, &now);
	l->len = 0;
	add(l, "{\"utc_timestamp_ms\":%lld", (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	if (sink.id)
		add(l, ",\"id\":\"%.64s\"", sink.id);
	if (sink.properties)
		add(l, ",\"properties\":%s", sink.properties);
	for (i = 0; i < NR_COUNTERS; i++) {
		const struct counter *c = &counters[i];

		if (i == 0 || strcmp(c->group, counters[i - 1].group) != 0)
			add(l, "%s,\"%s\":{", i ? "}" : "", c->group);
		else
			add(l, ",");
		values[i] = counter_value(i);
		add(l, "\"%s\":%llu", c->name, (unsigned long long)(values[i] - (c->is_level ? 0 : sink.written[i])));
	}
	add(l, "}}\n");
}

char *metrics_prometheus(void)
{
	/* Name and value, twice the name for the type, and what stands between. */
	const size_t room =
		NR_COUNTERS *
		(2 * (sizeof("mayfly___total") + sizeof(counters[0].group) + sizeof(counters[0].name)) + 64);
	char *out = malloc(room);
	size_t at = 0, i;

	for (i = 0; out && i < NR_COUNTERS; i++) {
		const struct counter *c = &counters[i];

		at += (size_t)snprintf(out + at, room - at, "# TYPE mayfly_%s_%s%s\nmayfly_%s_%s%s %llu\n", c->group,
				       c->name, c->is_level ? " gauge" : "_total counter", c->group, c->name,
				       c->is_level ? "" : "_total", (unsigned long long)counter_value(i));
	}
	return out;
}

int metrics_flush(void)
{
	uint64_t values[NR_COUNTERS];
	struct line l;
	ssize_t n;

	if (!sink.fd)
		return 0;
	format_line(&l, values);
	n = RETRY_INTERRUPTED(write(sink.fd - 1, l.text, l.len));
	if (n != (ssize_t)l.len) {
		int code = n < 0 ? -errno : -EIO;

		metrics_inc(logger_missed_metrics_count);
		return code;
	}
	memcpy(sink.written, values, sizeof(values));
	return 0;
}
