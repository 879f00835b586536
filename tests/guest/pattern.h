/*
 * pattern.h: the deterministic numbers behind every test pattern. tests/integration/blk_model.py computes the same;
 * change both or neither.
 */
#ifndef GUEST_PATTERN_H
#define GUEST_PATTERN_H

#include <stdint.h>

#define GAMMA        0x9e3779b97f4a7c15ull
#define SECTOR_WORDS 64

/* The finaliser of splitmix64. */
static inline uint64_t mix64(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

struct rng {
	uint64_t state;
};

/* A stream of its own for each operation of a workload. */
static inline struct rng rng_for(uint64_t seed, uint64_t op)
{
	return (struct rng){ mix64(seed ^ mix64(op)) };
}

static inline uint64_t rng_next(struct rng *r)
{
	r->state += GAMMA;
	return mix64(r->state);
}

/* 64-bit little-endian word i of a sector is key + i * GAMMA. tag tells apart successive writes to one sector. */
static inline uint64_t sector_key(uint64_t seed, uint64_t sector, uint64_t tag)
{
	return mix64(seed ^ mix64(sector ^ mix64(tag)));
}

#endif
