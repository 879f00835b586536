/* test_bus.c: who answers at which address. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "bus.h"

struct probe {
	uint64_t offset;
	unsigned int reads, writes;
};

static void probe_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	struct probe *probe = opaque;

	probe->offset = offset;
	probe->reads++;
	memset(data, 0x5a, len);
}

static void probe_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct probe *probe = opaque;

	(void)data, (void)len;
	probe->offset = offset;
	probe->writes++;
}

static const struct bus_ops ops = { .read = probe_read, .write = probe_write };

static void finds_each_device_by_its_range(void **state)
{
	struct probe probe[3] = { 0 };
	struct bus bus = { 0 };
	uint8_t byte;

	(void)state;
	/* Added out of order on purpose: the table sorts itself. */
	assert_int_equal(bus_add(&bus, 0x200, 0x10, &ops, &probe[1]), 0);
	assert_int_equal(bus_add(&bus, 0x300, 0x10, &ops, &probe[2]), 0);
	assert_int_equal(bus_add(&bus, 0x100, 0x10, &ops, &probe[0]), 0);
	for (unsigned int i = 0; i < 3; i++) {
		bus_read(&bus, 0x100 * (i + 1) + 0xf, &byte, 1);
		assert_int_equal(byte, 0x5a);
		assert_int_equal(probe[i].reads, 1);
		assert_int_equal(probe[i].offset, 0xf);
		bus_write(&bus, 0x100 * (i + 1), &byte, 1);
		assert_int_equal(probe[i].writes, 1);
	}
}

static void nobody_answers_outside_or_across_an_end(void **state)
{
	static const struct {
		uint64_t addr;
		unsigned int len;
	} cases[] = {
		{ 0, 1 },    { 0xff, 1 },  { 0x110, 1 },      { 0x10d, 4 },
		{ 0xfe, 4 }, { 0x109, 8 }, { UINT64_MAX, 1 }, { UINT64_MAX, 8 },
	};
	struct probe probe = { 0 };
	struct bus bus = { 0 };

	(void)state;
	assert_int_equal(bus_add(&bus, 0x100, 0x10, &ops, &probe), 0);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t data = 0, ones = cases[i].len == 8 ? UINT64_MAX : (1ull << cases[i].len * 8) - 1;

		bus_read(&bus, cases[i].addr, &data, cases[i].len);
		assert_int_equal(data, ones);
		bus_write(&bus, cases[i].addr, &data, cases[i].len);
	}
	assert_int_equal(probe.reads + probe.writes, 0);
}

static void refuses_overlap_and_too_many(void **state)
{
	struct probe probe = { 0 };
	struct bus bus = { 0 };

	(void)state;
	for (uint64_t i = 0; i < BUS_MAX_DEVICES; i++)
		assert_int_equal(bus_add(&bus, i * 0x10, 0x10, &ops, &probe), 0);
	assert_int_equal(bus_add(&bus, 0x10000, 1, &ops, &probe), -ENOSPC);
	bus.nr--;
	assert_int_equal(bus_add(&bus, 0x18, 0x10, &ops, &probe), -EEXIST);
	assert_int_equal(bus_add(&bus, 0x1f, 1, &ops, &probe), -EEXIST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_each_device_by_its_range),
		cmocka_unit_test(nobody_answers_outside_or_across_an_end),
		cmocka_unit_test(refuses_overlap_and_too_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
