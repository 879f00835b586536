/* vring.h: the driver's side of a split virtqueue, for tests; it can also be told to break every rule. */
#ifndef MAYFLY_TEST_VRING_H
#define MAYFLY_TEST_VRING_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "guest_memory.h"
#include "queue.h"

#define VRING_DESC_GPA  0x1000u
#define VRING_AVAIL_GPA 0x3000u
#define VRING_USED_GPA  0x5000u
#define VRING_TABLE_GPA 0x8000u /* indirect tables */
#define VRING_DATA_GPA  0x100000u

struct driver_ring {
	const struct guest_memory *gm;
	struct virtqueue *vq;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t size, avail_idx, seen_used;
};

static inline void *guest(const struct guest_memory *gm, uint64_t gpa)
{
	return gm_at(gm, gpa, 1);
}

/* Make vq a ready queue of that size, with rings where the constants above say, `offset` further up. */
static inline void driver_ring_init_at(struct driver_ring *r, const struct guest_memory *gm, struct virtqueue *vq,
				       uint16_t size, uint64_t offset)
{
	memset(r, 0, sizeof(*r));
	memset(guest(gm, offset + VRING_DESC_GPA), 0, VRING_TABLE_GPA - VRING_DESC_GPA);
	r->gm = gm;
	r->vq = vq;
	r->size = size;
	r->desc = guest(gm, offset + VRING_DESC_GPA);
	r->avail = guest(gm, offset + VRING_AVAIL_GPA);
	r->used = guest(gm, offset + VRING_USED_GPA);
	vq->gm = gm;
	vq->max_size = VIRTQUEUE_MAX_SIZE;
	vq_reset(vq);
	vq->size = size;
	vq->desc_gpa = offset + VRING_DESC_GPA;
	vq->avail_gpa = offset + VRING_AVAIL_GPA;
	vq->used_gpa = offset + VRING_USED_GPA;
	vq->ready = true;
	vq->indirect = true;
	vq->event_idx = true;
}

static inline void driver_ring_init(struct driver_ring *r, const struct guest_memory *gm, struct virtqueue *vq,
				    uint16_t size)
{
	driver_ring_init_at(r, gm, vq, size, 0);
}

static inline void driver_desc(struct driver_ring *r, unsigned int i, uint64_t addr, uint32_t len, uint16_t flags,
			       uint16_t next)
{
	r->desc[i] = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

static inline void driver_offer(struct driver_ring *r, uint16_t head)
{
	r->avail->ring[r->avail_idx % r->size] = head;
	r->avail_idx++;
	__atomic_store_n(&r->avail->idx, r->avail_idx, __ATOMIC_RELEASE);
}

static inline uint16_t driver_used_idx(const struct driver_ring *r)
{
	return __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE);
}

/* The words of EVENT_IDX: the driver's wish after the avail ring, the device's after the used ring. */
static inline uint16_t *driver_used_event(struct driver_ring *r)
{
	return &r->avail->ring[r->size];
}

static inline uint16_t driver_avail_event(const struct driver_ring *r)
{
	uint16_t v;

	memcpy(&v, &r->used->ring[r->size], sizeof(v));
	return v;
}

#endif
