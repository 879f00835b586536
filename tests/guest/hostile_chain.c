/* hostile_chain.c: descriptor chains and available rings that break the rules of virtio 1.2, 2.7. */
#include "hostile.h"

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT

static void read_chain(struct hostile *h)
{
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
}

static void write_chain(struct hostile *h)
{
	usual_chain(h, h->d, VIRTIO_BLK_T_OUT, SCRATCH_SECTOR, SECTOR);
}

static enum outcome head_out_of_range(struct hostile *h)
{
	read_chain(h);
	return fire(h, h->b->vq.size);
}

static enum outcome head_far_out_of_range(struct hostile *h)
{
	read_chain(h);
	return fire(h, 0xffff);
}

static enum outcome next_out_of_range(struct hostile *h)
{
	read_chain(h);
	h->d[1].next = h->b->vq.size;
	return fire(h, 0);
}

static enum outcome next_far_out_of_range(struct hostile *h)
{
	read_chain(h);
	h->d[0].next = 0xffff;
	return fire(h, 0);
}

static enum outcome loop(struct hostile *h)
{
	read_chain(h);
	set_desc(&h->d[2], (uint64_t)h->data, 1, W | N, 1);
	return fire(h, 0);
}

static enum outcome loop_of_one(struct hostile *h)
{
	read_chain(h);
	h->d[0].next = 0;
	return fire(h, 0);
}

/* Data at an address, for a read: the device would have to write there. */
static enum outcome data_at(struct hostile *h, uint64_t addr, uint32_t len)
{
	read_chain(h);
	h->d[1].addr = addr;
	h->d[1].len = len;
	return fire(h, 0);
}

static enum outcome data_outside_ram(struct hostile *h)
{
	return data_at(h, h->outside + (16 << 20), SECTOR);
}

static enum outcome data_wraps(struct hostile *h)
{
	return data_at(h, ~0ull - 0xfff, 0x2000);
}

static enum outcome data_ends_at_top(struct hostile *h)
{
	return data_at(h, 0ull - SECTOR, SECTOR);
}

static enum outcome data_straddles_end(struct hostile *h)
{
	return data_at(h, h->outside - SECTOR, 2 * SECTOR);
}

static enum outcome data_in_device(struct hostile *h)
{
	return data_at(h, h->b->dev.base, SECTOR);
}

static enum outcome data_in_hole(struct hostile *h)
{
	return data_at(h, 0xfec00000, SECTOR);
}

static enum outcome data_huge(struct hostile *h)
{
	return data_at(h, (uint64_t)h->data, 0xffffffff);
}

static enum outcome out_outside_ram(struct hostile *h)
{
	write_chain(h);
	h->d[1].addr = h->outside + (16 << 20);
	return fire(h, 0);
}

static enum outcome header_outside_ram(struct hostile *h)
{
	read_chain(h);
	h->d[0].addr = h->outside + 4096;
	return fire(h, 0);
}

static enum outcome status_outside_ram(struct hostile *h)
{
	read_chain(h);
	h->d[2].addr = h->outside;
	return fire(h, 0);
}

static enum outcome empty_piece(struct hostile *h)
{
	read_chain(h);
	h->d[1].next = 3;
	set_desc(&h->d[3], (uint64_t)h->data + SECTOR, 0, W | N, 2);
	return fire(h, 0);
}

static enum outcome empty_piece_outside_ram(struct hostile *h)
{
	empty_piece(h);
	return data_at(h, ~0ull, 0);
}

/*
 * 2.7.5: no chain may be longer than 2^32 bytes in total. The pieces sum up to 2^32 + 512: in 32 bits that is one
 * sector, and the sector asked for is the last one, so a careless sum passes every later check.
 */
static enum outcome sum_overflows(struct hostile *h)
{
	uint32_t pieces = h->b->vq.size - 2u;
	uint32_t len = 0xffffffffu / pieces + 1;
	uint64_t mark = h->b->g->arena;
	uint32_t sum = 0;
	uint16_t i;
	char *big;

	if (h->b->vq.size < 128)
		return OUT_IOERR; /* it would take more RAM than there may be */
	len = (len + SECTOR - 1) & ~(SECTOR - 1);
	big = reserve(h->b->g, len, 4096);
	if (!big) {
		say("sum-overflows needs %u MiB of RAM\n", (len >> 20) + 8);
		return OUT_CORRUPT;
	}
	header(h, VIRTIO_BLK_T_IN, h->b->capacity - 1);
	set_desc(&h->d[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), N, 1);
	for (i = 1; i <= pieces; i++) {
		uint32_t piece = i < pieces ? len : SECTOR - sum;

		/* The last piece makes the 32-bit sum come out at one sector, whatever the rounding was. */
		if (piece > len)
			piece = len;
		set_desc(&h->d[i], (uint64_t)big, piece, W | N, (uint16_t)(i + 1));
		sum += piece;
	}
	set_desc(&h->d[i], (uint64_t)h->status, 1, W, 0);
	h->b->g->arena = mark;
	return fire(h, 0);
}

static enum outcome header_short(struct hostile *h)
{
	read_chain(h);
	h->d[0].len = 15;
	return fire(h, 0);
}

static enum outcome header_in_three(struct hostile *h)
{
	uint64_t at = (uint64_t)h->b->hdr;

	read_chain(h);
	set_desc(&h->d[0], at, 1, N, 5);
	set_desc(&h->d[5], at + 1, 7, N, 6);
	set_desc(&h->d[6], at + 8, 8, N, 1);
	return fire(h, 0);
}

static enum outcome header_writable(struct hostile *h)
{
	read_chain(h);
	h->d[0].flags |= W;
	return fire(h, 0);
}

static enum outcome header_only(struct hostile *h)
{
	header(h, VIRTIO_BLK_T_FLUSH, 0);
	set_desc(&h->d[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), 0, 0);
	return fire(h, 0);
}

static enum outcome status_missing(struct hostile *h)
{
	write_chain(h);
	h->d[1].flags = 0;
	return fire(h, 0);
}

static enum outcome status_readable(struct hostile *h)
{
	write_chain(h);
	h->d[2].flags = 0;
	return fire(h, 0);
}

static enum outcome status_empty(struct hostile *h)
{
	write_chain(h);
	h->d[2].len = 0;
	return fire(h, 0);
}

/* 2.7.4.2: the framing of a message means nothing. Data and status of a read in one descriptor. */
static enum outcome merged_in(struct hostile *h)
{
	header(h, VIRTIO_BLK_T_IN, 0);
	h->status = h->data + SECTOR;
	*h->status = STATUS_UNTOUCHED;
	set_desc(&h->d[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), N, 1);
	set_desc(&h->d[1], (uint64_t)h->data, SECTOR + 1, W, 0);
	return fire(h, 0);
}

static enum outcome merged_out(struct hostile *h)
{
	header(h, VIRTIO_BLK_T_OUT, SCRATCH_SECTOR);
	memcpy(h->data, h->b->hdr, sizeof(*h->b->hdr));
	set_desc(&h->d[0], (uint64_t)h->data, sizeof(*h->b->hdr) + SECTOR, N, 1);
	set_desc(&h->d[1], (uint64_t)h->status, 1, W, 0);
	return unless_read_only(h, fire(h, 0));
}

static enum outcome in_readable(struct hostile *h)
{
	read_chain(h);
	h->d[1].flags = N;
	return fire(h, 0);
}

static enum outcome out_writable(struct hostile *h)
{
	write_chain(h);
	h->d[1].flags |= W;
	return fire(h, 0);
}

/* 2.7.5.2: device-readable pieces come first. */
static enum outcome wrong_order(struct hostile *h)
{
	write_chain(h);
	h->d[0].next = 2;
	h->d[2].flags = W | N;
	h->d[2].next = 1;
	h->d[1].flags = 0;
	return fire(h, 0);
}

static enum outcome all_zero_descriptor(struct hostile *h)
{
	return fire(h, 7);
}

static enum outcome offered_twice(struct hostile *h)
{
	read_chain(h);
	virtq_offer(&h->b->vq, 0);
	return fire(h, 0);
}

/* As long as the queue, and no longer: the longest chain there may be. */
static enum outcome full_queue(struct hostile *h)
{
	uint16_t i, last = (uint16_t)(h->b->vq.size - 1);

	header(h, VIRTIO_BLK_T_IN, 0);
	set_desc(&h->d[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), N, 1);
	for (i = 1; i < last; i++)
		set_desc(&h->d[i], (uint64_t)h->data, SECTOR, W | N, (uint16_t)(i + 1));
	set_desc(&h->d[last], (uint64_t)h->status, 1, W, 0);
	return fire(h, 0);
}

static enum outcome jump(struct hostile *h, uint16_t by)
{
	read_chain(h);
	h->b->vq.next_avail = (uint16_t)(h->b->vq.next_avail + by - 1);
	return fire(h, 0);
}

static enum outcome avail_jumps(struct hostile *h)
{
	return jump(h, (uint16_t)(h->b->vq.size + 1));
}

static enum outcome avail_jumps_far(struct hostile *h)
{
	return jump(h, 0x8000);
}

static enum outcome avail_goes_back(struct hostile *h)
{
	return jump(h, 0xffff);
}

/* The device overwrites its own instructions. What comes of it does not matter, that it survives does. */
static enum outcome data_over_descriptors(struct hostile *h)
{
	return data_at(h, (uint64_t)h->d, SECTOR);
}

static enum outcome data_over_avail(struct hostile *h)
{
	return data_at(h, (uint64_t)h->b->vq.avail, SECTOR);
}

static enum outcome status_over_used(struct hostile *h)
{
	read_chain(h);
	h->d[2].addr = (uint64_t)&h->b->vq.used->idx;
	return fire(h, 0);
}

const struct attack chain_attacks[] = {
	{ "head-out-of-range", OUT_BAD_CHAIN, head_out_of_range, 0 },
	{ "head-far-out-of-range", OUT_BAD_CHAIN, head_far_out_of_range, 0 },
	{ "next-out-of-range", OUT_BAD_CHAIN, next_out_of_range, 0 },
	{ "next-far-out-of-range", OUT_BAD_CHAIN, next_far_out_of_range, 0 },
	{ "loop", OUT_BAD_CHAIN, loop, 0 },
	{ "loop-of-one", OUT_BAD_CHAIN, loop_of_one, 0 },
	{ "data-outside-ram", OUT_BAD_CHAIN, data_outside_ram, 0 },
	{ "data-wraps", OUT_BAD_CHAIN, data_wraps, 0 },
	{ "data-ends-at-top", OUT_BAD_CHAIN, data_ends_at_top, 0 },
	{ "data-straddles-end", OUT_BAD_CHAIN, data_straddles_end, 0 },
	{ "data-in-device", OUT_BAD_CHAIN, data_in_device, 0 },
	{ "data-in-hole", OUT_BAD_CHAIN, data_in_hole, 0 },
	{ "data-huge", OUT_BAD_CHAIN, data_huge, 0 },
	{ "out-outside-ram", OUT_BAD_CHAIN, out_outside_ram, 0 },
	{ "header-outside-ram", OUT_BAD_CHAIN, header_outside_ram, 0 },
	{ "status-outside-ram", OUT_BAD_CHAIN, status_outside_ram, 0 },
	{ "empty-piece", OUT_OK | OUT_IOERR | OUT_NEEDS_RESET, empty_piece, 0 },
	{ "empty-piece-outside-ram", OUT_IOERR | OUT_NEEDS_RESET, empty_piece_outside_ram, 0 },
	{ "sum-overflows", OUT_IOERR | OUT_NEEDS_RESET, sum_overflows, 0 },
	{ "header-short", OUT_IOERR | OUT_NEEDS_RESET, header_short, 0 },
	{ "header-in-three", OUT_OK, header_in_three, 0 },
	{ "header-writable", OUT_IOERR | OUT_NEEDS_RESET, header_writable, 0 },
	{ "header-only", OUT_BAD_CHAIN, header_only, 0 },
	{ "status-missing", OUT_BAD_CHAIN, status_missing, 0 },
	{ "status-readable", OUT_BAD_CHAIN, status_readable, 0 },
	{ "status-empty", OUT_BAD_CHAIN, status_empty, 0 },
	{ "merged-in", OUT_OK, merged_in, 0 },
	{ "merged-out", OUT_OK, merged_out, 0 },
	{ "in-readable", OUT_IOERR | OUT_NEEDS_RESET, in_readable, 0 },
	{ "out-writable", OUT_IOERR | OUT_NEEDS_RESET, out_writable, 0 },
	{ "wrong-order", OUT_BAD_CHAIN, wrong_order, 0 },
	{ "all-zero-descriptor", OUT_BAD_CHAIN, all_zero_descriptor, 0 },
	{ "offered-twice", OUT_OK | OUT_NEEDS_RESET, offered_twice, 0 },
	{ "full-queue", OUT_OK, full_queue, FEATURE(VIRTIO_BLK_F_SEG_MAX) },
	{ "avail-jumps", OUT_BAD_CHAIN, avail_jumps, 0 },
	{ "avail-jumps-far", OUT_BAD_CHAIN, avail_jumps_far, 0 },
	{ "avail-goes-back", OUT_BAD_CHAIN, avail_goes_back, 0 },
	{ "data-over-descriptors", OUT_ANY, data_over_descriptors, 0 },
	{ "data-over-avail", OUT_ANY, data_over_avail, 0 },
	{ "status-over-used", OUT_ANY | OUT_DROPPED, status_over_used, 0 },
	{ NULL, 0, NULL, 0 },
};
