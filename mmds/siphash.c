/* siphash.c: SipHash-2-4 with a 128-bit result. */
#include "siphash.h"

#include <endian.h>
#include <string.h>

static uint64_t load(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return le64toh(value);
}

static uint64_t rotate(uint64_t value, unsigned int by)
{
	return value << by | value >> (64 - by);
}

static void rounds(uint64_t v[4], unsigned int count)
{
	while (count--) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = rotate(v[1], 13) ^ v[0];
		v[3] = rotate(v[3], 16) ^ v[2];
		v[0] = rotate(v[0], 32) + v[3];
		v[2] += v[1];
		v[3] = rotate(v[3], 21) ^ v[0];
		v[1] = rotate(v[1], 17) ^ v[2];
		v[2] = rotate(v[2], 32);
	}
}

static void compress(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	rounds(v, 2);
	v[0] ^= word;
}

void siphash(const uint8_t key[SIPHASH_KEY_SIZE], const void *bytes, size_t len, uint64_t out[2])
{
	const uint64_t k0 = load(key), k1 = load(key + 8);
	const uint8_t *at = bytes, *end = at + len / 8 * 8;
	uint8_t last[8] = { 0 };
	/* "somepseudorandomlygeneratedbytes", and 0xee for the 128-bit variant */
	uint64_t v[4] = {
		k0 ^ 0x736f6d6570736575,
		k1 ^ 0x646f72616e646f6d ^ 0xee,
		k0 ^ 0x6c7967656e657261,
		k1 ^ 0x7465646279746573,
	};

	for (; at < end; at += 8)
		compress(v, load(at));
	memcpy(last, at, len % 8);
	last[7] = (uint8_t)len;
	compress(v, load(last));
	v[2] ^= 0xee;
	rounds(v, 4);
	out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	v[1] ^= 0xdd;
	rounds(v, 4);
	out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}
