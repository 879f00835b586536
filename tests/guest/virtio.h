/* virtio.h: virtio-mmio transport and split queues from the driver's side, polled. */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "guest.h"

#define QUEUE_MAX    1024
#define MMIO_MAGIC   0x74726976 /* "virt" */
#define FEATURE(bit) (1ull << (bit))

struct vdev {
	uint64_t base;
	uint64_t offered; /* by the device, read at the last vdev_negotiate() */
	uint64_t accepted;
};

/* One piece of a request; the device writes it when "in" is set. */
struct segment {
	uint64_t addr;
	uint32_t len;
	bool in;
};

struct virtq {
	struct vdev *dev;
	uint16_t index, size;
	uint16_t free, nr_free;      /* list of unused descriptors, through link[] */
	uint16_t next_avail, kicked; /* avail index; the same when the device was last told */
	uint16_t last_used;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t link[QUEUE_MAX];
};

uint32_t vdev_read(const struct vdev *d, uint64_t reg);
void vdev_write(const struct vdev *d, uint64_t reg, uint32_t value);
uint32_t vdev_status(const struct vdev *d);
/* vdev_reset - writes 0 and waits until the status reads 0; false when it never does. */
bool vdev_reset(struct vdev *d);
/* vdev_negotiate - from reset to FEATURES_OK with (offered & want) | force; false when the device refuses. */
bool vdev_negotiate(struct vdev *d, uint64_t want, uint64_t force);
/* vdev_add_status - sets status bits on top of those there. */
void vdev_add_status(struct vdev *d, uint32_t bits);

/* virtq_alloc - ring memory for QUEUE_MAX entries, once per queue; false when out of memory. */
bool virtq_alloc(struct guest *g, struct virtq *vq, struct vdev *d, uint16_t index);
/* virtq_clear - empties the rings and all of the driver's own state. */
void virtq_clear(struct virtq *vq, uint16_t size);
/* virtq_program - writes size and addresses to the registers, then ready. */
void virtq_program(struct virtq *vq);
/* virtq_add - makes a chain available; its head, or -1 when there are too few descriptors. table: indirect, or NULL. */
int virtq_add(struct virtq *vq, const struct segment *seg, unsigned int n, struct vring_desc *table);
/* virtq_offer - publishes head in the avail ring without notifying. */
void virtq_offer(struct virtq *vq, uint16_t head);
/* virtq_kick - notifies the device unless it asked not to be. */
void virtq_kick(struct virtq *vq);
void virtq_notify(const struct virtq *vq);
/* virtq_pop - head of a finished chain, or -1. Its descriptors are free again. */
int virtq_pop(struct virtq *vq, uint32_t *len);
/* virtq_wait - 1: something finished; 0: nothing within ms; -1: the device wants a reset. */
int virtq_wait(struct virtq *vq, uint64_t ms);

#endif
