/* net.h: virtio-net (virtio 1.2, 5.1) between a guest and a TAP, a socket or passt. */
#ifndef MAYFLY_VIRTIO_NET_H
#define MAYFLY_VIRTIO_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "config.h"
#include "device.h"

/* What a hook sees of a frame in memory that the guest cannot change any more. */
#define NET_HOOK_HEAD 128u

struct net;

/*
 * Somebody between the guest and the backend: a service that answers on the host (a detour), an egress filter, or both.
 * Loop thread.
 *
 * from_guest: one whole Ethernet frame of len bytes, without vnet header. head is a private copy of its first head_len
 * bytes (NET_HOOK_HEAD, or all of a shorter frame); rest are the remaining bytes in guest memory, which the guest can
 * change while and after they are looked at. true: taken (or thrown away), it is not sent on. false: the bytes sent on
 * are those of head, then those that rest holds by then. So decide by head alone, and take what head does not decide. A
 * checksum that the guest left to the device is only ever filled in where a TCP or UDP header has it: frames whose
 * offsets would make the device write elsewhere never get here. The bytes may still be one large segment (TSO, UFO,
 * USO) without checksums. Asked again about a frame that the backend could not take at once.
 *
 * to_guest: write the hook's next frame for the guest (no vnet header, complete checksums) to buf; its length, at most
 * size, or 0 when there is none. Called after net_hook_ready until it returns 0, as fast as the guest takes frames.
 */
struct net_hook {
	bool (*from_guest)(void *opaque, const void *head, size_t head_len, const struct iovec *rest, unsigned int n,
			   size_t len);
	size_t (*to_guest)(void *opaque, void *buf, size_t size);
	void *opaque;
};

/*
 * net_create - open the interface's host side and make a device for it
 * The returned device (net_device()) is bound by a transport. Errors name the field:
 * "network-interfaces[ID].host_dev_name: tap0: …". Loop thread, or before it runs. net_destroy closes the host side.
 */
int net_create(struct net **out, const struct net_config *cfg, const struct guest_memory *gm, struct event_loop *loop,
	       struct error *err);
void net_destroy(struct net *net);
struct virtio_device *net_device(struct net *net);

/* net_set_rate - new limits, live; NULL leaves that direction as it is. Loop thread. */
void net_set_rate(struct net *net, const struct rate_limiter_config *rx, const struct rate_limiter_config *tx);

/*
 * net_pause - stop touching guest memory and rings, at once; no frame is lost and every buffer not yet used is back in
 * the ring. net_resume goes on. Loop thread.
 */
void net_pause(struct net *net);
void net_resume(struct net *net);

/*
 * net_flap_link - take the link down and bring it up again, each with a config interrupt (5.1.4), so that the guest
 * asks for its address anew. Of a paused device, once it is resumed. Nothing happens where the driver knows no link
 * status (VIRTIO_NET_F_STATUS). Loop thread.
 */
void net_flap_link(struct net *net);

/*
 * STATE_NET, by slot. A frame that waited on the host's side stays with the microVM that was saved: the other one never
 * gets it, as if it had been lost on the wire. The MAC address is the config's: where that is another one now, the
 * driver goes on with the one it has read (virtio-net cannot tell it), until it is reset.
 */
struct net_state {
	struct rate_limiter_state rx, tx;
	uint8_t flapping;
	uint8_t zero[7];
};

/* net_set_hook - NULL members do nothing; hook NULL removes it. *hook is copied. Loop thread. */
void net_set_hook(struct net *net, const struct net_hook *hook);
/* net_hook_ready - the hook has a frame for the guest. Loop thread; also from within from_guest and to_guest. */
void net_hook_ready(struct net *net);

#endif
