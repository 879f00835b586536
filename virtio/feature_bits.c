/* feature_bits.c: the feature bits that Mayfly's devices have offered so far. */
#include "feature_bits.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>

#define BLOCK(f, what)                                                      \
	{                                                                   \
		VIRTIO_ID_BLOCK, VIRTIO_BLK_F_##f, "VIRTIO_BLK_F_" #f, what \
	}
#define NET(f, what)                                                      \
	{                                                                 \
		VIRTIO_ID_NET, VIRTIO_NET_F_##f, "VIRTIO_NET_F_" #f, what \
	}

static const char writable[] = "is_read_only: false, as when the snapshot was taken";
static const char cached[] = "cache_type: Writeback, as when the snapshot was taken";
static const char same_mayfly[] = "the Mayfly that wrote the snapshot, or a newer one";
static const char tap[] = "a TAP that has this offload, as the one the snapshot was taken with had";
static const char new_tap[] = "a TAP that has this offload, as the one the snapshot was taken with had: Linux 6.2";

static const struct virtio_feature features[] = {
	BLOCK(SEG_MAX, same_mayfly),
	BLOCK(RO, "is_read_only: true, as when the snapshot was taken"),
	BLOCK(BLK_SIZE, same_mayfly),
	BLOCK(FLUSH, cached),
	BLOCK(TOPOLOGY, same_mayfly),
	BLOCK(CONFIG_WCE, cached),
	BLOCK(DISCARD, writable),
	BLOCK(WRITE_ZEROES, writable),
	NET(CSUM, tap),
	NET(GUEST_CSUM, tap),
	NET(MTU, "mtu, as when the snapshot was taken"),
	NET(MAC, "guest_mac, as when the snapshot was taken"),
	NET(GUEST_TSO4, tap),
	NET(GUEST_TSO6, tap),
	NET(GUEST_ECN, tap),
	NET(GUEST_UFO, tap),
	NET(HOST_TSO4, tap),
	NET(HOST_TSO6, tap),
	NET(HOST_ECN, tap),
	NET(HOST_UFO, tap),
	NET(MRG_RXBUF, same_mayfly),
	NET(STATUS, same_mayfly),
	NET(GUEST_USO4, new_tap),
	NET(GUEST_USO6, new_tap),
	NET(HOST_USO, new_tap),
};

const struct virtio_feature *virtio_feature_find(uint32_t type, unsigned int bit)
{
	size_t i;

	for (i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		if (features[i].type == type && features[i].bit == bit)
			return &features[i];
	}
	return NULL;
}
