/* virtio.c: virtio-mmio transport (virtio 1.2, 4.2) and split queues (2.7), polled. */
#include "virtio.h"
#include "io.h"

#define RESET_PATIENCE_MS 5000
#define POLLS_PER_LOOK    32768

uint32_t vdev_read(const struct vdev *d, uint64_t reg)
{
	return mmio_read32(d->base + reg);
}

void vdev_write(const struct vdev *d, uint64_t reg, uint32_t value)
{
	mmio_write32(d->base + reg, value);
}

uint32_t vdev_status(const struct vdev *d)
{
	return vdev_read(d, VIRTIO_MMIO_STATUS);
}

void vdev_add_status(struct vdev *d, uint32_t bits)
{
	vdev_write(d, VIRTIO_MMIO_STATUS, vdev_status(d) | bits);
}

bool vdev_reset(struct vdev *d)
{
	uint64_t end = ticks() + RESET_PATIENCE_MS * TICKS_PER_MS;

	vdev_write(d, VIRTIO_MMIO_STATUS, 0);
	while (vdev_status(d)) {
		if (ticks() > end)
			return false;
		pause();
	}
	return true;
}

bool vdev_negotiate(struct vdev *d, uint64_t want, uint64_t force)
{
	vdev_add_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vdev_add_status(d, VIRTIO_CONFIG_S_DRIVER);
	vdev_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	d->offered = (uint64_t)vdev_read(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	vdev_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	d->offered |= vdev_read(d, VIRTIO_MMIO_DEVICE_FEATURES);
	d->accepted = (d->offered & want) | force;
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)d->accepted);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	vdev_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(d->accepted >> 32));
	vdev_add_status(d, VIRTIO_CONFIG_S_FEATURES_OK);
	return vdev_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

bool virtq_alloc(struct guest *g, struct virtq *vq, struct vdev *d, uint16_t index)
{
	vq->dev = d;
	vq->index = index;
	vq->desc = alloc(g, QUEUE_MAX * sizeof(*vq->desc), 4096);
	/* idx, flags and the event field besides the entries. */
	vq->avail = alloc(g, 6 + QUEUE_MAX * 2, 4096);
	vq->used = alloc(g, 6 + QUEUE_MAX * sizeof(vq->used->ring[0]), 4096);
	return vq->desc && vq->avail && vq->used;
}

void virtq_clear(struct virtq *vq, uint16_t size)
{
	uint16_t i;

	memset(vq->desc, 0, QUEUE_MAX * sizeof(*vq->desc));
	memset(vq->avail, 0, 6 + QUEUE_MAX * 2);
	memset(vq->used, 0, 6 + QUEUE_MAX * sizeof(vq->used->ring[0]));
	vq->size = size;
	vq->free = 0;
	vq->nr_free = size;
	for (i = 0; i < QUEUE_MAX; i++)
		vq->link[i] = (uint16_t)(i + 1);
	vq->next_avail = 0;
	vq->kicked = 0;
	vq->last_used = 0;
}

static void write_address(const struct vdev *d, uint64_t reg_low, const void *addr)
{
	vdev_write(d, reg_low, (uint32_t)(uint64_t)addr);
	vdev_write(d, reg_low + 4, (uint32_t)((uint64_t)addr >> 32));
}

void virtq_program(struct virtq *vq)
{
	struct vdev *d = vq->dev;

	vdev_write(d, VIRTIO_MMIO_QUEUE_SEL, vq->index);
	vdev_write(d, VIRTIO_MMIO_QUEUE_NUM, vq->size);
	write_address(d, VIRTIO_MMIO_QUEUE_DESC_LOW, vq->desc);
	write_address(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, vq->avail);
	write_address(d, VIRTIO_MMIO_QUEUE_USED_LOW, vq->used);
	vdev_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
}

static void fill_desc(struct vring_desc *desc, const struct segment *seg, bool last, uint16_t next)
{
	desc->addr = seg->addr;
	desc->len = seg->len;
	desc->flags = (uint16_t)((seg->in ? VRING_DESC_F_WRITE : 0) | (last ? 0 : VRING_DESC_F_NEXT));
	desc->next = last ? 0 : next;
}

static uint16_t take_desc(struct virtq *vq)
{
	uint16_t i = vq->free;

	vq->free = vq->link[i];
	vq->nr_free--;
	return i;
}

int virtq_add(struct virtq *vq, const struct segment *seg, unsigned int n, struct vring_desc *table)
{
	uint16_t head, at;
	unsigned int i;

	if (vq->nr_free < (table ? 1 : n))
		return -1;
	head = at = take_desc(vq);
	for (i = 0; i < n; i++) {
		if (table)
			fill_desc(&table[i], &seg[i], i + 1 == n, (uint16_t)(i + 1));
		else
			fill_desc(&vq->desc[at], &seg[i], i + 1 == n, vq->free);
		if (!table && i + 1 < n)
			at = take_desc(vq); /* the one that fill_desc() linked to */
	}
	if (table) {
		vq->desc[head].addr = (uint64_t)table;
		vq->desc[head].len = (uint32_t)(n * sizeof(*table));
		vq->desc[head].flags = VRING_DESC_F_INDIRECT;
		vq->desc[head].next = 0;
	}
	virtq_offer(vq, head);
	return head;
}

void virtq_offer(struct virtq *vq, uint16_t head)
{
	vq->avail->ring[vq->next_avail % vq->size] = head;
	full_barrier();
	vq->next_avail++;
	*(volatile uint16_t *)&vq->avail->idx = vq->next_avail;
}

void virtq_notify(const struct virtq *vq)
{
	vdev_write(vq->dev, VIRTIO_MMIO_QUEUE_NOTIFY, vq->index);
}

void virtq_kick(struct virtq *vq)
{
	bool wanted;

	/* 2.7.13.4.1: the index must be visible before the device's wish is read. */
	full_barrier();
	if (vq->dev->accepted & FEATURE(VIRTIO_RING_F_EVENT_IDX)) {
		uint16_t event = *(volatile uint16_t *)&vq->used->ring[vq->size];

		wanted = vring_need_event(event, vq->next_avail, vq->kicked);
	} else {
		wanted = !(*(volatile uint16_t *)&vq->used->flags & VRING_USED_F_NO_NOTIFY);
	}
	wanted = wanted && vq->next_avail != vq->kicked;
	vq->kicked = vq->next_avail;
	if (wanted)
		virtq_notify(vq);
}

static bool has_used(const struct virtq *vq)
{
	return *(volatile uint16_t *)&vq->used->idx != vq->last_used;
}

int virtq_pop(struct virtq *vq, uint32_t *len)
{
	volatile struct vring_used_elem *e;
	uint16_t head, at;

	if (!has_used(vq))
		return -1;
	full_barrier();
	e = &vq->used->ring[vq->last_used++ % vq->size];
	head = (uint16_t)e->id;
	*len = e->len;
	if (e->id >= vq->size) {
		say("the device returned descriptor %u of %u\n", e->id, vq->size);
		return -1;
	}
	for (at = head;; at = vq->link[at]) {
		vq->nr_free++;
		if (!(vq->desc[at].flags & VRING_DESC_F_NEXT))
			break;
	}
	vq->link[at] = vq->free;
	vq->free = head;
	return head;
}

int virtq_wait(struct virtq *vq, uint64_t ms)
{
	uint64_t end = ticks() + ms * TICKS_PER_MS;
	unsigned int polls = 0;

	while (!has_used(vq)) {
		pause();
		if (++polls % POLLS_PER_LOOK)
			continue;
		/* Reading a register costs an exit: not at every turn. */
		if (vdev_status(vq->dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return -1;
		if (ticks() > end)
			return has_used(vq);
	}
	return 1;
}
