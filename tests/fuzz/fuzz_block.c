/* fuzz_block.c: a hostile driver of a drive, on a disk that is slow, short, full or broken as the input says. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_mmio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block.h"
#include "driver.h"
#include "fake_block_io.h"

#define DISK_SIZE  (1u << 20)
#define DELTA_SIZE (DISK_SIZE + (1u << 20))

static struct block *blk;
static struct drive_config cfg;
static int disk = -1, delta = -1;

static uint64_t take_sector(struct input *in)
{
	uint16_t sector = take16(in);

	/* The disk has 2048; the last ones, and the last that a number can name, are where it gets interesting. */
	return sector < 0xff00 ? sector % 2100u : UINT64_MAX >> (sector & 63);
}

static size_t make_request(struct input *in, unsigned int queue, uint8_t *buf, size_t size)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,       VIRTIO_BLK_T_OUT,         VIRTIO_BLK_T_FLUSH,
					  VIRTIO_BLK_T_GET_ID,   VIRTIO_BLK_T_DISCARD,     VIRTIO_BLK_T_WRITE_ZEROES,
					  VIRTIO_BLK_T_SCSI_CMD, VIRTIO_BLK_T_SECURE_ERASE };
	uint8_t type = take8(in);
	struct virtio_blk_outhdr hdr = { .type = types[type & 7], .sector = take_sector(in) };
	struct virtio_blk_discard_write_zeroes range;
	size_t len = sizeof(hdr);

	(void)queue;
	(void)size;
	memcpy(buf, &hdr, sizeof(hdr));
	/* A range behind the header, in the same buffer or, with another request's help, in one of its own. */
	if (type & 8) {
		range.sector = take_sector(in);
		range.num_sectors = take16(in);
		range.flags = take8(in) & 3;
		memcpy(buf + len, &range, sizeof(range));
		len += sizeof(range);
	}
	return type & 0x80 ? len - (type >> 4 & 7) : len;
}

static void on_drained(void *opaque)
{
	(void)opaque;
}

static void new_rate(struct input *in)
{
	const struct rate_limiter_config rate = {
		.bandwidth = { .size = take16(in), .one_time_burst = take8(in), .refill_time = take8(in) },
		.ops = { .size = take8(in), .refill_time = take8(in) },
	};

	block_set_rate(blk, &rate);
}

static void host(struct input *in)
{
	uint8_t what = take8(in);
	struct error err = { 0 };

	switch (what & 7) {
	case 0:
		fake_block_io_finish(what >> 3);
		break;
	case 1:
		fake_block_io.fault = take8(in);
		break;
	case 2:
		fake_block_io.deferred = what & 8;
		break;
	case 3:
		fake_block_io.choice = take8(in);
		break;
	case 4:
		new_rate(in);
		break;
	case 5:
		(void)block_drain(blk, on_drained, NULL);
		break;
	case 6:
		block_resume(blk);
		break;
	default:
		/* Cut short, or longer than it was; and looked at again, or replaced. */
		CHECK(ftruncate(cfg.overlay_path[0] && what & 16 ? delta : disk, take16(in) * 64) == 0);
		(void)block_replace(blk, what & 8 ? cfg.path_on_host : NULL, &err);
	}
}

static void settle(void)
{
	const struct rate_limiter_config unlimited = { 0 };
	struct error err = { 0 };

	/* 2.4.2: once the status reads 0, the device touches nothing of the driver's any more. */
	CHECK(driver_read(VIRTIO_MMIO_STATUS) || !fake_block_io.nr_waiting);
	fake_block_io.deferred = false;
	fake_block_io.fault = 0;
	fake_block_io_finish(fake_block_io.nr_waiting);
	CHECK(ftruncate(disk, DISK_SIZE) == 0 && ftruncate(delta, DELTA_SIZE) == 0);
	CHECK(block_replace(blk, NULL, &err) == (cfg.overlay_path[0] ? -EBUSY : 0));
	block_set_rate(blk, &unlimited);
	block_resume(blk);
}

/* Any drive knows its name. */
static void alive(void)
{
	const struct virtio_blk_outhdr hdr = { .type = VIRTIO_BLK_T_GET_ID };
	const struct driver_buffer buffer[] = {
		{ DRIVER_DATA_GPA, sizeof(hdr), false },
		{ DRIVER_DATA_GPA + 0x100, VIRTIO_BLK_ID_BYTES, true },
		{ DRIVER_DATA_GPA + 0x200, 1, true },
	};

	memcpy(driver_guest(buffer[0].gpa), &hdr, sizeof(hdr));
	*(uint8_t *)driver_guest(buffer[2].gpa) = 0xaa;
	driver_offer(0, buffer, 3);
	fuzz_rest(&driver.loop);
	CHECK(driver_used(0) == 1);
	CHECK(*(uint8_t *)driver_guest(buffer[2].gpa) == VIRTIO_BLK_S_OK);
	CHECK(memcmp(driver_guest(buffer[1].gpa), "rootfs", 7) == 0);
}

static void configure(uint8_t how)
{
	if (disk < 0) {
		disk = memfd_create("disk", MFD_CLOEXEC);
		delta = memfd_create("delta", MFD_CLOEXEC);
		CHECK(disk >= 0 && delta >= 0);
		memcpy(cfg.drive_id, "rootfs", 7);
		memcpy(cfg.path_on_host, "/disk", 6);
	}
	CHECK(ftruncate(disk, 0) == 0 && ftruncate(disk, DISK_SIZE) == 0 && ftruncate(delta, 0) == 0);
	memcpy(cfg.overlay_path, how & 8 ? "/delta" : "", how & 8 ? 7 : 1);
	cfg.is_read_only = (how & 9) == 1; /* of an overlay that is new there is nothing to read */
	cfg.cache_type = how & 2 ? CACHE_UNSAFE : CACHE_WRITEBACK;
	fake_block_io = (struct fake_block_io){ .deferred = how & 4 };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct driver_target target = {
		.request = make_request, .host = host, .settle = settle, .alive = alive
	};
	struct input in = { data, size };
	struct error err;

	configure(take8(&in));
	driver_begin();
	fuzz_file(cfg.path_on_host, disk);
	fuzz_file("/delta", delta);
	CHECK(block_create(&blk, &cfg, &driver.gm, &driver.loop, &err) == 0);
	driver_bind(block_device(blk), &target);
	driver_run(&in);
	block_destroy(blk);
	driver_end();
	return 0;
}
