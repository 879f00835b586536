/* queue.c: take chains from a split virtqueue and give them back, believing nothing the driver wrote. */
#include "queue.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>

/* virtio 1.2, 2.7.4: "A driver MUST NOT create a descriptor chain longer than 2^32 bytes". */
#define CHAIN_MAX_BYTES (1ull << 32)

/*
 * Ring fields are shared with vCPUs that run meanwhile, so each is one aligned atomic access. The rings were checked by
 * vq_check() and RAM never moves; asking gm_at() again each time costs two compares and keeps the door the only one.
 */
static int ring_load16(const struct virtqueue *vq, uint64_t gpa, int order, uint16_t *out)
{
	uint16_t *p = gm_at(vq->gm, gpa, sizeof(*p));

	if (!p)
		return -EFAULT;
	*out = le16toh(__atomic_load_n(p, order));
	return 0;
}

static int ring_store16(const struct virtqueue *vq, uint64_t gpa, uint16_t value, int order)
{
	uint16_t *p = gm_at(vq->gm, gpa, sizeof(*p));

	if (!p)
		return -EFAULT;
	gm_written(vq->gm, p, sizeof(*p));
	__atomic_store_n(p, htole16(value), order);
	return 0;
}

static uint64_t avail_ring_gpa(const struct virtqueue *vq, unsigned int slot)
{
	return vq->avail_gpa + offsetof(struct vring_avail, ring) + slot * sizeof(uint16_t);
}

static uint64_t used_ring_gpa(const struct virtqueue *vq, unsigned int slot)
{
	return vq->used_gpa + offsetof(struct vring_used, ring) + slot * sizeof(struct vring_used_elem);
}

/* virtio 1.2, 2.7.7 and 2.7.10: used_event sits after the avail ring, avail_event after the used ring. */
static uint64_t used_event_gpa(const struct virtqueue *vq)
{
	return avail_ring_gpa(vq, vq->size);
}

static uint64_t avail_event_gpa(const struct virtqueue *vq)
{
	return used_ring_gpa(vq, vq->size);
}

int vq_check(const struct virtqueue *vq)
{
	unsigned int size = vq->size;

	if (!size || size > vq->max_size || size > VIRTQUEUE_MAX_SIZE || (size & (size - 1)))
		return -EINVAL;
	if (vq->desc_gpa % VRING_DESC_ALIGN_SIZE || vq->avail_gpa % VRING_AVAIL_ALIGN_SIZE ||
	    vq->used_gpa % VRING_USED_ALIGN_SIZE)
		return -EINVAL;
	/* With the event word at the end of both rings, whether or not EVENT_IDX was acknowledged (2.7). */
	if (!gm_at(vq->gm, vq->desc_gpa, size * sizeof(struct vring_desc)) ||
	    !gm_at(vq->gm, vq->avail_gpa, used_event_gpa(vq) + sizeof(uint16_t) - vq->avail_gpa) ||
	    !gm_at(vq->gm, vq->used_gpa, avail_event_gpa(vq) + sizeof(uint16_t) - vq->used_gpa))
		return -EINVAL;
	return 0;
}

void vq_reset(struct virtqueue *vq)
{
	const struct guest_memory *gm = vq->gm;
	uint16_t max_size = vq->max_size;

	memset(vq, 0, sizeof(*vq));
	vq->gm = gm;
	vq->max_size = max_size;
	/* Nothing pushed, nothing signalled: used_event 0 asks for an interrupt for the very first buffer. */
	vq->signalled_valid = true;
}

/* Where a walk through one chain has got to. */
struct walk {
	const struct virtqueue *vq;
	struct vq_chain *chain;
	uint64_t table;         /* gpa of the descriptor table being walked */
	unsigned int table_len; /* its entries */
	unsigned int budget;    /* descriptors the chain may still have */
	bool in_indirect;
};

/* Read descriptor index once, as a whole: everything decided about it is decided on this copy. */
static int walk_read(struct walk *w, unsigned int index, struct vring_desc *desc)
{
	struct vring_desc raw;

	if (index >= w->table_len)
		return -ERANGE;
	if (!w->budget)
		return -ELOOP;
	w->budget--;
	if (gm_read(w->vq->gm, w->table + index * sizeof(raw), &raw, sizeof(raw)))
		return -EFAULT;
	desc->addr = le64toh(raw.addr);
	desc->len = le32toh(raw.len);
	desc->flags = le16toh(raw.flags);
	desc->next = le16toh(raw.next);
	return 0;
}

/* virtio 1.2, 2.7.5.3: a table of descriptors elsewhere in RAM ends the chain in this one. */
static int walk_enter_indirect(struct walk *w, const struct vring_desc *desc)
{
	if (!w->vq->indirect || w->in_indirect || (desc->flags & VRING_DESC_F_NEXT))
		return -EPROTO;
	if (!desc->len || desc->len % sizeof(struct vring_desc))
		return -EPROTO;
	if (!gm_at(w->vq->gm, desc->addr, desc->len))
		return -EFAULT;
	w->in_indirect = true;
	w->table = desc->addr;
	w->table_len = desc->len / (unsigned int)sizeof(struct vring_desc);
	/*
	 * 2.7.5.3.1 bounds an indirect chain by the queue size, too. Drivers size it by what the device says about
	 * itself (seg_max), even if they chose a shorter queue, so what bounds it here is the size that was offered.
	 * The flag WRITE of the descriptor that refers to the table is ignored (2.7.5.3.2).
	 */
	w->budget = w->vq->max_size;
	return 0;
}

static int walk_add(struct walk *w, const struct vring_desc *desc)
{
	struct vq_chain *chain = w->chain;
	unsigned int n = chain->nr_out + chain->nr_in;
	bool write = desc->flags & VRING_DESC_F_WRITE;
	void *hva;

	if (!write && chain->nr_in)
		return -EBADMSG;
	if (!desc->len)
		return -ENODATA;
	if (n >= chain->iov_max)
		return -E2BIG;
	if (chain->out_len + chain->in_len + desc->len > CHAIN_MAX_BYTES)
		return -EMSGSIZE;
	hva = gm_at(w->vq->gm, desc->addr, desc->len);
	if (!hva)
		return -EFAULT;
	chain->iov[n] = (struct iovec){ .iov_base = hva, .iov_len = desc->len };
	if (write) {
		gm_written(w->vq->gm, hva, desc->len);
		chain->nr_in++;
		chain->in_len += desc->len;
	} else {
		chain->nr_out++;
		chain->out_len += desc->len;
	}
	return 0;
}

static int walk_chain(const struct virtqueue *vq, struct vq_chain *chain)
{
	struct walk w = {
		.vq = vq,
		.chain = chain,
		.table = vq->desc_gpa,
		.table_len = vq->size,
		.budget = vq->size,
	};
	unsigned int index = chain->head;
	struct vring_desc desc;
	int ret;

	chain->nr_out = chain->nr_in = 0;
	chain->out_len = chain->in_len = 0;
	for (;;) {
		ret = walk_read(&w, index, &desc);
		if (ret)
			return ret;
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			ret = walk_enter_indirect(&w, &desc);
			if (ret)
				return ret;
			index = 0;
			continue;
		}
		ret = walk_add(&w, &desc);
		if (ret)
			return ret;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return 0;
		index = desc.next;
	}
}

/* How many chains wait, or -EOVERFLOW when the driver claims more than fit into the ring. */
static int pending(const struct virtqueue *vq)
{
	uint16_t avail_idx, n;

	/* Acquire: what the driver wrote before it moved the index must be seen after reading the index. */
	if (ring_load16(vq, vq->avail_gpa + offsetof(struct vring_avail, idx), __ATOMIC_ACQUIRE, &avail_idx))
		return -EFAULT;
	n = (uint16_t)(avail_idx - vq->next_avail);
	return n > vq->size ? -EOVERFLOW : n;
}

/* Ask for kicks, or for none (2.7.10). With event_idx an avail_event left behind is what keeps the driver quiet. */
static int want_kicks(struct virtqueue *vq, bool on)
{
	if (vq->event_idx)
		return on ? ring_store16(vq, avail_event_gpa(vq), vq->next_avail, __ATOMIC_RELAXED) : 0;
	if (vq->kicks_off == !on)
		return 0;
	vq->kicks_off = !on;
	return ring_store16(vq, vq->used_gpa + offsetof(struct vring_used, flags), on ? 0 : VRING_USED_F_NO_NOTIFY,
			    __ATOMIC_RELAXED);
}

/* The ring looked empty. Ask for a kick, then look once more: the driver may have added a chain in between (2.7.10.1).
 */
static int rearm(struct virtqueue *vq)
{
	if (want_kicks(vq, true))
		return -EFAULT;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return pending(vq);
}

int vq_pop(struct virtqueue *vq, struct vq_chain *chain)
{
	int ret = pending(vq);

	if (!ret)
		ret = rearm(vq);
	if (ret <= 0)
		return ret;
	if (want_kicks(vq, false))
		return -EFAULT;
	if (ring_load16(vq, avail_ring_gpa(vq, vq->next_avail & (vq->size - 1u)), __ATOMIC_RELAXED, &chain->head))
		return -EFAULT;
	ret = walk_chain(vq, chain);
	if (ret)
		return ret;
	vq->next_avail++;
	return 1;
}

bool vq_waiting(const struct virtqueue *vq)
{
	return pending(vq) != 0;
}

void vq_unpop(struct virtqueue *vq)
{
	vq->next_avail--;
}

int vq_stage(struct virtqueue *vq, uint16_t head, uint32_t len)
{
	struct vring_used_elem elem = { .id = htole32(head), .len = htole32(len) };

	if (gm_write(vq->gm, used_ring_gpa(vq, vq->next_used & (vq->size - 1u)), &elem, sizeof(elem)))
		return -EFAULT;
	vq->next_used++;
	/* 65536 pushes without asking for an interrupt: the distance since the last one cannot be told any more. */
	if (vq->next_used == vq->signalled_used)
		vq->signalled_valid = false;
	return 0;
}

int vq_publish(struct virtqueue *vq)
{
	/* Release: buffers and elements are visible before the index says so (2.7.8.2). */
	return ring_store16(vq, vq->used_gpa + offsetof(struct vring_used, idx), vq->next_used, __ATOMIC_RELEASE);
}

int vq_push(struct virtqueue *vq, uint16_t head, uint32_t len)
{
	int ret = vq_stage(vq, head, len);

	return ret ? ret : vq_publish(vq);
}

bool vq_should_interrupt(struct virtqueue *vq)
{
	uint16_t old = vq->signalled_used, new = vq->next_used, event, flags;
	bool valid = vq->signalled_valid;

	if (valid && old == new)
		return false;
	vq->signalled_used = new;
	vq->signalled_valid = true;
	/* The used index must be out before the driver's wish is read, or both sides could wait for each other
	 * (2.7.7.2). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!vq->event_idx) {
		if (ring_load16(vq, vq->avail_gpa + offsetof(struct vring_avail, flags), __ATOMIC_RELAXED, &flags))
			return true;
		return !(flags & VRING_AVAIL_F_NO_INTERRUPT);
	}
	if (ring_load16(vq, used_event_gpa(vq), __ATOMIC_RELAXED, &event))
		return true;
	return !valid || vring_need_event(event, new, old);
}

const char *vq_why(int code)
{
	switch (code) {
	case -EFAULT:
		return "ring, table or buffer outside RAM";
	case -ERANGE:
		return "descriptor index beyond its table";
	case -ELOOP:
		return "descriptor chain loops or is longer than the queue";
	case -EPROTO:
		return "bad indirect descriptor";
	case -EBADMSG:
		return "device-readable descriptor after a device-writable one";
	case -ENODATA:
		return "descriptor of length 0";
	case -E2BIG:
		return "more buffers than the device takes";
	case -EMSGSIZE:
		return "chain longer than 4 GiB";
	case -EOVERFLOW:
		return "avail index further ahead than the queue is long";
	default:
		return "malformed request";
	}
}
