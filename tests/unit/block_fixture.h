/* block_fixture.h: a drive on a temporary file, a driver for it, and a transport that only counts. */
#ifndef MAYFLY_TEST_BLOCK_FIXTURE_H
#define MAYFLY_TEST_BLOCK_FIXTURE_H

#include "unit.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block.h"
#include "block_internal.h"
#include "metrics.h"
#include "vring.h"

#define DISK_SIZE   (8u << 20)
#define MEM_MIB     16
#define SLOT_GPA(i) (VRING_DATA_GPA + (uint64_t)(i)*0x20000u) /* 128 KiB each: header, status, data */
#define NR_SLOTS    32
#define HDR_OFF     0u
#define STATUS_OFF  0x100u
#define DATA_OFF    0x1000u
#define DATA_MAX    (0x20000u - DATA_OFF)
#define NO_STATUS   0xAAu

struct fixture {
	struct guest_memory gm;
	struct event_loop loop;
	struct block *blk;
	struct virtio_device *dev;
	struct driver_ring ring;
	struct drive_config cfg;
	enum block_io_engine engine;
	unsigned int interrupts, config_changes, broken, resets_done, drained;
	struct event_timer poll;
	uint64_t give_up_ns;
	bool (*until)(struct fixture *f);
	uint16_t until_used;
	bool timed_out;
};

static inline struct fixture *fixture_of(struct virtio_device *dev)
{
	return dev->transport;
}

static inline void count_interrupt(struct virtio_device *dev)
{
	struct fixture *f = fixture_of(dev);

	f->interrupts++;
	if (f->until && f->until(f))
		event_loop_stop(&f->loop);
}

static inline void count_config(struct virtio_device *dev)
{
	fixture_of(dev)->config_changes++;
}

static inline void count_broken(struct virtio_device *dev)
{
	fixture_of(dev)->broken++;
}

static inline void count_reset(struct virtio_device *dev)
{
	fixture_of(dev)->resets_done++;
}

static const struct virtio_transport_ops counting_transport = {
	.interrupt = count_interrupt,
	.config_changed = count_config,
	.broken = count_broken,
	.reset_done = count_reset,
};

static inline void poll_expired(struct event_timer *t)
{
	struct fixture *f = t->opaque;

	if (f->until(f))
		event_loop_stop(&f->loop);
	else if (event_loop_now_ns() > f->give_up_ns)
		f->timed_out = true, event_loop_stop(&f->loop);
	else
		event_loop_arm(&f->loop, t, event_loop_now_ns() + 200000);
}

/* Serve the loop until the condition holds; fails the test after 20 s. */
static inline void serve_until(struct fixture *f, bool (*until)(struct fixture *f))
{
	f->until = until;
	f->timed_out = false;
	f->give_up_ns = event_loop_now_ns() + 20000000000ull;
	f->poll.expired = poll_expired;
	f->poll.opaque = f;
	event_loop_arm(&f->loop, &f->poll, 0);
	f->loop.stop = false;
	event_loop_run(&f->loop);
	event_loop_disarm(&f->loop, &f->poll);
	f->until = NULL;
	assert_false(f->timed_out);
}

static inline bool used_reached(struct fixture *f)
{
	return (int16_t)(driver_used_idx(&f->ring) - f->until_used) >= 0;
}

/* What the transport does at DRIVER_OK. */
static inline void activate(struct fixture *f, uint64_t features)
{
	driver_ring_init(&f->ring, &f->gm, &f->dev->queue[0], VIRTQUEUE_MAX_SIZE);
	f->dev->features = features & f->dev->ops->features(f->dev);
	f->dev->active = true;
	assert_int_equal(f->dev->ops->activate(f->dev), 0);
}

/* What the transport does when 0 is written to Status. Returns what the device said. */
static inline bool reset_device(struct fixture *f)
{
	f->dev->active = false;
	return f->dev->ops->reset(f->dev);
}

static inline void make_file(char *path, size_t path_size, const char *dir, off_t size)
{
	int fd;

	snprintf(path, path_size, "%s/mayfly-test-XXXXXX", dir);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static inline void fixture_open(struct fixture *f)
{
	struct error err = { 0 };

	assert_int_equal(block_create(&f->blk, &f->cfg, &f->gm, &f->loop, &err), 0);
	block_use_engine(f->blk, f->engine);
	f->dev = block_device(f->blk);
	f->dev->transport = f;
	f->dev->transport_ops = &counting_transport;
	activate(f, ~0ull);
}

/* Close the drive and open it anew with what f->cfg says now. */
static inline void fixture_reopen(struct fixture *f)
{
	block_destroy(f->blk);
	fixture_open(f);
}

static inline int fixture_setup_in(void **state, enum block_io_engine engine, const char *dir)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	if (!f || gm_create(&f->gm, MEM_MIB, HUGE_PAGES_NONE, &err) || event_loop_init(&f->loop, &err))
		return -1;
	f->engine = engine;
	f->cfg.cache_type = CACHE_WRITEBACK;
	strcpy(f->cfg.drive_id, "rootfs");
	make_file(f->cfg.path_on_host, sizeof(f->cfg.path_on_host), dir, DISK_SIZE);
	fixture_open(f);
	*state = f;
	return 0;
}

static inline int setup_uring(void **state)
{
	return fixture_setup_in(state, BLOCK_IO_URING, "/tmp");
}

static inline int setup_thread(void **state)
{
	return fixture_setup_in(state, BLOCK_IO_THREAD, "/tmp");
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	block_destroy(f->blk);
	unlink(f->cfg.path_on_host);
	event_loop_destroy(&f->loop);
	gm_destroy(&f->gm);
	free(f);
	return 0;
}

static inline uint8_t *slot_data(struct fixture *f, unsigned int slot)
{
	return guest(&f->gm, SLOT_GPA(slot) + DATA_OFF);
}

static inline uint8_t slot_status(struct fixture *f, unsigned int slot)
{
	return *(volatile uint8_t *)guest(&f->gm, SLOT_GPA(slot) + STATUS_OFF);
}

static inline void slot_header(struct fixture *f, unsigned int slot, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };

	memcpy(guest(&f->gm, SLOT_GPA(slot)), &hdr, sizeof(hdr));
	*(uint8_t *)guest(&f->gm, SLOT_GPA(slot) + STATUS_OFF) = NO_STATUS;
}

/* Offer a request as Linux does: header, data (when there is any), status. Slot i uses descriptors 3i to 3i + 2. */
static inline void offer(struct fixture *f, unsigned int slot, uint32_t type, uint64_t sector, uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	uint16_t d = (uint16_t)(slot * 3), data = (uint16_t)(d + 1), status = (uint16_t)(d + 2);

	slot_header(f, slot, type, sector);
	driver_desc(&f->ring, d, SLOT_GPA(slot), sizeof(struct virtio_blk_outhdr), VRING_DESC_F_NEXT,
		    len ? data : status);
	driver_desc(&f->ring, data, SLOT_GPA(slot) + DATA_OFF, len,
		    (uint16_t)(VRING_DESC_F_NEXT | (in ? VRING_DESC_F_WRITE : 0)), status);
	driver_desc(&f->ring, status, SLOT_GPA(slot) + STATUS_OFF, 1, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->ring, d);
}

static inline void kick(struct fixture *f)
{
	if (f->dev->active)
		f->dev->ops->notify(f->dev, 0);
}

static inline void wait_used(struct fixture *f, uint16_t used_idx)
{
	f->until_used = used_idx;
	serve_until(f, used_reached);
}

/* One request from start to end; the status. */
static inline uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len)
{
	offer(f, 0, type, sector, len);
	kick(f);
	wait_used(f, f->ring.avail_idx);
	return slot_status(f, 0);
}

static inline uint32_t last_used_len(struct fixture *f)
{
	return f->ring.used->ring[(uint16_t)(driver_used_idx(&f->ring) - 1) % f->ring.size].len;
}

/* Bytes of the disk as the host sees them. */
static inline void host_read(struct fixture *f, off_t offset, void *buf, size_t len)
{
	int fd = open(f->cfg.path_on_host, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, offset), (ssize_t)len);
	close(fd);
}

static inline bool all_bytes(const uint8_t *p, size_t len, uint8_t value)
{
	while (len && *p == value)
		p++, len--;
	return !len;
}

/* Everything runs on both engines. */
#define BOTH_ENGINES(test)                                                    \
	{ #test " (io_uring)", test, setup_uring, fixture_teardown, NULL },   \
	{                                                                     \
#test " (thread)", test, setup_thread, fixture_teardown, NULL \
	}

#endif
