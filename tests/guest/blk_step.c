/* blk_step.c: the verbs of "blk INDEX VERB …" that send one request at a time. */
#include "blk.h"
#include "io.h"

/* The status against expect= (ok unless said otherwise). */
static bool as_expected(struct step *s, int status)
{
	const char *want = step_text(s, "expect", "ok");

	if (equal(blk_status_name(status), want))
		return true;
	say("blk %s: %s (expected %s)\n", s->word[2], blk_status_name(status), want);
	return false;
}

static bool sector_range(struct step *s, uint64_t *sector, uint64_t *n)
{
	return step_number(s, 3, sector) && step_number(s, 4, n);
}

static bool do_open(struct blk *b, struct step *s)
{
	uint64_t want = BLK_WANTED;

	if (!step_option(s, "event", 1))
		want &= ~FEATURE(VIRTIO_RING_F_EVENT_IDX);
	if (!step_option(s, "indirect", 1))
		want &= ~FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
	want = step_option(s, "want", want);
	return blk_open(b, want, (uint16_t)step_option(s, "q", 0));
}

static bool do_info(struct blk *b, struct step *s)
{
	uint8_t *id = b->bounce;
	int status;

	(void)s;
	say("blk %u: dev at 0x%llx, %llu sectors, offered 0x%llx, accepted 0x%llx, queue %u of %u\n", b->index,
	    (unsigned long long)b->dev.base, (unsigned long long)b->capacity, (unsigned long long)b->dev.offered,
	    (unsigned long long)b->dev.accepted, b->vq.size, vdev_read(&b->dev, VIRTIO_MMIO_QUEUE_NUM_MAX));
	say("blk %u: seg_max %u, block size %u, max discard %u sectors in %u segments, max zeroes %u in %u\n", b->index,
	    blk_config(b, 12), blk_config(b, 20), blk_config(b, 36), blk_config(b, 40), blk_config(b, 48),
	    blk_config(b, 52));
	memset(id, 0, VIRTIO_BLK_ID_BYTES + 1);
	status = blk_request(b, VIRTIO_BLK_T_GET_ID, 0, id, VIRTIO_BLK_ID_BYTES, true);
	say("blk %u: id \"%s\" (%s)\n", b->index, (char *)id, blk_status_name(status));
	return status >= 0;
}

/* write, read and zero work through the bounce buffer, as many requests as it takes. */
static bool do_write(struct blk *b, struct step *s)
{
	uint64_t seed = step_option(s, "seed", 0);
	bool zero = equal(s->word[2], "zero");
	uint64_t sector, n, i, chunk;
	int status = 0;

	if (!sector_range(s, &sector, &n))
		return false;
	for (; n && status == VIRTIO_BLK_S_OK; n -= chunk, sector += chunk) {
		chunk = n < BOUNCE_SECTORS ? n : BOUNCE_SECTORS;
		memset(b->bounce, 0, chunk * SECTOR);
		for (i = 0; i < chunk && !zero; i++)
			sector_fill((uint64_t *)(b->bounce + i * SECTOR), seed, sector + i, 0);
		status = blk_request(b, VIRTIO_BLK_T_OUT, sector, b->bounce, (uint32_t)(chunk * SECTOR), false);
	}
	return as_expected(s, status);
}

static bool all_zero(const uint64_t *data, uint64_t words)
{
	uint64_t i;

	for (i = 0; i < words; i++) {
		if (data[i])
			return false;
	}
	return true;
}

/* read S N: seed= checks a pattern, zero=1 checks for zeros, neither checks nothing. */
static bool do_read(struct blk *b, struct step *s)
{
	bool has_seed = step_text(s, "seed", NULL);
	uint64_t seed = step_option(s, "seed", 0);
	uint64_t zero = step_option(s, "zero", 0);
	uint64_t sector, n, i, chunk;
	int status = 0;

	if (!sector_range(s, &sector, &n))
		return false;
	for (; n && status == VIRTIO_BLK_S_OK; n -= chunk, sector += chunk) {
		chunk = n < BOUNCE_SECTORS ? n : BOUNCE_SECTORS;
		memset(b->bounce, 0xa5, chunk * SECTOR);
		status = blk_request(b, VIRTIO_BLK_T_IN, sector, b->bounce, (uint32_t)(chunk * SECTOR), true);
		if (status != VIRTIO_BLK_S_OK)
			break;
		for (i = 0; i < chunk && has_seed; i++) {
			if (!sector_check((uint64_t *)(b->bounce + i * SECTOR), seed, sector + i, 0))
				return false;
		}
		if (zero && !all_zero((uint64_t *)b->bounce, chunk * SECTOR_WORDS)) {
			say("sectors %llu+%llu are not all zero\n", (unsigned long long)sector,
			    (unsigned long long)chunk);
			return false;
		}
	}
	return as_expected(s, status);
}

static bool do_discard(struct blk *b, struct step *s)
{
	struct virtio_blk_discard_write_zeroes *range = (void *)b->bounce;
	bool discard = equal(s->word[2], "discard");
	uint64_t sector, n;

	if (!sector_range(s, &sector, &n))
		return false;
	*range = (struct virtio_blk_discard_write_zeroes){
		.sector = sector,
		.num_sectors = (uint32_t)n,
		.flags = step_option(s, "unmap", 0) ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
	};
	return as_expected(s, blk_request(b, discard ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES, 0, range,
					  sizeof(*range), false));
}

static bool do_flush(struct blk *b, struct step *s)
{
	return as_expected(s, blk_request(b, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, false));
}

/* id TEXT: the device's serial number is exactly TEXT. */
static bool do_id(struct blk *b, struct step *s)
{
	char *id = (char *)b->bounce;

	memset(id, 0, VIRTIO_BLK_ID_BYTES + 1);
	if (!as_expected(s, blk_request(b, VIRTIO_BLK_T_GET_ID, 0, id, VIRTIO_BLK_ID_BYTES, true)))
		return false;
	say("blk %u: id \"%s\"\n", b->index, id);
	return s->nr < 4 || equal(id, s->word[3]);
}

/* capacity N: the device has exactly N sectors. */
static bool do_capacity(struct blk *b, struct step *s)
{
	uint64_t n;

	say("blk %u: %llu sectors\n", b->index, (unsigned long long)b->capacity);
	return step_number(s, 3, &n) && n == b->capacity;
}

/* A used buffer raises InterruptStatus bit 0 and InterruptACK clears it (4.2.2); NO_INTERRUPT is only a hint. */
static bool do_interrupt(struct blk *b, struct step *s)
{
	uint32_t before, raised, after;

	(void)s;
	vdev_write(&b->dev, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	before = vdev_read(&b->dev, VIRTIO_MMIO_INTERRUPT_STATUS);
	b->vq.avail->ring[b->vq.size] = b->vq.last_used; /* used_event: tell me about the next one */
	if (blk_request(b, VIRTIO_BLK_T_IN, 0, b->bounce, SECTOR, true) < 0)
		return false;
	/* The interrupt follows the used index, it does not precede it. */
	for (raised = 0, after = 0; after < 100000 && !raised; after++)
		raised = vdev_read(&b->dev, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_VRING;
	vdev_write(&b->dev, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	after = vdev_read(&b->dev, VIRTIO_MMIO_INTERRUPT_STATUS);
	say("blk %u: interrupt status 0x%x before, 0x%x when done, 0x%x acknowledged\n", b->index, before, raised,
	    after);
	return !(before & VIRTIO_MMIO_INT_VRING) && raised && !(after & VIRTIO_MMIO_INT_VRING);
}

static const struct {
	const char *name;
	bool (*run)(struct blk *b, struct step *s);
	bool needs_open;
} verbs[] = {
	{ "open", do_open, false },           { "info", do_info, true },           { "write", do_write, true },
	{ "zero", do_write, true },           { "read", do_read, true },           { "discard", do_discard, true },
	{ "write-zeroes", do_discard, true }, { "flush", do_flush, true },         { "id", do_id, true },
	{ "capacity", do_capacity, true },    { "interrupt", do_interrupt, true }, { "fill", workload_fill, true },
	{ "verify", workload_verify, true },  { "fuzz", workload_fuzz, true },     { "bench", workload_bench, true },
	{ "hostile", hostile_step, false },
};

bool blk_step(struct step *s)
{
	struct blk *b;
	uint64_t index;
	unsigned int i;

	if (!step_number(s, 1, &index) || s->nr < 3)
		return false;
	b = blk_get(s->g, (unsigned int)index);
	if (!b)
		return false;
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (!equal(s->word[2], verbs[i].name))
			continue;
		if (verbs[i].needs_open && !b->open && !blk_open(b, BLK_WANTED, 0))
			return false;
		return verbs[i].run(b, s);
	}
	say("no such verb: \"%s\"\n", s->word[2]);
	return false;
}
