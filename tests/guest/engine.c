/* engine.c: keeps many block requests in flight and checks each when it comes back. */
#include "io.h"
#include "workload.h"

#define MAX_COMPLAINTS 8

static const uint32_t op_type[NR_OP_KINDS] = {
	[OP_READ] = VIRTIO_BLK_T_IN,         [OP_WRITE] = VIRTIO_BLK_T_OUT,           [OP_FLUSH] = VIRTIO_BLK_T_FLUSH,
	[OP_DISCARD] = VIRTIO_BLK_T_DISCARD, [OP_ZEROES] = VIRTIO_BLK_T_WRITE_ZEROES,
};

static const char *const op_name[NR_OP_KINDS] = { "read", "write", "flush", "discard", "write-zeroes" };

bool workload_alloc(struct workload *w)
{
	struct guest *g = w->b->g;
	uint64_t i;

	w->slot = alloc(g, w->depth * sizeof(*w->slot), 64);
	for (i = 0; w->slot && i < w->depth; i++) {
		struct slot *s = &w->slot[i];

		s->data = reserve(g, w->max * SECTOR, 512);
		s->seg = reserve(g, (w->segs + 2) * sizeof(*s->seg), 16);
		s->table = reserve(g, (w->segs + 2) * sizeof(*s->table), 16);
		if (!s->data || !s->seg || !s->table)
			break;
	}
	if (w->slot && i == w->depth)
		return true;
	say("not enough memory for %llu requests of %llu sectors\n", (unsigned long long)w->depth,
	    (unsigned long long)w->max);
	return false;
}

static void complain(struct workload *w, const struct op *op, const char *what, uint64_t value)
{
	if (w->errors++ < MAX_COMPLAINTS)
		say("blk %u: %s %llu+%u: %s %llu\n", w->b->index, op_name[op->kind], (unsigned long long)op->sector,
		    op->n, what, (unsigned long long)value);
}

static uint64_t hash_sector(const uint64_t *data)
{
	uint64_t h = 0;
	unsigned int i;

	for (i = 0; i < SECTOR_WORDS; i++)
		h = mix64(h ^ data[i]);
	return h | TAG_HASH;
}

static bool matches_model(struct workload *w, const uint64_t *data, uint64_t sector)
{
	uint64_t *tag = &w->tag[sector - w->start];
	unsigned int i;

	if (*tag == TAG_UNKNOWN)
		*tag = hash_sector(data);
	if (*tag == TAG_ZERO) {
		for (i = 0; i < SECTOR_WORDS && !data[i]; i++)
			;
		return i == SECTOR_WORDS;
	}
	if (*tag & TAG_HASH)
		return *tag == hash_sector(data);
	return sector_check(data, w->seed, sector, *tag);
}

static void check_data(struct workload *w, const struct slot *s)
{
	uint32_t i;
	bool good;

	for (i = 0; i < s->op.n; i++) {
		const uint64_t *data = (const uint64_t *)(s->data + i * SECTOR);
		uint64_t sector = s->op.sector + i;

		if (w->check == CHECK_FIXED)
			good = sector_check(data, w->seed, sector, s->op.tag);
		else
			good = matches_model(w, data, sector);
		if (!good) {
			complain(w, &s->op, "wrong data in sector", sector);
			break;
		}
	}
}

static void update_model(struct workload *w, const struct op *op)
{
	uint64_t tag;
	uint32_t i;

	if (op->kind == OP_WRITE)
		tag = op->tag;
	else if (op->kind == OP_ZEROES || (op->kind == OP_DISCARD && w->discard_zero))
		tag = TAG_ZERO;
	else if (op->kind == OP_DISCARD)
		tag = TAG_UNKNOWN;
	else
		return;
	for (i = 0; i < op->n; i++)
		w->tag[op->sector - w->start + i] = tag;
}

/* Overlapping requests may be done in any order (virtio 1.2, 5.2.6): never have two in flight if one of them writes. */
static bool conflicts(const struct workload *w, const struct op *op)
{
	uint64_t i;

	for (i = 0; i < w->depth; i++) {
		const struct op *o = &w->slot[i].op;

		if (w->slot[i].busy && (o->kind != OP_READ || op->kind != OP_READ) && op->sector < o->sector + o->n &&
		    o->sector < op->sector + op->n)
			return true;
	}
	return false;
}

/* Cuts the data of a request into up to w->segs pieces of random lengths. */
static unsigned int cut_data(const struct workload *w, struct slot *s, struct rng *rng)
{
	uint32_t unit = w->odd ? 1 : SECTOR;
	uint64_t left = (uint64_t)s->op.n * SECTOR / unit;
	uint64_t pieces = 1 + rng_next(rng) % w->segs;
	uint64_t at = (uint64_t)s->data;
	unsigned int n = 1; /* 0 is the header */
	uint64_t len;

	if (pieces > left)
		pieces = left;
	for (; pieces; pieces--) {
		len = pieces == 1 ? left : 1 + rng_next(rng) % (left - pieces + 1);
		s->seg[n++] = (struct segment){ at, (uint32_t)(len * unit), s->op.kind == OP_READ };
		at += len * unit;
		left -= len;
	}
	return n;
}

static unsigned int prepare(const struct workload *w, struct slot *s, struct rng *rng)
{
	const struct op *op = &s->op;
	unsigned int n = 1;
	uint32_t i;

	s->hdr = (struct virtio_blk_outhdr){ .type = op_type[op->kind] };
	s->status = STATUS_UNTOUCHED;
	s->seg[0] = (struct segment){ (uint64_t)&s->hdr, sizeof(s->hdr), false };
	if (op->kind == OP_READ || op->kind == OP_WRITE) {
		s->hdr.sector = op->sector;
		n = cut_data(w, s, rng);
	} else if (op->kind != OP_FLUSH) {
		s->range.sector = op->sector;
		s->range.num_sectors = op->n;
		s->range.flags = op->unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
		s->seg[n++] = (struct segment){ (uint64_t)&s->range, sizeof(s->range), false };
	}
	for (i = 0; op->kind == OP_WRITE && i < op->n; i++)
		sector_fill((uint64_t *)(s->data + i * SECTOR), w->seed, op->sector + i, op->tag);
	s->seg[n++] = (struct segment){ (uint64_t)&s->status, 1, true };
	return n;
}

/* 1: submitted; 0: not now. */
static int submit(struct workload *w, uint64_t i)
{
	struct rng rng = rng_for(w->seed, i);
	struct slot *s = NULL;
	struct op op = { 0 };
	uint64_t k;
	bool indirect;
	int head;

	w->next(w, i, &rng, &op);
	if (w->busy == w->depth || conflicts(w, &op))
		return 0;
	for (k = 0; k < w->depth && w->slot[k].busy; k++)
		;
	s = &w->slot[k];
	/* A direct chain needs this many descriptors at worst: ask before any work is done. */
	if (w->b->vq.nr_free < w->segs + 2 && w->busy)
		return 0;
	s->op = op;
	k = prepare(w, s, &rng);
	indirect = w->indirect == 2 ? rng_next(&rng) & 1 : w->indirect;
	head = virtq_add(&w->b->vq, s->seg, (unsigned int)k, indirect ? s->table : NULL);
	if (head < 0)
		return 0;
	s->busy = true;
	w->slot_of[head] = (uint16_t)(s - w->slot);
	w->busy++;
	if (w->busy > w->most_busy)
		w->most_busy = w->busy;
	w->count[op.kind]++;
	w->sectors += op.n;
	if (w->tag)
		update_model(w, &op);
	return 1;
}

static void finish(struct workload *w, struct slot *s, uint32_t len)
{
	uint8_t status = *(volatile uint8_t *)&s->status;
	uint32_t want = s->op.kind == OP_READ ? s->op.n * SECTOR + 1 : 1;

	s->busy = false;
	w->busy--;
	if (status != VIRTIO_BLK_S_OK) {
		complain(w, &s->op, "status", status);
		return;
	}
	/* 2.7.8.2: the length is what the device wrote, here the data read and the status byte. */
	if (len != want)
		complain(w, &s->op, "used length", len);
	if (s->op.kind == OP_READ && w->check != CHECK_NONE)
		check_data(w, s);
}

/* Takes what is done; waits for at least one. */
static bool reap(struct workload *w)
{
	uint32_t len;
	int state, head;

	state = virtq_wait(&w->b->vq, IO_PATIENCE_MS);
	if (state != 1) {
		say("blk %u: %s with %llu requests in flight\n", w->b->index,
		    state < 0 ? "the device needs a reset" : "no answer", (unsigned long long)w->busy);
		return false;
	}
	while ((head = virtq_pop(&w->b->vq, &len)) >= 0) {
		struct slot *s = &w->slot[w->slot_of[head]];

		if (!s->busy) {
			say("blk %u: descriptor %u came back twice\n", w->b->index, (unsigned int)head);
			return false;
		}
		finish(w, s, len);
	}
	return true;
}

bool workload_run(struct workload *w)
{
	uint64_t i = 0;
	uint64_t k;

	for (k = 0; k < w->depth; k++)
		w->slot[k].busy = false;
	while (i < w->n || w->busy) {
		while (i < w->n && submit(w, i))
			i++;
		if (!w->busy) {
			say("blk %u: a request of %llu segments does not fit the queue\n", w->b->index,
			    (unsigned long long)w->segs);
			return false;
		}
		virtq_kick(&w->b->vq);
		if (!reap(w)) {
			w->b->open = false;
			return false;
		}
	}
	return true;
}
