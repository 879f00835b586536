/* test_mptable.c: the MP table, read back as a kernel reads it. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "x86/x86.h"

static unsigned int sum(const uint8_t *p, size_t len)
{
	unsigned int total = 0;

	while (len--)
		total += *p++;
	return total & 0xff;
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

/* What the entries say, counted on a walk that trusts only the length of each type. */
struct seen {
	unsigned int cpus, boot_cpus, buses, ioapics, locals, entries;
	uint32_t apic_ids, pins;
	uint8_t ioapic_id;
};

static void note_entry(struct seen *seen, const uint8_t *e)
{
	switch (e[0]) {
	case 0:
		seen->cpus++;
		assert_false(seen->apic_ids & 1u << e[1]);
		seen->apic_ids |= 1u << e[1];
		assert_true(e[3] & 1); /* enabled */
		seen->boot_cpus += e[3] >> 1 & 1;
		break;
	case 1:
		seen->buses++;
		assert_memory_equal(e + 2, "ISA   ", 6);
		break;
	case 2:
		seen->ioapics++;
		seen->ioapic_id = e[1];
		assert_int_equal(e[3], 1);
		assert_int_equal(get32(e + 4), X86_IOAPIC_GPA);
		break;
	case 3:
		assert_int_equal(e[1], 0);
		assert_int_equal(e[5], e[7]); /* interrupt n is pin n */
		assert_int_equal(e[6], seen->ioapic_id);
		assert_false(seen->pins & 1u << e[7]);
		seen->pins |= 1u << e[7];
		break;
	case 4:
		seen->locals++;
		break;
	default:
		fail_msg("entry of type %u", e[0]);
	}
}

static void walk(const uint8_t *table, struct seen *seen)
{
	const uint8_t *e = table + 44;
	const uint8_t *end = table + get16(table + 4);

	memset(seen, 0, sizeof(*seen));
	while (e < end) {
		note_entry(seen, e);
		seen->entries++;
		e += e[0] == 0 ? 20 : 8;
	}
	assert_ptr_equal(e, end);
}

static void every_size_is_well_formed(void **state)
{
	(void)state;
	for (unsigned int cpus = 1; cpus <= 32; cpus++) {
		struct error err = { 0 };
		const uint8_t *pointer, *table;
		struct guest_memory gm;
		struct seen seen;

		assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
		assert_int_equal(mptable_write(&gm, cpus, &err), 0);
		/* The last KiB of base memory is one of the places where it is looked for. */
		pointer = gm_at(&gm, 0x9fc00, 1024);
		assert_memory_equal(pointer, "_MP_", 4);
		assert_int_equal(sum(pointer, 16), 0);
		assert_int_equal(pointer[8], 1);
		assert_int_equal(pointer[9], 4);
		table = gm_at(&gm, get32(pointer + 4), 44);
		assert_non_null(table);
		assert_memory_equal(table, "PCMP", 4);
		assert_true(table + get16(table + 4) <= pointer + 1024);
		assert_int_equal(sum(table, get16(table + 4)), 0);
		assert_int_equal(get32(table + 36), X86_LAPIC_GPA);
		walk(table, &seen);
		assert_int_equal(seen.entries, get16(table + 34));
		assert_int_equal(seen.cpus, cpus);
		assert_int_equal(seen.boot_cpus, 1);
		assert_int_equal(seen.apic_ids, cpus == 32 ? UINT32_MAX : (1u << cpus) - 1);
		assert_int_equal(seen.buses, 1);
		assert_int_equal(seen.ioapics, 1);
		assert_int_equal(seen.ioapic_id, cpus);
		assert_int_equal(seen.pins, (1u << X86_IOAPIC_PINS) - 1);
		assert_int_equal(seen.locals, 2);
		/* Nothing spills over its KiB. */
		assert_int_equal(*(uint8_t *)gm_at(&gm, 0xa0000, 1), 0);
		gm_destroy(&gm);
	}
}

static void impossible_counts_are_refused(void **state)
{
	static const unsigned int counts[] = { 0, 33, 256, UINT32_MAX };
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		assert_int_equal(mptable_write(&gm, counts[i], &err), -EINVAL);
		assert_non_null(strstr(err.message, "machine-config.vcpu_count"));
	}
	gm_destroy(&gm);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_size_is_well_formed),
		cmocka_unit_test(impossible_counts_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
