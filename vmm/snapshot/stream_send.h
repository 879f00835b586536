/* stream_send.h: sends a microVM to another process, most of it while the guest runs. */
#ifndef MAYFLY_SNAPSHOT_STREAM_SEND_H
#define MAYFLY_SNAPSHOT_STREAM_SEND_H

#include <stdint.h>

#include "error.h"
#include "machine.h"

struct stream_report {
	unsigned int rounds;  /* times that RAM was gone through */
	uint64_t bytes;       /* sent */
	uint64_t downtime_us; /* from the pause to the last byte; 0: it was paused before */
};

struct stream_client {
	char *(*config)(void *opaque); /* what the STATE_CONFIG record is to hold, malloc'ed; asked at the end. NULL: no
					  memory */
	/* The end: 0, and it stays paused, for who receives it may run it now; or a negative errno with a sentence, and
	 * it goes on. */
	void (*done)(void *opaque, int ret, const struct stream_report *report, const struct error *err);
	void *opaque;
};

/*
 * stream_send - send the microVM by fd, a socket, which is the stream's from now on if this returns 0
 * One that is paused is sent as it is. One that runs, which takes machine-config.track_dirty_pages, runs on while RAM
 * is sent, then what it wrote meanwhile, and so on, until so little is left that it may be paused for it. Nobody else
 * may pause or resume it before the end. Returns 0, or a negative errno with a sentence, and done is never called. Loop
 * thread.
 */
struct sender;
int stream_send(struct sender **out, struct machine *m, int fd, const struct stream_client *client, struct error *err);

/* stream_give_up - have it end with -ECANCELED, now or as soon as a pause is over that it waits for; the microVM goes
 * on if it was not paused before. Before done was called. Loop thread. */
void stream_give_up(struct sender *s);

#endif
