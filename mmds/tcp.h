/* tcp.h: the server side of TCP (RFC 9293) for the metadata service's connections with one guest interface. */
#ifndef MAYFLY_MMDS_TCP_H
#define MAYFLY_MMDS_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"
#include "http.h"
#include "mmds.h"

#define TCP_MAX_CONNECTIONS 48u
#define TCP_MAX_REPLIES     32u

struct tcp_connection;

/*
 * All connections of one interface. What a connection needs is one page, mapped when the first SYN arrives and touched
 * when a connection uses it. vmm thread only.
 */
struct tcp {
	struct mmds *mmds;
	uint8_t mac[ETH_ALEN]; /* ours */
	__be32 ip;             /* ours */
	uint8_t key[SIPHASH_KEY_SIZE];
	struct tcp_connection *area;             /* TCP_MAX_CONNECTIONS pages, or NULL */
	uint64_t used, ready, waiting;           /* a bit each: exists; may have something to send; wants memory */
	uint64_t peers[TCP_MAX_CONNECTIONS];     /* address and port, to find a connection by */
	uint64_t deadline[TCP_MAX_CONNECTIONS];  /* ns: when something must happen if the guest stays silent */
	unsigned int turn;                       /* who sends next */
	size_t response_bytes;                   /* of all connections, until the guest has them */
	struct segment replies[TCP_MAX_REPLIES]; /* of no connection: RST, and the ACK of a last FIN */
	unsigned int first_reply, nr_replies;
};

/* tcp_init - no connections; key is random. tcp_free forgets all of them. */
void tcp_init(struct tcp *t, struct mmds *mmds, const uint8_t mac[ETH_ALEN], __be32 ip,
	      const uint8_t key[SIPHASH_KEY_SIZE]);
void tcp_free(struct tcp *t);

/* tcp_receive - a segment from the guest, whose data is in f. Bounded work: at most one request is answered. */
void tcp_receive(struct tcp *t, const struct segment *s, const struct frame *f, uint64_t now_ns);

/* tcp_pending - whether tcp_send may have a frame. */
static inline bool tcp_pending(const struct tcp *t)
{
	return t->nr_replies || t->ready;
}

/* tcp_send - write the next frame to buf; returns its length, 0: there is none, or size has no room for headers. */
size_t tcp_send(struct tcp *t, uint8_t *buf, size_t size, uint64_t now_ns);

/* tcp_deadline - when tcp_expire is to be called, in ns of mmds->now_ns; UINT64_MAX: never. */
uint64_t tcp_deadline(const struct tcp *t);

/* tcp_expire - retransmit, probe, give up: whatever is due at now_ns. */
void tcp_expire(struct tcp *t, uint64_t now_ns);

#endif
