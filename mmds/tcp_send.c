/* tcp_send.c: what leaves: SYN, data within the guest's window, FIN, acknowledgements and resets. */
#include "tcp_internal.h"

#include "metrics.h"

/* What comes after the last request is thrown away, as much as it may be. */
uint16_t tcp_window(const struct tcp_connection *c)
{
	return (uint16_t)(c->fin_queued ? MMDS_REQUEST_MAX : mmds_http_room(&c->http));
}

void tcp_reply(struct tcp *t, const struct peer *peer, uint16_t port, uint32_t seq, uint32_t ack, uint8_t flags)
{
	/* A guest that sends much and takes nothing is not told about everything. */
	if (t->nr_replies == TCP_MAX_REPLIES)
		return;
	t->replies[(t->first_reply + t->nr_replies) % TCP_MAX_REPLIES] = (struct segment){
		.peer = *peer,
		.port = port,
		.seq = seq,
		.ack = ack,
		.flags = flags,
	};
	t->nr_replies++;
}

/* Bytes of the response that may go now: all, or a full segment, or what fits when nothing is on its way. */
static uint32_t sendable(const struct tcp_connection *c, size_t room)
{
	const uint32_t window = c->snd_wnd < c->cwnd ? c->snd_wnd : c->cwnd;
	const uint32_t sent = c->snd_nxt - c->snd_una;
	uint32_t whole, n;

	if (!seq_before(c->snd_nxt, c->end))
		return 0;
	whole = c->end - c->snd_nxt;
	whole = whole < c->mss ? whole : c->mss;
	whole = whole < room ? whole : (uint32_t)room;
	if (sent >= window)
		return c->probe && sent == 0 ? 1 : 0;
	n = window - sent < whole ? window - sent : whole;
	return n == whole || sent == 0 ? n : 0;
}

static size_t send_syn(struct tcp *t, struct tcp_connection *c, uint8_t *buf)
{
	const struct segment s = {
		.peer = c->peer,
		.port = TCP_PORT,
		.seq = c->iss,
		.ack = c->rcv_nxt,
		.flags = TCP_FLAG_BIT_SYN | TCP_FLAG_BIT_ACK,
		.window = tcp_window(c),
		.mss = FRAME_TCP_MSS,
	};

	c->snd_nxt = c->snd_max = c->iss + 1;
	c->ack_now = false;
	return frame_write_tcp(buf, t->mac, t->ip, &s, NULL);
}

static size_t send_segment(struct tcp *t, struct tcp_connection *c, uint8_t *buf, size_t size)
{
	const uint32_t n = sendable(c, size - FRAME_TCP_HEADERS);
	const bool fin = c->fin_queued && c->snd_nxt + n == c->end;
	struct segment s = {
		.peer = c->peer,
		.port = TCP_PORT,
		.seq = c->snd_nxt,
		.ack = c->rcv_nxt,
		.flags = TCP_FLAG_BIT_ACK,
		.window = tcp_window(c),
		.len = n,
	};
	uint32_t next;

	if (n == 0 && !fin && !c->ack_now)
		return 0;
	if (n && c->snd_nxt + n == c->end)
		s.flags |= TCP_FLAG_BIT_PSH;
	if (fin)
		s.flags |= TCP_FLAG_BIT_FIN;
	next = c->snd_nxt + n + fin;
	if (seq_after(next, c->snd_max))
		c->snd_max = next;
	/* A probe is likely to be thrown away: the byte goes again when the window opens. */
	if (!c->probe)
		c->snd_nxt = next;
	c->probe = c->ack_now = false;
	return frame_write_tcp(buf, t->mac, t->ip, &s,
			       n ? c->response.bytes + (c->response.len - (c->end - s.seq)) : NULL);
}

static size_t send_reply(struct tcp *t, uint8_t *buf)
{
	size_t len = frame_write_tcp(buf, t->mac, t->ip, &t->replies[t->first_reply], NULL);

	t->first_reply = (t->first_reply + 1) % TCP_MAX_REPLIES;
	t->nr_replies--;
	return len;
}

/* The first bit at or after `from`, in a circle. */
static unsigned int next_of(uint64_t bits, unsigned int from)
{
	const uint64_t later = bits >> from << from;

	return (unsigned int)__builtin_ctzll(later ? later : bits);
}

size_t tcp_send(struct tcp *t, uint8_t *buf, size_t size, uint64_t now_ns)
{
	struct tcp_connection *c;
	unsigned int slot;
	size_t len;

	if (size < FRAME_TCP_HEADERS + 4) {
		metrics_inc(mmds_tx_errors);
		return 0;
	}
	if (t->nr_replies)
		return send_reply(t, buf);
	while (t->ready) {
		slot = next_of(t->ready, t->turn);
		c = tcp_at(t, slot);
		if (c->snd_nxt == c->iss)
			len = send_syn(t, c, buf);
		else
			len = c->established ? send_segment(t, c, buf, size) : 0;
		tcp_rearm(t, slot, now_ns);
		t->turn = (slot + 1) % TCP_MAX_CONNECTIONS;
		if (len)
			return len;
		t->ready &= ~(1ull << slot);
	}
	return 0;
}
