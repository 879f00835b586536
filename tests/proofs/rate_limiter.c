/* rate_limiter.c: proof of vmm/rate_limiter.c for every configuration, state, request and clock. */
#include "rate_limiter.h"
#include "proof.h"

/* Any bucket; a zero in it means "no limit" and takes its own path. */
static struct token_bucket_config any_bucket(void)
{
	return (struct token_bucket_config){ .size = ANY_U64(), .one_time_burst = ANY_U64(), .refill_time = ANY_U64() };
}

/* What a state file may say of a bucket. */
static struct token_bucket_state any_state(void)
{
	return (struct token_bucket_state){
		.budget = ANY_U64(), .burst_left = ANY_U64(), .idle_ns = ANY_U64(), .debt_ns = ANY_U64()
	};
}

static void take(struct rate_limiter *rl)
{
	rate_limiter_active(rl);
	while (ANY_BOOL())
		rate_limiter_take(rl, ANY_U64(), ANY_U64());
}

int main(void)
{
	struct rate_limiter_config cfg = { .bandwidth = any_bucket(), .ops = any_bucket() };
	struct rate_limiter_config next = { .bandwidth = any_bucket(), .ops = any_bucket() };
	struct rate_limiter_state state;
	struct rate_limiter rl;

	/*@ split cfg.bandwidth.size == 0; */
	/*@ split cfg.bandwidth.refill_time == 0; */
	/*@ split cfg.ops.size == 0; */
	/*@ split cfg.ops.refill_time == 0; */
	rate_limiter_init(&rl, &cfg, ANY_U64());
	take(&rl);
	/*@ merge cfg.bandwidth.size == 0; */
	/*@ merge cfg.bandwidth.refill_time == 0; */
	/*@ merge cfg.ops.size == 0; */
	/*@ merge cfg.ops.refill_time == 0; */
	/*@ split next.bandwidth.size == 0; */
	/*@ split next.bandwidth.refill_time == 0; */
	/*@ split next.ops.size == 0; */
	/*@ split next.ops.refill_time == 0; */
	rate_limiter_change(&rl, &next, ANY_U64());
	take(&rl);
	rate_limiter_save(&rl, &state, ANY_U64());
	state = (struct rate_limiter_state){ .bandwidth = any_state(), .ops = any_state() };
	rate_limiter_restore(&rl, &state, ANY_U64());
	take(&rl);
	return 0;
}
