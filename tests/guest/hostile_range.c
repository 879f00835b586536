/* hostile_range.c: discard and write-zeroes with bad ranges (virtio 1.2, 5.2.6.2). */
#include "hostile.h"

#define DISCARD FEATURE(VIRTIO_BLK_F_DISCARD)
#define ZEROES  FEATURE(VIRTIO_BLK_F_WRITE_ZEROES)

#define UNMAP                VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
#define CONFIG_MAX_SEG(type) ((type) == VIRTIO_BLK_T_DISCARD ? 40 : 52)

static enum outcome ranges(struct hostile *h, uint32_t type, uint32_t len)
{
	usual_chain(h, h->d, type, 0, len);
	return fire(h, 0);
}

static enum outcome range(struct hostile *h, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *r = (void *)h->data;

	*r = (struct virtio_blk_discard_write_zeroes){ .sector = sector, .num_sectors = n, .flags = flags };
	return ranges(h, type, sizeof(*r));
}

/* One more range than the device takes, each of them fine. */
static enum outcome too_many(struct hostile *h, uint32_t type)
{
	struct virtio_blk_discard_write_zeroes *r = (void *)h->data;
	uint32_t n = blk_config(h->b, CONFIG_MAX_SEG(type)) + 1;
	uint32_t i;

	if (n > DATA_LEN / sizeof(*r))
		n = DATA_LEN / sizeof(*r);
	for (i = 0; i < n; i++)
		r[i] = (struct virtio_blk_discard_write_zeroes){ .sector = SCRATCH_SECTOR, .num_sectors = 1 };
	return ranges(h, type, n * (uint32_t)sizeof(*r));
}

/* A buffer that ends in the middle of a range; what is there is fine. */
static enum outcome partial(struct hostile *h, uint32_t type, uint32_t len)
{
	struct virtio_blk_discard_write_zeroes *r = (void *)h->data;

	r[0] = (struct virtio_blk_discard_write_zeroes){ .sector = SCRATCH_SECTOR, .num_sectors = 1 };
	r[1] = r[0];
	return ranges(h, type, len);
}

#define ATTACK(name, call)                                    \
	static enum outcome discard_##name(struct hostile *h) \
	{                                                     \
		uint32_t type = VIRTIO_BLK_T_DISCARD;         \
                                                              \
		return call;                                  \
	}                                                     \
	static enum outcome zeroes_##name(struct hostile *h)  \
	{                                                     \
		uint32_t type = VIRTIO_BLK_T_WRITE_ZEROES;    \
                                                              \
		return call;                                  \
	}

ATTACK(good, range(h, type, SCRATCH_SECTOR, 1, 0))
ATTACK(unmap, range(h, type, SCRATCH_SECTOR, 1, UNMAP))
ATTACK(unknown_flags, range(h, type, SCRATCH_SECTOR, 1, 0x80000000u))
ATTACK(huge, range(h, type, SCRATCH_SECTOR, 0xffffffffu, 0))
ATTACK(beyond, range(h, type, h->b->capacity, 1, 0))
ATTACK(across_end, range(h, type, h->b->capacity - 1, 2, 0))
ATTACK(wraps, range(h, type, ~0ull, 2, 0))
ATTACK(offset_wraps, range(h, type, 1ull << 55, 1, 0))
ATTACK(no_sectors, range(h, type, SCRATCH_SECTOR, 0, 0))
ATTACK(too_many, too_many(h, type))
ATTACK(short, partial(h, type, 15))
ATTACK(one_and_a_bit, partial(h, type, 17))

/* Not negotiated, and sent all the same. */
static enum outcome discard_not_negotiated(struct hostile *h)
{
	if (!blk_open(h->b, BLK_WANTED & ~DISCARD, 0))
		return OUT_REFUSED;
	return discard_good(h);
}

static enum outcome zeroes_not_negotiated(struct hostile *h)
{
	if (!blk_open(h->b, BLK_WANTED & ~ZEROES, 0))
		return OUT_REFUSED;
	return zeroes_good(h);
}

static enum outcome discard_right(struct hostile *h)
{
	return unless_read_only(h, discard_good(h));
}

static enum outcome zeroes_right(struct hostile *h)
{
	return unless_read_only(h, zeroes_good(h));
}

static enum outcome zeroes_right_unmap(struct hostile *h)
{
	return unless_read_only(h, zeroes_unmap(h));
}

const struct attack range_attacks[] = {
	{ "discard-good", OUT_OK, discard_right, DISCARD },
	{ "discard-unmap", OUT_UNSUPP, discard_unmap, DISCARD },
	{ "discard-unknown-flags", OUT_UNSUPP, discard_unknown_flags, DISCARD },
	{ "discard-huge", OUT_IOERR, discard_huge, DISCARD },
	{ "discard-beyond-capacity", OUT_IOERR, discard_beyond, DISCARD },
	{ "discard-across-end", OUT_IOERR, discard_across_end, DISCARD },
	{ "discard-sector-wraps", OUT_IOERR, discard_wraps, DISCARD },
	{ "discard-offset-wraps", OUT_IOERR, discard_offset_wraps, DISCARD },
	{ "discard-no-sectors", OUT_OK | OUT_IOERR, discard_no_sectors, DISCARD },
	{ "discard-too-many", OUT_IOERR | OUT_UNSUPP, discard_too_many, DISCARD },
	{ "discard-short", OUT_IOERR | OUT_UNSUPP, discard_short, DISCARD },
	{ "discard-one-and-a-bit", OUT_IOERR | OUT_UNSUPP, discard_one_and_a_bit, DISCARD },
	{ "discard-not-negotiated", OUT_OK | OUT_IOERR | OUT_UNSUPP, discard_not_negotiated, DISCARD },
	{ "zeroes-good", OUT_OK, zeroes_right, ZEROES },
	{ "zeroes-unmap", OUT_OK, zeroes_right_unmap, ZEROES },
	{ "zeroes-unknown-flags", OUT_UNSUPP, zeroes_unknown_flags, ZEROES },
	{ "zeroes-huge", OUT_IOERR, zeroes_huge, ZEROES },
	{ "zeroes-beyond-capacity", OUT_IOERR, zeroes_beyond, ZEROES },
	{ "zeroes-across-end", OUT_IOERR, zeroes_across_end, ZEROES },
	{ "zeroes-sector-wraps", OUT_IOERR, zeroes_wraps, ZEROES },
	{ "zeroes-offset-wraps", OUT_IOERR, zeroes_offset_wraps, ZEROES },
	{ "zeroes-no-sectors", OUT_OK | OUT_IOERR, zeroes_no_sectors, ZEROES },
	{ "zeroes-too-many", OUT_IOERR | OUT_UNSUPP, zeroes_too_many, ZEROES },
	{ "zeroes-short", OUT_IOERR | OUT_UNSUPP, zeroes_short, ZEROES },
	{ "zeroes-one-and-a-bit", OUT_IOERR | OUT_UNSUPP, zeroes_one_and_a_bit, ZEROES },
	{ "zeroes-not-negotiated", OUT_OK | OUT_IOERR | OUT_UNSUPP, zeroes_not_negotiated, ZEROES },
	{ NULL, 0, NULL, 0 },
};
