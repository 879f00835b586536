/* hostile_indirect.c: indirect descriptors (virtio 1.2, 2.7.5.3), right and wrong. */
#include "hostile.h"

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT
#define I VRING_DESC_F_INDIRECT

/* A good read behind descriptor 0; what is wrong with it comes after. */
static void indirect_read(struct hostile *h)
{
	usual_chain(h, h->table, VIRTIO_BLK_T_IN, 0, SECTOR);
	set_desc(&h->d[0], (uint64_t)h->table, 3 * sizeof(*h->table), I, 0);
}

static enum outcome good(struct hostile *h)
{
	indirect_read(h);
	return fire(h, 0);
}

static enum outcome table_len(struct hostile *h, uint32_t len)
{
	indirect_read(h);
	h->d[0].len = len;
	return fire(h, 0);
}

static enum outcome uneven(struct hostile *h)
{
	return table_len(h, 3 * sizeof(*h->table) + 8);
}

static enum outcome empty(struct hostile *h)
{
	return table_len(h, 0);
}

static enum outcome tiny(struct hostile *h)
{
	return table_len(h, 15);
}

static enum outcome huge(struct hostile *h)
{
	return table_len(h, 0xfffffff0);
}

/* More room than the queue size, little of it used. */
static enum outcome roomy(struct hostile *h)
{
	return table_len(h, TABLE_ENTRIES * sizeof(*h->table));
}

static enum outcome table_at(struct hostile *h, uint64_t addr)
{
	indirect_read(h);
	h->d[0].addr = addr;
	return fire(h, 0);
}

static enum outcome outside_ram(struct hostile *h)
{
	return table_at(h, h->outside + 4096);
}

static enum outcome straddles_end(struct hostile *h)
{
	return table_at(h, h->outside - 16);
}

static enum outcome wraps(struct hostile *h)
{
	return table_at(h, ~0ull - 15);
}

static enum outcome with_next(struct hostile *h)
{
	indirect_read(h);
	h->d[0].flags = I | N;
	h->d[0].next = 1;
	set_desc(&h->d[1], (uint64_t)h->data, 1, W, 0);
	return fire(h, 0);
}

static enum outcome with_write(struct hostile *h)
{
	indirect_read(h);
	h->d[0].flags = I | W;
	return fire(h, 0);
}

static enum outcome nested(struct hostile *h)
{
	usual_chain(h, h->table + 8, VIRTIO_BLK_T_IN, 0, SECTOR);
	set_desc(&h->table[0], (uint64_t)(h->table + 8), 3 * sizeof(*h->table), I, 0);
	set_desc(&h->d[0], (uint64_t)h->table, sizeof(*h->table), I, 0);
	return fire(h, 0);
}

static enum outcome next_out_of_table(struct hostile *h)
{
	indirect_read(h);
	h->table[1].next = 3;
	return fire(h, 0);
}

static enum outcome table_loop(struct hostile *h)
{
	indirect_read(h);
	set_desc(&h->table[2], (uint64_t)h->data, 1, W | N, 1);
	return fire(h, 0);
}

/* A chain of one more than the queue size. */
static enum outcome too_long(struct hostile *h)
{
	uint16_t i, last = h->b->vq.size;

	header(h, VIRTIO_BLK_T_IN, 0);
	set_desc(&h->table[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), N, 1);
	for (i = 1; i < last; i++)
		set_desc(&h->table[i], (uint64_t)h->data, SECTOR, W | N, (uint16_t)(i + 1));
	set_desc(&h->table[last], (uint64_t)h->status, 1, W, 0);
	set_desc(&h->d[0], (uint64_t)h->table, (uint32_t)((last + 1u) * sizeof(*h->table)), I, 0);
	return fire(h, 0);
}

/* 2.7.5.3.2: direct descriptors, then one that refers to a table, must work. */
static enum outcome after_direct(struct hostile *h)
{
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	h->table[0] = h->d[1];
	h->table[0].next = 1;
	h->table[1] = h->d[2];
	set_desc(&h->d[1], (uint64_t)h->table, 2 * sizeof(*h->table), I, 0);
	return fire(h, 0);
}

static enum outcome unaligned(struct hostile *h)
{
	char *at = (char *)h->table + 1;

	usual_chain(h, h->table + 8, VIRTIO_BLK_T_IN, 0, SECTOR);
	memcpy(at, h->table + 8, 3 * sizeof(*h->table));
	set_desc(&h->d[0], (uint64_t)at, 3 * sizeof(*h->table), I, 0);
	return fire(h, 0);
}

static enum outcome not_negotiated(struct hostile *h)
{
	if (!blk_open(h->b, BLK_WANTED & ~FEATURE(VIRTIO_RING_F_INDIRECT_DESC), 0))
		return OUT_REFUSED;
	return good(h);
}

#define NEEDS FEATURE(VIRTIO_RING_F_INDIRECT_DESC)

const struct attack indirect_attacks[] = {
	{ "indirect-good", OUT_OK, good, NEEDS },
	{ "indirect-with-write", OUT_OK, with_write, NEEDS },
	{ "indirect-after-direct", OUT_OK, after_direct, NEEDS },
	{ "indirect-unaligned", OUT_OK | OUT_NEEDS_RESET, unaligned, NEEDS },
	{ "indirect-roomy", OUT_OK | OUT_NEEDS_RESET, roomy, NEEDS },
	{ "indirect-uneven", OUT_BAD_CHAIN, uneven, NEEDS },
	{ "indirect-empty", OUT_BAD_CHAIN, empty, NEEDS },
	{ "indirect-tiny", OUT_BAD_CHAIN, tiny, NEEDS },
	{ "indirect-huge", OUT_BAD_CHAIN, huge, NEEDS },
	{ "indirect-outside-ram", OUT_BAD_CHAIN, outside_ram, NEEDS },
	{ "indirect-straddles-end", OUT_BAD_CHAIN, straddles_end, NEEDS },
	{ "indirect-wraps", OUT_BAD_CHAIN, wraps, NEEDS },
	{ "indirect-with-next", OUT_BAD_CHAIN, with_next, NEEDS },
	{ "indirect-nested", OUT_BAD_CHAIN, nested, NEEDS },
	{ "indirect-next-out-of-table", OUT_BAD_CHAIN, next_out_of_table, NEEDS },
	{ "indirect-loop", OUT_BAD_CHAIN, table_loop, NEEDS },
	{ "indirect-too-long", OUT_BAD_CHAIN, too_long, NEEDS },
	{ "indirect-not-negotiated", OUT_BAD_CHAIN, not_negotiated, NEEDS },
	{ NULL, 0, NULL, 0 },
};
