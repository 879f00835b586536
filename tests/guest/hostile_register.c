/* hostile_register.c: registers read and written in ways the transport (virtio 1.2, 4.2) does not foresee. */
#include "hostile.h"
#include "io.h"

#define MMIO_LEN    0x1000u
#define UNKNOWN_BIT (1ull << 60)

static enum outcome notify_other_queues(struct hostile *h)
{
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_NOTIFY, 7);
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_NOTIFY, 0x10000);
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_NOTIFY, 0xffffffff);
	return still_works(h);
}

/* With nothing in the queue, again and again: also what makes a queue busy. */
static enum outcome notify_storm(struct hostile *h)
{
	unsigned int i;

	for (i = 0; i < 2000; i++)
		virtq_notify(&h->b->vq);
	return still_works(h);
}

static enum outcome select_other_queues(struct hostile *h)
{
	static const uint32_t queue[] = { 1, 8, 0xffff, 0x10000, 0xffffffff };
	struct vdev *d = &h->b->dev;
	unsigned int i;

	for (i = 0; i < sizeof(queue) / sizeof(queue[0]); i++) {
		vdev_write(d, VIRTIO_MMIO_QUEUE_SEL, queue[i]);
		/* 4.2.2: 0 means that there is no such queue. */
		if (queue[i] != 1 && vdev_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX))
			return OUT_CORRUPT;
		vdev_write(d, VIRTIO_MMIO_QUEUE_NUM, 8);
		vdev_write(d, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
		vdev_write(d, VIRTIO_MMIO_QUEUE_READY, 0);
		vdev_read(d, VIRTIO_MMIO_QUEUE_READY);
	}
	return still_works(h);
}

static enum outcome select_other_features(struct hostile *h)
{
	struct vdev *d = &h->b->dev;

	vdev_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	if (vdev_read(d, VIRTIO_MMIO_DEVICE_FEATURES))
		return OUT_CORRUPT;
	vdev_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0xffffffff);
	if (vdev_read(d, VIRTIO_MMIO_DEVICE_FEATURES))
		return OUT_CORRUPT;
	return still_works(h);
}

/* 2.2.2: a device must refuse features it did not offer, and a modern-only one must have VERSION_1. */
static enum outcome negotiate_odd(struct hostile *h, uint64_t want, uint64_t force)
{
	if (!vdev_reset(&h->b->dev))
		return OUT_IGNORED;
	return vdev_negotiate(&h->b->dev, want, force) ? OUT_OK : OUT_REFUSED;
}

static enum outcome without_version_1(struct hostile *h)
{
	return negotiate_odd(h, BLK_WANTED & ~FEATURE(VIRTIO_F_VERSION_1), 0);
}

static enum outcome without_features(struct hostile *h)
{
	return negotiate_odd(h, 0, 0);
}

static enum outcome unoffered_feature(struct hostile *h)
{
	return negotiate_odd(h, BLK_WANTED, UNKNOWN_BIT);
}

static enum outcome all_features(struct hostile *h)
{
	return negotiate_odd(h, 0, ~0ull);
}

/* Feature words 2 … exist in later versions of virtio; bits set there were not offered. */
static enum outcome unoffered_word(struct hostile *h)
{
	struct vdev *d = &h->b->dev;

	if (!vdev_reset(d))
		return OUT_IGNORED;
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 0xffffffff);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0xffffffff);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 0xffffffff);
	return vdev_negotiate(d, BLK_WANTED, 0) ? OUT_OK : OUT_REFUSED;
}

/* After FEATURES_OK the set is fixed: giving up INDIRECT now must not make the device refuse it. */
static enum outcome features_too_late(struct hostile *h)
{
	struct vdev *d = &h->b->dev;

	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 0xffffffff);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 0xffffffff);
	return still_works(h);
}

/* 2.1.1: the driver must not clear a status bit. */
static enum outcome status_goes_back(struct hostile *h)
{
	vdev_write(&h->b->dev, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

static enum outcome status_all_ones(struct hostile *h)
{
	vdev_write(&h->b->dev, VIRTIO_MMIO_STATUS, 0xffffffff);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

static enum outcome status_failed(struct hostile *h)
{
	vdev_add_status(&h->b->dev, VIRTIO_CONFIG_S_FAILED);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

static enum outcome interrupt_ack_garbage(struct hostile *h)
{
	vdev_write(&h->b->dev, VIRTIO_MMIO_INTERRUPT_ACK, 0xffffffff);
	return still_works(h);
}

/* 4.2.2: MemoryRegion lengths of −1 mean that there is none. */
static enum outcome shared_memory(struct hostile *h)
{
	struct vdev *d = &h->b->dev;

	vdev_write(d, VIRTIO_MMIO_SHM_SEL, 0);
	if (vdev_read(d, VIRTIO_MMIO_SHM_LEN_LOW) != 0xffffffff || vdev_read(d, VIRTIO_MMIO_SHM_LEN_HIGH) != 0xffffffff)
		return OUT_CORRUPT;
	return still_works(h);
}

static enum outcome write_read_only(struct hostile *h)
{
	struct vdev *d = &h->b->dev;
	uint32_t max = vdev_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX);

	vdev_write(d, VIRTIO_MMIO_MAGIC_VALUE, 0);
	vdev_write(d, VIRTIO_MMIO_VERSION, 1);
	vdev_write(d, VIRTIO_MMIO_DEVICE_ID, 1);
	vdev_write(d, VIRTIO_MMIO_VENDOR_ID, 1);
	vdev_write(d, VIRTIO_MMIO_DEVICE_FEATURES, 1);
	vdev_write(d, VIRTIO_MMIO_QUEUE_NUM_MAX, 1);
	vdev_write(d, VIRTIO_MMIO_INTERRUPT_STATUS, 3);
	vdev_write(d, VIRTIO_MMIO_CONFIG_GENERATION, 77);
	if (vdev_read(d, VIRTIO_MMIO_MAGIC_VALUE) != MMIO_MAGIC || vdev_read(d, VIRTIO_MMIO_VERSION) != 2 ||
	    vdev_read(d, VIRTIO_MMIO_DEVICE_ID) != VIRTIO_ID_BLOCK || vdev_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX) != max)
		return OUT_CORRUPT;
	return still_works(h);
}

/* Every register below the configuration space that has no meaning, and all the rest of the page. */
static enum outcome reserved_registers(struct hostile *h)
{
	static const uint32_t hole[] = { 0x018, 0x01c, 0x028, 0x02c, 0x03c, 0x040, 0x048, 0x04c, 0x054, 0x058,
					 0x05c, 0x068, 0x06c, 0x074, 0x078, 0x07c, 0x088, 0x08c, 0x098, 0x09c };
	unsigned int i;

	for (i = 0; i < sizeof(hole) / sizeof(hole[0]); i++) {
		vdev_read(&h->b->dev, hole[i]);
		vdev_write(&h->b->dev, hole[i], 0xffffffff);
	}
	return still_works(h);
}

static enum outcome read_every_byte(struct hostile *h)
{
	uint64_t at;

	/* Each size once at each offset would take a minute on a slow host: strides that share no factor do. */
	for (at = 0; at < MMIO_LEN; at += 7)
		mmio_read8(h->b->dev.base + at);
	for (at = 0; at < MMIO_LEN - 1; at += 13)
		mmio_read16(h->b->dev.base + at);
	for (at = 0; at < MMIO_LEN - 3; at += 19)
		mmio_read32(h->b->dev.base + at);
	for (at = 0; at < MMIO_LEN - 7; at += 29)
		mmio_read64(h->b->dev.base + at);
	return still_works(h);
}

/* 4.2.2.2: registers are accessed by 32 aligned bits only. None of these writes may have an effect. */
static enum outcome odd_writes(struct hostile *h)
{
	uint64_t base = h->b->dev.base;

	mmio_write8(base + VIRTIO_MMIO_STATUS, 0);
	mmio_write16(base + VIRTIO_MMIO_STATUS, 0);
	mmio_write64(base + VIRTIO_MMIO_STATUS, 0);
	mmio_write32(base + VIRTIO_MMIO_STATUS + 1, 0);
	mmio_write32(base + VIRTIO_MMIO_STATUS - 2, 0);
	mmio_write16(base + VIRTIO_MMIO_QUEUE_SEL, 5);
	mmio_write64(base + VIRTIO_MMIO_QUEUE_SEL, ~0ull);
	mmio_write8(base + VIRTIO_MMIO_QUEUE_READY, 0);
	mmio_write64(base + VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
	mmio_write16(base + VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	return still_works(h);
}

/* The last bytes of the page, and across its end into whatever comes next. */
static enum outcome across_the_page(struct hostile *h)
{
	uint64_t end = h->b->dev.base + MMIO_LEN;

	mmio_read32(end - 2);
	mmio_read64(end - 4);
	mmio_write32(end - 2, 0);
	return still_works(h);
}

static enum outcome config_beyond(struct hostile *h)
{
	uint64_t base = h->b->dev.base + VIRTIO_MMIO_CONFIG;

	mmio_read32(base + sizeof(struct virtio_blk_config));
	mmio_read32(base + sizeof(struct virtio_blk_config) - 2);
	mmio_read64(base + sizeof(struct virtio_blk_config) - 4);
	mmio_read32(base + MMIO_LEN - VIRTIO_MMIO_CONFIG - 4);
	mmio_write32(base + sizeof(struct virtio_blk_config), 0xffffffff);
	mmio_write64(base + sizeof(struct virtio_blk_config) - 4, ~0ull);
	mmio_write32(base + MMIO_LEN - VIRTIO_MMIO_CONFIG - 4, 0xffffffff);
	return still_works(h);
}

/* 5.2.4: everything but writeback is read-only. Byte 32 is writeback; it is left alone. */
static enum outcome config_write(struct hostile *h)
{
	uint64_t base = h->b->dev.base + VIRTIO_MMIO_CONFIG;
	uint64_t at;

	for (at = 0; at < 60; at += 4) {
		if (at != 32)
			mmio_write32(base + at, 0xffffffff);
	}
	for (at = 0; at < 32; at++)
		mmio_write8(base + at, 0);
	if ((blk_config(h->b, 0) | (uint64_t)blk_config(h->b, 4) << 32) != h->b->capacity)
		return OUT_CORRUPT;
	return still_works(h);
}

/* A value for writeback that is neither 0 nor 1, then each of these again. */
static enum outcome writeback_odd(struct hostile *h)
{
	uint64_t at = h->b->dev.base + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, wce);
	uint8_t before = mmio_read8(at);

	mmio_write8(at, 0xff);
	mmio_write8(at, 2);
	if (mmio_read8(at) > 1)
		return OUT_CORRUPT;
	mmio_write8(at, !before);
	mmio_write8(at, before);
	return still_works(h);
}

const struct attack register_attacks[] = {
	{ "notify-other-queues", OUT_IGNORED, notify_other_queues, 0 },
	{ "notify-storm", OUT_IGNORED, notify_storm, 0 },
	{ "select-other-queues", OUT_IGNORED, select_other_queues, 0 },
	{ "select-other-features", OUT_IGNORED, select_other_features, 0 },
	{ "without-version-1", OUT_REFUSED, without_version_1, 0 },
	{ "without-features", OUT_REFUSED, without_features, 0 },
	{ "unoffered-feature", OUT_REFUSED, unoffered_feature, 0 },
	{ "all-features", OUT_REFUSED, all_features, 0 },
	{ "unoffered-word", OUT_OK | OUT_REFUSED, unoffered_word, 0 },
	{ "features-too-late", OUT_IGNORED | OUT_NEEDS_RESET, features_too_late, 0 },
	{ "status-goes-back", OUT_ANY, status_goes_back, 0 },
	{ "status-all-ones", OUT_ANY | OUT_SILENT, status_all_ones, 0 },
	{ "status-failed", OUT_ANY, status_failed, 0 },
	{ "interrupt-ack-garbage", OUT_IGNORED, interrupt_ack_garbage, 0 },
	{ "shared-memory", OUT_IGNORED, shared_memory, 0 },
	{ "write-read-only", OUT_IGNORED, write_read_only, 0 },
	{ "reserved-registers", OUT_IGNORED, reserved_registers, 0 },
	{ "read-every-byte", OUT_IGNORED, read_every_byte, 0 },
	{ "odd-writes", OUT_IGNORED, odd_writes, 0 },
	{ "across-the-page", OUT_IGNORED, across_the_page, 0 },
	{ "config-beyond", OUT_IGNORED, config_beyond, 0 },
	{ "config-write", OUT_IGNORED, config_write, 0 },
	{ "writeback-odd", OUT_IGNORED, writeback_odd, FEATURE(VIRTIO_BLK_F_CONFIG_WCE) },
	{ NULL, 0, NULL, 0 },
};
