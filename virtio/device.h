/* device.h: what a virtio device and a transport know of each other. */
#ifndef MAYFLY_VIRTIO_DEVICE_H
#define MAYFLY_VIRTIO_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "event_loop.h"
#include "guest_memory.h"
#include "queue.h"

#define VIRTIO_MAX_QUEUES 3

/* What one queue may move before the loop's other users have their turn: some 50 µs of copying. */
#define VIRTIO_TURN_BYTES (256u << 10)

struct state_reader;
struct state_writer;
struct virtio_device;

/*
 * All operations run on the loop thread, but for read_config and features, which a vCPU thread may call with the
 * transport's lock held: they must be quick and touch nothing but the device's config.
 */
struct virtio_device_ops {
	uint32_t type; /* VIRTIO_ID_* */
	unsigned int nr_queues;
	uint16_t queue_max_size;
	/* Device feature bits on offer; VERSION_1, EVENT_IDX, INDIRECT_DESC are added by the transport. */
	uint64_t (*features)(const struct virtio_device *dev);
	/* Fill buf with config bytes [offset, offset + len); bytes past the end are zero. */
	void (*read_config)(const struct virtio_device *dev, uint64_t offset, void *buf, size_t len);
	/* The driver wrote config bytes; NULL when nothing in it is writable. Transport's lock held, any thread. */
	void (*write_config)(struct virtio_device *dev, uint64_t offset, const void *buf, size_t len);
	/* DRIVER_OK: dev->features and the ready queues are final until reset. 0, or -errno: the transport sets
	 * NEEDS_RESET. */
	int (*activate)(struct virtio_device *dev);
	/* The driver rang this ready queue (or may have: spurious calls are harmless). Only while active. */
	void (*notify)(struct virtio_device *dev, unsigned int queue);
	/*
	 * Stop using the queues. Returns true when nothing is in flight any more; false: the device finishes or cancels
	 * what is in flight first, pushes nothing more to the rings, and then calls virtio_device_reset_done().
	 */
	bool (*reset)(struct virtio_device *dev);
	/*
	 * Write the device's own record, and read it again; NULL: it has none. Restoring comes before activation, with
	 * features and queues in dev already, and gets 0, or -errno with a sentence (the device is then only good for
	 * being destroyed). The device is paused: nothing is in flight, and activation does not touch the rings.
	 */
	void (*save)(const struct virtio_device *dev, struct state_writer *w, uint32_t slot);
	int (*restore)(struct virtio_device *dev, struct state_reader *r, uint32_t slot, struct error *err);
};

/* The transport's side; the machine binds it before the guest runs. Loop thread only. */
struct virtio_transport_ops {
	void (*interrupt)(struct virtio_device *dev);      /* used buffers: VIRTIO_MMIO_INT_VRING */
	void (*config_changed)(struct virtio_device *dev); /* new config generation + VIRTIO_MMIO_INT_CONFIG */
	void (*broken)(struct virtio_device *dev);         /* DEVICE_NEEDS_RESET + config interrupt */
	void (*reset_done)(struct virtio_device *dev);
};

/* Embedded first in every device's own struct. */
struct virtio_device {
	const struct virtio_device_ops *ops;
	const struct virtio_transport_ops *transport_ops;
	void *transport;
	const char *id; /* drive_id, iface_id: for log lines */
	const struct guest_memory *gm;
	struct event_loop *loop;
	uint64_t features; /* acknowledged by the driver */
	bool active;       /* between activate and reset; false once broken */
	struct virtqueue queue[VIRTIO_MAX_QUEUES];
};

/*
 * virtio_device_interrupt - interrupt the driver for queue if it wants one now.
 * virtio_device_broken - the driver broke the rules (why: a short phrase): NEEDS_RESET, one rate-limited log line, a
 * metric, dev->active = false.
 */
void virtio_device_interrupt(struct virtio_device *dev, unsigned int queue);
void virtio_device_broken(struct virtio_device *dev, unsigned int queue, const char *why);
void virtio_device_config_changed(struct virtio_device *dev);
void virtio_device_reset_done(struct virtio_device *dev);

#endif
