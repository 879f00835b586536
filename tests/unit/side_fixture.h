/* side_fixture.h: a microVM's memory, loop and one transport with a driver that sets it up; tests have two of them. */
#ifndef MAYFLY_TEST_SIDE_FIXTURE_H
#define MAYFLY_TEST_SIDE_FIXTURE_H

#include "state_fixture.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "mmio.h"
#include "vring.h"

enum { SIDE_GPA = 0xC0001000, SIDE_GSI = 5, SIDE_SLOT = 3, SIDE_MIB = 4, SIDE_QUEUE = 64 };
#define VERSION_1      (1ull << VIRTIO_F_VERSION_1)
#define EVENT_IDX      (1ull << VIRTIO_RING_F_EVENT_IDX)
#define RING_OFFSET(q) ((q)*0x8000u) /* from where vring.h has one */
#define DATA_GPA(i)    (VRING_DATA_GPA + (i)*0x1000u)
#define ALL_OK \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)

struct side {
	struct guest_memory gm;
	struct event_loop loop;
	struct bus bus;
	struct ioapic ioapic;
	struct virtio_mmio mmio;
	struct virtio_device *dev;
	struct driver_ring ring[VIRTIO_MAX_QUEUES];
	struct event_timer poll;
	uint64_t give_up_ns;
	bool (*until)(struct side *s);
};

static inline void side_begin(struct side *s)
{
	struct error err;

	memset(s, 0, sizeof(*s));
	assert_int_equal(event_loop_init(&s->loop, &err), 0);
	assert_int_equal(gm_create(&s->gm, SIDE_MIB, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(ioapic_init(&s->ioapic, -1, &s->bus, &err), 0);
}

static inline void side_bind(struct side *s, struct virtio_device *dev)
{
	struct error err;

	s->dev = dev;
	assert_int_equal(virtio_mmio_init(&s->mmio, dev, &s->loop, &s->ioapic, &s->bus, -1, SIDE_GPA, SIDE_GSI, &err),
			 0);
}

/* After the device was destroyed. */
static inline void side_end(struct side *s)
{
	event_loop_destroy(&s->loop);
	gm_destroy(&s->gm);
}

/* ---- the loop ---- */

static inline void stop(struct event_work *work)
{
	event_loop_stop(work->opaque);
}

/* Everything posted so far is done when this returns. */
static inline void let_the_loop_work(struct side *s)
{
	struct event_work last = { .run = stop, .opaque = &s->loop };

	event_loop_post(&s->loop, &last);
	s->loop.stop = false;
	event_loop_run(&s->loop);
}

static inline void poll_expired(struct event_timer *timer)
{
	struct side *s = timer->opaque;

	if (event_loop_now_ns() > s->give_up_ns || s->until(s))
		event_loop_stop(&s->loop);
	else
		event_loop_arm(&s->loop, timer, event_loop_now_ns() + 200000);
}

/* Whether the condition came to hold within ns. */
static inline bool serve_for(struct side *s, bool (*until)(struct side *s), uint64_t ns)
{
	s->until = until;
	s->poll = (struct event_timer){ .expired = poll_expired, .opaque = s };
	s->give_up_ns = event_loop_now_ns() + ns;
	event_loop_arm(&s->loop, &s->poll, 0);
	s->loop.stop = false;
	event_loop_run(&s->loop);
	return until(s);
}

static inline void serve_until(struct side *s, bool (*until)(struct side *s))
{
	assert_true(serve_for(s, until, 20000000000ull));
}

/* ---- the driver ---- */

static inline uint32_t get(struct side *s, uint64_t reg)
{
	uint32_t value;

	bus_read(&s->bus, SIDE_GPA + reg, &value, 4);
	return value;
}

static inline void set(struct side *s, uint64_t reg, uint32_t value)
{
	bus_write(&s->bus, SIDE_GPA + reg, &value, 4);
}

static inline void kick(struct side *s, unsigned int queue)
{
	set(s, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

static inline void negotiate(struct side *s, uint64_t features)
{
	set(s, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set(s, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	for (uint32_t word = 0; word < 2; word++) {
		set(s, VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
		set(s, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> word * 32));
	}
	set(s, VIRTIO_MMIO_STATUS, get(s, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_true(get(s, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK);
}

/* The driver's own view of its rings, in the memory of that side. */
static inline void look_at_ring(struct side *s, unsigned int q, uint16_t avail_idx)
{
	s->ring[q] = (struct driver_ring){
		.gm = &s->gm,
		.desc = guest(&s->gm, RING_OFFSET(q) + VRING_DESC_GPA),
		.avail = guest(&s->gm, RING_OFFSET(q) + VRING_AVAIL_GPA),
		.used = guest(&s->gm, RING_OFFSET(q) + VRING_USED_GPA),
		.size = SIDE_QUEUE,
		.avail_idx = avail_idx,
	};
}

static inline void set_queue(struct side *s, unsigned int q)
{
	set(s, VIRTIO_MMIO_QUEUE_SEL, q);
	set(s, VIRTIO_MMIO_QUEUE_NUM, SIDE_QUEUE);
	set(s, VIRTIO_MMIO_QUEUE_DESC_LOW, RING_OFFSET(q) + VRING_DESC_GPA);
	set(s, VIRTIO_MMIO_QUEUE_AVAIL_LOW, RING_OFFSET(q) + VRING_AVAIL_GPA);
	set(s, VIRTIO_MMIO_QUEUE_USED_LOW, RING_OFFSET(q) + VRING_USED_GPA);
	set(s, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(s, VIRTIO_MMIO_QUEUE_READY), 1);
	look_at_ring(s, q, 0);
}

static inline void bring_up(struct side *s, uint64_t features)
{
	negotiate(s, features);
	for (unsigned int q = 0; q < s->dev->ops->nr_queues; q++)
		set_queue(s, q);
	set(s, VIRTIO_MMIO_STATUS, ALL_OK);
	let_the_loop_work(s);
	assert_true(s->dev->active);
}

/* Guest memory as the other side's. */
static inline void copy_memory(struct side *to, struct side *from)
{
	memcpy(guest(&to->gm, 0), guest(&from->gm, 0), (size_t)SIDE_MIB << 20);
	for (unsigned int q = 0; q < from->dev->ops->nr_queues; q++)
		look_at_ring(to, q, from->ring[q].avail_idx);
}

/* What was restored, saved again, is what was saved: nothing of it got lost on the way. */
static inline void assert_same_transport(struct side *s, struct saved *first)
{
	struct saved again;

	virtio_mmio_save(&s->mmio, saved_begin(&again), SIDE_SLOT);
	saved_end(&again);
	assert_memory_equal(saved_payload(&again, STATE_TRANSPORT, SIDE_SLOT),
			    saved_payload(first, STATE_TRANSPORT, SIDE_SLOT), sizeof(struct virtio_mmio_state));
	state_free(&again.w);
}

#endif
