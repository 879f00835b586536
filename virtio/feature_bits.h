/* feature_bits.h: what feature bits are called, and what it takes to offer them. */
#ifndef MAYFLY_VIRTIO_FEATURE_BITS_H
#define MAYFLY_VIRTIO_FEATURE_BITS_H

#include <linux/virtio_net.h>
#include <stdint.h>

/* Virtio 1.2, 5.1.3; Linux 6.2's headers have the names, Debian 12's are older. */
#ifndef VIRTIO_NET_F_GUEST_USO4
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO   56
#endif

struct virtio_feature {
	uint32_t type; /* VIRTIO_ID_* */
	unsigned int bit;
	const char *name;  /* as in the kernel's headers */
	const char *needs; /* what has to be there so that the device offers it, to follow "needs" */
};

/* virtio_feature_find - what is known of that bit of that kind of device; NULL: we never offered it. Any thread. */
const struct virtio_feature *virtio_feature_find(uint32_t type, unsigned int bit);

#endif
