/* hostile_queue.c: queues set up wrongly, or at the wrong moment (virtio 1.2, 3.1.1 and 4.2.2). */
#include "hostile.h"
#include "io.h"

static void write64(struct hostile *h, uint64_t reg_low, uint64_t value)
{
	vdev_write(&h->b->dev, reg_low, (uint32_t)value);
	vdev_write(&h->b->dev, reg_low + 4, (uint32_t)(value >> 32));
}

/* Through reset and FEATURES_OK, with queue 0 selected and its rings empty. */
static bool until_queues(struct hostile *h)
{
	struct vdev *d = &h->b->dev;
	uint32_t max;

	if (!vdev_reset(d) || !vdev_negotiate(d, BLK_WANTED, 0))
		return false;
	vdev_write(d, VIRTIO_MMIO_QUEUE_SEL, 0);
	max = vdev_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX);
	virtq_clear(&h->b->vq, (uint16_t)(max < 256 ? max : 256));
	return true;
}

/* The rest of the way with these values, and one good read if the device goes along. */
static enum outcome queue_with(struct hostile *h, uint32_t size, uint64_t desc, uint64_t avail, uint64_t used)
{
	struct vdev *d = &h->b->dev;

	vdev_write(d, VIRTIO_MMIO_QUEUE_NUM, size);
	write64(h, VIRTIO_MMIO_QUEUE_DESC_LOW, desc);
	write64(h, VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail);
	write64(h, VIRTIO_MMIO_QUEUE_USED_LOW, used);
	vdev_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	if (!(vdev_read(d, VIRTIO_MMIO_QUEUE_READY) & 1))
		return OUT_REFUSED;
	vdev_add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

static enum outcome with_size(struct hostile *h, uint32_t size)
{
	const struct virtq *vq = &h->b->vq;

	if (!until_queues(h))
		return OUT_REFUSED;
	return queue_with(h, size, (uint64_t)vq->desc, (uint64_t)vq->avail, (uint64_t)vq->used);
}

static enum outcome size_zero(struct hostile *h)
{
	return with_size(h, 0);
}

static enum outcome size_odd(struct hostile *h)
{
	return with_size(h, 100);
}

static enum outcome size_too_big(struct hostile *h)
{
	return with_size(h, vdev_read(&h->b->dev, VIRTIO_MMIO_QUEUE_NUM_MAX) * 2);
}

static enum outcome size_wraps(struct hostile *h)
{
	return with_size(h, 0x10008);
}

enum ring { DESC, AVAIL, USED };

static enum outcome ring_at(struct hostile *h, enum ring which, uint64_t addr)
{
	const struct virtq *vq = &h->b->vq;
	uint64_t at[3] = { (uint64_t)vq->desc, (uint64_t)vq->avail, (uint64_t)vq->used };

	if (!until_queues(h))
		return OUT_REFUSED;
	at[which] = addr;
	return queue_with(h, vq->size, at[0], at[1], at[2]);
}

static enum outcome desc_outside_ram(struct hostile *h)
{
	return ring_at(h, DESC, h->outside);
}

static enum outcome avail_outside_ram(struct hostile *h)
{
	return ring_at(h, AVAIL, h->outside);
}

static enum outcome used_outside_ram(struct hostile *h)
{
	return ring_at(h, USED, h->outside);
}

static enum outcome desc_straddles_end(struct hostile *h)
{
	return ring_at(h, DESC, h->outside - 16);
}

static enum outcome avail_straddles_end(struct hostile *h)
{
	return ring_at(h, AVAIL, h->outside - 4);
}

static enum outcome used_straddles_end(struct hostile *h)
{
	return ring_at(h, USED, h->outside - 4);
}

static enum outcome desc_wraps(struct hostile *h)
{
	return ring_at(h, DESC, ~0ull - 15);
}

static enum outcome used_wraps(struct hostile *h)
{
	return ring_at(h, USED, ~0ull - 3);
}

static enum outcome used_in_device(struct hostile *h)
{
	return ring_at(h, USED, h->b->dev.base);
}

static enum outcome desc_unaligned(struct hostile *h)
{
	return ring_at(h, DESC, (uint64_t)h->d + 8);
}

static enum outcome avail_unaligned(struct hostile *h)
{
	return ring_at(h, AVAIL, (uint64_t)h->b->vq.avail + 1);
}

static enum outcome used_unaligned(struct hostile *h)
{
	return ring_at(h, USED, (uint64_t)h->b->vq.used + 2);
}

static enum outcome all_rings_one(struct hostile *h)
{
	uint64_t at = (uint64_t)h->table;

	if (!until_queues(h))
		return OUT_REFUSED;
	return queue_with(h, h->b->vq.size, at, at, at);
}

static enum outcome ready_without_addresses(struct hostile *h)
{
	if (!until_queues(h))
		return OUT_REFUSED;
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_READY, 1);
	vdev_add_status(&h->b->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

/* No queue at all: DRIVER_OK, then a notification. */
static enum outcome never_ready(struct hostile *h)
{
	if (!until_queues(h))
		return OUT_REFUSED;
	vdev_add_status(&h->b->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

/* 4.2.2.2: the driver must not touch size and addresses of a ready queue. */
static enum outcome changed_when_ready(struct hostile *h)
{
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_SEL, 0);
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_NUM, 2);
	write64(h, VIRTIO_MMIO_QUEUE_DESC_LOW, h->outside);
	write64(h, VIRTIO_MMIO_QUEUE_AVAIL_LOW, h->outside);
	write64(h, VIRTIO_MMIO_QUEUE_USED_LOW, h->outside);
	return still_works(h);
}

/* QueueReady 0 and 1 again with the rings as they were: stopped, then alive or still stopped, but not crashed. */
static enum outcome stopped_and_started(struct hostile *h)
{
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_SEL, 0);
	vdev_write(&h->b->dev, VIRTIO_MMIO_QUEUE_READY, 0);
	virtq_clear(&h->b->vq, h->b->vq.size);
	virtq_program(&h->b->vq);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

/* 3.1.1: nothing is consumed before DRIVER_OK. */
static enum outcome notified_too_early(struct hostile *h)
{
	enum outcome o;

	if (!until_queues(h))
		return OUT_REFUSED;
	virtq_program(&h->b->vq);
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	o = fire(h, 0);
	if (o != OUT_IGNORED)
		return o;
	/* The request is not lost either: after DRIVER_OK a notification brings it through. */
	vdev_add_status(&h->b->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	virtq_notify(&h->b->vq);
	return outcome(h) == OUT_OK ? OUT_IGNORED : OUT_CORRUPT;
}

static enum outcome driver_ok_too_early(struct hostile *h)
{
	struct vdev *d = &h->b->dev;

	if (!vdev_reset(d))
		return OUT_REFUSED;
	virtq_clear(&h->b->vq, h->b->vq.size);
	vdev_add_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	virtq_program(&h->b->vq);
	vdev_add_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
	if (!(vdev_status(d) & VIRTIO_CONFIG_S_DRIVER_OK))
		return OUT_REFUSED;
	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	return fire(h, 0);
}

/*
 * A reset in the middle of I/O: once the status reads 0, the device touches neither the buffers nor the rings any more
 * (2.4.1). The buffers are repainted and watched.
 */
static enum outcome reset_in_flight(struct hostile *h)
{
	struct virtq *vq = &h->b->vq;
	uint32_t each = DATA_LEN / 16;
	uint64_t end;
	uint16_t i, used;

	for (i = 0; i < 16; i++) {
		usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, each);
		set_desc(&h->d[3 * i], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), VRING_DESC_F_NEXT,
			 (uint16_t)(3 * i + 1));
		set_desc(&h->d[3 * i + 1], (uint64_t)h->data + i * each, each, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
			 (uint16_t)(3 * i + 2));
		set_desc(&h->d[3 * i + 2], (uint64_t)h->status, 1, VRING_DESC_F_WRITE, 0);
		virtq_offer(vq, (uint16_t)(3 * i));
	}
	virtq_notify(vq);
	if (!vdev_reset(&h->b->dev))
		return OUT_IGNORED;
	memset(h->data, CANARY, DATA_LEN);
	*h->status = STATUS_UNTOUCHED;
	used = *(volatile uint16_t *)&vq->used->idx;
	for (end = ticks() + 50 * TICKS_PER_MS; ticks() < end;)
		pause();
	for (i = 0; i < DATA_LEN / 8; i++) {
		if (((volatile uint64_t *)h->data)[i] != 0x5a5a5a5a5a5a5a5aull)
			return OUT_CORRUPT;
	}
	if (*(volatile uint8_t *)h->status != STATUS_UNTOUCHED || *(volatile uint16_t *)&vq->used->idx != used)
		return OUT_CORRUPT;
	return OUT_OK;
}

static enum outcome reset_twice(struct hostile *h)
{
	if (!vdev_reset(&h->b->dev) || !vdev_reset(&h->b->dev))
		return OUT_IGNORED;
	return OUT_OK;
}

#define OUT_BAD_QUEUE (OUT_NEEDS_RESET | OUT_REFUSED)

const struct attack queue_attacks[] = {
	{ "queue-size-zero", OUT_BAD_QUEUE, size_zero, 0 },
	{ "queue-size-odd", OUT_BAD_QUEUE, size_odd, 0 },
	{ "queue-size-too-big", OUT_BAD_QUEUE, size_too_big, 0 },
	{ "queue-size-wraps", OUT_BAD_QUEUE, size_wraps, 0 },
	{ "queue-desc-outside-ram", OUT_BAD_QUEUE, desc_outside_ram, 0 },
	{ "queue-avail-outside-ram", OUT_BAD_QUEUE, avail_outside_ram, 0 },
	{ "queue-used-outside-ram", OUT_BAD_QUEUE, used_outside_ram, 0 },
	{ "queue-desc-straddles-end", OUT_BAD_QUEUE, desc_straddles_end, 0 },
	{ "queue-avail-straddles-end", OUT_BAD_QUEUE, avail_straddles_end, 0 },
	{ "queue-used-straddles-end", OUT_BAD_QUEUE, used_straddles_end, 0 },
	{ "queue-desc-wraps", OUT_BAD_QUEUE, desc_wraps, 0 },
	{ "queue-used-wraps", OUT_BAD_QUEUE, used_wraps, 0 },
	{ "queue-used-in-device", OUT_BAD_QUEUE, used_in_device, 0 },
	{ "queue-desc-unaligned", OUT_BAD_QUEUE, desc_unaligned, 0 },
	{ "queue-avail-unaligned", OUT_BAD_QUEUE, avail_unaligned, 0 },
	{ "queue-used-unaligned", OUT_BAD_QUEUE, used_unaligned, 0 },
	{ "queue-all-rings-one", OUT_NEEDS_RESET | OUT_REFUSED | OUT_IGNORED, all_rings_one, 0 },
	{ "queue-without-addresses", OUT_NEEDS_RESET | OUT_REFUSED | OUT_IGNORED, ready_without_addresses, 0 },
	{ "queue-never-ready", OUT_IGNORED | OUT_NEEDS_RESET, never_ready, 0 },
	{ "queue-changed-when-ready", OUT_IGNORED | OUT_NEEDS_RESET, changed_when_ready, 0 },
	{ "queue-stopped-and-started", OUT_OK | OUT_IGNORED | OUT_NEEDS_RESET, stopped_and_started, 0 },
	{ "notified-before-driver-ok", OUT_IGNORED, notified_too_early, 0 },
	{ "driver-ok-before-features-ok", OUT_IGNORED | OUT_REFUSED | OUT_NEEDS_RESET, driver_ok_too_early, 0 },
	{ "reset-in-flight", OUT_OK, reset_in_flight, 0 },
	{ "reset-twice", OUT_OK, reset_twice, 0 },
	{ NULL, 0, NULL, 0 },
};
