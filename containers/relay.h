/* relay.h: a command in the guest and what is on this side of it: its streams, signals and terminal, without waiting.
 */
#ifndef MAYFLY_CONTAINERS_RELAY_H
#define MAYFLY_CONTAINERS_RELAY_H

#include <poll.h>
#include <stdbool.h>

#include "agent_client.h"
#include "container_log.h"
#include "error.h"

#define RELAY_FDS 3

struct relay {
	struct agent_client *agent;
	int in, out, err;          /* -1: there is none, what comes is dropped */
	struct container_log *log; /* NULL: none */
	bool started;              /* the guest has said that the command runs */
	bool refused;              /* the guest has said why it does not */
	size_t written;            /* of the frame that is being passed on */
	bool pending;              /* there is such a frame, in agent->in */
	bool in_ended;
	uint64_t signals; /* that wait for room, by number */
	bool resized;
	int code;        /* the command's exit status, once relay_step said so */
	int64_t said_at; /* when the guest last heard from us while it waited for a slow reader; 0: not yet */
};

/* relay_watch - what to poll for; returns how many of fds were filled in, RELAY_FDS at most. */
unsigned int relay_watch(struct relay *relay, struct pollfd fds[RELAY_FDS]);

/* relay_timeout - for how many ms to poll at most, before relay_step is called without an event; -1: for ever. */
int relay_timeout(const struct relay *relay);

/*
 * relay_step - pass on what can be. Returns 0: go on; 1: the command has ended, all it said is passed on and code is
 * set; a negative errno with the sentence: the connection is gone or broken, or (refused) the command did not start.
 */
int relay_step(struct relay *relay, const struct pollfd *fds, unsigned int nr, struct error *err);

/* relay_signal, relay_resize - send the command a signal; tell its terminal the size of ours. */
void relay_signal(struct relay *relay, int number);
void relay_resize(struct relay *relay);

#endif
