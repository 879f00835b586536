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
void rate_limiter_init(struct rate_limiter *rl, const struct rate_limiter_config *cfg, uint64_t now_ns);

/* rate_limiter_active - true when either bucket limits anything: lets the data path skip the clock. */
bool rate_limiter_active(const struct rate_limiter *rl);

/*
 * rate_limiter_take - take one operation of that many bytes at time now_ns
 * Returns 0 when it may go ahead now, else the ns to wait before asking again (nothing was taken).
 * A request larger than the whole bucket goes through when the bucket is full (it would starve otherwise) and leaves a
 * debt that refilling has to pay off first: the rate holds whatever the size of the requests. Owner thread only.
 */
uint64_t rate_limiter_take(struct rate_limiter *rl, uint64_t bytes, uint64_t now_ns);

#endif
