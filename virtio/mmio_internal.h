/* mmio_internal.h: what the transport's register file and its place in a state file share. */
#ifndef MAYFLY_VIRTIO_MMIO_INTERNAL_H
#define MAYFLY_VIRTIO_MMIO_INTERNAL_H

#include <linux/virtio_config.h>

#include "mmio.h"

/* The status bits that a driver sets; the device's own is VIRTIO_CONFIG_S_NEEDS_RESET. */
#define VIRTIO_MMIO_DRIVER_BITS                                                               \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

/* virtio_mmio_offered - all features on offer, the transport's own among them. */
uint64_t virtio_mmio_offered(const struct virtio_mmio *mmio);
/* virtio_mmio_carry_out - do what the vCPUs have ordered so far. Loop thread. */
void virtio_mmio_carry_out(struct virtio_mmio *mmio);
/* virtio_mmio_activate - the driver is ready; 0 or -errno of the device's. Loop thread. */
int virtio_mmio_activate(struct virtio_mmio *mmio);

#endif
