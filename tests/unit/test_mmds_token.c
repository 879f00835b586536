/* test_mmds_token.c: session tokens: their end, and that nobody else can make one. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "mmds/siphash.h"
#include "mmds/token.h"

#define SEC 1000000000ull

static const uint64_t now = 12345 * SEC + 678;

/* Vectors of the reference implementation: key 00..0f, message 00..len-1. */
static void siphash_is_siphash(void **state)
{
	static const struct {
		size_t len;
		uint64_t low, high;
	} vectors[] = {
		{ 0, 0xe6a825ba047f81a3, 0x930255c71472f66d },
		{ 1, 0x44af996bd8c187da, 0x45fc229b11597634 },
		{ 8, 0x61f55862baa9623b, 0xb49714f364e2830f },
		{ 15, 0x11a8b03399e99354, 0xd9c3cf970fec087e },
	};
	uint8_t key[SIPHASH_KEY_SIZE], message[64];
	uint64_t out[2];

	(void)state;
	for (uint8_t i = 0; i < sizeof(message); i++) {
		message[i] = i;
		key[i % sizeof(key)] = i % sizeof(key);
	}
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		siphash(key, message, vectors[i].len, out);
		assert_int_equal(out[0], vectors[i].low);
		assert_int_equal(out[1], vectors[i].high);
	}
}

static void valid_until_the_ttl_is_over(void **state)
{
	char token[MMDS_TOKEN_LEN + 1];
	struct mmds_tokens t;
	struct error err;

	(void)state;
	assert_int_equal(mmds_tokens_init(&t, now, &err), 0);
	assert_int_equal(mmds_token_issue(&t, 0, now, token), -ERANGE);
	assert_int_equal(mmds_token_issue(&t, 21601, now, token), -ERANGE);
	for (uint32_t ttl = 1; ttl <= 21600; ttl += 21599) {
		assert_int_equal(mmds_token_issue(&t, ttl, now + SEC, token), 0);
		assert_int_equal(strlen(token), MMDS_TOKEN_LEN);
		assert_true(mmds_token_valid(&t, token, MMDS_TOKEN_LEN, now + SEC));
		assert_true(mmds_token_valid(&t, token, MMDS_TOKEN_LEN, now + SEC + ttl * SEC - 2000000));
		assert_false(mmds_token_valid(&t, token, MMDS_TOKEN_LEN, now + SEC + ttl * SEC));
		assert_false(mmds_token_valid(&t, token, MMDS_TOKEN_LEN, now + SEC + ttl * SEC * 10));
	}
}

static void no_bit_of_a_token_can_change(void **state)
{
	char token[MMDS_TOKEN_LEN + 1], other[MMDS_TOKEN_LEN + 1];
	struct mmds_tokens t, elsewhere;
	struct error err;

	(void)state;
	assert_int_equal(mmds_tokens_init(&t, now, &err), 0);
	assert_int_equal(mmds_tokens_init(&elsewhere, now, &err), 0);
	assert_int_equal(mmds_token_issue(&t, 60, now, token), 0);
	assert_int_equal(mmds_token_issue(&t, 60, now, other), 0);
	assert_string_not_equal(token, other);
	assert_false(mmds_token_valid(&elsewhere, token, MMDS_TOKEN_LEN, now));
	for (size_t at = 0; at < MMDS_TOKEN_LEN; at++) {
		const char was = token[at];

		for (int digit = 0; digit < 256; digit++) {
			token[at] = (char)digit;
			if (token[at] != was)
				assert_false(mmds_token_valid(&t, token, MMDS_TOKEN_LEN, now));
		}
		token[at] = was;
	}
	assert_true(mmds_token_valid(&t, token, MMDS_TOKEN_LEN, now));
	assert_false(mmds_token_valid(&t, token, MMDS_TOKEN_LEN - 1, now));
	assert_false(mmds_token_valid(&t, token, MMDS_TOKEN_LEN + 1, now));
	assert_false(mmds_token_valid(&t, "", 0, now));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(siphash_is_siphash),
		cmocka_unit_test(valid_until_the_ttl_is_over),
		cmocka_unit_test(no_bit_of_a_token_can_change),
	};

	return cmocka_run_group_tests_name("mmds_token", tests, NULL, NULL);
}
