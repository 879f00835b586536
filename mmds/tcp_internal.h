/* tcp_internal.h: a connection, as tcp.c (what arrives), tcp_send.c (what leaves) and tcp_timer.c see it. */
#ifndef MAYFLY_MMDS_TCP_INTERNAL_H
#define MAYFLY_MMDS_TCP_INTERNAL_H

#include "tcp.h"

#define TCP_PORT        80u
#define NS_PER_MS       1000000ull
#define RTO_FIRST       (250 * NS_PER_MS)
#define RTO_MAX         (8000 * NS_PER_MS)
#define MAX_SYN_RETRIES 5u                  /* 8 s */
#define MAX_RETRIES     9u                  /* 48 s without progress: the guest is gone, or does not want it */
#define IDLE_LIMIT      (60000 * NS_PER_MS) /* without a request */
#define LINGER          (5000 * NS_PER_MS)  /* after our FIN, for the guest's */
#define MIN_MSS         88u
#define DEFAULT_MSS     536u /* RFC 9293, 3.7.1 */
#define MAX_WINDOW      65535u

/*
 * Sequence numbers as in RFC 9293, 3.3.1. Sent are, in this order: SYN (at iss), the bytes of one response after the
 * other, FIN (at end). A response is dropped when all of it is acknowledged, and only then is the next request
 * answered.
 */
struct tcp_connection {
	struct peer peer;
	uint32_t iss, snd_una, snd_nxt;
	uint32_t snd_max; /* snd_nxt before it was set back to retransmit */
	uint32_t snd_wnd, snd_wl1;
	uint32_t cwnd; /* bytes; only ever less than the window after a loss */
	uint32_t rcv_nxt;
	uint32_t end; /* after the response */
	uint32_t mss;
	bool established; /* our SYN was acknowledged */
	bool ack_now;
	bool probe; /* send one byte into a closed window */
	bool fin_received;
	bool fin_queued; /* no response will follow; what still arrives is not read */
	uint8_t duplicate_acks, retries;
	uint64_t rto;                  /* ns */
	uint64_t rto_at;               /* 0: nothing to retransmit */
	uint64_t heard_at;             /* the last acceptable segment */
	struct mmds_response response; /* block NULL: none */
	struct mmds_http http;
};

_Static_assert(sizeof(struct tcp_connection) <= 4096, "a page each");
_Static_assert(TCP_MAX_CONNECTIONS <= 64, "bits of a word");

/* RFC 9293, 3.4: all arithmetic is modulo 2^32. */
static inline bool seq_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool seq_after(uint32_t a, uint32_t b)
{
	return seq_before(b, a);
}

static inline bool fin_acknowledged(const struct tcp_connection *c)
{
	return c->fin_queued && c->snd_una == c->end + 1;
}

/* Something is not acknowledged, or not sent yet. */
static inline bool unfinished(const struct tcp_connection *c)
{
	return !c->established || c->snd_una != c->end + (c->fin_queued ? 1 : 0);
}

/* tcp_at - the page of a slot below TCP_MAX_CONNECTIONS, used or not. */
struct tcp_connection *tcp_at(const struct tcp *t, unsigned int slot);
/* tcp_window - bytes that the guest may send beyond rcv_nxt. */
uint16_t tcp_window(const struct tcp_connection *c);
/* tcp_reply - queue a segment without data that belongs to no connection; port is ours. */
void tcp_reply(struct tcp *t, const struct peer *peer, uint16_t port, uint32_t seq, uint32_t ack, uint8_t flags);
/* tcp_drop - forget a connection; with reset the guest is told. */
void tcp_drop(struct tcp *t, unsigned int slot, bool reset);
/* tcp_rearm - after anything happened to the connection: when must it be looked at? */
void tcp_rearm(struct tcp *t, unsigned int slot, uint64_t now_ns);
/* tcp_serve_waiting - answer requests that waited for memory, as far as there is some now. */
void tcp_serve_waiting(struct tcp *t, uint64_t now_ns);

#endif
