/* test_block_state.c: a drive and its transport go on in another microVM, and do not where the state file lies. */
#include "side_fixture.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <unistd.h>

#include "block.h"

enum { DISK_SIZE = 1 << 20 };
#define FLUSH (1ull << VIRTIO_BLK_F_FLUSH)
#define WCE   (1ull << VIRTIO_BLK_F_CONFIG_WCE)

/* One microVM's, and the other's. */
static struct side old, new;
static struct block *old_blk, *new_blk;
static struct drive_config cfg;
static struct saved saved;

static void make_side(struct side *s, struct block **blk)
{
	struct error err;

	side_begin(s);
	assert_int_equal(block_create(blk, &cfg, &s->gm, &s->loop, &err), 0);
	side_bind(s, block_device(*blk));
}

static void end_side(struct side *s, struct block *blk)
{
	block_destroy(blk);
	side_end(s);
}

static int start(void **state)
{
	int fd;

	(void)state;
	cfg = (struct drive_config){ .drive_id = "rootfs", .path_on_host = "/tmp/mayfly-test-XXXXXX" };
	cfg.cache_type = CACHE_WRITEBACK;
	fd = mkstemp(cfg.path_on_host);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	make_side(&old, &old_blk);
	make_side(&new, &new_blk);
	return 0;
}

static int end(void **state)
{
	(void)state;
	end_side(&old, old_blk);
	end_side(&new, new_blk);
	unlink(cfg.path_on_host);
	state_free(&saved.w);
	return 0;
}

/* The other side's device as if its config had always been so; the first one's likewise. */
static void change_new(void)
{
	end_side(&new, new_blk);
	make_side(&new, &new_blk);
}

static void change_old(void)
{
	end_side(&old, old_blk);
	make_side(&old, &old_blk);
}

static bool all_back(struct side *s)
{
	return driver_used_idx(&s->ring[0]) == s->ring[0].avail_idx;
}

static void wait_for_all(struct side *s)
{
	serve_until(s, all_back);
}

/* ---- the driver ---- */

/* A request of one sector, without ringing for it. */
static void offer(struct side *s, unsigned int slot, uint32_t type, uint64_t sector)
{
	const struct virtio_blk_outhdr hdr = { .type = type, .sector = sector };
	uint16_t d = (uint16_t)(slot * 3);
	uint16_t data_flags = VRING_DESC_F_NEXT | (type == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0);

	memcpy(guest(&s->gm, DATA_GPA(slot)), &hdr, sizeof(hdr));
	memset(guest(&s->gm, DATA_GPA(slot) + 0x100), 0xaa, 1);
	driver_desc(&s->ring[0], d, DATA_GPA(slot), sizeof(hdr), VRING_DESC_F_NEXT, (uint16_t)(d + 1));
	driver_desc(&s->ring[0], d + 1u, DATA_GPA(slot) + 0x200, 512, data_flags, (uint16_t)(d + 2));
	driver_desc(&s->ring[0], d + 2u, DATA_GPA(slot) + 0x100, 1, VRING_DESC_F_WRITE, 0);
	driver_offer(&s->ring[0], d);
}

static uint8_t slot_status(struct side *s, unsigned int slot)
{
	return *(volatile uint8_t *)guest(&s->gm, DATA_GPA(slot) + 0x100);
}

static uint8_t *slot_data(struct side *s, unsigned int slot)
{
	return guest(&s->gm, DATA_GPA(slot) + 0x200);
}

/* ---- saving and restoring ---- */

static void no_wait(void *opaque)
{
	(void)opaque;
	fail();
}

static void save(void)
{
	assert_true(block_drain(old_blk, no_wait, NULL));
	virtio_mmio_save(&old.mmio, saved_begin(&saved), SIDE_SLOT);
	saved_end(&saved);
}

static int restore(void)
{
	assert_true(block_drain(new_blk, no_wait, NULL));
	return virtio_mmio_restore(&new.mmio, saved_rewind(&saved), SIDE_SLOT, &saved.err);
}

/* Memory and all: the other microVM is where the first one was. */
static void move(void)
{
	save();
	copy_memory(&new, &old);
	if (restore())
		fail_msg("%s", saved.err.message);
	assert_int_equal(state_end(&saved.r, &saved.err), 0);
	assert_same_transport(&new, &saved);
}

/* ---- tests ---- */

static void requests_go_on_where_they_were(void **state)
{
	unsigned int i;

	(void)state;
	bring_up(&old, VERSION_1 | FLUSH | EVENT_IDX);
	for (i = 0; i < SIDE_QUEUE / 3; i++) {
		memset(slot_data(&old, i), (int)(0x40 + i), 512);
		offer(&old, i, VIRTIO_BLK_T_OUT, i);
	}
	kick(&old, 0);
	wait_for_all(&old);
	/* Offered, perhaps rung for: and the bell goes with the old microVM. */
	assert_true(block_drain(old_blk, no_wait, NULL));
	for (i = 0; i < 4; i++)
		offer(&old, i, VIRTIO_BLK_T_IN, 10 + i);
	kick(&old, 0);
	let_the_loop_work(&old);
	move();
	assert_int_equal(get(&new, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	assert_true(new.dev->active);
	let_the_loop_work(&new);
	assert_int_equal(driver_used_idx(&new.ring[0]), SIDE_QUEUE / 3); /* it is still paused */
	block_resume(new_blk);
	wait_for_all(&new);
	for (i = 0; i < 4; i++) {
		assert_int_equal(slot_status(&new, i), VIRTIO_BLK_S_OK);
		assert_int_equal(*slot_data(&new, i), 0x40 + 10 + i);
		assert_int_equal(new.ring[0].used->ring[(SIDE_QUEUE / 3 + i) % SIDE_QUEUE].id, 3 * i);
	}
	/* Round the ring twice, and the first microVM does the same. */
	for (i = 0; i < 2 * SIDE_QUEUE; i++) {
		offer(&new, i % 20, VIRTIO_BLK_T_IN, i % 20);
		kick(&new, 0);
		wait_for_all(&new);
		assert_int_equal(*slot_data(&new, i % 20), 0x40 + i % 20);
	}
	block_resume(old_blk);
	wait_for_all(&old);
	assert_int_equal(*slot_data(&old, 3), 0x40 + 13);
}

/* At each step of a driver that comes up, every register reads the same on the other side, and the next step works. */
static void a_driver_comes_up_across_two_microvms(void **state)
{
	static const uint64_t regs[] = {
		VIRTIO_MMIO_STATUS,           VIRTIO_MMIO_QUEUE_READY,       VIRTIO_MMIO_QUEUE_NUM_MAX,
		VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES
	};

	(void)state;
	for (unsigned int step = 0; step < 6; step++) {
		change_old();
		change_new();
		state_free(&saved.w);
		set(&old, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
		if (step >= 1)
			negotiate(&old, VERSION_1);
		if (step >= 2)
			set(&old, VIRTIO_MMIO_QUEUE_DESC_LOW, VRING_DESC_GPA);
		if (step >= 3)
			set_queue(&old, 0);
		if (step >= 4)
			set(&old, VIRTIO_MMIO_STATUS, ALL_OK); /* and the loop has not done it yet */
		if (step >= 5) {
			let_the_loop_work(&old);
			virtio_device_config_changed(old.dev);
		}
		move();
		for (unsigned int i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
			assert_int_equal(get(&new, regs[i]), get(&old, regs[i]));
		assert_int_equal(new.dev->active, step >= 4);
		if (step < 1)
			negotiate(&new, VERSION_1);
		if (step < 3)
			set_queue(&new, 0);
		set(&new, VIRTIO_MMIO_STATUS, ALL_OK);
		look_at_ring(&new, 0, 0);
		offer(&new, 0, VIRTIO_BLK_T_IN, 0);
		block_resume(new_blk);
		kick(&new, 0);
		wait_for_all(&new);
		assert_int_equal(slot_status(&new, 0), VIRTIO_BLK_S_OK);
	}
}

static void *driver_resets(void *arg)
{
	(void)arg;
	set(&old, VIRTIO_MMIO_STATUS, 0);
	return NULL;
}

/* The vCPU that ordered it still waits for the loop to do it. */
static void what_was_ordered_last_is_done_before(void **state)
{
	const uint64_t give_up_ns = event_loop_now_ns() + 20000000000ull;
	pthread_t driver;
	bool ordered = false;

	(void)state;
	bring_up(&old, VERSION_1);
	assert_int_equal(pthread_create(&driver, NULL, driver_resets, NULL), 0);
	while (!ordered && event_loop_now_ns() < give_up_ns) {
		pthread_mutex_lock(&old.mmio.lock);
		ordered = old.mmio.reset_wanted;
		pthread_mutex_unlock(&old.mmio.lock);
	}
	assert_true(ordered);
	move();
	pthread_join(driver, NULL);
	assert_int_equal(get(&old, VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(get(&new, VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(get(&new, VIRTIO_MMIO_QUEUE_READY), 0);
}

static void a_broken_device_stays_broken(void **state)
{
	(void)state;
	bring_up(&old, VERSION_1);
	old.ring[0].avail->idx = 1000;
	kick(&old, 0);
	let_the_loop_work(&old);
	assert_true(get(&old, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	move();
	block_resume(new_blk);
	assert_false(new.dev->active);
	assert_int_equal(get(&new, VIRTIO_MMIO_STATUS), ALL_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
}

static uint64_t capacity(struct side *s)
{
	uint64_t sectors;

	bus_read(&s->bus, SIDE_GPA + VIRTIO_MMIO_CONFIG, &sectors, 8);
	return sectors;
}

static void a_file_that_has_grown_is_announced(void **state)
{
	(void)state;
	bring_up(&old, VERSION_1);
	assert_int_equal(truncate(cfg.path_on_host, 2 * DISK_SIZE), 0);
	change_new();
	move();
	assert_int_equal(get(&new, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	assert_int_equal(get(&new, VIRTIO_MMIO_CONFIG_GENERATION), 0);
	block_resume(new_blk);
	assert_int_equal(get(&new, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(get(&new, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	assert_int_equal(capacity(&new), 2 * DISK_SIZE / 512);
	set(&new, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
	assert_true(block_drain(new_blk, no_wait, NULL));
	block_resume(new_blk);
	assert_int_equal(get(&new, VIRTIO_MMIO_INTERRUPT_STATUS), 0); /* once */
}

static void a_drive_that_does_not_fit_is_refused(void **state)
{
	(void)state;
	bring_up(&old, VERSION_1 | FLUSH | WCE);
	save();
	assert_int_equal(truncate(cfg.path_on_host, DISK_SIZE - 512), 0);
	change_new();
	assert_refused(&saved, restore(), "drives[rootfs].path_on_host: the file has 2047 sectors");
	assert_int_equal(truncate(cfg.path_on_host, DISK_SIZE), 0);
	cfg.is_read_only = true;
	change_new();
	assert_refused(&saved, restore(), "drives[rootfs].is_read_only: needs to be false");
	cfg.is_read_only = false;
	cfg.cache_type = CACHE_UNSAFE;
	change_new();
	assert_refused(&saved, restore(), "VIRTIO_BLK_F_FLUSH (feature bit 9)");
	assert_refused(&saved, restore(), "(needs cache_type: Writeback");
	cfg.cache_type = CACHE_WRITEBACK;
	memcpy(cfg.drive_id, "other", 6);
	change_new();
	assert_refused(&saved, restore(), "VMIO 3: it is of another device");
	memcpy(cfg.drive_id, "rootfs", 7);
	change_new();
	assert_int_equal(restore(), 0);
}

static void the_cache_mode_stays_as_the_driver_chose_it(void **state)
{
	const uint64_t wce = SIDE_GPA + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, wce);
	uint8_t value = 0;

	(void)state;
	bring_up(&old, VERSION_1 | FLUSH | WCE);
	bus_write(&old.bus, wce, &value, 1);
	move();
	value = 1;
	bus_read(&new.bus, wce, &value, 1);
	assert_int_equal(value, 0);
}

/* One request an hour, which has been made: it is the next hour's in the other microVM, too. */
static void the_rate_limit_goes_on(void **state)
{
	const struct rate_limiter_config unlimited = { 0 };

	(void)state;
	cfg.rate_limiter.ops = (struct token_bucket_config){ .size = 1, .refill_time = 3600000 };
	change_old();
	change_new();
	bring_up(&old, VERSION_1);
	offer(&old, 0, VIRTIO_BLK_T_IN, 0);
	kick(&old, 0);
	wait_for_all(&old);
	offer(&old, 1, VIRTIO_BLK_T_IN, 0);
	kick(&old, 0);
	let_the_loop_work(&old);
	move();
	block_resume(new_blk);
	let_the_loop_work(&new);
	assert_int_equal(driver_used_idx(&new.ring[0]), 1);
	block_set_rate(new_blk, &unlimited);
	wait_for_all(&new);
	assert_int_equal(slot_status(&new, 1), VIRTIO_BLK_S_OK);
}

/* ---- lies ---- */

typedef void damage(struct virtio_mmio_state *t, struct block_state *b);

#define DAMAGE(name, ...)                                                    \
	static void name(struct virtio_mmio_state *t, struct block_state *b) \
	{                                                                    \
		(void)t, (void)b;                                            \
		__VA_ARGS__;                                                 \
	}

DAMAGE(no_end, memset(t->id, 'x', sizeof(t->id)))
DAMAGE(other_type, t->type = VIRTIO_ID_NET)
DAMAGE(more_queues, t->nr_queues = 2)
DAMAGE(many_queues, t->nr_queues = UINT32_MAX)
DAMAGE(strange_status, t->status |= 0x20)
DAMAGE(high_status, t->status |= 1u << 31)
DAMAGE(no_driver, t->status &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER)
DAMAGE(no_features_ok, t->status &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK)
DAMAGE(broken_while_asleep, t->status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_NEEDS_RESET)
DAMAGE(not_modern, t->driver_features &= ~VERSION_1)
DAMAGE(never_offered, t->driver_features |= 1ull << 63)
DAMAGE(strange_interrupt, t->interrupt_status = 4)
DAMAGE(queue_too_early, t->status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)
DAMAGE(used_too_early, t->status = ALL_OK & ~VIRTIO_CONFIG_S_DRIVER_OK; t->queue[0].next_avail = 1)
DAMAGE(used_not_ready, t->queue[0].ready = 0; t->queue[0].next_used = 1)
DAMAGE(interrupt_too_early, t->status = ALL_OK & ~VIRTIO_CONFIG_S_DRIVER_OK; t->interrupt_status = 1)
DAMAGE(queue_too_long, t->queue[0].size = 512)
DAMAGE(queue_not_a_power, t->queue[0].size = 48)
DAMAGE(queue_empty, t->queue[0].size = 0)
DAMAGE(desc_outside, t->queue[0].desc_gpa = (uint64_t)SIDE_MIB << 20)
DAMAGE(desc_wraps, t->queue[0].desc_gpa = ~15ull)
DAMAGE(desc_odd, t->queue[0].desc_gpa += 8)
DAMAGE(avail_outside, t->queue[0].avail_gpa = ((uint64_t)SIDE_MIB << 20) - 2)
DAMAGE(used_odd, t->queue[0].used_gpa += 2)
DAMAGE(ready_twice, t->queue[0].ready = 2)
DAMAGE(signalled_twice, t->queue[0].signalled_valid = 0xff)
DAMAGE(kicks_twice, t->queue[0].kicks_off = 2)
DAMAGE(writeback_twice, b->writeback = 2)
DAMAGE(read_only_twice, b->read_only = 0x80)
DAMAGE(read_only_now, b->read_only = 1)
DAMAGE(huge_disk, b->sectors = UINT64_MAX)

/* The first three words of each sentence's reason are enough to know it by. */
static const struct {
	damage *damage;
	const char *sentence;
} lies[] = {
	{ no_end, "VMIO 3: the device's name" },
	{ other_type, "VMIO 3: it is of another device" },
	{ more_queues, "VMIO 3: the device has another number" },
	{ many_queues, "VMIO 3: the device has another number" },
	{ strange_status, "VMIO 3: the device status has bits" },
	{ high_status, "VMIO 3: the device status has bits" },
	{ no_driver, "VMIO 3: the device status has a bit without" },
	{ no_features_ok, "VMIO 3: the device status has a bit without" },
	{ broken_while_asleep, "VMIO 3: the device status has a bit without" },
	{ not_modern, "VMIO 3: a driver was accepted" },
	{ never_offered, "virtio device rootfs: the snapshot's guest uses a feature (feature bit 63)" },
	{ strange_interrupt, "VMIO 3: the interrupt status" },
	{ queue_too_early, "VMIO 3: a queue is set up before" },
	{ used_too_early, "VMIO 3: a queue has been used that was not ready" },
	{ used_not_ready, "VMIO 3: a queue has been used that was not ready" },
	{ interrupt_too_early, "VMIO 3: there are interrupts" },
	{ queue_too_long, "VMIO 3: a queue is longer" },
	{ queue_not_a_power, "VMIO 3: a queue that is ready has" },
	{ queue_empty, "VMIO 3: a queue that is ready has" },
	{ desc_outside, "VMIO 3: a queue that is ready has" },
	{ desc_wraps, "VMIO 3: a queue that is ready has" },
	{ desc_odd, "VMIO 3: a queue that is ready has" },
	{ avail_outside, "VMIO 3: a queue that is ready has" },
	{ used_odd, "VMIO 3: a queue that is ready has" },
	{ ready_twice, "VMIO 3: a queue is neither" },
	{ signalled_twice, "VMIO 3: a queue is neither" },
	{ kicks_twice, "VMIO 3: a queue is neither" },
	{ writeback_twice, "VBLK 3: a flag" },
	{ read_only_twice, "VBLK 3: a flag" },
	{ read_only_now, "drives[rootfs].is_read_only: needs to be true" },
	{ huge_disk, "drives[rootfs].path_on_host" },
};

static void what_cannot_be_is_refused(void **state)
{
	struct virtio_mmio_state good_transport, *t;
	struct block_state good_block, *b;

	(void)state;
	bring_up(&old, VERSION_1 | FLUSH);
	save();
	t = saved_payload(&saved, STATE_TRANSPORT, SIDE_SLOT);
	b = saved_payload(&saved, STATE_BLOCK, SIDE_SLOT);
	good_transport = *t;
	good_block = *b;
	for (unsigned int i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		*t = good_transport;
		*b = good_block;
		lies[i].damage(t, b);
		assert_refused(&saved, restore(), lies[i].sentence);
		assert_false(new.dev->active);
		change_new();
	}
	*t = good_transport;
	*b = good_block;
	assert_int_equal(restore(), 0);
}

/* What no check can tell from a driver's doing is a driver's doing: the device breaks, nothing else. */
static void any_index_will_do(void **state)
{
	struct virtio_mmio_state *t;

	(void)state;
	bring_up(&old, VERSION_1);
	offer(&old, 0, VIRTIO_BLK_T_IN, 0);
	save();
	t = saved_payload(&saved, STATE_TRANSPORT, SIDE_SLOT);
	t->queue[0].next_avail = 0x8000;
	t->queue[0].next_used = 0xffff;
	t->config_generation = t->queue_sel = t->device_features_sel = t->driver_features_sel = UINT32_MAX;
	assert_int_equal(restore(), 0);
	block_resume(new_blk);
	assert_true(get(&new, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(get(&new, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	assert_int_equal(get(&new, VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(requests_go_on_where_they_were, start, end),
		cmocka_unit_test_setup_teardown(a_driver_comes_up_across_two_microvms, start, end),
		cmocka_unit_test_setup_teardown(what_was_ordered_last_is_done_before, start, end),
		cmocka_unit_test_setup_teardown(a_broken_device_stays_broken, start, end),
		cmocka_unit_test_setup_teardown(a_file_that_has_grown_is_announced, start, end),
		cmocka_unit_test_setup_teardown(a_drive_that_does_not_fit_is_refused, start, end),
		cmocka_unit_test_setup_teardown(the_cache_mode_stays_as_the_driver_chose_it, start, end),
		cmocka_unit_test_setup_teardown(the_rate_limit_goes_on, start, end),
		cmocka_unit_test_setup_teardown(what_cannot_be_is_refused, start, end),
		cmocka_unit_test_setup_teardown(any_index_will_do, start, end),
	};

	return cmocka_run_group_tests_name("block state", tests, NULL, NULL);
}
