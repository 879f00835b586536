/* net.c: virtio-net (virtio 1.2, 5.1): the device's life; its frames are in net_rx.c and net_tx.c. */
#include "net.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "feature_bits.h"
#include "lazy_memory.h"
#include "log.h"
#include "metrics.h"
#include "net_internal.h"
#include "snapshot/state.h"

#define BIT(n) (1ull << (n))
/*
 * A flapping link comes back once the driver has seen it down and has had as long again to draw its conclusions: a
 * guest that was slow to look is slow at that, too. One that never looks misses nothing, but the timer is to end some
 * time.
 */
#define FLAP_TURN_NS   (100 * 1000000ull)
#define FLAP_MAX_TURNS 300u

static struct net *to_net(const struct virtio_device *dev)
{
	return (struct net *)(uintptr_t)dev;
}

/* What a TAP can spare the guest, by what it takes itself: TUN_F_* is about frames for the guest, virtio has both ways.
 */
static const struct {
	unsigned int tap;
	uint64_t features;
	uint64_t guest; /* the one of them that asks for tap */
} offloads[] = {
	{ TUN_F_CSUM, BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM), BIT(VIRTIO_NET_F_GUEST_CSUM) },
	{ TUN_F_TSO4, BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO4), BIT(VIRTIO_NET_F_GUEST_TSO4) },
	{ TUN_F_TSO6, BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_GUEST_TSO6), BIT(VIRTIO_NET_F_GUEST_TSO6) },
	{ TUN_F_TSO_ECN, BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_ECN), BIT(VIRTIO_NET_F_GUEST_ECN) },
	{ TUN_F_UFO, BIT(VIRTIO_NET_F_HOST_UFO) | BIT(VIRTIO_NET_F_GUEST_UFO), BIT(VIRTIO_NET_F_GUEST_UFO) },
	{ TUN_F_USO4, BIT(VIRTIO_NET_F_HOST_USO) | BIT(VIRTIO_NET_F_GUEST_USO4), BIT(VIRTIO_NET_F_GUEST_USO4) },
	{ TUN_F_USO6, BIT(VIRTIO_NET_F_HOST_USO) | BIT(VIRTIO_NET_F_GUEST_USO6), BIT(VIRTIO_NET_F_GUEST_USO6) },
};

static uint64_t net_features(const struct virtio_device *dev)
{
	const struct net *net = to_net(dev);
	uint64_t f = BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_STATUS);
	unsigned int i;

	for (i = 0; i < sizeof(offloads) / sizeof(offloads[0]); i++) {
		if (net->be->offloads & offloads[i].tap)
			f |= offloads[i].features;
	}
	if (net->mac_given)
		f |= BIT(VIRTIO_NET_F_MAC);
	if (net->mtu)
		f |= BIT(VIRTIO_NET_F_MTU);
	return f;
}

/* What the driver acknowledged, for the TAP. The kernel takes segmentation only with checksums, so does 5.1.3.1. */
static unsigned int wanted_offloads(const struct net *net)
{
	unsigned int flags = 0, i;

	for (i = 0; i < sizeof(offloads) / sizeof(offloads[0]); i++) {
		if (net->dev.features & offloads[i].guest)
			flags |= offloads[i].tap;
	}
	if (!(flags & TUN_F_CSUM))
		return 0;
	/* The kernel wants both kinds of USO or none, and ECN with TSO only. */
	if ((flags & (TUN_F_USO4 | TUN_F_USO6)) != (TUN_F_USO4 | TUN_F_USO6))
		flags &= ~(unsigned int)(TUN_F_USO4 | TUN_F_USO6);
	if (!(flags & (TUN_F_TSO4 | TUN_F_TSO6)))
		flags &= ~(unsigned int)TUN_F_TSO_ECN;
	return flags;
}

static void net_read_config(const struct virtio_device *dev, uint64_t offset, void *buf, size_t len)
{
	const uint64_t status_at = offsetof(struct virtio_net_config, status);
	struct net *net = to_net(dev);
	bool down = atomic_load(&net->link_down);
	struct virtio_net_config cfg = {
		.status = htole16(down ? 0 : VIRTIO_NET_S_LINK_UP),
		.mtu = htole16(net->mtu),
	};

	memcpy(cfg.mac, net->mac, sizeof(cfg.mac));
	memset(buf, 0, len);
	if (offset >= sizeof(cfg))
		return;
	if (len > sizeof(cfg) - offset)
		len = sizeof(cfg) - (size_t)offset;
	memcpy(buf, (const uint8_t *)&cfg + offset, len);
	if (down && offset <= status_at && offset + len > status_at)
		atomic_store(&net->link_seen_down, true);
}

void net_settle(struct net *net)
{
	uint32_t events = 0;

	/* No buffers, no reading: the frames wait in the backend, and nobody is woken for them. */
	if (net->dev.active && !net->paused) {
		if (net->dev.queue[NET_RX].ready && !net->rx.stalled && !net->rx.throttled)
			events |= EPOLLIN;
		if (net->tx.blocked)
			events |= EPOLLOUT;
	}
	net_backend_watch(net->be, events);
}

static void run(struct net *net, bool rx, bool tx)
{
	if (tx)
		net_tx_run(net);
	/* What was sent may have made a hook answer. */
	if (rx || net->hook_ready)
		net_rx_run(net);
	net_settle(net);
}

static void backend_ready(void *opaque, bool readable, bool writable)
{
	struct net *net = opaque;

	if (readable)
		metrics_inc(net_rx_tap_event_count);
	if (writable)
		net->tx.blocked = false;
	run(net, readable, writable);
}

static void rx_timer_expired(struct event_timer *timer)
{
	struct net *net = timer->opaque;

	if (net->rx.throttled)
		metrics_inc(net_rx_event_rate_limiter_count);
	net->rx.throttled = false;
	run(net, true, false);
}

static void tx_timer_expired(struct event_timer *timer)
{
	struct net *net = timer->opaque;

	if (net->tx.throttled)
		metrics_inc(net_tx_rate_limiter_event_count);
	net->tx.throttled = false;
	run(net, false, true);
}

static void next_flap_turn(struct net *net)
{
	event_loop_arm(net->dev.loop, &net->flap_timer, event_loop_now_ns() + FLAP_TURN_NS);
}

static void begin_flap(struct net *net)
{
	net->flap_turns = 0;
	net->flap_last_turn = 0;
	atomic_store(&net->link_seen_down, false);
	atomic_store(&net->link_down, true);
	virtio_device_config_changed(&net->dev);
	next_flap_turn(net);
}

static void flap_timer_expired(struct event_timer *timer)
{
	struct net *net = timer->opaque;

	net->flap_turns++;
	if (!net->flap_last_turn && atomic_load(&net->link_seen_down))
		net->flap_last_turn = 2 * net->flap_turns;
	if (net->flap_turns < (net->flap_last_turn ? net->flap_last_turn : FLAP_MAX_TURNS)) {
		next_flap_turn(net);
		return;
	}
	net->flapping = false;
	atomic_store(&net->link_down, false);
	virtio_device_config_changed(&net->dev);
}

static int net_activate(struct virtio_device *dev)
{
	struct net *net = to_net(dev);
	int ret;

	if (!net->area)
		net->area = lazy_alloc(sizeof(*net->area));
	ret = net->area ? net_backend_set_offload(net->be, wanted_offloads(net)) : -ENOMEM;
	if (ret) {
		metrics_inc(net_activate_fails);
		log_error_limited("network-interfaces[%s]: %s", net->iface_id, strerror(-ret));
		return ret;
	}
	/* Frames that came before the driver did, and that no event will tell of. */
	if (net->be->more)
		run(net, true, false);
	else
		net_settle(net);
	return 0;
}

static void net_notify(struct virtio_device *dev, unsigned int queue)
{
	struct net *net = to_net(dev);

	if (queue == NET_RX) {
		metrics_inc(net_rx_queue_event_count);
		if (!net->rx.stalled)
			return;
		net->rx.stalled = false;
		run(net, true, false);
	} else {
		metrics_inc(net_tx_queue_event_count);
		run(net, false, true);
	}
}

static void cancel_timers(struct net *net)
{
	event_loop_disarm(net->dev.loop, &net->rx.timer);
	event_loop_disarm(net->dev.loop, &net->tx.timer);
	net->rx.throttled = net->tx.throttled = false;
}

/* Everything was sent, copied or left in the ring: there is nothing in flight. */
static bool net_reset(struct virtio_device *dev)
{
	struct net *net = to_net(dev);

	cancel_timers(net);
	net_rx_release(net);
	net->rx.waiting = 0;
	net->rx.waiting_paid = net->rx.stalled = net->rx.pushed = false;
	net->tx.blocked = net->tx.pushed = false;
	net->tx.paid = 0;
	event_loop_disarm(dev->loop, &net->flap_timer);
	net->flapping = false;
	atomic_store(&net->link_down, false);
	net_settle(net);
	return true;
}

_Static_assert(sizeof(struct net_state) == 2 * sizeof(struct rate_limiter_state) + 8, "no holes");

static void net_save(const struct virtio_device *dev, struct state_writer *w, uint32_t slot)
{
	const struct net *net = to_net(dev);
	struct net_state state = { .flapping = net->flapping };
	uint64_t now = event_loop_now_ns();

	rate_limiter_save(&net->rx.limiter, &state.rx, now);
	rate_limiter_save(&net->tx.limiter, &state.tx, now);
	state_put(w, STATE_NET, slot, &state, sizeof(state));
}

static int net_restore(struct virtio_device *dev, struct state_reader *r, uint32_t slot, struct error *err)
{
	struct net *net = to_net(dev);
	uint64_t now = event_loop_now_ns();
	struct net_state state;
	int ret = state_get(r, STATE_NET, slot, &state, sizeof(state), sizeof(state), err);

	if (ret)
		return ret;
	if (state.flapping > 1)
		return state_bad(err, STATE_NET, slot, "a flag is neither on nor off");
	net->flapping = state.flapping;
	rate_limiter_restore(&net->rx.limiter, &state.rx, now);
	rate_limiter_restore(&net->tx.limiter, &state.tx, now);
	return 0;
}

static const struct virtio_device_ops net_ops = {
	.type = VIRTIO_ID_NET,
	.nr_queues = 2,
	.queue_max_size = NET_QUEUE_SIZE,
	.features = net_features,
	.read_config = net_read_config,
	.activate = net_activate,
	.notify = net_notify,
	.reset = net_reset,
	.save = net_save,
	.restore = net_restore,
};

int net_create(struct net **out, const struct net_config *cfg, const struct guest_memory *gm, struct event_loop *loop,
	       struct error *err)
{
	struct net *net = calloc(1, sizeof(*net));
	const struct net_backend_client client = { .ready = backend_ready, .opaque = net };
	uint64_t now = event_loop_now_ns();
	unsigned int i;
	int ret;

	if (!net)
		return error_set(err, -ENOMEM, "network-interfaces[%s]: no memory", cfg->iface_id);
	ret = net_backend_open(&net->be, cfg, loop, &client, err);
	if (ret) {
		free(net);
		return ret;
	}
	memcpy(net->iface_id, cfg->iface_id, sizeof(net->iface_id));
	memcpy(net->mac, cfg->guest_mac, sizeof(net->mac));
	net->mac_given = cfg->mac_given;
	net->mtu = (uint16_t)cfg->mtu;
	rate_limiter_init(&net->rx.limiter, &cfg->rx, now);
	rate_limiter_init(&net->tx.limiter, &cfg->tx, now);
	net->rx.timer = (struct event_timer){ .expired = rx_timer_expired, .opaque = net };
	net->tx.timer = (struct event_timer){ .expired = tx_timer_expired, .opaque = net };
	net->flap_timer = (struct event_timer){ .expired = flap_timer_expired, .opaque = net };
	net->dev.ops = &net_ops;
	net->dev.id = net->iface_id;
	net->dev.gm = gm;
	net->dev.loop = loop;
	for (i = 0; i < net_ops.nr_queues; i++) {
		net->dev.queue[i].gm = gm;
		net->dev.queue[i].max_size = NET_QUEUE_SIZE;
	}
	*out = net;
	return 0;
}

void net_destroy(struct net *net)
{
	if (!net)
		return;
	cancel_timers(net);
	event_loop_disarm(net->dev.loop, &net->flap_timer);
	net_backend_close(net->be);
	if (net->area)
		munmap(net->area, sizeof(*net->area));
	free(net);
}

struct virtio_device *net_device(struct net *net)
{
	return &net->dev;
}

void net_set_rate(struct net *net, const struct rate_limiter_config *rx, const struct rate_limiter_config *tx)
{
	uint64_t now = event_loop_now_ns();

	if (rx)
		rate_limiter_change(&net->rx.limiter, rx, now);
	if (tx)
		rate_limiter_change(&net->tx.limiter, tx, now);
	cancel_timers(net);
	run(net, true, true);
}

void net_pause(struct net *net)
{
	net->paused = true;
	cancel_timers(net);
	event_loop_disarm(net->dev.loop, &net->flap_timer);
	net_rx_release(net);
	net_settle(net);
}

void net_resume(struct net *net)
{
	net->paused = false;
	net->rx.stalled = false;
	if (net->flapping)
		begin_flap(net);
	run(net, true, true);
}

void net_set_hook(struct net *net, const struct net_hook *hook)
{
	net->hook = hook ? *hook : (struct net_hook){ 0 };
	/* It may have had a frame before; asking once too often costs nothing. */
	net->hook_ready = hook && hook->to_guest;
}

void net_hook_ready(struct net *net)
{
	net->hook_ready = true;
	if (!net->in_hook)
		run(net, true, false);
}

void net_flap_link(struct net *net)
{
	if (!net->dev.active || !net_acked(net, VIRTIO_NET_F_STATUS))
		return;
	net->flapping = true;
	if (!net->paused)
		begin_flap(net);
}
