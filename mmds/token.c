/* token.c: session tokens: { end, serial, SipHash of both under a key of this process }, in hexadecimal. */
#include "token.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "retry.h"

#define NS_PER_MS 1000000ull

struct token {
	uint64_t end_ms; /* since start_ns */
	uint64_t serial;
	uint64_t code[2]; /* of the two above */
};

_Static_assert(2 * sizeof(struct token) == MMDS_TOKEN_LEN, "two digits a byte");

int mmds_tokens_init(struct mmds_tokens *t, uint64_t now_ns, struct error *err)
{
	*t = (struct mmds_tokens){ .start_ns = now_ns };
	if (RETRY_INTERRUPTED(getrandom(t->key, sizeof(t->key), 0)) != (ssize_t)sizeof(t->key))
		return error_set(err, -errno, "mmds: no random key for session tokens: %s", strerror(errno));
	return 0;
}

static uint64_t since_start_ms(const struct mmds_tokens *t, uint64_t now_ns)
{
	return (now_ns - t->start_ns) / NS_PER_MS;
}

int mmds_token_issue(struct mmds_tokens *t, uint32_t ttl, uint64_t now_ns, char out[MMDS_TOKEN_LEN + 1])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t bytes[sizeof(struct token)];
	struct token token;
	size_t i;

	if (ttl < MMDS_TOKEN_MIN_TTL || ttl > MMDS_TOKEN_MAX_TTL)
		return -ERANGE;
	token.end_ms = since_start_ms(t, now_ns) + ttl * 1000ull;
	token.serial = ++t->serial;
	siphash(t->key, &token, offsetof(struct token, code), token.code);
	memcpy(bytes, &token, sizeof(bytes));
	for (i = 0; i < sizeof(bytes); i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[MMDS_TOKEN_LEN] = '\0';
	return 0;
}

static int digit_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	return -1;
}

bool mmds_token_valid(const struct mmds_tokens *t, const char *text, size_t len, uint64_t now_ns)
{
	uint8_t bytes[sizeof(struct token)];
	struct token token;
	uint64_t code[2];
	size_t i;

	if (len != MMDS_TOKEN_LEN)
		return false;
	for (i = 0; i < sizeof(bytes); i++) {
		int high = digit_value(text[2 * i]), low = digit_value(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(&token, bytes, sizeof(token));
	siphash(t->key, &token, offsetof(struct token, code), code);
	/* One comparison of all bits: how many are right must not show in the time it takes. */
	if (((code[0] ^ token.code[0]) | (code[1] ^ token.code[1])) != 0)
		return false;
	return since_start_ms(t, now_ns) < token.end_ms;
}
