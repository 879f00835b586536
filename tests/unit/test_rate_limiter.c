/* test_rate_limiter.c: token buckets on a clock that the test moves. */
#include "unit.h"

#include "rate_limiter.h"

#define MS    1000000ull
#define SEC   (1000 * MS)
#define START (5 * SEC)

static struct rate_limiter make(struct token_bucket_config bandwidth, struct token_bucket_config ops)
{
	const struct rate_limiter_config cfg = { .bandwidth = bandwidth, .ops = ops };
	struct rate_limiter rl;

	rate_limiter_init(&rl, &cfg, START);
	return rl;
}

static const struct token_bucket_config none;

static void test_unlimited(void **state)
{
	static const struct token_bucket_config no_refill = { .size = 10 },
						no_size = { .refill_time = 10, .one_time_burst = 5 };
	struct rate_limiter rl = make(none, none);
	unsigned int i;

	(void)state;
	assert_false(rate_limiter_active(&rl));
	for (i = 0; i < 1000; i++)
		assert_int_equal(rate_limiter_take(&rl, UINT64_MAX, START), 0);
	rl = make(no_refill, no_size);
	assert_false(rate_limiter_active(&rl));
	for (i = 0; i < 100; i++)
		assert_int_equal(rate_limiter_take(&rl, 1000, START), 0);
}

static void test_bandwidth(void **state)
{
	struct rate_limiter rl = make((struct token_bucket_config){ .size = 1000, .refill_time = 100 }, none);

	(void)state;
	assert_true(rate_limiter_active(&rl));
	assert_int_equal(rate_limiter_take(&rl, 600, START), 0);
	/* 400 are left; 200 more come in within 20 ms. */
	assert_int_equal(rate_limiter_take(&rl, 600, START), 20 * MS);
	assert_int_equal(rate_limiter_take(&rl, 600, START + 5 * MS), 15 * MS);
	assert_int_not_equal(rate_limiter_take(&rl, 600, START + 20 * MS - 1), 0);
	assert_int_equal(rate_limiter_take(&rl, 600, START + 20 * MS), 0);
	assert_int_equal(rate_limiter_take(&rl, 0, START + 20 * MS), 0);
	/* Never more than full. */
	assert_int_equal(rate_limiter_take(&rl, 1000, START + 10 * SEC), 0);
	assert_int_equal(rate_limiter_take(&rl, 1, START + 10 * SEC), 100 * MS / 1000);
}

static void test_ops_and_both(void **state)
{
	const struct token_bucket_config ops = { .size = 2, .refill_time = 1000 },
					 bw = { .size = 100, .refill_time = 1000 };
	struct rate_limiter rl = make(none, ops);

	(void)state;
	assert_int_equal(rate_limiter_take(&rl, 1 << 30, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 1 << 30, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 0, START), 500 * MS);
	/* When one bucket says no, nothing is taken from the other. */
	rl = make(bw, ops);
	assert_int_equal(rate_limiter_take(&rl, 90, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 20, START), 100 * MS);
	assert_int_equal(rate_limiter_take(&rl, 10, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 20, START), 500 * MS);
}

static void test_burst(void **state)
{
	const struct token_bucket_config bw = { .size = 100, .one_time_burst = 250, .refill_time = 100 };
	struct rate_limiter rl = make(bw, none);

	(void)state;
	assert_int_equal(rate_limiter_take(&rl, 200, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 100, START), 0); /* 50 of the burst, 50 of the bucket */
	assert_int_equal(rate_limiter_take(&rl, 50, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 1, START), 1 * MS);
	/* The burst does not come back. */
	assert_int_equal(rate_limiter_take(&rl, 100, START + SEC), 0);
	assert_int_equal(rate_limiter_take(&rl, 100, START + SEC), 100 * MS);
}

/* Larger than the bucket: through when it is full, paid for afterwards. */
static void test_debt(void **state)
{
	struct rate_limiter rl = make((struct token_bucket_config){ .size = 100, .refill_time = 100 }, none);

	(void)state;
	assert_int_equal(rate_limiter_take(&rl, 1, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 500, START), 1 * MS);
	assert_int_equal(rate_limiter_take(&rl, 500, START + 1 * MS), 0);
	/* 400 of debt, then one more token. */
	assert_int_equal(rate_limiter_take(&rl, 1, START + 1 * MS), 401 * MS);
	assert_int_equal(rate_limiter_take(&rl, 1, START + 400 * MS), 2 * MS);
	assert_int_equal(rate_limiter_take(&rl, 1, START + 402 * MS), 0);
}

/* Whatever the sizes and however often one asks, the sum let through fits the rate. */
static void test_long_run_rate(void **state)
{
	static const struct {
		uint64_t size, refill_ms, step;
	} cases[] = {
		{ 1000, 10, 1 },
		{ 1000, 10, 7 },
		{ 1000, 10, 1000 },
		{ 1000, 10, 2500 },
		{ 3, 7, 1 },
		{ 1, 1000, 1 },
		{ 1ull << 40, 1000, 1 << 20 },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rate_limiter rl = make(
			(struct token_bucket_config){ .size = cases[i].size, .refill_time = cases[i].refill_ms }, none);
		uint64_t now = START, sum = 0, wait, n, allowed;

		for (n = 0; n < 20000; n++) {
			wait = rate_limiter_take(&rl, cases[i].step, now);
			if (wait)
				now += wait > 1000 && n % 3 ? wait / 3 : wait;
			else
				sum += cases[i].step;
		}
		allowed = cases[i].size +
			  (uint64_t)((unsigned __int128)(now - START) * cases[i].size / (cases[i].refill_ms * MS));
		assert_true(sum <= allowed + cases[i].step);
		/* And it does not fall behind the rate either: by more than one bucket and step. */
		assert_true(sum + 2 * cases[i].size + 2 * cases[i].step >= allowed || now == START);
	}
}

static void test_absurd_numbers(void **state)
{
	struct rate_limiter rl = make((struct token_bucket_config){ UINT64_MAX, UINT64_MAX, UINT64_MAX },
				      (struct token_bucket_config){ 1, 0, UINT64_MAX });
	uint64_t wait;

	(void)state;
	assert_int_equal(rate_limiter_take(&rl, UINT64_MAX, START), 0);
	wait = rate_limiter_take(&rl, 1, START);
	assert_true(wait > 0 && START + wait > START);
	wait = rate_limiter_take(&rl, UINT64_MAX, START + SEC);
	assert_true(wait > 0 && START + wait > START);
	/* A clock that stands still or steps back lets nothing more through. */
	rl = make((struct token_bucket_config){ .size = 10, .refill_time = 10 }, none);
	assert_int_equal(rate_limiter_take(&rl, 10, START), 0);
	assert_int_not_equal(rate_limiter_take(&rl, 10, START - SEC), 0);
	/* A huge request against a tiny bucket: a very long wait, not a wrapped one. */
	assert_int_equal(rate_limiter_take(&rl, UINT64_MAX, START + SEC), 0);
	wait = rate_limiter_take(&rl, 1, START + SEC);
	assert_true(wait > 1000000 * SEC && START + SEC + wait > wait);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unlimited),      cmocka_unit_test(test_bandwidth),
		cmocka_unit_test(test_ops_and_both),   cmocka_unit_test(test_burst),
		cmocka_unit_test(test_debt),           cmocka_unit_test(test_long_run_rate),
		cmocka_unit_test(test_absurd_numbers),
	};

	return cmocka_run_group_tests_name("rate_limiter", tests, NULL, NULL);
}
