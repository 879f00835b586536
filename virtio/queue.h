/* queue.h: the split virtqueue (virtio 1.2, 2.7), device side, against a driver that is not trusted. */
#ifndef MAYFLY_VIRTQUEUE_H
#define MAYFLY_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_memory.h"

#define VIRTQUEUE_MAX_SIZE 256

/* Set up by the transport while not ready; after that the loop thread alone moves the indices. */
struct virtqueue {
	const struct guest_memory *gm;
	uint16_t max_size; /* what the device offers, a power of two ≤ VIRTQUEUE_MAX_SIZE */
	uint16_t size;     /* what the driver chose */
	bool ready;
	bool event_idx; /* VIRTIO_F_EVENT_IDX (VIRTIO_RING_F_EVENT_IDX) was acknowledged */
	bool indirect;  /* VIRTIO_RING_F_INDIRECT_DESC was acknowledged */
	uint64_t desc_gpa, avail_gpa, used_gpa;
	uint16_t next_avail;     /* free-running: next entry of the avail ring to take */
	uint16_t next_used;      /* free-running: next entry of the used ring to fill */
	uint16_t signalled_used; /* next_used when the driver was last interrupted */
	bool signalled_valid;
	bool kicks_off; /* without event_idx: VRING_USED_F_NO_NOTIFY is set in the ring */
};

/* Of what vq_check() has found true, that which the rest relies on. The transport locks the registers behind it. */
/*@ predicate vq_checked(struct virtqueue *vq) = 0 < vq->size <= VIRTQUEUE_MAX_SIZE &&
      vq->desc_gpa % 16 == 0 && vq->avail_gpa % 2 == 0 && vq->used_gpa % 4 == 0; */

/*
 * One descriptor chain, addresses already checked and translated. Device-readable parts come first (2.7.4.2).
 * iov points at the caller's array of iov_max entries; a chain of more buffers than that is refused.
 */
struct vq_chain {
	uint16_t head;
	unsigned int nr_out, nr_in; /* device-readable, then device-writable entries of iov */
	uint64_t out_len, in_len;   /* bytes in each part */
	struct iovec *iov;
	unsigned int iov_max;
};

/*
 * vq_check - may this queue be made ready? size a power of two ≤ max_size, rings aligned (16/2/4) and wholly in RAM
 * Returns 0 or -EINVAL. Called by the transport on QueueReady, with its lock held.
 */
/*@ requires \valid_read(vq) && \valid_read(vq->gm);
    ensures may: \result == 0 ==> vq_checked(vq) && (vq->size & (vq->size - 1)) == 0;
    ensures may_not: \result == 0 || \result == -EINVAL; */
int vq_check(const struct virtqueue *vq);

/* vq_reset - back to power-on: not ready, indices and addresses 0. gm and max_size stay. */
/*@ requires \valid(vq);
    ensures kept: vq->gm == \old(vq->gm) && vq->max_size == \old(vq->max_size);
    ensures off: !vq->ready && vq->size == 0 && vq->desc_gpa == 0 && vq->avail_gpa == 0 && vq->used_gpa == 0; */
void vq_reset(struct virtqueue *vq);

/*
 * vq_pop - take the next available chain
 * Returns 1 with chain filled, 0 when the ring is empty (notifications are then armed again and the ring rechecked, so
 * that no kick is lost), or a negative errno when the driver broke the rules (2.7.5): the caller must call
 * virtio_device_broken(). Fields of ring and descriptors are read once. A buffer of length 0, outside RAM, in an
 * indirect table within an indirect table, a chain longer than the queue, a readable descriptor after a writable one,
 * an avail index more than size ahead are all broken. (The spec gives a buffer of length 0 no meaning and does not
 * forbid it. QEMU refuses one too, so no driver relies on it.)
 */
/*@ requires checked: \valid(vq) && vq_checked(vq) && \valid_read(vq->gm);
    requires room: \valid(chain) && \valid(chain->iov + (0 .. chain->iov_max - 1));
    ensures known: \result == 1 || \result == 0 || \result == -EFAULT || \result == -ERANGE || \result == -ELOOP ||
		   \result == -EPROTO || \result == -EBADMSG || \result == -ENODATA || \result == -E2BIG ||
		   \result == -EMSGSIZE || \result == -EOVERFLOW; */
int vq_pop(struct virtqueue *vq, struct vq_chain *chain);

/* vq_waiting - are there chains to pop? Unlike an empty vq_pop, this does not ask the driver for kicks. */
/*@ requires checked: \valid_read(vq) && vq_checked(vq) && \valid_read(vq->gm); */
bool vq_waiting(const struct virtqueue *vq);

/*
 * vq_unpop - put the chain of the last vq_pop back; it will be popped (and checked) again
 * Only the chain popped last (called again: the one before it), and only before anything is pushed for it: how a
 * throttled device waits without holding a request.
 */
/*@ requires checked: \valid(vq) && vq_checked(vq); */
void vq_unpop(struct virtqueue *vq);

/* vq_why - the rule behind a negative return of vq_pop or vq_push, as a short phrase for virtio_device_broken(). */
/*@ ensures phrase: \valid_read(\result); */
const char *vq_why(int code);

/* vq_push - return chain `head` with len bytes written to its device-writable part; 0 or -EFAULT (ring not in RAM). */
/*@ requires checked: \valid(vq) && vq_checked(vq) && \valid_read(vq->gm);
    ensures \result == 0 || \result == -EFAULT; */
int vq_push(struct virtqueue *vq, uint16_t head, uint32_t len);

/*
 * vq_stage, vq_publish - vq_push in two halves, for chains that the driver must see together (5.1.6.4: the buffers of
 * one merged frame): any number of vq_stage, then one vq_publish. 0 or -EFAULT.
 */
/*@ requires checked: \valid(vq) && vq_checked(vq) && \valid_read(vq->gm);
    ensures \result == 0 || \result == -EFAULT; */
int vq_stage(struct virtqueue *vq, uint16_t head, uint32_t len);
/*@ requires checked: \valid(vq) && vq_checked(vq) && \valid_read(vq->gm);
    ensures \result == 0 || \result == -EFAULT; */
int vq_publish(struct virtqueue *vq);

/* vq_should_interrupt - does the driver want an interrupt for what was pushed since the last one? (2.7.7.2, 2.7.10) */
/*@ requires checked: \valid(vq) && vq_checked(vq) && \valid_read(vq->gm);
    ensures known: vq->signalled_valid; */
bool vq_should_interrupt(struct virtqueue *vq);

#endif
