/* tcp_timer.c: what happens when the guest stays silent: retransmissions, window probes, the end of a connection. */
#include "tcp_internal.h"

static uint64_t deadline_of(const struct tcp_connection *c)
{
	if (unfinished(c))
		return c->rto_at;
	return c->heard_at + (c->fin_queued ? LINGER : IDLE_LIMIT);
}

void tcp_rearm(struct tcp *t, unsigned int slot, uint64_t now_ns)
{
	struct tcp_connection *c = tcp_at(t, slot);

	if (!unfinished(c))
		c->rto_at = 0;
	else if (c->rto_at == 0)
		c->rto_at = now_ns + c->rto;
	t->deadline[slot] = deadline_of(c);
}

uint64_t tcp_deadline(const struct tcp *t)
{
	uint64_t bits, first = UINT64_MAX;

	for (bits = t->used; bits; bits &= bits - 1) {
		const uint64_t deadline = t->deadline[__builtin_ctzll(bits)];

		first = deadline < first ? deadline : first;
	}
	return first;
}

/* Everything that is not acknowledged goes again, one segment first (RFC 6298, 5.4-5.6; RFC 5681, 3.1). */
static void retransmit(struct tcp *t, unsigned int slot, uint64_t now_ns)
{
	struct tcp_connection *c = tcp_at(t, slot);

	c->snd_nxt = c->snd_una;
	c->cwnd = c->mss;
	c->probe = c->established && c->snd_wnd == 0 && seq_before(c->snd_una, c->end);
	c->rto = c->rto * 2 < RTO_MAX ? c->rto * 2 : RTO_MAX;
	c->rto_at = 0;
	t->ready |= 1ull << slot;
	tcp_rearm(t, slot, now_ns);
}

static void expire(struct tcp *t, unsigned int slot, uint64_t now_ns)
{
	struct tcp_connection *c = tcp_at(t, slot);

	if (unfinished(c)) {
		if (c->retries++ < (c->established ? MAX_RETRIES : MAX_SYN_RETRIES))
			retransmit(t, slot, now_ns);
		else
			tcp_drop(t, slot, true);
	} else if (c->fin_queued) {
		tcp_drop(t, slot, false);
	} else {
		/* Nobody has asked for anything in a while. */
		c->fin_queued = true;
		t->ready |= 1ull << slot;
		tcp_rearm(t, slot, now_ns);
	}
}

void tcp_expire(struct tcp *t, uint64_t now_ns)
{
	uint64_t bits;

	for (bits = t->used; bits; bits &= bits - 1) {
		const unsigned int slot = (unsigned int)__builtin_ctzll(bits);

		if (t->deadline[slot] <= now_ns)
			expire(t, slot, now_ns);
	}
	tcp_serve_waiting(t, now_ns);
}
