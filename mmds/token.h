/* token.h: session tokens that need no memory: when they end and a code that only we can make. */
#ifndef MAYFLY_MMDS_TOKEN_H
#define MAYFLY_MMDS_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "siphash.h"

#define MMDS_TOKEN_MIN_TTL 1u /* seconds */
#define MMDS_TOKEN_MAX_TTL 21600u
#define MMDS_TOKEN_LEN     64u /* hexadecimal digits */

struct mmds_tokens {
	uint8_t key[SIPHASH_KEY_SIZE]; /* random, for this process only */
	uint64_t start_ns;             /* tokens count from here, so that they do not tell the host's uptime */
	uint64_t serial;               /* no two tokens are the same */
};

/* mmds_tokens_init - a new key: tokens of others are worth nothing. 0 or -errno with a sentence. */
int mmds_tokens_init(struct mmds_tokens *t, uint64_t now_ns, struct error *err);

/*
 * mmds_token_issue - a token that is valid for ttl seconds (MMDS_TOKEN_MIN_TTL..MMDS_TOKEN_MAX_TTL) from now_ns on
 * out gets MMDS_TOKEN_LEN digits and a NUL. 0, or -ERANGE. vmm thread.
 */
int mmds_token_issue(struct mmds_tokens *t, uint32_t ttl, uint64_t now_ns, char out[MMDS_TOKEN_LEN + 1]);

/* mmds_token_valid - whether token is one of ours and not over. Takes as long for a near miss as for any other. */
bool mmds_token_valid(const struct mmds_tokens *t, const char *token, size_t len, uint64_t now_ns);

#endif
