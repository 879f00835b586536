/* net_fixture.h: a network device on one end of a socket, a driver with both rings, and a transport that only counts.
 */
#ifndef MAYFLY_TEST_NET_FIXTURE_H
#define MAYFLY_TEST_NET_FIXTURE_H

#include "unit.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "metrics.h"
#include "net.h"
#include "net_internal.h"
#include "vring.h"

#define MEM_MIB        16
#define TX_RING_OFFSET 0x10000u
#define RX_GPA(i)      (VRING_DATA_GPA + (uint64_t)(i)*0x1000u)
#define TX_GPA(i)      (VRING_DATA_GPA + 0x200000u + (uint64_t)(i)*0x20000u)
#define HDR            ((uint32_t)NET_HDR_LEN)

struct fixture {
	struct guest_memory gm;
	struct event_loop loop;
	struct net *net;
	struct virtio_device *dev;
	struct driver_ring rx, tx;
	struct net_config cfg;
	int peer, fd;
	unsigned int interrupts, broken, resets_done;
	struct event_timer poll;
	uint64_t give_up_ns;
	bool (*until)(struct fixture *f);
	uint16_t until_rx, until_tx;
	bool timed_out;
};

static inline void count_interrupt(struct virtio_device *dev)
{
	((struct fixture *)dev->transport)->interrupts++;
}

static inline void count_config(struct virtio_device *dev)
{
	(void)dev;
}

static inline void count_broken(struct virtio_device *dev)
{
	((struct fixture *)dev->transport)->broken++;
}

static inline void count_reset(struct virtio_device *dev)
{
	((struct fixture *)dev->transport)->resets_done++;
}

static const struct virtio_transport_ops counting_transport = {
	.interrupt = count_interrupt,
	.config_changed = count_config,
	.broken = count_broken,
	.reset_done = count_reset,
};

static inline void poll_expired(struct event_timer *t)
{
	struct fixture *f = t->opaque;

	if (f->until(f))
		event_loop_stop(&f->loop);
	else if (event_loop_now_ns() > f->give_up_ns)
		f->timed_out = true, event_loop_stop(&f->loop);
	else
		event_loop_arm(&f->loop, t, event_loop_now_ns() + 200000);
}

static inline bool serve_for(struct fixture *f, bool (*until)(struct fixture *f), uint64_t ns)
{
	f->until = until;
	f->timed_out = false;
	f->give_up_ns = event_loop_now_ns() + ns;
	f->poll.expired = poll_expired;
	f->poll.opaque = f;
	event_loop_arm(&f->loop, &f->poll, 0);
	f->loop.stop = false;
	event_loop_run(&f->loop);
	event_loop_disarm(&f->loop, &f->poll);
	return !f->timed_out;
}

/* Serve the loop until the condition holds; fails the test after 20 s. */
static inline void serve_until(struct fixture *f, bool (*until)(struct fixture *f))
{
	assert_true(serve_for(f, until, 20000000000ull));
}

static inline bool rx_reached(struct fixture *f)
{
	return (int16_t)(driver_used_idx(&f->rx) - f->until_rx) >= 0;
}

static inline bool tx_reached(struct fixture *f)
{
	return (int16_t)(driver_used_idx(&f->tx) - f->until_tx) >= 0;
}

static inline bool never(struct fixture *f)
{
	(void)f;
	return false;
}

/* One pass of the loop for everything that is ready now. */
static inline void serve_once(struct fixture *f)
{
	serve_for(f, never, 2000000);
}

static inline void wait_rx(struct fixture *f, uint16_t idx)
{
	f->until_rx = idx;
	serve_until(f, rx_reached);
}

static inline void wait_tx(struct fixture *f, uint16_t idx)
{
	f->until_tx = idx;
	serve_until(f, tx_reached);
}

/* What the transport does at DRIVER_OK. */
static inline void activate_sized(struct fixture *f, uint64_t features, uint16_t size)
{
	driver_ring_init(&f->rx, &f->gm, &f->dev->queue[NET_RX], size);
	driver_ring_init_at(&f->tx, &f->gm, &f->dev->queue[NET_TX], size, TX_RING_OFFSET);
	f->dev->features = features & f->dev->ops->features(f->dev);
	f->dev->active = true;
	assert_int_equal(f->dev->ops->activate(f->dev), 0);
}

static inline void activate(struct fixture *f, uint64_t features)
{
	activate_sized(f, features, VIRTQUEUE_MAX_SIZE);
}

static inline void reset_device(struct fixture *f)
{
	f->dev->active = false;
	assert_true(f->dev->ops->reset(f->dev));
}

static inline void bind_device(struct fixture *f)
{
	f->dev = net_device(f->net);
	f->dev->transport = f;
	f->dev->transport_ops = &counting_transport;
}

static inline void fixture_open(struct fixture *f)
{
	struct error err = { 0 };

	if (net_create(&f->net, &f->cfg, &f->gm, &f->loop, &err))
		fail_msg("%s", err.message);
	bind_device(f);
	activate(f, ~0ull);
}

static inline void fixture_reopen(struct fixture *f)
{
	net_destroy(f->net);
	fixture_open(f);
}

static inline int fixture_setup(void **state, int type)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };
	int pair[2];

	if (!f || gm_create(&f->gm, MEM_MIB, HUGE_PAGES_NONE, &err) || event_loop_init(&f->loop, &err) ||
	    socketpair(AF_UNIX, type, 0, pair))
		return -1;
	f->peer = pair[0];
	f->fd = pair[1];
	strcpy(f->cfg.iface_id, "eth0");
	snprintf(f->cfg.host_dev_name, sizeof(f->cfg.host_dev_name), "fd:%d", f->fd);
	fixture_open(f);
	close(f->fd);
	f->fd = -1;
	*state = f;
	return 0;
}

static inline int setup_seqpacket(void **state)
{
	return fixture_setup(state, SOCK_SEQPACKET);
}

static inline int setup_stream(void **state)
{
	return fixture_setup(state, SOCK_STREAM);
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	net_destroy(f->net);
	if (f->peer >= 0)
		close(f->peer);
	event_loop_destroy(&f->loop);
	gm_destroy(&f->gm);
	free(f);
	return 0;
}

static inline void notify(struct fixture *f, unsigned int queue)
{
	if (f->dev->active)
		f->dev->ops->notify(f->dev, queue);
}

/* Offer receive buffer i of len bytes, one descriptor, filled with 0xEE. */
static inline void offer_rx(struct fixture *f, unsigned int i, uint32_t len)
{
	memset(guest(&f->gm, RX_GPA(i)), 0xEE, len);
	driver_desc(&f->rx, i, RX_GPA(i), len, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->rx, (uint16_t)i);
}

static inline void pattern(uint8_t *p, size_t len, uint8_t seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static inline bool is_pattern(const uint8_t *p, size_t len, uint8_t seed, size_t from)
{
	size_t i;

	for (i = from; i < from + len; i++) {
		if (p[i - from] != (uint8_t)(seed + i * 7 + (i >> 8)))
			return false;
	}
	return true;
}

/* Offer a frame of len bytes behind a zeroed header, in one descriptor. */
static inline void offer_tx(struct fixture *f, unsigned int slot, size_t len, uint8_t seed)
{
	uint8_t *p = guest(&f->gm, TX_GPA(slot));

	memset(p, 0, HDR);
	pattern(p + HDR, len, seed);
	driver_desc(&f->tx, slot, TX_GPA(slot), (uint32_t)(HDR + len), 0, 0);
	driver_offer(&f->tx, (uint16_t)slot);
}

static inline struct vring_used_elem rx_used(struct fixture *f, uint16_t i)
{
	return f->rx.used->ring[i % f->rx.size];
}

static inline const struct virtio_net_hdr_v1 *rx_header(struct fixture *f, unsigned int i)
{
	return guest(&f->gm, RX_GPA(i));
}

/* The peer sends one frame of a pattern. */
static inline void peer_send(struct fixture *f, size_t len, uint8_t seed)
{
	static uint8_t frame[NET_READ_MAX + 16];

	pattern(frame, len, seed);
	assert_int_equal(send(f->peer, frame, len, MSG_DONTWAIT), (ssize_t)len);
}

/* The peer gets a frame of exactly that pattern. */
static inline void peer_expect(struct fixture *f, size_t len, uint8_t seed)
{
	static uint8_t frame[NET_READ_MAX + 16];

	assert_int_equal(recv(f->peer, frame, sizeof(frame), MSG_DONTWAIT), (ssize_t)len);
	assert_true(is_pattern(frame, len, seed, 0));
}

static inline void peer_expect_nothing(struct fixture *f)
{
	char byte;

	assert_int_equal(recv(f->peer, &byte, 1, MSG_DONTWAIT), -1);
}

#endif
