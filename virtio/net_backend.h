/* net_backend.h: where a network device's frames come from and go to: a TAP, a datagram socket or passt's stream. */
#ifndef MAYFLY_VIRTIO_NET_BACKEND_H
#define MAYFLY_VIRTIO_NET_BACKEND_H

#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "config.h"
#include "error.h"
#include "event_loop.h"
#include "queue.h"

/* Linux 6.2; Debian 12's headers are older. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* The largest IP packet in an Ethernet frame with two VLAN tags. Longer frames are dropped in both directions. */
#define NET_FRAME_MAX (65535u + ETH_HLEN + 8u)
#define NET_HDR_LEN   sizeof(struct virtio_net_hdr_v1)
/* What one read may return, and a byte more, by which a frame that is too long is known. */
#define NET_READ_MAX (NET_HDR_LEN + NET_FRAME_MAX + 1u)

struct net_backend;

/* All of it never blocks and is called by net_backend.c on the loop thread. */
struct net_backend_ops {
	/* See net_backend_read and _write. Of read, any error but -EAGAIN means that the other side is gone. */
	ssize_t (*read)(struct net_backend *be, const struct iovec *iov, unsigned int n);
	int (*write)(struct net_backend *be, const struct iovec *iov, unsigned int n, size_t len);
	/* EPOLLOUT came: send what write accepted but the kernel did not yet. NULL: nothing is ever kept. */
	int (*flush)(struct net_backend *be);
	/* Tell the kernel what the guest can take, as TUN_F_*; NULL: no offloads. 0 or -errno. */
	int (*set_offload)(struct net_backend *be, unsigned int flags);
	/* Forget what belongs to the lost connection. NULL: nothing does. */
	void (*lost)(struct net_backend *be);
	/* Try to come back; 0 or -errno (try again later). NULL: what is gone is gone. */
	int (*retry)(struct net_backend *be);
	void (*free)(struct net_backend *be);
};

/* The device's side. */
struct net_backend_client {
	/* Frames may be there to read (readable), or write may be tried again. */
	void (*ready)(void *opaque, bool readable, bool writable);
	void *opaque;
};

/* Embedded first in every backend's own struct. */
struct net_backend {
	const struct net_backend_ops *ops;
	struct net_backend_client client;
	struct event_loop *loop;
	struct event_fd event;
	uint32_t watched; /* EPOLL* bits asked for; 0: not in the epoll set */
	struct event_timer retry;
	bool starved;        /* not up for the host's sake only: nothing to connect again */
	uint64_t backoff_ns; /* until the next retry */
	bool up;
	bool hangup;            /* the last event said so: what can still be read is all there is */
	bool vnet_hdr;          /* frames carry a struct virtio_net_hdr_v1 */
	bool more;              /* a whole frame waits in memory: no event will tell */
	bool unsent;            /* part of a frame waits for EPOLLOUT */
	unsigned int offloads;  /* TUN_F_* that set_offload takes */
	unsigned int offload;   /* TUN_F_* set now */
	char name[128];         /* host_dev_name, for log lines */
	char id[CONFIG_ID_LEN]; /* iface_id, the same */
};

/*
 * net_backend_open - what cfg->host_dev_name names: a TAP, "fd:N" (an inherited TAP or connected socket, told apart; a
 * duplicate is used, N stays the caller's) or "unix:/path"
 * Returns 0, or -errno with a sentence that begins with network-interfaces[ID].host_dev_name. Owned by the caller.
 * Loop thread or before it runs.
 */
int net_backend_open(struct net_backend **out, const struct net_config *cfg, struct event_loop *loop,
		     const struct net_backend_client *client, struct error *err);
void net_backend_close(struct net_backend *be);

/*
 * net_backend_watch - which of EPOLLIN and EPOLLOUT to tell the client of; 0: none, not even that the other side is
 * gone Nothing happens while the link is down. Loop thread.
 */
void net_backend_watch(struct net_backend *be, uint32_t events);

/*
 * net_backend_read - one frame, after its virtio_net_hdr_v1 where be->vnet_hdr, into iov of NET_READ_MAX bytes at least
 * Bytes read, -EAGAIN, or -ENODEV: gone; client.ready is called if it comes back.
 */
ssize_t net_backend_read(struct net_backend *be, const struct iovec *iov, unsigned int n);

/*
 * net_backend_write - send one frame of len bytes, its virtio_net_hdr_v1 included where be->vnet_hdr
 * 0: sent, or copied; -EAGAIN: not now, wait for EPOLLOUT; -ENODEV: gone; another -errno: this frame cannot be sent.
 */
int net_backend_write(struct net_backend *be, const struct iovec *iov, unsigned int n, size_t len);

/*
 * net_backend_set_offload - what the guest acknowledged, as TUN_F_*; frames that came under other terms are dropped
 * 0 or -errno.
 */
int net_backend_set_offload(struct net_backend *be, unsigned int flags);

/* The three kinds; fd becomes theirs when they return 0. name is the whole host_dev_name. */
int net_tap_open(struct net_backend **out, const char *name, struct error *err, const char *where);
int net_tap_adopt(struct net_backend **out, int fd, struct error *err, const char *where);
int net_dgram_adopt(struct net_backend **out, int fd, int type, struct error *err, const char *where);
int net_stream_adopt(struct net_backend **out, int fd, struct error *err, const char *where);
int net_stream_connect(struct net_backend **out, const char *path, struct error *err, const char *where);

#endif
