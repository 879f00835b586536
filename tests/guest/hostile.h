/* hostile.h: attacks on a block device, each with the outcomes that virtio 1.2 leaves open to it. */
#ifndef GUEST_HOSTILE_H
#define GUEST_HOSTILE_H

#include "blk.h"

/* What came of an attack: one bit each, so that a set of them can be expected. */
enum outcome {
	OUT_OK = 1 << 0, /* the request was done */
	OUT_IOERR = 1 << 1,
	OUT_UNSUPP = 1 << 2,
	OUT_NEEDS_RESET = 1 << 3, /* DEVICE_NEEDS_RESET and a configuration interrupt */
	OUT_IGNORED = 1 << 4,     /* no effect at all */
	OUT_REFUSED = 1 << 5,     /* FEATURES_OK or QueueReady did not stick */
	OUT_DROPPED = 1 << 6,     /* used, but without a status */
	OUT_SILENT = 1 << 7,      /* DEVICE_NEEDS_RESET without an interrupt: wrong by 2.1.2 */
	OUT_CORRUPT = 1 << 8,     /* something changed that must not */
};

#define OUT_BAD_CHAIN OUT_NEEDS_RESET
#define OUT_ANY       (OUT_OK | OUT_IOERR | OUT_UNSUPP | OUT_NEEDS_RESET | OUT_IGNORED | OUT_REFUSED)

#define DATA_LEN      65536u
#define TABLE_ENTRIES 4096u
#define CANARY        0x5a
/* Where attacks may write to the disk. All the rest must stay as it is. */
#define SCRATCH_SECTOR 8u

struct hostile {
	struct blk *b;
	struct vring_desc *d;     /* the queue's descriptors */
	struct vring_desc *table; /* indirect, TABLE_ENTRIES */
	uint8_t *data;            /* DATA_LEN, then a page of CANARY */
	uint8_t *status;          /* where the next outcome() looks */
	uint64_t outside;         /* the first address after all RAM, and more than a page of nothing after it */
	uint64_t baseline;        /* hash of sector 0 */
};

struct attack {
	const char *name;
	unsigned int expect; /* any of these outcomes */
	enum outcome (*run)(struct hostile *h);
	uint64_t needs; /* features that the device must offer, else there is nothing to attack */
};

/* Tables, each ended by a NULL name. */
extern const struct attack chain_attacks[];    /* hostile_chain.c */
extern const struct attack indirect_attacks[]; /* hostile_indirect.c */
extern const struct attack request_attacks[];  /* hostile_request.c */
extern const struct attack range_attacks[];    /* hostile_range.c */
extern const struct attack queue_attacks[];    /* hostile_queue.c */
extern const struct attack register_attacks[]; /* hostile_register.c */

/* set_desc - one descriptor, anywhere. */
void set_desc(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next);
/* header - fills the request header that chains start with. */
void header(struct hostile *h, uint32_t type, uint64_t sector);
/* usual_chain - header, data, status in d[0 … 2] of any table, correct in every way. */
void usual_chain(struct hostile *h, struct vring_desc *d, uint32_t type, uint64_t sector, uint32_t len);
/* fire - offers head, notifies, and returns what came of it. */
enum outcome fire(struct hostile *h, uint16_t head);
enum outcome outcome(struct hostile *h);
/* unless_read_only - the outcome of a good change to the disk: on a read-only one, failing is what is OUT_OK (5.2.6.2).
 */
enum outcome unless_read_only(const struct hostile *h, enum outcome o);
/* still_works - after something that should have no effect: OUT_IGNORED if a good read succeeds. */
enum outcome still_works(struct hostile *h);

#endif
