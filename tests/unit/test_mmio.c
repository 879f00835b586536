/* test_mmio.c: the virtio-mmio register file against drivers that follow the rules and drivers that do not. */
#include "unit.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "mmio.h"

enum { GPA = 0xC0001000, QUEUE_SIZE = 64, DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, FEATURE = 5 };

static struct event_loop loop;
static struct guest_memory gm;
static struct bus bus;
static struct ioapic ioapic;
static struct virtio_mmio mmio;
static struct virtio_device dev;
static uint8_t config[8];
static unsigned int activated, notified, resets;
static bool reset_in_flight; /* the device says that something is still in flight */

static uint64_t fake_features(const struct virtio_device *d)
{
	(void)d;
	return 1ull << FEATURE;
}

static void fake_read_config(const struct virtio_device *d, uint64_t offset, void *buf, size_t len)
{
	(void)d;
	for (size_t i = 0; i < len && offset + i < sizeof(config); i++)
		((uint8_t *)buf)[i] = config[offset + i];
}

static int fake_activate(struct virtio_device *d)
{
	(void)d;
	activated++;
	return 0;
}

static void fake_notify(struct virtio_device *d, unsigned int queue)
{
	(void)d, (void)queue;
	notified++;
}

static bool fake_reset(struct virtio_device *d)
{
	(void)d;
	resets++;
	return !reset_in_flight;
}

static const struct virtio_device_ops fake_ops = {
	.type = 2,
	.nr_queues = 1,
	.queue_max_size = QUEUE_SIZE,
	.features = fake_features,
	.read_config = fake_read_config,
	.activate = fake_activate,
	.notify = fake_notify,
	.reset = fake_reset,
};

static int start(void **state)
{
	struct error err;

	(void)state;
	activated = notified = resets = 0;
	reset_in_flight = false;
	memset(&bus, 0, sizeof(bus));
	memset(&dev, 0, sizeof(dev));
	assert_int_equal(event_loop_init(&loop, &err), 0);
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(ioapic_init(&ioapic, -1, &bus, &err), 0);
	dev.ops = &fake_ops;
	dev.id = "fake";
	dev.gm = &gm;
	dev.queue[0].gm = &gm;
	dev.queue[0].max_size = QUEUE_SIZE;
	return virtio_mmio_init(&mmio, &dev, &loop, &ioapic, &bus, -1, GPA, 5, &err);
}

static int end(void **state)
{
	(void)state;
	event_loop_destroy(&loop);
	gm_destroy(&gm);
	return 0;
}

static uint32_t get(uint64_t reg)
{
	uint32_t value;

	bus_read(&bus, GPA + reg, &value, 4);
	return value;
}

static void set(uint64_t reg, uint32_t value)
{
	bus_write(&bus, GPA + reg, &value, 4);
}

static void stop(struct event_work *work)
{
	(void)work;
	event_loop_stop(&loop);
}

/* Everything posted so far is done when this returns. */
static void let_the_loop_work(void)
{
	struct event_work last = { .run = stop };

	event_loop_post(&loop, &last);
	loop.stop = false;
	event_loop_run(&loop);
}

static void negotiate(uint64_t features)
{
	set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	for (uint32_t word = 0; word < 2; word++) {
		set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
		set(VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> word * 32));
	}
	set(VIRTIO_MMIO_STATUS, get(VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_FEATURES_OK);
}

static void set_queue(uint32_t size, uint64_t desc, uint64_t avail, uint64_t used)
{
	set(VIRTIO_MMIO_QUEUE_SEL, 0);
	set(VIRTIO_MMIO_QUEUE_NUM, size);
	set(VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)desc);
	set(VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(desc >> 32));
	set(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)avail);
	set(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(avail >> 32));
	set(VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)used);
	set(VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(used >> 32));
	set(VIRTIO_MMIO_QUEUE_READY, 1);
}

static void bring_up(void)
{
	negotiate(1ull << VIRTIO_F_VERSION_1);
	set_queue(QUEUE_SIZE, DESC, AVAIL, USED);
	set(VIRTIO_MMIO_STATUS, get(VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	let_the_loop_work();
}

static void a_driver_that_keeps_to_the_rules(void **state)
{
	(void)state;
	assert_int_equal(get(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(get(VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(get(VIRTIO_MMIO_DEVICE_ID), 2);
	set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	assert_int_equal(get(VIRTIO_MMIO_DEVICE_FEATURES),
			 1u << FEATURE | 1u << VIRTIO_RING_F_EVENT_IDX | 1u << VIRTIO_RING_F_INDIRECT_DESC);
	set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	assert_int_equal(get(VIRTIO_MMIO_DEVICE_FEATURES), 1);
	set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
	bring_up();
	assert_int_equal(activated, 1);
	assert_true(dev.active);
	set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	let_the_loop_work();
	assert_int_equal(notified, 1);
	dev.transport_ops->interrupt(&dev);
	assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

static void features_that_were_not_offered_are_refused(void **state)
{
	static const uint64_t wrong[] = { 0, 1ull << FEATURE, 1ull << VIRTIO_F_VERSION_1 | 1ull << 6,
					  1ull << VIRTIO_F_VERSION_1 | 1ull << 63 };

	(void)state;
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		negotiate(wrong[i]);
		assert_int_equal(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0);
		set(VIRTIO_MMIO_STATUS, get(VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
		assert_int_equal(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK, 0);
		negotiate(1ull << VIRTIO_F_VERSION_1); /* and it may try again */
		assert_true(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK);
		mmio.status = 0;
	}
	assert_int_equal(activated, 0);
}

static void bad_queues_do_not_become_ready(void **state)
{
	static const struct {
		uint32_t size;
		uint64_t desc, avail, used;
	} bad[] = {
		{ 0, DESC, AVAIL, USED },
		{ 3, DESC, AVAIL, USED },
		{ QUEUE_SIZE * 2, DESC, AVAIL, USED },
		{ 0x10000, DESC, AVAIL, USED },
		{ QUEUE_SIZE, DESC + 8, AVAIL, USED },
		{ QUEUE_SIZE, DESC, AVAIL + 1, USED },
		{ QUEUE_SIZE, DESC, AVAIL, USED + 2 },
		{ QUEUE_SIZE, 1 << 20, AVAIL, USED },
		{ QUEUE_SIZE, DESC, (1 << 20) - 2, USED },
		{ QUEUE_SIZE, DESC, AVAIL, ~3ull },
		{ QUEUE_SIZE, ~15ull, AVAIL, USED },
		{ QUEUE_SIZE, DESC, GPA, USED },
	};

	(void)state;
	negotiate(1ull << VIRTIO_F_VERSION_1);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_queue(bad[i].size, bad[i].desc, bad[i].avail, bad[i].used);
		assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
	}
	set_queue(QUEUE_SIZE, DESC, AVAIL, USED);
	assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 1);
	set(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x8000); /* too late */
	assert_int_equal(dev.queue[0].desc_gpa, DESC);
	set(VIRTIO_MMIO_QUEUE_SEL, 7);
	assert_int_equal(get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	set(VIRTIO_MMIO_QUEUE_READY, 1);
	assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
}

static void a_queue_cannot_be_set_up_before_features_or_after_driver_ok(void **state)
{
	(void)state;
	set_queue(QUEUE_SIZE, DESC, AVAIL, USED);
	assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
	bring_up();
	set(VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 1);
}

static void notifications_at_the_wrong_time_or_place_do_nothing(void **state)
{
	(void)state;
	set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	let_the_loop_work();
	bring_up();
	set(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	set(VIRTIO_MMIO_QUEUE_NOTIFY, UINT32_MAX);
	let_the_loop_work();
	assert_int_equal(notified, 0);
}

static void odd_accesses_are_ignored(void **state)
{
	uint8_t ones[8], got[8];

	(void)state;
	memset(ones, 0xff, sizeof(ones));
	for (unsigned int offset = 0; offset < VIRTIO_MMIO_CONFIG; offset++) {
		for (unsigned int len = 1; len <= 8; len *= 2) {
			if (len == 4 && offset % 4 == 0)
				continue;
			bus_write(&bus, GPA + offset, ones, len);
			bus_read(&bus, GPA + offset, got, len);
			for (unsigned int i = 0; i < len; i++)
				assert_int_equal(got[i], 0);
		}
	}
	assert_int_equal(get(VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(get(VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
}

static void config_space_ends_where_it_ends(void **state)
{
	uint64_t wide;

	(void)state;
	memset(config, 0x77, sizeof(config));
	bus_read(&bus, GPA + VIRTIO_MMIO_CONFIG, &wide, 8);
	assert_int_equal(wide, 0x7777777777777777ull);
	bus_read(&bus, GPA + VIRTIO_MMIO_CONFIG + 6, &wide, 4);
	assert_int_equal((uint32_t)wide, 0x7777);
	bus_read(&bus, GPA + 0xff8, &wide, 8);
	assert_int_equal(wide, 0);
	bus_write(&bus, GPA + VIRTIO_MMIO_CONFIG, &wide, 4); /* nothing in it is writable */
	assert_int_equal(config[0], 0x77);
}

static void *driver_resets(void *arg)
{
	set(VIRTIO_MMIO_STATUS, 0);
	event_loop_post(&loop, arg);
	return NULL;
}

static void finish_reset(struct event_timer *timer)
{
	(void)timer;
	assert_int_equal(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_DRIVER_OK);
	set(VIRTIO_MMIO_QUEUE_SEL, 0); /* ignored meanwhile */
	virtio_device_reset_done(&dev);
}

static void a_reset_waits_for_what_is_in_flight(void **state)
{
	struct event_timer timer = { .expired = finish_reset };
	struct event_work last = { .run = stop };
	pthread_t driver;

	(void)state;
	bring_up();
	reset_in_flight = true;
	event_loop_arm(&loop, &timer, event_loop_now_ns() + 20000000);
	loop.stop = false;
	pthread_create(&driver, NULL, driver_resets, &last);
	event_loop_run(&loop);
	pthread_join(driver, NULL);
	assert_int_equal(resets, 1);
	assert_int_equal(get(VIRTIO_MMIO_STATUS), 0);
	assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
	assert_false(dev.active);
	reset_in_flight = false;
	bring_up();
	assert_int_equal(activated, 2);
}

static void a_broken_device_says_so_and_recovers(void **state)
{
	struct event_work last = { .run = stop };
	pthread_t driver;

	(void)state;
	bring_up();
	virtio_device_broken(&dev, 0, "a test says so");
	assert_true(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	let_the_loop_work();
	assert_int_equal(notified, 0);
	loop.stop = false;
	pthread_create(&driver, NULL, driver_resets, &last);
	event_loop_run(&loop);
	pthread_join(driver, NULL);
	assert_int_equal(get(VIRTIO_MMIO_STATUS) | get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	bring_up();
	assert_true(dev.active);
}

static void status_bits_cannot_be_taken_back(void **state)
{
	(void)state;
	bring_up();
	set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_true(get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(resets, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_driver_that_keeps_to_the_rules, start, end),
		cmocka_unit_test_setup_teardown(features_that_were_not_offered_are_refused, start, end),
		cmocka_unit_test_setup_teardown(bad_queues_do_not_become_ready, start, end),
		cmocka_unit_test_setup_teardown(a_queue_cannot_be_set_up_before_features_or_after_driver_ok, start,
						end),
		cmocka_unit_test_setup_teardown(notifications_at_the_wrong_time_or_place_do_nothing, start, end),
		cmocka_unit_test_setup_teardown(odd_accesses_are_ignored, start, end),
		cmocka_unit_test_setup_teardown(config_space_ends_where_it_ends, start, end),
		cmocka_unit_test_setup_teardown(a_reset_waits_for_what_is_in_flight, start, end),
		cmocka_unit_test_setup_teardown(a_broken_device_says_so_and_recovers, start, end),
		cmocka_unit_test_setup_teardown(status_bits_cannot_be_taken_back, start, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
