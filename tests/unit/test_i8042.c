/* test_i8042.c: the keyboard controller as a driver meets it, and as a guest without one leaves it. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "legacy/i8042.h"

enum { DATA = 0x60, COMMAND = 0x64, FULL = 0x01 };

static struct i8042 kbc;
static struct bus pio;
static unsigned int resets, interrupts;

static void on_reset(void *opaque)
{
	(void)opaque;
	resets++;
}

static void on_irq(void *opaque)
{
	(void)opaque;
	interrupts++;
}

static int setup(void **state)
{
	(void)state;
	pio = (struct bus){ 0 };
	kbc = (struct i8042){ .reset = on_reset, .irq = on_irq };
	resets = interrupts = 0;
	return i8042_init(&kbc, &pio);
}

static uint8_t in(uint64_t port)
{
	uint8_t value = 0;

	bus_read(&pio, port, &value, 1);
	return value;
}

static void out(uint64_t port, uint8_t value)
{
	bus_write(&pio, port, &value, 1);
}

static void set_control(uint8_t value)
{
	out(COMMAND, 0x60);
	out(DATA, value);
}

static void expect_bytes(const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(in(COMMAND)&FULL, FULL);
		assert_int_equal(in(DATA), bytes[i]);
	}
	assert_int_equal(in(COMMAND)&FULL, 0);
}

/* As Linux's i8042 and atkbd do it: flush, the control byte twice, no lock, who are you, lights, interrupts. */
static void a_driver_finds_a_keyboard(void **state)
{
	static const uint8_t id[] = { 0xfa, 0xab, 0x83 }, passed[] = { 0xfa, 0xaa }, ack[] = { 0xfa };

	(void)state;
	assert_int_equal(in(COMMAND), 0x10); /* nothing there, and not locked */
	set_control(0x10);
	out(COMMAND, 0x20);
	expect_bytes((const uint8_t[]){ 0x10 }, 1);
	assert_int_equal(interrupts, 0);
	set_control(0x01);
	out(DATA, 0xf2);
	assert_int_equal(interrupts, 1);
	expect_bytes(id, sizeof(id));
	assert_int_equal(interrupts, 3); /* one for each byte */
	out(DATA, 0xff);
	expect_bytes(passed, sizeof(passed));
	out(DATA, 0xed);
	expect_bytes(ack, 1);
	out(DATA, 0x02);
	expect_bytes(ack, 1);
}

static void keys_reach_a_guest_that_listens(void **state)
{
	static const uint8_t keys[] = { 0x14, 0x11, 0xe0, 0x71 };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(i8042_ctrl_alt_del(&kbc, &err), -ENODEV);
	assert_non_null(strstr(err.message, "no keyboard driver"));
	assert_int_equal(in(COMMAND)&FULL, 0);
	set_control(0x01);
	assert_int_equal(i8042_ctrl_alt_del(&kbc, &err), 0);
	assert_int_equal(interrupts, 1);
	assert_int_equal(i8042_ctrl_alt_del(&kbc, &err), 0);
	assert_int_equal(i8042_ctrl_alt_del(&kbc, &err), -EBUSY);
	for (unsigned int i = 0; i < 2; i++) {
		for (unsigned int k = 0; k < sizeof(keys); k++)
			assert_int_equal(in(DATA), keys[k]);
	}
	assert_int_equal(in(COMMAND)&FULL, 0);
	assert_int_equal(interrupts, 9); /* each pressing, and each byte that another one follows */
}

static void a_flood_of_commands_is_bounded(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 1000; i++) {
		out(DATA, (uint8_t)i);
		out(COMMAND, (uint8_t)(i % 0xfe));
	}
	assert_in_range(kbc.nr_keys, 1, I8042_KEYS);
	for (unsigned int i = 0; i < I8042_KEYS; i++)
		in(DATA);
	assert_int_equal(in(COMMAND)&FULL, 0);
	assert_int_equal(in(DATA), 0);
	assert_int_equal(resets, 0);
}

static void only_the_reset_line_resets(void **state)
{
	static const uint8_t two[] = { 0xfe, 0xfe };

	(void)state;
	out(DATA, 0xfe);
	bus_write(&pio, COMMAND, two, 2);
	assert_int_equal(resets, 0);
	out(COMMAND, 0xfe);
	assert_int_equal(resets, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_driver_finds_a_keyboard, setup),
		cmocka_unit_test_setup(keys_reach_a_guest_that_listens, setup),
		cmocka_unit_test_setup(a_flood_of_commands_is_bounded, setup),
		cmocka_unit_test_setup(only_the_reset_line_resets, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
