/* siphash.h: SipHash-2-4 with a 128-bit result (Aumasson and Bernstein, 2012): a short-message authentication code. */
#ifndef MAYFLY_MMDS_SIPHASH_H
#define MAYFLY_MMDS_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

#define SIPHASH_KEY_SIZE 16

/* siphash - out = the two 64-bit halves of the code of len bytes under key. Any thread. */
void siphash(const uint8_t key[SIPHASH_KEY_SIZE], const void *bytes, size_t len, uint64_t out[2]);

#endif
