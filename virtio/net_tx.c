/* net_tx.c: the guest's frames to the backend, past a hook if there is one. */
#include <errno.h>
#include <string.h>

#include "iov.h"
#include "log.h"
#include "metrics.h"
#include "net_internal.h"

enum tx_result { TX_DONE, TX_EMPTY, TX_STOP };

/* One frame on its way: its buffers, from the vnet header on until that is cut off. */
struct frame {
	struct iovec *iov;
	unsigned int n;
	size_t len; /* without vnet header */
};

static void broken(struct net *net, const char *why)
{
	metrics_inc(net_tx_fails);
	virtio_device_broken(&net->dev, NET_TX, why);
}

static bool within_rate(struct net *net, size_t len)
{
	struct net_tx *tx = &net->tx;
	uint64_t now, wait;

	/* What was paid for and could not be sent then. */
	if (!rate_limiter_active(&tx->limiter) || len <= tx->paid)
		return true;
	now = event_loop_now_ns();
	wait = rate_limiter_take(&tx->limiter, len, now);
	if (!wait)
		return true;
	metrics_inc(net_tx_rate_limiter_throttled);
	tx->throttled = true;
	event_loop_arm(net->dev.loop, &tx->timer, now + wait);
	return false;
}

static void cut(struct frame *f, size_t len)
{
	size_t within;
	unsigned int first = iov_find(f->iov, f->n, len, &within);

	f->iov += first;
	f->n -= first;
	if (f->n) {
		f->iov->iov_base = (uint8_t *)f->iov->iov_base + within;
		f->iov->iov_len -= within;
	}
}

/*
 * Show the frame to the hook. What the hook decides by and what is sent are the same copy: header and head are read
 * from the guest once and go out from here, only the rest goes out of the guest's memory. False: taken, or not to be
 * sent.
 */
static bool pass_hook(struct net *net, struct frame *f)
{
	struct net_area *area = net->area;
	size_t head_len = f->len < NET_HOOK_HEAD ? f->len : NET_HOOK_HEAD;
	bool taken;

	(void)iov_read(f->iov, f->n, 0, &area->tx_hdr, NET_HDR_LEN);
	(void)iov_read(f->iov, f->n, NET_HDR_LEN, area->tx_head, head_len);
	/* A backend without the header ignores it. */
	if (net->be->vnet_hdr && !net_header_honest(&area->tx_hdr, area->tx_head, head_len)) {
		metrics_inc(net_tx_malformed_frames);
		return false;
	}
	cut(f, NET_HDR_LEN + head_len);
	net->in_hook = true;
	taken = net->hook.from_guest(net->hook.opaque, area->tx_head, head_len, f->iov, f->n, f->len);
	net->in_hook = false;
	if (taken)
		return false;
	/* tx_iov has two entries before the chain's first. */
	*--f->iov = (struct iovec){ .iov_base = area->tx_head, .iov_len = head_len };
	*--f->iov = (struct iovec){ .iov_base = &area->tx_hdr, .iov_len = NET_HDR_LEN };
	f->n += 2;
	return true;
}

/* A guest may take any address it likes, as on a wire; it is only counted. */
static void count_spoofed(const struct net *net, const struct frame *f)
{
	uint8_t source[ETH_ALEN];

	if (!net->mac_given)
		return;
	(void)iov_read(f->iov, f->n, NET_HDR_LEN + ETH_ALEN, source, sizeof(source));
	if (memcmp(source, net->mac, ETH_ALEN) != 0)
		metrics_inc(net_tx_spoofed_mac_count);
}

/* 0: it is done with, one way or another; -EAGAIN: not now. */
static int send_frame(struct net *net, struct frame *f)
{
	size_t len = f->len;
	int ret;

	count_spoofed(net, f);
	if (net->hook.from_guest && !pass_hook(net, f))
		return 0;
	if (net->be->vnet_hdr)
		len += NET_HDR_LEN;
	else
		cut(f, NET_HDR_LEN);
	ret = net_backend_write(net->be, f->iov, f->n, len);
	switch (ret) {
	case 0:
		metrics_add(net_tx_bytes_count, f->len);
		metrics_inc(net_tx_packets_count);
		metrics_inc(net_tx_count);
		break;
	case -EAGAIN:
		break;
	case -EINVAL:
		/* The kernel has checked the header, too. */
		metrics_inc(net_tx_malformed_frames);
		ret = 0;
		break;
	default:
		/* Nobody there, or the link is down: the frame is lost, as on a wire. */
		metrics_inc(net_tap_write_fails);
		metrics_inc(net_tx_fails);
		if (ret != -ENODEV) /* that has been said when it happened */
			log_warn_limited("network-interfaces[%s]: %s: a frame was dropped: %s%s", net->iface_id,
					 net->be->name, strerror(-ret), ret == -EIO ? " (is the interface up?)" : "");
		ret = 0;
	}
	return ret;
}

static enum tx_result transmit_one(struct net *net, size_t *bytes)
{
	struct virtqueue *vq = &net->dev.queue[NET_TX];
	struct vq_chain chain = { .iov = net->area->tx_iov + 2, .iov_max = VIRTQUEUE_MAX_SIZE };
	struct frame f;
	int ret = vq_pop(vq, &chain);

	if (ret <= 0) {
		if (ret)
			broken(net, vq_why(ret));
		return ret ? TX_STOP : TX_EMPTY;
	}
	if (chain.nr_in || chain.out_len < NET_HDR_LEN + ETH_HLEN || chain.out_len > NET_HDR_LEN + NET_FRAME_MAX) {
		metrics_inc(net_tx_malformed_frames);
	} else {
		f = (struct frame){ .iov = chain.iov, .n = chain.nr_out, .len = (size_t)chain.out_len - NET_HDR_LEN };
		*bytes = f.len;
		if (!within_rate(net, f.len)) {
			/* Back into the ring: nothing is held while waiting. */
			vq_unpop(vq);
			return TX_STOP;
		}
		if (send_frame(net, &f)) {
			vq_unpop(vq);
			net->tx.blocked = true;
			net->tx.paid = *bytes;
			return TX_STOP;
		}
		net->tx.paid = 0;
	}
	ret = vq_push(vq, chain.head, 0);
	net->tx.pushed = true;
	if (ret)
		broken(net, vq_why(ret));
	return TX_DONE;
}

static bool may_transmit(const struct net *net)
{
	return net->dev.active && net->dev.queue[NET_TX].ready && !net->paused && !net->tx.blocked &&
	       !net->tx.throttled;
}

void net_tx_run(struct net *net)
{
	enum tx_result r = TX_DONE;
	unsigned int frames;
	size_t bytes = 0, len;

	for (frames = 0; r == TX_DONE && frames < NET_TURN_FRAMES && bytes < VIRTIO_TURN_BYTES;
	     frames++, bytes += len) {
		len = 0;
		r = may_transmit(net) ? transmit_one(net, &len) : TX_STOP;
	}
	if (frames == 1 && r == TX_EMPTY)
		metrics_inc(net_no_tx_avail_buffer);
	if (net->tx.pushed && net->dev.active) {
		net->tx.pushed = false;
		virtio_device_interrupt(&net->dev, NET_TX);
	}
	if (r == TX_DONE && may_transmit(net)) {
		metrics_inc(net_tx_remaining_reqs_count);
		event_loop_arm(net->dev.loop, &net->tx.timer, event_loop_now_ns() + 1);
	}
}
