/* rate_limiter.c: two token buckets that say how long a request has to wait. */
#include "rate_limiter.h"

#include <stddef.h>
#include <string.h>

#define NS_PER_MS 1000000u
/* A debt no longer than this (about 292 years) keeps every sum of a deadline and a wait within 64 bits. */
#define MAX_WAIT_NS (UINT64_MAX / 2)

typedef unsigned __int128 u128;

/* Firecracker reads a bucket of size 0 or of refill time 0 as "no limit". */
static bool bucket_limits(const struct token_bucket *b)
{
	return b->cfg.size && b->cfg.refill_time;
}

static u128 refill_ns(const struct token_bucket *b)
{
	return (u128)b->cfg.refill_time * NS_PER_MS;
}

/* Time for `tokens` to come in, ns, rounded up. */
static uint64_t time_for(const struct token_bucket *b, uint64_t tokens)
{
	u128 per_token = refill_ns(b), ns;

	/* refill_ns() < 2^84, so the product could pass 2^128 only for tokens that take far more than MAX_WAIT_NS
	 * anyway. */
	if (per_token > MAX_WAIT_NS && tokens > UINT32_MAX)
		return MAX_WAIT_NS;
	/*@ assert fits: tokens * per_token + b->cfg.size - 1 < (1 << 128); */
	ns = ((u128)tokens * per_token + b->cfg.size - 1) / b->cfg.size;
	return ns > MAX_WAIT_NS ? MAX_WAIT_NS : (uint64_t)ns;
}

static void bucket_init(struct token_bucket *b, const struct token_bucket_config *cfg, uint64_t now_ns)
{
	b->cfg = *cfg;
	b->budget = cfg->size;
	b->burst_left = cfg->one_time_burst;
	b->last_ns = now_ns;
}

/* Add what came in since last_ns. last_ns moves by whole tokens only, so that asking often loses none. */
static void bucket_refill(struct token_bucket *b, uint64_t now_ns)
{
	u128 tokens;

	/* last_ns lies ahead while a debt is being paid off. */
	if (now_ns <= b->last_ns)
		return;
	tokens = (u128)(now_ns - b->last_ns) * b->cfg.size / refill_ns(b);
	if (tokens >= b->cfg.size - b->budget) {
		b->budget = b->cfg.size;
		b->last_ns = now_ns;
		return;
	}
	b->budget += (uint64_t)tokens;
	b->last_ns += (uint64_t)(tokens * refill_ns(b) / b->cfg.size);
}

/* What of n the budget must cover: the one-time burst is spent first, and nobody has to save more than a full bucket.
 */
static uint64_t bucket_need(const struct token_bucket *b, uint64_t n)
{
	n -= n < b->burst_left ? n : b->burst_left;
	return n < b->cfg.size ? n : b->cfg.size;
}

/* ns to wait for n tokens, 0 when they are there. */
static uint64_t bucket_wait(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	uint64_t need, ready;

	if (!bucket_limits(b))
		return 0;
	bucket_refill(b, now_ns);
	need = bucket_need(b, n);
	/* A request larger than the bucket leaves last_ns ahead of now: budget is 0 until that is paid. */
	if (need <= b->budget)
		return 0;
	if (__builtin_add_overflow(b->last_ns, time_for(b, need - b->budget), &ready))
		return MAX_WAIT_NS;
	if (ready <= now_ns)
		return 1;
	return ready - now_ns < MAX_WAIT_NS ? ready - now_ns : MAX_WAIT_NS;
}

static void bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	uint64_t burst;

	if (!bucket_limits(b))
		return;
	burst = n < b->burst_left ? n : b->burst_left;
	b->burst_left -= burst;
	n -= burst;
	if (n <= b->budget) {
		b->budget -= n;
		return;
	}
	/* Larger than the whole bucket: the rest is a debt, paid by refilling later, so that the rate holds in the long
	 * run. */
	b->last_ns = now_ns + time_for(b, n - b->budget);
	b->budget = 0;
}

void rate_limiter_init(struct rate_limiter *rl, const struct rate_limiter_config *cfg, uint64_t now_ns)
{
	bucket_init(&rl->bandwidth, &cfg->bandwidth, now_ns);
	bucket_init(&rl->ops, &cfg->ops, now_ns);
}

static void bucket_change(struct token_bucket *b, const struct token_bucket_config *cfg, uint64_t now_ns)
{
	if (b->cfg.size != cfg->size || b->cfg.one_time_burst != cfg->one_time_burst ||
	    b->cfg.refill_time != cfg->refill_time)
		bucket_init(b, cfg, now_ns);
}

void rate_limiter_change(struct rate_limiter *rl, const struct rate_limiter_config *cfg, uint64_t now_ns)
{
	bucket_change(&rl->bandwidth, &cfg->bandwidth, now_ns);
	bucket_change(&rl->ops, &cfg->ops, now_ns);
}

bool rate_limiter_active(const struct rate_limiter *rl)
{
	return bucket_limits(&rl->bandwidth) || bucket_limits(&rl->ops);
}

uint64_t rate_limiter_take(struct rate_limiter *rl, uint64_t bytes, uint64_t now_ns)
{
	uint64_t wait_bytes = bucket_wait(&rl->bandwidth, bytes, now_ns);
	uint64_t wait_ops = bucket_wait(&rl->ops, 1, now_ns);

	if (wait_bytes || wait_ops)
		return wait_bytes > wait_ops ? wait_bytes : wait_ops;
	bucket_take(&rl->bandwidth, bytes, now_ns);
	bucket_take(&rl->ops, 1, now_ns);
	return 0;
}

/* ---- in a state file ---- */

static uint64_t at_most(uint64_t value, uint64_t limit)
{
	return value < limit ? value : limit;
}

static void bucket_save(const struct token_bucket *b, struct token_bucket_state *state, uint64_t now_ns)
{
	state->budget = b->budget;
	state->burst_left = b->burst_left;
	state->idle_ns = now_ns > b->last_ns ? now_ns - b->last_ns : 0;
	state->debt_ns = now_ns > b->last_ns ? 0 : at_most(b->last_ns - now_ns, MAX_WAIT_NS);
}

void rate_limiter_save(const struct rate_limiter *rl, struct rate_limiter_state *state, uint64_t now_ns)
{
	bucket_save(&rl->bandwidth, &state->bandwidth, now_ns);
	bucket_save(&rl->ops, &state->ops, now_ns);
}

static void bucket_restore(struct token_bucket *b, const struct token_bucket_state *state, uint64_t now_ns)
{
	b->budget = at_most(state->budget, b->cfg.size);
	b->burst_left = at_most(state->burst_left, b->cfg.one_time_burst);
	/* A host that has not been up for as long as the bucket was idle counts from its start. */
	b->last_ns = now_ns - at_most(state->idle_ns, now_ns);
	if (state->debt_ns && __builtin_add_overflow(now_ns, at_most(state->debt_ns, MAX_WAIT_NS), &b->last_ns))
		b->last_ns = UINT64_MAX;
}

void rate_limiter_restore(struct rate_limiter *rl, const struct rate_limiter_state *state, uint64_t now_ns)
{
	bucket_restore(&rl->bandwidth, &state->bandwidth, now_ns);
	bucket_restore(&rl->ops, &state->ops, now_ns);
}
