/* driver.h: a hostile virtio driver: the input is its program, against a device behind the real MMIO transport. */
#ifndef MAYFLY_FUZZ_DRIVER_H
#define MAYFLY_FUZZ_DRIVER_H

#include "bus.h"
#include "device.h"
#include "fuzz.h"
#include "legacy/ioapic.h"
#include "mmio.h"

/* What a target tells of its device. */
struct driver_target {
	/* The bytes that a request starts with (headers), made from the input; how many, at most size. */
	size_t (*request)(struct input *in, unsigned int queue, uint8_t *buf, size_t size);
	/* Something that happens on the host's side. */
	void (*host)(struct input *in);
	/* The host finishes what it has begun, and leaves. */
	void (*settle)(void);
	/* After a reset and a set-up by the book: does the device still work? Uses driver_offer. */
	void (*alive)(void);
	uint64_t unwanted; /* feature bits that the set-up by the book leaves out */
};

struct driver_queue {
	uint16_t size, avail_idx, next_desc;
};

struct driver {
	struct guest_memory gm;
	struct event_loop loop;
	struct bus bus;
	struct ioapic ioapic;
	struct virtio_mmio mmio;
	struct virtio_device *dev;
	const struct driver_target *target;
	struct driver_queue queue[VIRTIO_MAX_QUEUES];
	uint8_t lies; /* how the last set-up differed from the book's */
};
extern struct driver driver;

/* Told when a program begins and ends: in between somebody else may write to guest memory. NULL: nobody does. */
extern void (*driver_set_racing)(bool on);

#define DRIVER_DATA_GPA  0x10000u
#define DRIVER_SLOT_SIZE 0x1000u

/* driver_begin - guest memory, zeroed, and a loop; then the target makes its device and binds it. */
void driver_begin(void);
void driver_bind(struct virtio_device *dev, const struct driver_target *target);
/* driver_run - carry out the program, then reset the device and see whether it is alive. */
void driver_run(struct input *in);
/* driver_end - after the device was destroyed. */
void driver_end(void);

/* One buffer of a chain. */
struct driver_buffer {
	uint64_t gpa;
	uint32_t len;
	bool write;
};
/* driver_offer - put a chain of n buffers into a ring as Linux does, and tell the device. */
void driver_offer(unsigned int queue, const struct driver_buffer *buffer, unsigned int n);
/* driver_used - the used index of a queue. driver_guest - bytes of guest memory, behind the back of its door. */
uint16_t driver_used(unsigned int queue);
void *driver_guest(uint64_t gpa);
uint32_t driver_read(uint32_t offset);

#endif
