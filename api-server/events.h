/* events.h: what happened to the microVM, as lines of JSON for whoever asks, including those who ask late. */
#ifndef MAYFLY_EVENTS_H
#define MAYFLY_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "server.h"

#define EVENTS_KEPT    64
#define EVENT_LINE_MAX 512
#define EVENTS_READERS 8

struct events {
	uint64_t start_ns;                      /* CLOCK_MONOTONIC: what times count from */
	unsigned long long nr;                  /* so far; the last EVENTS_KEPT are kept */
	char line[EVENTS_KEPT][EVENT_LINE_MAX]; /* with their newlines */
	struct client *reader[EVENTS_READERS];
};

/*
 * events_add - {"event":name,"seq":…,"uptime_us":…, and what fmt says}
 * fmt is JSON members after a comma, or "". Strings in it must need no escaping. Loop thread.
 */
void events_add(struct events *events, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* events_attach - send all that are kept, then each as it happens. False: there are EVENTS_READERS already. */
bool events_attach(struct events *events, struct client *client);

/* events_close - end every stream properly. */
void events_close(struct events *events);

#endif
