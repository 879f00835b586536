/* net_internal.h: what the halves of the network device, receive and transmit, share with the device itself. */
#ifndef MAYFLY_VIRTIO_NET_INTERNAL_H
#define MAYFLY_VIRTIO_NET_INTERNAL_H

#include <stdatomic.h>

#include "net.h"
#include "net_backend.h"

#define NET_QUEUE_SIZE VIRTQUEUE_MAX_SIZE
#define NET_RX         0u
#define NET_TX         1u

/* Of one direction, before other users of the event loop get their turn. */
#define NET_TURN_FRAMES 128u

/* IOV_MAX, of which the last entry is for what does not fit into the guest's buffers. */
#define NET_RX_IOVS (1024u - 1u)

/* A chain of receive buffers, taken from the ring and not used yet. */
struct net_rx_chain {
	uint16_t head;
	uint16_t nr_iov;
	uint64_t len;
};

/* In memory that costs nothing until it is used. */
struct net_area {
	struct iovec rx_iov[NET_RX_IOVS + 1];
	struct net_rx_chain rx_chain[NET_QUEUE_SIZE];
	/* Two before the chain: vnet header and private copy of the frame's head. */
	struct iovec tx_iov[2 + VIRTQUEUE_MAX_SIZE];
	struct virtio_net_hdr_v1 tx_hdr;
	uint8_t tx_head[NET_HOOK_HEAD];
	/* A frame that waits: for the rate limiter, for more buffers; or one of the hook's. */
	uint8_t waiting[NET_READ_MAX];
};

/* Chains in rx_chain from first_chain on (a ring), their buffers in rx_iov from first_iov on (in one piece). */
struct net_rx {
	unsigned int first_chain, nr_chains;
	unsigned int first_iov, nr_iov;
	uint64_t bytes;           /* in all of them */
	size_t waiting;           /* bytes of area->waiting, header included; 0: no frame waits */
	bool waiting_paid;        /* the rate limiter has let it through */
	bool stalled;             /* no buffers: the driver's notification goes on */
	bool throttled;           /* the timer goes on */
	bool pushed;              /* since the driver was last asked whether it wants an interrupt */
	struct event_timer timer; /* the limiter's, or the next turn */
	struct rate_limiter limiter;
};

struct net_tx {
	uint64_t paid;  /* bytes that the limiter let through for the chain that was put back */
	bool blocked;   /* the backend is full: EPOLLOUT goes on */
	bool throttled; /* the timer goes on */
	bool pushed;
	struct event_timer timer;
	struct rate_limiter limiter;
};

struct net {
	struct virtio_device dev; /* first: ops get this and cast */
	char iface_id[CONFIG_ID_LEN];
	bool mac_given;
	uint8_t mac[ETH_ALEN];
	uint16_t mtu;
	struct net_backend *be;
	struct net_area *area;
	struct net_rx rx;
	struct net_tx tx;
	struct net_hook hook;
	bool hook_ready; /* to_guest may have a frame */
	bool in_hook;
	bool paused;
	bool flapping;               /* the link is to go down, or is down, and to come back */
	_Atomic bool link_down;      /* read by vCPU threads in read_config */
	_Atomic bool link_seen_down; /* set by them */
	unsigned int flap_turns;
	unsigned int flap_last_turn; /* 0 until the driver has seen it */
	struct event_timer flap_timer;
};

static inline bool net_acked(const struct net *net, unsigned int feature)
{
	return net->dev.features & 1ull << feature;
}

/* net_rx_run, net_tx_run - one turn in that direction; then net_settle. */
void net_rx_run(struct net *net);
void net_tx_run(struct net *net);
/* net_rx_release - give chains not used yet back to the ring; the driver is not told, for it never knew. */
void net_rx_release(struct net *net);
/* net_settle - watch the backend for what is wanted now, after anything that may have changed that. */
void net_settle(struct net *net);
/* net_header_honest - would the device change only what hook and guest agree on? See net_header.c. */
bool net_header_honest(const struct virtio_net_hdr_v1 *hdr, const uint8_t *head, size_t head_len);

#endif
