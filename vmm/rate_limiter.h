/* rate_limiter.h: token buckets for bytes and operations, with Firecracker's semantics. */
#ifndef MAYFLY_RATE_LIMITER_H
#define MAYFLY_RATE_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

/* size 0 or refill_time 0: no limit, as in Firecracker. Units: tokens (bytes or operations) and ms. */
struct token_bucket_config {
	uint64_t size;           /* tokens the full bucket holds */
	uint64_t one_time_burst; /* extra tokens, spent first, never refilled */
	uint64_t refill_time;    /* ms for an empty bucket to fill up */
};

struct rate_limiter_config {
	struct token_bucket_config bandwidth; /* bytes */
	struct token_bucket_config ops;       /* requests */
};

struct token_bucket {
	struct token_bucket_config cfg;
	uint64_t budget;     /* tokens left of size */
	uint64_t burst_left; /* tokens left of one_time_burst */
	uint64_t last_ns;    /* CLOCK_MONOTONIC ns of the last refill; ahead of now while in debt */
};

struct rate_limiter {
	struct token_bucket bandwidth, ops;
};

/* rate_limiter_init - start with full buckets at time now_ns (CLOCK_MONOTONIC). */
/*@ requires separate: \valid(rl) && \valid_read(cfg) && \separated(rl, cfg);
    ensures set_up: \initialized(rl); */
void rate_limiter_init(struct rate_limiter *rl, const struct rate_limiter_config *cfg, uint64_t now_ns);

/* rate_limiter_change - go on with cfg: a bucket whose figures change starts full, the other keeps what it has left. */
/*@ requires set_up: \initialized(rl) && \valid(rl) && \valid_read(cfg) && \separated(rl, cfg);
    ensures set_up: \initialized(rl); */
void rate_limiter_change(struct rate_limiter *rl, const struct rate_limiter_config *cfg, uint64_t now_ns);

/* rate_limiter_active - true when either bucket limits anything: lets the data path skip the clock. */
/*@ requires set_up: \initialized(rl) && \valid_read(rl);
    ensures \result <==> (rl->bandwidth.cfg.size && rl->bandwidth.cfg.refill_time) ||
			 (rl->ops.cfg.size && rl->ops.cfg.refill_time); */
bool rate_limiter_active(const struct rate_limiter *rl);

/*
 * rate_limiter_take - take one operation of that many bytes at time now_ns
 * Returns 0 when it may go ahead now, else the ns to wait before asking again (nothing was taken).
 * A request larger than the whole bucket goes through when the bucket is full (it would starve otherwise) and leaves a
 * debt that refilling has to pay off first: the rate holds whatever the size of the requests. Owner thread only.
 */
/*@ requires set_up: \initialized(rl) && \valid(rl);
    ensures bounded: \result <= UINT64_MAX / 2; */
uint64_t rate_limiter_take(struct rate_limiter *rl, uint64_t bytes, uint64_t now_ns);

/* ---- in a state file ---- */

/* No clock of this host means anything on another: times are distances from the moment of the save. */
struct token_bucket_state {
	uint64_t budget, burst_left;
	uint64_t idle_ns; /* since the last refill */
	uint64_t debt_ns; /* until the next one may begin; at most one of the two is not 0 */
};

struct rate_limiter_state {
	struct token_bucket_state bandwidth, ops;
};

/* rate_limiter_save - what each bucket has left at time now_ns (CLOCK_MONOTONIC). */
/*@ requires set_up: \initialized(rl) && \valid_read(rl) && \valid(state) && \separated(rl, state);
    ensures whole: \initialized(state);
    ensures bounded: state->bandwidth.debt_ns <= UINT64_MAX / 2 && state->ops.debt_ns <= UINT64_MAX / 2; */
void rate_limiter_save(const struct rate_limiter *rl, struct rate_limiter_state *state, uint64_t now_ns);

/*
 * rate_limiter_restore - go on at time now_ns with what state says was left
 * rl is set up with the limits it has now, which may be others: no bucket gets more than it holds. Any state will do.
 */
/*@ requires set_up: \initialized(rl) && \valid(rl) && \initialized(state) && \valid_read(state) &&
		      \separated(rl, state);
    ensures set_up: \initialized(rl); */
void rate_limiter_restore(struct rate_limiter *rl, const struct rate_limiter_state *state, uint64_t now_ns);

#endif
