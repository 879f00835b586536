/* events.c: keeps the last events and streams them. */
#include "events.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *line_of(const struct events *ev, unsigned long long seq)
{
	return ev->line[seq % EVENTS_KEPT];
}

void events_add(struct events *ev, const char *name, const char *fmt, ...)
{
	char *line = ev->line[ev->nr % EVENTS_KEPT];
	unsigned long long us = (event_loop_now_ns() - ev->start_ns) / 1000;
	unsigned int i;
	size_t at;
	va_list ap;
	int n;

	at = (size_t)snprintf(line, EVENT_LINE_MAX, "{\"event\":\"%s\",\"seq\":%llu,\"uptime_us\":%llu", name, ev->nr,
			      us);
	va_start(ap, fmt);
	n = vsnprintf(line + at, EVENT_LINE_MAX - at, fmt, ap);
	va_end(ap);
	/* Whoever adds one keeps it short; a line that does not fit loses its details, never its form. */
	if (n > 0 && at + (size_t)n + sizeof("}\n") <= EVENT_LINE_MAX)
		at += (size_t)n;
	memcpy(line + at, "}\n", sizeof("}\n"));
	ev->nr++;
	for (i = 0; i < EVENTS_READERS; i++) {
		if (ev->reader[i])
			client_send(ev->reader[i], line, strlen(line));
	}
}

static void on_gone(void *opaque)
{
	*(struct client **)opaque = NULL;
}

bool events_attach(struct events *ev, struct client *client)
{
	unsigned long long seq = ev->nr > EVENTS_KEPT ? ev->nr - EVENTS_KEPT : 0;
	unsigned int i = 0;

	while (i < EVENTS_READERS && ev->reader[i])
		i++;
	if (i == EVENTS_READERS)
		return false;
	ev->reader[i] = client;
	client_stream(client, "application/x-ndjson", on_gone, &ev->reader[i]);
	for (; seq < ev->nr && ev->reader[i]; seq++)
		client_send(client, line_of(ev, seq), strlen(line_of(ev, seq)));
	return true;
}

void events_close(struct events *ev)
{
	unsigned int i;

	for (i = 0; i < EVENTS_READERS; i++) {
		if (ev->reader[i])
			client_stream_end(ev->reader[i]);
	}
}
