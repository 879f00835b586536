/* workload.h: many block requests in flight at once, each checked; shared by the engine and the workloads on it. */
#ifndef GUEST_WORKLOAD_H
#define GUEST_WORKLOAD_H

#include "blk.h"

enum op_kind { OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZEROES, NR_OP_KINDS };

struct op {
	enum op_kind kind;
	bool unmap;
	uint64_t sector;
	uint32_t n;   /* sectors; 0 for a flush */
	uint64_t tag; /* what a write leaves in its sectors */
};

enum check {
	CHECK_NONE,  /* data does not matter */
	CHECK_FIXED, /* every sector read carries the tag of its op */
	CHECK_MODEL, /* every sector read carries the tag that the model remembers */
};

/* Special tags in the model; all others are those of writes. */
#define TAG_UNKNOWN 0ull /* not written by this workload yet */
#define TAG_ZERO    (~0ull)
#define TAG_HASH    (1ull << 63) /* with a hash of what the first read saw in the other bits */

struct slot {
	struct virtio_blk_outhdr hdr;
	struct virtio_blk_discard_write_zeroes range;
	uint8_t status;
	uint8_t spare[7]; /* Firecracker 0.24 writes four bytes of status */
	bool busy;
	struct op op;
	uint8_t *data;
	struct segment *seg;
	struct vring_desc *table;
};

struct workload {
	struct blk *b;
	uint64_t seed, start, span; /* the sectors it may touch */
	uint64_t n;                 /* number of ops */
	uint64_t max, segs, depth;  /* limits: sectors and segments per request, requests in flight */
	bool odd;                   /* segments of any length, not only of whole sectors */
	uint64_t indirect;          /* 0 never, 1 always, 2 by the rng */
	uint64_t weight[NR_OP_KINDS];
	uint64_t total_weight;
	bool discard_zero; /* the device promises zeros after a discard */
	enum check check;
	uint64_t *tag; /* the model: one per sector of the span */
	void (*next)(const struct workload *w, uint64_t i, struct rng *rng, struct op *op);
	struct slot *slot;
	uint16_t slot_of[QUEUE_MAX]; /* by the head of its chain */
	uint64_t busy, most_busy, errors, sectors;
	uint64_t count[NR_OP_KINDS];
};

/* engine.c: workload_run runs ops 0 … n − 1 and waits for all; false on the first sign of a dead device. */
bool workload_alloc(struct workload *w);
bool workload_run(struct workload *w);

#endif
