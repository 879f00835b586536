/* hostile_request.c: well-formed chains that carry bad requests (virtio 1.2, 5.2.6): the answer is a status byte. */
#include "hostile.h"

#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT

static enum outcome request(struct hostile *h, uint32_t type, uint64_t sector, uint32_t len)
{
	usual_chain(h, h->d, type, sector, len);
	return fire(h, 0);
}

static enum outcome in_partial(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_IN, 0, SECTOR + 1);
}

static enum outcome out_partial(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, SCRATCH_SECTOR, 100);
}

static enum outcome no_data(struct hostile *h, uint32_t type)
{
	usual_chain(h, h->d, type, SCRATCH_SECTOR, 0);
	h->d[0].next = 2;
	return fire(h, 0);
}

static enum outcome in_without_data(struct hostile *h)
{
	return no_data(h, VIRTIO_BLK_T_IN);
}

static enum outcome out_without_data(struct hostile *h)
{
	return no_data(h, VIRTIO_BLK_T_OUT);
}

static enum outcome in_beyond(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_IN, h->b->capacity, SECTOR);
}

static enum outcome in_across_end(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_IN, h->b->capacity - 1, 2 * SECTOR);
}

static enum outcome out_beyond(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, h->b->capacity, SECTOR);
}

static enum outcome out_across_end(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, h->b->capacity - 1, 2 * SECTOR);
}

/* sector + 2 wraps to 1. */
static enum outcome in_sector_wraps(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_IN, ~0ull, 2 * SECTOR);
}

static enum outcome out_sector_wraps(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, ~0ull, 2 * SECTOR);
}

/* sector * 512 wraps to 0. */
static enum outcome out_offset_wraps(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, 1ull << 55, SECTOR);
}

/* sector * 512 is negative as a signed file offset. */
static enum outcome out_offset_negative(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, 1ull << 54, SECTOR);
}

static enum outcome type_unknown(struct hostile *h)
{
	return request(h, 0x1234, 0, SECTOR);
}

static enum outcome type_all_ones(struct hostile *h)
{
	return request(h, 0xffffffff, 0, SECTOR);
}

/* The types of before virtio 1.0: SCSI passthrough and the barrier bit. */
static enum outcome type_scsi(struct hostile *h)
{
	return request(h, 2, 0, SECTOR);
}

static enum outcome type_barrier(struct hostile *h)
{
	return request(h, 0x80000000u | VIRTIO_BLK_T_IN, 0, SECTOR);
}

static enum outcome out_read_only(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_OUT, SCRATCH_SECTOR, SECTOR);
}

static enum outcome get_id(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_GET_ID, 0, VIRTIO_BLK_ID_BYTES);
}

/* Anything after the buffer must stay as it was: zero, up to where run_attack() looks for its canary. */
static enum outcome get_id_short(struct hostile *h)
{
	enum outcome o = request(h, VIRTIO_BLK_T_GET_ID, 0, 1);

	return h->data[1] ? OUT_CORRUPT : o;
}

static enum outcome get_id_long(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_GET_ID, 0, SECTOR);
}

static enum outcome get_id_without_data(struct hostile *h)
{
	return no_data(h, VIRTIO_BLK_T_GET_ID);
}

static enum outcome flush(struct hostile *h)
{
	return no_data(h, VIRTIO_BLK_T_FLUSH);
}

static enum outcome flush_with_data(struct hostile *h)
{
	return request(h, VIRTIO_BLK_T_FLUSH, 0, SECTOR);
}

static enum outcome status_long(struct hostile *h)
{
	header(h, VIRTIO_BLK_T_FLUSH, 0);
	h->status = h->data + 15;
	*h->status = STATUS_UNTOUCHED;
	set_desc(&h->d[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), N, 1);
	set_desc(&h->d[1], (uint64_t)h->data, 16, W, 0);
	return fire(h, 0);
}

/* After NEEDS_RESET a device touches nothing until it is reset (2.1.2 lets it: the driver may not rely on anything). */
static enum outcome after_needs_reset(struct hostile *h)
{
	enum outcome o = OUT_NEEDS_RESET;

	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	h->d[1].next = 0xffff;
	if (fire(h, 0) != OUT_NEEDS_RESET)
		return OUT_CORRUPT;
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	virtq_offer(&h->b->vq, 0);
	virtq_notify(&h->b->vq);
	/* Not fire(): it would see the NEEDS_RESET of before. */
	if (virtq_wait(&h->b->vq, 50) > 0)
		o = OUT_OK;
	return o;
}

const struct attack request_attacks[] = {
	{ "in-partial-sector", OUT_IOERR, in_partial, 0 },
	{ "out-partial-sector", OUT_IOERR, out_partial, 0 },
	{ "in-without-data", OUT_OK | OUT_IOERR, in_without_data, 0 },
	{ "out-without-data", OUT_OK | OUT_IOERR, out_without_data, 0 },
	{ "in-beyond-capacity", OUT_IOERR, in_beyond, 0 },
	{ "in-across-end", OUT_IOERR, in_across_end, 0 },
	{ "out-beyond-capacity", OUT_IOERR, out_beyond, 0 },
	{ "out-across-end", OUT_IOERR, out_across_end, 0 },
	{ "in-sector-wraps", OUT_IOERR, in_sector_wraps, 0 },
	{ "out-sector-wraps", OUT_IOERR, out_sector_wraps, 0 },
	{ "out-offset-wraps", OUT_IOERR, out_offset_wraps, 0 },
	{ "out-offset-negative", OUT_IOERR, out_offset_negative, 0 },
	{ "type-unknown", OUT_UNSUPP, type_unknown, 0 },
	{ "type-all-ones", OUT_UNSUPP, type_all_ones, 0 },
	{ "type-scsi", OUT_UNSUPP, type_scsi, 0 },
	{ "type-barrier", OUT_UNSUPP, type_barrier, 0 },
	{ "out-read-only", OUT_IOERR, out_read_only, FEATURE(VIRTIO_BLK_F_RO) },
	{ "get-id", OUT_OK, get_id, 0 },
	{ "get-id-short", OUT_OK | OUT_IOERR, get_id_short, 0 },
	{ "get-id-long", OUT_OK | OUT_IOERR, get_id_long, 0 },
	{ "get-id-without-data", OUT_OK | OUT_IOERR, get_id_without_data, 0 },
	{ "flush-with-sector", OUT_OK, flush, FEATURE(VIRTIO_BLK_F_FLUSH) },
	{ "flush-with-data", OUT_OK | OUT_IOERR, flush_with_data, FEATURE(VIRTIO_BLK_F_FLUSH) },
	{ "status-long", OUT_OK | OUT_IOERR, status_long, FEATURE(VIRTIO_BLK_F_FLUSH) },
	{ "after-needs-reset", OUT_NEEDS_RESET, after_needs_reset, 0 },
	{ NULL, 0, NULL, 0 },
};
