/* tcp.c: what arrives: connections made and ended, acknowledgements, and requests, which are answered at once. */
#include "tcp.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lazy_memory.h"
#include "metrics.h"
#include "tcp_internal.h"

#define PAGE ((size_t)4096)
/* Above this no further request is answered until the guest has taken what is there: one response more, at most. */
#define RESPONSE_BUDGET (64u << 10)
/* A full table: who was quiet for this long makes room. */
#define QUIET_IDLE (2000 * NS_PER_MS)
#define QUIET_BUSY (10000 * NS_PER_MS)

struct tcp_connection *tcp_at(const struct tcp *t, unsigned int slot)
{
	return (struct tcp_connection *)(void *)((char *)t->area + slot * PAGE);
}

void tcp_init(struct tcp *t, struct mmds *mmds, const uint8_t mac[ETH_ALEN], __be32 ip,
	      const uint8_t key[SIPHASH_KEY_SIZE])
{
	*t = (struct tcp){ .mmds = mmds, .ip = ip };
	memcpy(t->mac, mac, ETH_ALEN);
	memcpy(t->key, key, SIPHASH_KEY_SIZE);
}

void tcp_free(struct tcp *t)
{
	uint64_t bits;

	for (bits = t->used; bits; bits &= bits - 1)
		free(tcp_at(t, (unsigned int)__builtin_ctzll(bits))->response.block);
	if (t->area)
		munmap(t->area, TCP_MAX_CONNECTIONS * PAGE);
	t->area = NULL;
	t->used = 0;
}

/* Address and port as one number. */
static uint64_t peer_of(const struct segment *s)
{
	return (uint64_t)s->peer.ip << 16 | s->peer.port;
}

/* TCP_MAX_CONNECTIONS: no such connection. */
static unsigned int find(const struct tcp *t, const struct segment *s)
{
	const uint64_t peer = peer_of(s);
	uint64_t bits;

	for (bits = t->used; bits; bits &= bits - 1) {
		const unsigned int slot = (unsigned int)__builtin_ctzll(bits);

		if (t->peers[slot] == peer)
			return slot;
	}
	return TCP_MAX_CONNECTIONS;
}

static void release_response(struct tcp *t, struct tcp_connection *c)
{
	if (!c->response.block)
		return;
	t->response_bytes -= c->response.len;
	free(c->response.block);
	c->response.block = NULL;
}

void tcp_drop(struct tcp *t, unsigned int slot, bool reset)
{
	struct tcp_connection *c = tcp_at(t, slot);
	const uint64_t bit = 1ull << slot;

	if (reset)
		tcp_reply(t, &c->peer, TCP_PORT, c->snd_max, c->rcv_nxt, TCP_FLAG_BIT_RST | TCP_FLAG_BIT_ACK);
	release_response(t, c);
	t->used &= ~bit;
	t->ready &= ~bit;
	t->waiting &= ~bit;
	metrics_inc(mmds_connections_destroyed);
}

/* The connection that was quiet longest, if long enough; TCP_MAX_CONNECTIONS: all are in use. */
static unsigned int quietest(const struct tcp *t, uint64_t now)
{
	unsigned int slot, best = TCP_MAX_CONNECTIONS;
	uint64_t quiet, longest = 0;

	for (slot = 0; slot < TCP_MAX_CONNECTIONS; slot++) {
		const struct tcp_connection *c = tcp_at(t, slot);

		quiet = now - c->heard_at;
		if (quiet > longest && quiet >= (c->response.block ? QUIET_BUSY : QUIET_IDLE)) {
			longest = quiet;
			best = slot;
		}
	}
	return best;
}

/* A page for a new connection: the lowest free one, so that few are ever touched. TCP_MAX_CONNECTIONS: none. */
static unsigned int take_slot(struct tcp *t, uint64_t now)
{
	const uint64_t all = (1ull << TCP_MAX_CONNECTIONS) - 1;
	unsigned int slot;

	if (!t->area)
		t->area = lazy_alloc(TCP_MAX_CONNECTIONS * PAGE);
	if (!t->area)
		return TCP_MAX_CONNECTIONS;
	if (t->used != all)
		return (unsigned int)__builtin_ctzll(~t->used);
	slot = quietest(t, now);
	if (slot < TCP_MAX_CONNECTIONS)
		tcp_drop(t, slot, true);
	return slot;
}

/* RFC 6528: nobody but the guest could guess it anyway, but connections that follow each other must not overlap. */
static uint32_t first_seq(const struct tcp *t, const struct segment *s, uint64_t now)
{
	const uint64_t peer = peer_of(s);
	uint64_t code[2];

	siphash(t->key, &peer, sizeof(peer), code);
	return (uint32_t)(code[0] + now / 4000);
}

/* A full table: the SYN is not answered, the guest sends it again a second later. */
static void open_connection(struct tcp *t, const struct segment *s, uint64_t now)
{
	const unsigned int slot = take_slot(t, now);
	struct tcp_connection *c;
	uint32_t mss = s->mss ? s->mss : DEFAULT_MSS;

	if (slot == TCP_MAX_CONNECTIONS) {
		metrics_inc(mmds_rx_accepted_unusual);
		return;
	}
	mss = mss < MIN_MSS ? MIN_MSS : mss;
	c = tcp_at(t, slot);
	memset(c, 0, offsetof(struct tcp_connection, http));
	c->peer = s->peer;
	c->iss = c->snd_una = c->snd_nxt = c->snd_max = first_seq(t, s, now);
	c->end = c->iss + 1;
	c->rcv_nxt = s->seq + 1;
	c->mss = mss < FRAME_TCP_MSS ? mss : FRAME_TCP_MSS;
	c->cwnd = MAX_WINDOW;
	c->rto = RTO_FIRST;
	c->heard_at = now;
	mmds_http_init(&c->http);
	t->peers[slot] = peer_of(s);
	t->used |= 1ull << slot;
	t->ready |= 1ull << slot;
	tcp_rearm(t, slot, now);
	metrics_inc(mmds_connections_created);
}

/* RFC 9293, 3.10.7.1 and 3.10.7.2: there is no such connection. */
static void receive_unknown(struct tcp *t, const struct segment *s, uint64_t now)
{
	const uint32_t len = (uint32_t)s->len + !!(s->flags & TCP_FLAG_BIT_SYN) + !!(s->flags & TCP_FLAG_BIT_FIN);

	if (s->flags & TCP_FLAG_BIT_RST)
		return;
	if (s->flags & TCP_FLAG_BIT_ACK)
		tcp_reply(t, &s->peer, s->port, s->ack, 0, TCP_FLAG_BIT_RST);
	else if (s->flags & TCP_FLAG_BIT_SYN && s->port == TCP_PORT && !(s->flags & TCP_FLAG_BIT_FIN))
		open_connection(t, s, now);
	else
		tcp_reply(t, &s->peer, s->port, 0, s->seq + len, TCP_FLAG_BIT_RST | TCP_FLAG_BIT_ACK);
}

/* Answers the next request, if there is a whole one and the guest has the last answer. false: no memory. */
static bool serve(struct tcp *t, unsigned int slot)
{
	struct tcp_connection *c = tcp_at(t, slot);
	const uint64_t bit = 1ull << slot;

	t->waiting &= ~bit;
	if (!c->established || c->response.block || c->fin_queued)
		return true;
	if (t->response_bytes >= RESPONSE_BUDGET) {
		t->waiting |= bit;
		return true;
	}
	if (mmds_http_answer(&c->http, t->mmds, &c->response)) {
		if (!c->response.block) {
			metrics_inc(mmds_tx_errors);
			return false;
		}
		t->response_bytes += c->response.len;
		c->end += (uint32_t)c->response.len;
		c->fin_queued = c->response.close;
	} else if (c->fin_received) {
		c->fin_queued = true;
	}
	if (unfinished(c))
		t->ready |= bit;
	return true;
}

/* Memory became free: who waits for it is served. */
void tcp_serve_waiting(struct tcp *t, uint64_t now_ns)
{
	uint64_t bits;

	for (bits = t->waiting; bits && t->response_bytes < RESPONSE_BUDGET; bits &= bits - 1) {
		const unsigned int slot = (unsigned int)__builtin_ctzll(bits);

		if (serve(t, slot))
			tcp_rearm(t, slot, now_ns);
		else
			tcp_drop(t, slot, true);
	}
}

/* RFC 9293, 3.10.7.4, first step: some of the segment lies in the window. */
static bool acceptable(const struct tcp_connection *c, const struct segment *s)
{
	const uint32_t window = tcp_window(c), len = (uint32_t)s->len + !!(s->flags & TCP_FLAG_BIT_FIN);
	const uint32_t first = s->seq - c->rcv_nxt, last = first + len - 1;

	if (len == 0)
		return window ? first < window : first == 0;
	/* With a closed window, what comes exactly next still carries an acknowledgement worth having. */
	return window ? first < window || last < window : first == 0;
}

/* New data was acknowledged. */
static void advance(struct tcp *t, struct tcp_connection *c, uint32_t ack)
{
	const uint32_t acked = ack - c->snd_una;

	c->snd_una = ack;
	if (seq_before(c->snd_nxt, ack))
		c->snd_nxt = ack;
	c->cwnd = c->cwnd + acked < MAX_WINDOW ? c->cwnd + acked : MAX_WINDOW;
	c->duplicate_acks = c->retries = 0;
	c->rto = RTO_FIRST;
	c->rto_at = 0;
	if (!seq_before(ack, c->end))
		release_response(t, c);
}

/* RFC 5681, 3.2: three of them and the guest is missing something. */
static void count_duplicate(struct tcp_connection *c, const struct segment *s)
{
	if (s->len || s->flags & TCP_FLAG_BIT_FIN || s->window != c->snd_wnd || c->snd_una == c->snd_max ||
	    c->snd_wnd == 0 || ++c->duplicate_acks != 3)
		return;
	c->snd_nxt = c->snd_una;
	c->cwnd = c->mss;
}

/* RFC 9293, 3.10.7.4, fifth step. false: the rest of the segment is not to be looked at. */
static bool receive_ack(struct tcp *t, struct tcp_connection *c, const struct segment *s)
{
	if (seq_after(s->ack, c->snd_max)) {
		c->ack_now = true;
		return false;
	}
	if (seq_after(s->ack, c->snd_una))
		advance(t, c, s->ack);
	else if (s->ack == c->snd_una)
		count_duplicate(c, s);
	else
		return true; /* an old one, with an old window */
	/* The window of an older segment that came late is not the window. */
	if (!seq_after(c->snd_wl1, s->seq)) {
		c->snd_wnd = s->window;
		c->snd_wl1 = s->seq;
		c->probe &= s->window == 0;
	}
	return true;
}

/* RFC 9293, 3.10.7.4, seventh and eighth step. What is out of order is not kept: the guest sends it again. */
static void receive_data(struct tcp_connection *c, const struct segment *s, const struct frame *f)
{
	const uint32_t old = c->rcv_nxt - s->seq; /* bytes we have; huge when some before them are missing */
	const size_t window = tcp_window(c);
	size_t len, take;

	if (s->len == 0 && !(s->flags & TCP_FLAG_BIT_FIN))
		return;
	c->ack_now = true;
	if (old > s->len || c->fin_received) {
		metrics_inc(mmds_rx_accepted_unusual);
		return;
	}
	len = s->len - old;
	take = len < window ? len : window;
	if (!c->fin_queued) {
		take = frame_copy(f, s->payload + old, c->http.buf + c->http.len, take);
		mmds_http_added(&c->http, take);
	}
	c->rcv_nxt += (uint32_t)take;
	if (take == len && s->flags & TCP_FLAG_BIT_FIN) {
		c->rcv_nxt++;
		c->fin_received = true;
	}
}

/* RFC 9293, 3.10.7.4, second step, and RFC 5961, 3.2. */
static void receive_reset(struct tcp *t, unsigned int slot, const struct segment *s)
{
	struct tcp_connection *c = tcp_at(t, slot);

	if (s->seq == c->rcv_nxt) {
		tcp_drop(t, slot, false);
	} else if (s->seq - c->rcv_nxt < tcp_window(c)) {
		c->ack_now = true;
		t->ready |= 1ull << slot;
	}
}

/* What has no place in a connection. true: it was that, and is dealt with. */
static bool receive_odd(struct tcp *t, unsigned int slot, const struct segment *s)
{
	struct tcp_connection *c = tcp_at(t, slot);

	if (s->flags & TCP_FLAG_BIT_RST) {
		receive_reset(t, slot, s);
	} else if (s->flags & TCP_FLAG_BIT_SYN) {
		/* The first SYN again, or somebody new with the same port: then our ACK makes him reset us. */
		if (!c->established && s->seq + 1 == c->rcv_nxt)
			c->snd_nxt = c->iss;
		else
			c->ack_now = true;
		t->ready |= 1ull << slot;
	} else if (!(s->flags & TCP_FLAG_BIT_ACK)) {
		metrics_inc(mmds_rx_accepted_err);
		return true;
	} else if (!c->established && (s->ack != c->iss + 1 || c->snd_max == c->iss)) {
		tcp_reply(t, &s->peer, s->port, s->ack, 0, TCP_FLAG_BIT_RST);
	} else if (!acceptable(c, s)) {
		c->ack_now = true;
		t->ready |= 1ull << slot;
	} else {
		return false;
	}
	metrics_inc(mmds_rx_accepted_unusual);
	return true;
}

static void receive_known(struct tcp *t, unsigned int slot, const struct segment *s, const struct frame *f,
			  uint64_t now)
{
	struct tcp_connection *c = tcp_at(t, slot);

	if (receive_odd(t, slot, s))
		return;
	c->heard_at = now;
	if (!c->established) {
		c->established = true;
		c->snd_wl1 = s->seq;
	}
	if (receive_ack(t, c, s))
		receive_data(c, s, f);
	if (!serve(t, slot)) {
		tcp_drop(t, slot, true);
	} else if (fin_acknowledged(c) && c->fin_received) {
		if (c->ack_now)
			tcp_reply(t, &s->peer, TCP_PORT, c->snd_nxt, c->rcv_nxt, TCP_FLAG_BIT_ACK);
		tcp_drop(t, slot, false);
	} else {
		t->ready |= 1ull << slot;
		tcp_rearm(t, slot, now);
	}
}

void tcp_receive(struct tcp *t, const struct segment *s, const struct frame *f, uint64_t now_ns)
{
	const unsigned int slot = find(t, s);

	metrics_inc(mmds_rx_count);
	if (slot == TCP_MAX_CONNECTIONS)
		receive_unknown(t, s, now_ns);
	else
		receive_known(t, slot, s, f, now_ns);
	tcp_serve_waiting(t, now_ns);
}
