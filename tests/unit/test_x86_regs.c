/* test_x86_regs.c: the first vCPU's registers and tables agree with each other and with the boot protocols. */
#include "unit.h"

#include <string.h>

#include "x86/x86.h"

/* A descriptor's base, limit in bytes and attributes, taken apart as the CPU does (Intel SDM 3A, 3.4.5). */
static void check_descriptor(uint64_t d, const struct kvm_segment *s)
{
	uint64_t limit = (d & 0xffff) | (d >> 32 & 0xf0000);

	assert_int_equal((d >> 16 & 0xffffff) | (d >> 56 << 24), s->base);
	assert_int_equal(limit << 12 | 0xfff, s->limit);
	assert_int_equal(d >> 40 & 0xf, s->type);
	assert_int_equal(d >> 44 & 1, s->s);
	assert_int_equal(d >> 45 & 3, s->dpl);
	assert_int_equal(d >> 47 & 1, s->present);
	assert_int_equal(d >> 53 & 1, s->l);
	assert_int_equal(d >> 54 & 1, s->db);
	assert_int_equal(d >> 55 & 1, s->g);
}

static void check_segments(const struct guest_memory *gm, const struct kvm_sregs *s)
{
	const uint64_t *gdt = gm_at(gm, s->gdt.base, s->gdt.limit + 1u);
	const struct kvm_segment *data[] = { &s->ds, &s->es, &s->fs, &s->gs, &s->ss };

	assert_non_null(gdt);
	assert_int_equal(gdt[0], 0);
	/* Reloading a selector gives what is loaded already. */
	assert_int_equal(s->cs.selector, 0x10);
	check_descriptor(gdt[s->cs.selector / 8], &s->cs);
	for (size_t i = 0; i < sizeof(data) / sizeof(data[0]); i++) {
		assert_int_equal(data[i]->selector, 0x18);
		check_descriptor(gdt[3], data[i]);
	}
	assert_int_equal(s->tr.type, 11);
	assert_int_equal(s->tr.present, 1);
	assert_int_equal(s->tr.s, 0);
}

static void linux64_starts_in_long_mode(void **state)
{
	const struct boot_entry entry = { .protocol = BOOT_LINUX64,
					  .entry_gpa = 0x1000200,
					  .params_gpa = BOOT_PARAMS_GPA };
	struct kvm_sregs s;
	struct error err = { 0 };
	struct guest_memory gm;
	const uint64_t *table;
	struct kvm_regs r;

	(void)state;
	memset(&s, 0xa5, sizeof(s));
	memset(&r, 0xa5, sizeof(r));
	assert_int_equal(gm_create(&gm, 2, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(x86_tables_write(&gm, entry.protocol, &err), 0);
	x86_boot_regs(&r, &entry);
	x86_boot_sregs(&s, &entry);
	assert_int_equal(r.rip, entry.entry_gpa);
	assert_int_equal(r.rsi, entry.params_gpa);
	assert_int_equal(r.rbx, 0);
	assert_int_equal(r.rflags, 2); /* interrupts off */
	check_segments(&gm, &s);
	assert_true(s.cs.l && !s.cs.db);
	assert_int_equal(s.cr0, 0x80000011); /* PG, ET, PE; caches on */
	assert_int_equal(s.cr4, 0x20);       /* PAE */
	assert_int_equal(s.efer, 0x500);     /* LMA, LME */
	/* The first GiB is itself: walk the tables for each 2 MiB page. */
	for (uint64_t gpa = 0; gpa < BOOT_IDENTITY_SIZE; gpa += 2 << 20) {
		table = gm_at(&gm, s.cr3, 4096);
		assert_int_equal(table[gpa >> 39] & 0xfff, 3);
		table = gm_at(&gm, table[gpa >> 39] & ~0xfffull, 4096);
		assert_int_equal(table[gpa >> 30 & 511] & 0xfff, 3);
		table = gm_at(&gm, table[gpa >> 30 & 511] & ~0xfffull, 4096);
		assert_int_equal(table[gpa >> 21 & 511], gpa | 0x83);
	}
	/* Neither parameters nor the stack are where the tables are. */
	assert_true(r.rsp <= BOOT_PAGE_TABLES_GPA && r.rsp > BOOT_PARAMS_GPA + 4096);
	gm_destroy(&gm);
}

static void pvh_starts_flat_without_paging(void **state)
{
	const struct boot_entry entry = { .protocol = BOOT_PVH,
					  .entry_gpa = 0x1000000,
					  .params_gpa = BOOT_PVH_INFO_GPA };
	struct kvm_sregs s;
	struct error err = { 0 };
	struct guest_memory gm;
	struct kvm_regs r;

	(void)state;
	memset(&s, 0xa5, sizeof(s));
	assert_int_equal(gm_create(&gm, 2, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(x86_tables_write(&gm, entry.protocol, &err), 0);
	x86_boot_regs(&r, &entry);
	x86_boot_sregs(&s, &entry);
	assert_int_equal(r.rip, entry.entry_gpa);
	assert_int_equal(r.rbx, entry.params_gpa);
	assert_int_equal(r.rsi, 0);
	check_segments(&gm, &s);
	assert_true(!s.cs.l && s.cs.db);
	assert_int_equal(s.cs.limit, 0xffffffff);
	assert_int_equal(s.cr0, 0x11);
	assert_int_equal(s.cr3, 0);
	assert_int_equal(s.cr4, 0);
	assert_int_equal(s.efer, 0);
	/* No page tables: pages that nobody needs are not touched. */
	assert_int_equal(*(uint64_t *)gm_at(&gm, BOOT_PAGE_TABLES_GPA, 8), 0);
	gm_destroy(&gm);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(linux64_starts_in_long_mode),
		cmocka_unit_test(pvh_starts_flat_without_paging),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
