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

/* The bucket that a change does not name keeps its debts and its burst. */
static void test_change(void **state)
{
	const struct token_bucket_config bw = { .size = 1000, .refill_time = 100 },
					 ops = { .size = 2, .refill_time = 1000, .one_time_burst = 1 };
	struct rate_limiter_config cfg = { .bandwidth = bw, .ops = ops };
	struct rate_limiter rl = make(bw, ops);
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++)
		assert_int_equal(rate_limiter_take(&rl, 300, START), 0);
	cfg.bandwidth.size = 2000;
	rate_limiter_change(&rl, &cfg, START);
	assert_int_equal(rate_limiter_take(&rl, 1, START), 500 * MS); /* operations are used up */
	cfg.ops.size = 3;
	rate_limiter_change(&rl, &cfg, START);
	assert_int_equal(rate_limiter_take(&rl, 2000, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 200, START), 10 * MS); /* bytes are, now */
	cfg.bandwidth = none;
	rate_limiter_change(&rl, &cfg, START);
	assert_int_equal(rate_limiter_take(&rl, 1000000, START), 0);
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

/* Ten seconds of somebody who always wants more get the rate, and the full bucket it starts with, within 2 %. */
static void test_ten_seconds(void **state)
{
	static const struct {
		uint64_t size, refill_ms, burst, step;
	} cases[] = {
		{ 1 << 20, 1000, 0, 4096 }, { 100 << 20, 1000, 0, 65536 }, { 10000, 100, 0, 1500 },
		{ 1000, 1000, 500, 1 },     { 8192, 10, 0, 65562 },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rate_limiter rl = make((struct token_bucket_config){ .size = cases[i].size,
									    .refill_time = cases[i].refill_ms,
									    .one_time_burst = cases[i].burst },
					      none);
		const uint64_t end = START + 10 * SEC;
		uint64_t now = START, sum = 0, wait, due;

		while (now < end) {
			wait = rate_limiter_take(&rl, cases[i].step, now);
			sum += wait ? 0 : cases[i].step;
			now += wait;
		}
		due = cases[i].size * 10 * 1000 / cases[i].refill_ms + cases[i].size + cases[i].burst;
		assert_in_range(sum, due * 98 / 100, due * 102 / 100);
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

/* In a state file and back, on a host whose clock says something else: from then on both do the same. */
static void test_saved(void **state)
{
	static const struct token_bucket_config buckets[] = {
		{ .size = 1000, .refill_time = 10 },
		{ .size = 3, .refill_time = 7, .one_time_burst = 40 },
		{ .size = 10, .refill_time = 1000 }, /* 25 at once are a debt */
		{ .size = 0 },
	};
	struct rate_limiter_state saved;
	uint64_t now, later, i;

	(void)state;
	for (i = 0; i < sizeof(buckets) / sizeof(buckets[0]); i++) {
		struct rate_limiter rl = make(buckets[i], (struct token_bucket_config){ .size = 7, .refill_time = 3 });
		struct rate_limiter copy =
			make(buckets[i], (struct token_bucket_config){ .size = 7, .refill_time = 3 });

		for (now = START; now < START + 50 * MS; now += 777777)
			(void)rate_limiter_take(&rl, 25, now);
		rate_limiter_save(&rl, &saved, now);
		later = 1000000 * SEC;
		rate_limiter_restore(&copy, &saved, later);
		for (; now < START + 5 * SEC; now += 1234567, later += 1234567)
			assert_int_equal(rate_limiter_take(&copy, 25, later), rate_limiter_take(&rl, 25, now));
	}
}

/* A state file that promises more than the bucket holds, or a debt for ever; and limits that are others by now. */
static void test_saved_lies(void **state)
{
	const struct token_bucket_config bw = { .size = 100, .refill_time = 100, .one_time_burst = 50 };
	struct rate_limiter_state lie = { .bandwidth = { UINT64_MAX, UINT64_MAX, UINT64_MAX, 0 } };
	struct rate_limiter rl = make(bw, none);
	uint64_t wait;

	(void)state;
	rate_limiter_restore(&rl, &lie, START);
	assert_int_equal(rate_limiter_take(&rl, 150, START), 0);
	assert_int_equal(rate_limiter_take(&rl, 1, START), 1 * MS);
	lie.bandwidth = (struct token_bucket_state){ 0, 0, UINT64_MAX, UINT64_MAX };
	rl = make(bw, none);
	rate_limiter_restore(&rl, &lie, START);
	wait = rate_limiter_take(&rl, 1, START);
	assert_true(wait > 1000000 * SEC && START + wait > wait);
	rate_limiter_restore(&rl, &lie, UINT64_MAX - 1);
	assert_int_not_equal(rate_limiter_take(&rl, 1, UINT64_MAX - 1), 0);
	/* Young hosts know no time before their own. */
	rl = make(bw, none);
	lie.bandwidth = (struct token_bucket_state){ 0, 0, SEC, 0 };
	rate_limiter_restore(&rl, &lie, 10 * MS);
	assert_int_equal(rate_limiter_take(&rl, 10, 10 * MS), 0);
	assert_int_equal(rate_limiter_take(&rl, 1, 10 * MS), 1 * MS);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unlimited),      cmocka_unit_test(test_bandwidth),
		cmocka_unit_test(test_ops_and_both),   cmocka_unit_test(test_change),
		cmocka_unit_test(test_burst),          cmocka_unit_test(test_debt),
		cmocka_unit_test(test_long_run_rate),  cmocka_unit_test(test_ten_seconds),
		cmocka_unit_test(test_absurd_numbers), cmocka_unit_test(test_saved),
		cmocka_unit_test(test_saved_lies),
	};

	return cmocka_run_group_tests_name("rate_limiter", tests, NULL, NULL);
}
