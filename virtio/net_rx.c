/* net_rx.c: frames from the backend, or a hook, into the guest's receive buffers. */
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "iov.h"
#include "log.h"
#include "metrics.h"
#include "net_internal.h"

enum rx_result { RX_DONE, RX_EMPTY, RX_STOP };

static struct net_rx_chain *chain_at(struct net *net, unsigned int i)
{
	return &net->area->rx_chain[(net->rx.first_chain + i) % NET_QUEUE_SIZE];
}

static struct iovec *buffers(struct net *net)
{
	return net->area->rx_iov + net->rx.first_iov;
}

static bool mergeable(const struct net *net)
{
	return net_acked(net, VIRTIO_NET_F_MRG_RXBUF);
}

static void broken(struct net *net, const char *why)
{
	metrics_inc(net_rx_fails);
	virtio_device_broken(&net->dev, NET_RX, why);
}

/* Room for one more chain of any shape, at the end of rx_iov; what is held moves to the front for it. */
static bool make_room(struct net *net)
{
	struct net_rx *rx = &net->rx;

	if (rx->nr_chains == NET_QUEUE_SIZE || rx->nr_iov + VIRTQUEUE_MAX_SIZE > NET_RX_IOVS)
		return false;
	if (rx->first_iov + rx->nr_iov + VIRTQUEUE_MAX_SIZE > NET_RX_IOVS) {
		memmove(net->area->rx_iov, buffers(net), rx->nr_iov * sizeof(struct iovec));
		rx->first_iov = 0;
	}
	return true;
}

/* Take chains from the ring until they hold `want` bytes, or there are no more, or no room for more. False: broken. */
static bool collect(struct net *net, uint64_t want)
{
	struct net_rx *rx = &net->rx;
	struct vq_chain chain;
	int ret;

	while (rx->bytes < want && make_room(net)) {
		chain.iov = buffers(net) + rx->nr_iov;
		chain.iov_max = VIRTQUEUE_MAX_SIZE;
		ret = vq_pop(&net->dev.queue[NET_RX], &chain);
		if (ret == 0)
			break;
		/* 5.1.6.3.1: each buffer holds a header at least. */
		if (ret < 0 || chain.nr_out || chain.in_len < NET_HDR_LEN) {
			broken(net, ret < 0 ? vq_why(ret) : "receive buffer that is readable or shorter than a header");
			return false;
		}
		*chain_at(net, rx->nr_chains++) = (struct net_rx_chain){
			.head = chain.head,
			.nr_iov = (uint16_t)chain.nr_in,
			.len = chain.in_len,
		};
		rx->nr_iov += chain.nr_in;
		rx->bytes += chain.in_len;
	}
	return true;
}

void net_rx_release(struct net *net)
{
	struct net_rx *rx = &net->rx;

	for (; rx->nr_chains; rx->nr_chains--)
		vq_unpop(&net->dev.queue[NET_RX]);
	rx->first_chain = rx->first_iov = rx->nr_iov = 0;
	rx->bytes = 0;
}

/* What a frame may fill: all the chains held when they can be merged, else the first one. */
static uint64_t capacity(struct net *net, unsigned int *nr_iov)
{
	*nr_iov = mergeable(net) ? net->rx.nr_iov : chain_at(net, 0)->nr_iov;
	return mergeable(net) ? net->rx.bytes : chain_at(net, 0)->len;
}

/* The frame of len bytes that lies in the first chains is the driver's now. 5.1.6.4: all of its chains at once. */
static void publish(struct net *net, size_t len)
{
	struct virtqueue *vq = &net->dev.queue[NET_RX];
	struct net_rx *rx = &net->rx;
	uint64_t covered = 0;
	uint16_t nr = 0, num_buffers;
	int ret = 0;

	while (covered < len)
		covered += chain_at(net, nr++)->len;
	num_buffers = htole16(nr);
	(void)iov_write(buffers(net), rx->nr_iov, offsetof(struct virtio_net_hdr_v1, num_buffers), &num_buffers,
			sizeof(num_buffers));
	metrics_add(net_rx_bytes_count, len - NET_HDR_LEN);
	metrics_inc(net_rx_packets_count);
	metrics_inc(net_rx_count);
	for (; nr && !ret; nr--) {
		const struct net_rx_chain *chain = chain_at(net, 0);
		size_t part = len < chain->len ? len : (size_t)chain->len;

		len -= part;
		ret = vq_stage(vq, chain->head, (uint32_t)part);
		rx->first_chain = (rx->first_chain + 1) % NET_QUEUE_SIZE;
		rx->nr_chains--;
		rx->first_iov += chain->nr_iov;
		rx->nr_iov -= chain->nr_iov;
		rx->bytes -= chain->len;
	}
	if (!ret)
		ret = vq_publish(vq);
	rx->pushed = true;
	if (ret)
		broken(net, vq_why(ret));
}

/* True when a frame of len bytes may go to the guest now; else the timer is set for when it may. */
static bool within_rate(struct net *net, size_t len)
{
	struct net_rx *rx = &net->rx;
	uint64_t now, wait;

	if (!rate_limiter_active(&rx->limiter))
		return true;
	now = event_loop_now_ns();
	wait = rate_limiter_take(&rx->limiter, len - NET_HDR_LEN, now);
	if (!wait)
		return true;
	metrics_inc(net_rx_rate_limiter_throttled);
	rx->throttled = true;
	event_loop_arm(net->dev.loop, &rx->timer, now + wait);
	return false;
}

static void drop_waiting(struct net *net)
{
	net->rx.waiting = 0;
	net->rx.waiting_paid = false;
}

/* 5.1.6.3: too few buffers for a frame that waits. Merged ones may still come, unless the driver has given all it can.
 */
static enum rx_result too_small(struct net *net)
{
	struct net_rx *rx = &net->rx;

	if (mergeable(net) && rx->nr_chains < net->dev.queue[NET_RX].size && make_room(net)) {
		metrics_inc(net_no_rx_avail_buffer);
		rx->stalled = true;
		return RX_STOP;
	}
	metrics_inc(net_rx_fails);
	drop_waiting(net);
	return RX_DONE;
}

static enum rx_result deliver_waiting(struct net *net)
{
	struct net_rx *rx = &net->rx;
	unsigned int n;

	if (!rx->waiting_paid && !within_rate(net, rx->waiting))
		return RX_STOP;
	rx->waiting_paid = true;
	if (!collect(net, mergeable(net) ? rx->waiting : 1))
		return RX_STOP;
	if (!rx->nr_chains) {
		metrics_inc(net_no_rx_avail_buffer);
		rx->stalled = true;
		return RX_STOP;
	}
	if (capacity(net, &n) < rx->waiting)
		return too_small(net);
	(void)iov_write(buffers(net), n, 0, net->area->waiting, rx->waiting);
	publish(net, rx->waiting);
	drop_waiting(net);
	return RX_DONE;
}

/* A frame of the hook's, if it has one. It goes the way of those that wait. */
static bool fetch_from_hook(struct net *net)
{
	size_t len = 0;

	if (!net->hook_ready)
		return false;
	net->hook_ready = false;
	if (net->hook.to_guest) {
		net->in_hook = true;
		len = net->hook.to_guest(net->hook.opaque, net->area->waiting + NET_HDR_LEN, NET_FRAME_MAX);
		net->in_hook = false;
	}
	if (!len)
		return net->hook_ready;
	net->hook_ready = true;
	memset(net->area->waiting, 0, NET_HDR_LEN);
	net->rx.waiting = len <= NET_FRAME_MAX ? NET_HDR_LEN + len : 0;
	return true;
}

/*
 * Read one frame straight into the chains held; what they cannot hold lands in area->waiting, at the place where it
 * belongs if the whole frame has to wait there. Its length with header, 0: none.
 */
static size_t read_frame(struct net *net, uint64_t room, unsigned int n)
{
	static const struct virtio_net_hdr_v1 no_header;
	struct iovec *iov = buffers(net);
	unsigned int total = n, first;
	size_t within;
	ssize_t ret;

	if (room < NET_READ_MAX) {
		/* rx_iov has one entry more than chains ever fill, and unmerged chains are held one at a time. */
		iov[total++] = (struct iovec){
			.iov_base = net->area->waiting + room,
			.iov_len = (size_t)(NET_READ_MAX - room),
		};
	}
	if (net->be->vnet_hdr) {
		ret = net_backend_read(net->be, iov, total);
		return ret > 0 ? (size_t)ret : 0;
	}
	/* The header is ours then: nothing to compute, nothing to segment. */
	first = iov_find(iov, total, NET_HDR_LEN, &within);
	iov[first].iov_base = (uint8_t *)iov[first].iov_base + within;
	iov[first].iov_len -= within;
	ret = net_backend_read(net->be, iov + first, total - first);
	iov[first].iov_base = (uint8_t *)iov[first].iov_base - within;
	iov[first].iov_len += within;
	if (ret < 0)
		return 0;
	(void)iov_write(iov, n, 0, &no_header, NET_HDR_LEN);
	return NET_HDR_LEN + (size_t)ret;
}

/* Move the frame that lies in the guest's buffers, all of it or what fitted, to where it can wait. */
static void set_aside(struct net *net, size_t len, uint64_t room, unsigned int n, bool paid)
{
	(void)iov_read(buffers(net), n, 0, net->area->waiting, len < room ? len : (size_t)room);
	net->rx.waiting = len;
	net->rx.waiting_paid = paid;
}

static enum rx_result receive_one(struct net *net, size_t *len)
{
	struct net_rx *rx = &net->rx;
	uint64_t room;
	unsigned int n;

	if (!collect(net, mergeable(net) ? NET_READ_MAX : 1))
		return RX_STOP;
	if (!rx->nr_chains) {
		metrics_inc(net_no_rx_avail_buffer);
		rx->stalled = true;
		return RX_STOP;
	}
	room = capacity(net, &n);
	*len = read_frame(net, room, n);
	if (!*len)
		return RX_EMPTY;
	if (*len < NET_HDR_LEN + ETH_HLEN || *len >= NET_READ_MAX || (*len > room && !mergeable(net))) {
		metrics_inc(net_rx_fails);
		return RX_DONE;
	}
	if (!within_rate(net, *len)) {
		set_aside(net, *len, room, n, false);
		return RX_STOP;
	}
	if (*len > room)
		set_aside(net, *len, room, n, true);
	else
		publish(net, *len);
	return RX_DONE;
}

static enum rx_result one(struct net *net, size_t *len)
{
	*len = net->rx.waiting;
	if (net->rx.waiting || fetch_from_hook(net))
		return net->rx.waiting ? deliver_waiting(net) : RX_DONE;
	return receive_one(net, len);
}

static bool may_receive(const struct net *net)
{
	return net->dev.active && net->dev.queue[NET_RX].ready && !net->paused && !net->rx.stalled &&
	       !net->rx.throttled;
}

void net_rx_run(struct net *net)
{
	enum rx_result r = RX_DONE;
	unsigned int frames;
	size_t bytes = 0, len;

	for (frames = 0; r == RX_DONE && frames < NET_TURN_FRAMES && bytes < VIRTIO_TURN_BYTES;
	     frames++, bytes += len) {
		len = 0;
		r = may_receive(net) ? one(net, &len) : RX_STOP;
	}
	if (net->rx.pushed && net->dev.active) {
		net->rx.pushed = false;
		virtio_device_interrupt(&net->dev, NET_RX);
	}
	/* Of what waits in the backend an event will tell; of what waits here, the timer. */
	if (r == RX_DONE && may_receive(net) && (net->rx.waiting || net->hook_ready || net->be->more))
		event_loop_arm(net->dev.loop, &net->rx.timer, event_loop_now_ns() + 1);
}
