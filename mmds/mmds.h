/* mmds.h: the metadata service of one microVM: its data, its session tokens, how it answers. */
#ifndef MAYFLY_MMDS_MMDS_H
#define MAYFLY_MMDS_MMDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "error.h"
#include "store.h"
#include "token.h"

#define MMDS_MAX_SIZE_LIMIT (1u << 30) /* TCP's sequence numbers tell half of 4 GiB apart */

struct state_reader;
struct state_writer;

struct mmds {
	struct mmds_store store;
	struct mmds_tokens tokens;
	enum mmds_version version; /* V2: nothing is told without a token */
	bool imds_compat;          /* always IMDS format, whatever the guest accepts */
	uint64_t (*now_ns)(void);  /* CLOCK_MONOTONIC; tests have their own */
};

/*
 * mmds_create - a service without data, answering as V1; the caller sets version and imds_compat
 * size_limit: bytes of compact JSON that the store takes, at most MMDS_MAX_SIZE_LIMIT. 0 or -errno with a sentence.
 * mmds_destroy frees it, after the
 * last mmds_stack that uses it. vmm thread.
 */
int mmds_create(struct mmds **out, size_t size_limit, struct error *err);
void mmds_destroy(struct mmds *mmds);

/*
 * mmds_save, mmds_restore - the data, as STATE_METADATA
 * Session tokens do not survive: they are made with a key that no state file holds, so that nobody who reads one can
 * use the sessions of a guest, and each clone's guest has to ask for tokens of its own (it gets 401 until it does). Nor
 * do connections, whose segments are answered with RST. 0; -EINVAL, -EFBIG (the limit is a lower one now) or -ENOMEM
 * with a sentence, and the store is as before. vmm thread.
 */
void mmds_save(const struct mmds *mmds, struct state_writer *w);
int mmds_restore(struct mmds *mmds, struct state_reader *r, struct error *err);

#endif
