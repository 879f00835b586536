/* net.h: a virtio network device as the test guest drives it. */
#ifndef GUEST_NET_H
#define GUEST_NET_H

#include <linux/virtio_net.h>

#include "virtio.h"

#define NET_HDR_LEN   ((uint32_t)sizeof(struct virtio_net_hdr_v1))
#define NET_FRAME_MAX 65557u
#define NET_RX        0
#define NET_TX        1

#define NET_TX_SLOTS 64u /* of memory for frames to send */
#define NET_TX_SLOT  (NET_HDR_LEN + 65600u)

/* An experimental Ethertype (IEEE 802): nobody but a test answers it. */
#define NET_ETHERTYPE 0x88b5u

/*
 * The frames of a test: destination, source, NET_ETHERTYPE, then a 32-bit number, a 32-bit seed (both little-endian)
 * and bytes that follow from them. tests/integration/net_peer.py makes the same; change both or neither.
 */
#define NET_NUMBER_AT 14u
#define NET_SEED_AT   18u
#define NET_DATA_AT   22u
#define NET_PROBE     0xffffffffu /* a number that no test counts */

struct net {
	struct guest *g;
	unsigned int index;
	struct vdev dev;
	struct virtq rx, tx;
	bool open;
	uint32_t buffer;    /* bytes of one receive buffer */
	uint16_t nr_posted; /* receive buffers to keep in the ring */
	uint8_t *rx_memory; /* one buffer per descriptor */
	uint8_t *tx_memory;
	uint8_t *frame; /* the last one received, put together */
	uint32_t len;
	uint8_t mac[6];
};

/* net_make_frame - len bytes of frame number of a seed. net_post - receive buffer i goes into the ring (again). */
void net_make_frame(const struct net *n, uint8_t *frame, uint32_t len, uint32_t number, uint32_t seed);
void net_post(struct net *n, uint16_t i);

/* net_bench.c: bench [dir=tx|rx] [n=100000] [len=64] [depth=128] */
bool net_bench(struct net *n, struct step *s);

/* The step "net INDEX VERB …". */
bool net_step(struct step *s);

#endif
