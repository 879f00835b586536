/* vsock.h: virtio-vsock (virtio 1.2, 5.10): stream sockets of the guest that are Unix sockets on the host. */
#ifndef MAYFLY_VIRTIO_VSOCK_H
#define MAYFLY_VIRTIO_VSOCK_H

#include "config.h"
#include "device.h"

struct vsock;

/*
 * vsock_create - listen at cfg->uds_path and make a device for it; the host may connect before the guest runs
 * Host programs connect to uds_path and write "CONNECT PORT\n" (or "CONNECT PORT MILLISECONDS\n": wait that long for
 * somebody to listen there); "OK HOST_PORT\n" comes back, then the guest's bytes. Guest programs connect to CID 2, port
 * P, and reach who listens at <uds_path>_P. 0 or -errno with a sentence that begins with the field; -EADDRINUSE when
 * there is a file at uds_path. Loop thread, like everything here.
 */
int vsock_create(struct vsock **out, const struct vsock_config *cfg, const struct guest_memory *gm,
		 struct event_loop *loop, struct error *err);

/*
 * vsock_destroy - pass on what the guest has sent, as far as the host takes it at once, close all, remove uds_path
 * The vCPUs have stopped. NULL is allowed.
 */
void vsock_destroy(struct vsock *vsock);
struct virtio_device *vsock_device(struct vsock *vsock);

/*
 * vsock_pause - leave rings and guest memory alone until vsock_resume; nothing is lost, timeouts stand still
 * The host may go on to connect and to write.
 */
void vsock_pause(struct vsock *vsock);
void vsock_resume(struct vsock *vsock);

/*
 * vsock_transport_reset - end all connections and tell the driver so (5.10.6.7): its CID may be a new one
 * The event is queued until the driver has a buffer for it; until it gives that back, or a tenth of a second is over,
 * it gets no packets.
 */
void vsock_transport_reset(struct vsock *vsock);

/*
 * STATE_VSOCK, by slot. Connections stay with the microVM that was saved; the driver of the other one is told by a
 * transport reset. What it still sends for them must not meet a new connection, so the host's ports go on from there.
 */
struct vsock_state {
	uint32_t last_host_port;
	uint32_t zero;
};

/* vsock_on_listening - listening(opaque, port) is called when a CONNECT that waits finds a guest's port open for the
 * first time since the driver started (of the last 32 such ports). */
void vsock_on_listening(struct vsock *vsock, void (*listening)(void *opaque, uint32_t port), void *opaque);

#endif
