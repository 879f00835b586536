/* blk.c: opens block devices and sends them one request at a time. */
#include "blk.h"
#include "io.h"

#define DEFAULT_QUEUE 256

static struct blk *blk_new(struct guest *g, uint64_t base)
{
	struct blk *b = alloc(g, sizeof(*b), 64);

	if (!b)
		return NULL;
	b->g = g;
	b->index = g->nr_blk;
	b->dev.base = base;
	/* A page each, so that a device that writes too much does not hit the next one. */
	b->hdr = alloc(g, sizeof(*b->hdr), 4096);
	b->status = alloc(g, 1, 4096);
	b->bounce = alloc(g, BOUNCE_SECTORS * SECTOR, 4096);
	if (!b->hdr || !b->status || !b->bounce || !virtq_alloc(g, &b->vq, &b->dev, 0))
		return NULL;
	return b;
}

static void blk_search(struct guest *g)
{
	struct vdev d = { 0 };
	unsigned int i;

	g->blk_searched = true;
	for (i = 0; i < g->nr_devices && g->nr_blk < MAX_BLK; i++) {
		d.base = g->device[i];
		if (vdev_read(&d, VIRTIO_MMIO_MAGIC_VALUE) != MMIO_MAGIC || vdev_read(&d, VIRTIO_MMIO_VERSION) != 2 ||
		    vdev_read(&d, VIRTIO_MMIO_DEVICE_ID) != VIRTIO_ID_BLOCK)
			continue;
		g->blk[g->nr_blk] = blk_new(g, d.base);
		if (g->blk[g->nr_blk])
			g->nr_blk++;
	}
}

struct blk *blk_get(struct guest *g, unsigned int index)
{
	if (!g->blk_searched)
		blk_search(g);
	if (index < g->nr_blk)
		return g->blk[index];
	say("no block device %u: there are %u\n", index, g->nr_blk);
	return NULL;
}

uint32_t blk_config(const struct blk *b, uint64_t offset)
{
	return vdev_read(&b->dev, VIRTIO_MMIO_CONFIG + offset);
}

bool blk_has(const struct blk *b, unsigned int feature)
{
	return b->dev.accepted & FEATURE(feature);
}

static uint64_t read_capacity(const struct blk *b)
{
	uint32_t generation;
	uint64_t capacity;

	/* virtio 1.2, 2.5.1: several reads of one field belong together only if the generation did not change. */
	do {
		generation = vdev_read(&b->dev, VIRTIO_MMIO_CONFIG_GENERATION);
		capacity = blk_config(b, 0) | (uint64_t)blk_config(b, 4) << 32;
	} while (generation != vdev_read(&b->dev, VIRTIO_MMIO_CONFIG_GENERATION));
	return capacity;
}

bool blk_open(struct blk *b, uint64_t want, uint16_t size)
{
	uint32_t max;

	b->open = false;
	if (!vdev_reset(&b->dev)) {
		say("blk %u: no end to its reset\n", b->index);
		return false;
	}
	if (!vdev_negotiate(&b->dev, want, 0)) {
		say("blk %u: refuses features 0x%llx\n", b->index, (unsigned long long)b->dev.accepted);
		return false;
	}
	vdev_write(&b->dev, VIRTIO_MMIO_QUEUE_SEL, 0);
	max = vdev_read(&b->dev, VIRTIO_MMIO_QUEUE_NUM_MAX);
	if (!size)
		size = DEFAULT_QUEUE;
	if (size > max)
		size = (uint16_t)max;
	virtq_clear(&b->vq, size);
	virtq_program(&b->vq);
	vdev_add_status(&b->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	b->capacity = read_capacity(b);
	b->open = true;
	return true;
}

int blk_request(struct blk *b, uint32_t type, uint64_t sector, void *data, uint32_t len, bool in)
{
	struct segment seg[3] = {
		{ (uint64_t)b->hdr, sizeof(*b->hdr), false },
		{ (uint64_t)data, len, in },
	};
	unsigned int n = data ? 2 : 1;
	uint32_t used_len;
	int state;

	*b->hdr = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*b->status = STATUS_UNTOUCHED;
	seg[n++] = (struct segment){ (uint64_t)b->status, 1, true };
	virtq_add(&b->vq, seg, n, NULL);
	virtq_kick(&b->vq);
	state = virtq_wait(&b->vq, IO_PATIENCE_MS);
	if (state == 1 && virtq_pop(&b->vq, &used_len) >= 0)
		return *(volatile uint8_t *)b->status;
	say("blk %u: %s\n", b->index, state < 0 ? "the device needs a reset" : "no answer to a request");
	b->open = false;
	return -1;
}

const char *blk_status_name(int status)
{
	switch (status) {
	case VIRTIO_BLK_S_OK:
		return "ok";
	case VIRTIO_BLK_S_IOERR:
		return "ioerr";
	case VIRTIO_BLK_S_UNSUPP:
		return "unsupp";
	case -1:
		return "unfinished";
	default:
		return "odd";
	}
}

void sector_fill(uint64_t *data, uint64_t seed, uint64_t sector, uint64_t tag)
{
	uint64_t word = sector_key(seed, sector, tag);
	unsigned int i;

	for (i = 0; i < SECTOR_WORDS; i++, word += GAMMA)
		data[i] = word;
}

bool sector_check(const uint64_t *data, uint64_t seed, uint64_t sector, uint64_t tag)
{
	uint64_t word = sector_key(seed, sector, tag);
	unsigned int i;

	for (i = 0; i < SECTOR_WORDS; i++, word += GAMMA) {
		if (data[i] == word)
			continue;
		say("sector %llu, byte %u: 0x%llx instead of 0x%llx\n", (unsigned long long)sector, i * 8,
		    (unsigned long long)data[i], (unsigned long long)word);
		return false;
	}
	return true;
}
