/* agent_client.h: the host's end of the agent's protocol. Whatever the guest sends is bounded, checked, and only then
 * used. */
#ifndef MAYFLY_CONTAINERS_AGENT_CLIENT_H
#define MAYFLY_CONTAINERS_AGENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "instance.h"
#include "rootfs/init/frames.h"

#define AGENT_PATIENCE_MS 60000 /* for an answer that takes the guest no time */

/* now_ms - CLOCK_MONOTONIC in milliseconds, for deadlines. */
int64_t now_ms(void);

struct agent_client {
	int fd; /* a stream socket that does not block */
	struct frame_reader in;
	uint8_t out[2 * (FRAME_HEADER + FRAME_MAX)]; /* bytes that the socket has not taken */
	size_t out_at, out_len;
};

/* Fields of a request, put together in memory of its own. All zeros is an empty one. */
struct request {
	char *text;
	size_t len, size;
	bool failed; /* no memory */
};

void request_add(struct request *request, const char *key, const char *value);
void request_add_number(struct request *request, const char *key, int64_t value);
void request_free(struct request *request);

/*
 * agent_dial - connect to the agent of a running instance
 * It has patience_ms to begin listening. *client is on the heap. Returns 0 or an error with the sentence.
 */
int agent_dial(const struct instance *instance, int patience_ms, struct agent_client **client, struct error *err);

/* agent_adopt - the same for a connection that the agent has made; takes the descriptor. NULL: no memory. */
struct agent_client *agent_adopt(int fd);

void agent_hang_up(struct agent_client *client);

/* agent_request - send a request, as its first; waits until it is sent. What is wrong with it the answer says. */
int agent_request(struct agent_client *client, struct request *request, struct error *err);

/*
 * agent_reply - wait for the REPLY; *fields are valid until the next frame is read
 * An answer that is an error becomes ours: -EREMOTEIO with the guest's sentence, made printable.
 */
int agent_reply(struct agent_client *client, int patience_ms, struct fields *fields, struct error *err);

/* agent_check_reply - the same for a REPLY that has been read by agent_receive. */
int agent_check_reply(const struct agent_client *client, struct fields *fields, struct error *err);

/*
 * agent_receive - read what is there, without waiting. Returns 1: a frame is whole in client->in (go on with
 * frame_next()); 0: not yet; -EPIPE: the guest hung up; another error: it broke the protocol.
 */
int agent_receive(struct agent_client *client, struct error *err);

/* agent_next - the same, but waits for at most patience_ms until a frame is whole (-1: for ever); then it is
 * -ETIMEDOUT.
 */
int agent_next(struct agent_client *client, int patience_ms, struct error *err);

/* agent_room - whether a frame of len bytes can be queued. */
bool agent_room(const struct agent_client *client, size_t len);

/* agent_queue - put a frame behind those that wait; false: no room. agent_flush sends what the socket takes, and
 * forgets all of it when the guest is gone. */
bool agent_queue(struct agent_client *client, enum frame_type type, const void *data, size_t len);
int agent_flush(struct agent_client *client, struct error *err);

/* agent_send - queue a frame and wait until everything is sent. */
int agent_send(struct agent_client *client, enum frame_type type, const void *data, size_t len, struct error *err);

/* agent_status - code= or signal= of a REPLY or EXIT as an exit status: 0 to 255, 128 + n for signal n. -1: neither. */
int agent_status(const struct fields *fields);

#endif
