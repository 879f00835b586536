/* vsock.h: a virtio-vsock device as the test guest drives it: stream connections with credit both ways, polled. */
#ifndef GUEST_VSOCK_H
#define GUEST_VSOCK_H

#include <linux/virtio_vsock.h>

#include "virtio.h"

#define VSOCK_CONNS    256
#define VSOCK_BUF      65536u /* for each connection: what it has received and not passed on */
#define VSOCK_RX_SLOTS 128u
#define VSOCK_TX_SLOTS 64u
#define VSOCK_RX_SIZE  (4096u + sizeof(struct virtio_vsock_hdr))
#define VSOCK_TX_SIZE  (16384u + sizeof(struct virtio_vsock_hdr))

#define HOST_CID 2u

struct vconn {
	bool used, open, refused;
	uint32_t host_port, guest_port;
	uint8_t *buf; /* ring */
	uint32_t start, len;
	uint32_t fwd, told_fwd;              /* bytes that left our buffer; what the host knows of it */
	uint32_t sent, host_alloc, host_fwd; /* credit from the host */
	uint8_t host_shut, shut;             /* VIRTIO_VSOCK_SHUTDOWN_* said by the host, by us */
	bool reset;                          /* the host said RST */
};

struct vsock {
	struct guest *g;
	struct vdev dev;
	struct virtq rx, tx, event;
	bool open;
	uint64_t cid;
	uint8_t *rx_buf, *tx_buf;
	uint16_t tx_slot[QUEUE_MAX]; /* by head */
	uint16_t tx_free[VSOCK_TX_SLOTS];
	unsigned int nr_tx_free;
	struct vconn conn[VSOCK_CONNS];
	uint32_t listen_port; /* requests to it are accepted; 0: none */
	unsigned int accepted, refused, resets, ended;
	uint16_t last_op; /* of the packet received last, and of which type */
	uint16_t last_type;
};

/* vsock_get - the vsock device among the virtio-mmio devices, or NULL with a message. vsock_open - reset and start it.
 */
struct vsock *vsock_get(struct guest *g);
bool vsock_open(struct vsock *v, uint32_t rx_size);
/* vsock_poll - take what has come; false when the device wants a reset. */
bool vsock_poll(struct vsock *v);
/* vsock_send - one packet; len bytes of data may be NULL. False when all TX slots are busy. */
bool vsock_send(struct vsock *v, const struct virtio_vsock_hdr *hdr, const void *data, uint32_t len);
/* vsock_header - of a packet of conn. */
struct virtio_vsock_hdr vsock_header(struct vsock *v, struct vconn *c, uint16_t op, uint32_t len);
/* vsock_connect - ask the host for its port. */
struct vconn *vsock_connect(struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* vsock_write - send what credit and TX slots allow of len bytes; how many. */
uint32_t vsock_write(struct vsock *v, struct vconn *c, const uint8_t *data, uint32_t len);
/* vsock_peek - contiguous bytes received; vsock_consume - done with n of them. */
uint32_t vsock_peek(const struct vconn *c, const uint8_t **data);
void vsock_consume(struct vsock *v, struct vconn *c, uint32_t n);
bool vsock_shutdown(struct vsock *v, struct vconn *c, uint8_t flags);
void vsock_release(struct vsock *v, struct vconn *c);

/* vsock_bench.c: bench PORT [dir=tx|rx] [bytes=64M] */
bool vsock_bench(struct vsock *v, struct step *s);

/* The step "vsock VERB …". */
bool vsock_step(struct step *s);

#endif
