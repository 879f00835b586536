/* mmio.h: virtio over MMIO (virtio 1.2, 4.2), modern only. */
#ifndef MAYFLY_VIRTIO_MMIO_H
#define MAYFLY_VIRTIO_MMIO_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "config.h"
#include "device.h"
#include "event_loop.h"
#include "legacy/ioapic.h"

/* A queue's ioeventfd, once it has turned out to be busy. */
struct virtio_mmio_kick {
	struct event_fd event;  /* fd -1 until then */
	unsigned int forwarded; /* notifications that came as exits */
	struct virtio_mmio *mmio;
};

/*
 * Register accesses come from vCPU threads and touch only what `lock` guards. Everything that concerns the device
 * (activate, notify, reset) is handed to the loop thread as work; a vCPU that resets the device waits for it, the
 * others do not wait.
 */
struct virtio_mmio {
	struct virtio_device *dev;
	struct event_loop *loop;
	struct ioapic *ioapic;
	int vm_fd;
	uint64_t gpa;
	unsigned int gsi;
	_Atomic uint32_t interrupt_status;
	_Atomic uint32_t notified; /* bit per queue */
	struct event_work work;
	/* Filled in after virtio_mmio_init, or NULL: the device needs a reset. Loop thread. */
	void (*broken)(void *opaque, const char *id);
	void *opaque;
	struct virtio_mmio_kick kick[VIRTIO_MAX_QUEUES]; /* loop thread */

	pthread_mutex_t lock; /* guards the registers below */
	pthread_cond_t reset_finished;
	uint32_t status;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint64_t driver_features;
	uint32_t config_generation;
	bool activate_wanted, reset_wanted; /* orders to the loop thread */
	bool resetting;                     /* from the order until it is carried out */
	bool closing;                       /* the loop has ended: nobody will carry it out */
};

/*
 * virtio_mmio_init - bind dev to this transport at gpa with interrupt gsi and claim X86_VIRTIO_SIZE bytes of the bus
 * Everything pointed to stays the caller's and outlives the vCPUs. 0 or -errno with a sentence. Start-up thread.
 */
int virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *dev, struct event_loop *loop,
		     struct ioapic *ioapic, struct bus *bus, int vm_fd, uint64_t gpa, unsigned int gsi,
		     struct error *err);

/* virtio_mmio_close - let go of a vCPU that waits for a reset, now that the loop has ended. The loop's thread, after
 * event_loop_run(). */
void virtio_mmio_close(struct virtio_mmio *mmio);

/* ---- in a state file (mmio_state.c) ---- */

struct virtqueue_state {
	uint64_t desc_gpa, avail_gpa, used_gpa;
	uint16_t size, next_avail, next_used, signalled_used;
	uint8_t ready, signalled_valid, kicks_off;
	uint8_t zero[5];
};

/* Whether the device is active, and what its queues may use, follows from status and features. */
struct virtio_mmio_state {
	char id[CONFIG_ID_LEN]; /* of the device; NUL-terminated */
	uint64_t driver_features;
	uint32_t type; /* VIRTIO_ID_* */
	uint32_t status;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint32_t config_generation;
	uint32_t interrupt_status;
	uint32_t nr_queues;
	struct virtqueue_state queue[VIRTIO_MAX_QUEUES];
};

/*
 * virtio_mmio_save - STATE_TRANSPORT slot, then the device's own record
 * What the vCPUs have ordered last is carried out before. virtio_mmio_restore - the same again, into a device that
 * nobody has driven yet; it is activated if it was active. 0, or -errno with a sentence: what is out of range or does
 * not fit this device, host or config (the device is then only good for being destroyed). Whether the driver rang
 * since, nobody knows: resuming the device looks at every queue. Loop thread; no vCPU runs, the device is paused.
 */
void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *w, uint32_t slot);
int virtio_mmio_restore(struct virtio_mmio *mmio, struct state_reader *r, uint32_t slot, struct error *err);

#endif
