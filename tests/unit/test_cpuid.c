/* test_cpuid.c: what the guest's CPUID says, from tables as Intel, AMD and sparse hosts give them. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "x86/x86.h"

#define TSC_KHZ 2494140u

static void add(struct cpuid_table *t, uint32_t leaf, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
		uint32_t edx)
{
	t->entries[t->head.nent++] = (struct kvm_cpuid_entry2){
		.function = leaf, .index = index, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx
	};
}

static const struct kvm_cpuid_entry2 *get(const struct cpuid_table *t, uint32_t leaf, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (uint32_t i = 0; i < t->head.nent; i++) {
		if (t->entries[i].function != leaf || t->entries[i].index != index)
			continue;
		assert_null(found); /* KVM takes the first of two: there must not be two */
		found = &t->entries[i];
	}
	return found;
}

static const struct kvm_cpuid_entry2 *need(const struct cpuid_table *t, uint32_t leaf, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = get(t, leaf, index);

	assert_non_null(e);
	return e;
}

/* Everything that the host's own place in its machine, or its spare features, could show through. */
static void intel_host(struct cpuid_table *t)
{
	t->head.nent = 0;
	add(t, 0x0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(t, 0x1, 0, 0x806f8, 0x2a400800, 0xfffa3203 | 1u << 3 | 1u << 5 | 1u << 15, 0xffffffff);
	add(t, 0x4, 0, 0xfc004121, 0x2c0003f, 0x3f, 0);
	add(t, 0x4, 1, 0xfc004122, 0x1c0003f, 0x3f, 0);
	add(t, 0x4, 2, 0xfc01c143, 0x3c0003f, 0x7ff, 0);
	add(t, 0x4, 3, 0xfc1fc163, 0x380003f, 0x1ffff, 4);
	add(t, 0x4, 4, 0, 0, 0, 0);
	add(t, 0x5, 0, 0x40, 0x40, 3, 0x2020);
	add(t, 0x7, 0, 2, 0xf1bf07ab, 0x1a415f5e, 0xac004410);
	add(t, 0xa, 0, 0x8300805, 0, 0xf, 0x8604);
	add(t, 0xb, 0, 1, 2, 0x100, 0x2a);
	add(t, 0xb, 1, 7, 96, 0x201, 0x2a);
	add(t, 0x1f, 0, 1, 2, 0x100, 0x2a);
	add(t, 0x1f, 1, 7, 96, 0x201, 0x2a);
	add(t, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(t, 0x40000001, 0, 0x1007efb, 0, 0, 0);
	add(t, 0x80000000, 0, 0x80000008, 0, 0, 0);
	add(t, 0x80000001, 0, 0, 0, 0x121, 0x2c100800);
	add(t, 0x80000008, 0, 0x3028, 0, 0, 0);
}

static void amd_host(struct cpuid_table *t)
{
	t->head.nent = 0;
	add(t, 0x0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	add(t, 0x1, 0, 0xa20f12, 0x2a400800, 0x7ed8320b, 0x178bfbff);
	add(t, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(t, 0x40000001, 0, 0x1007efb, 0, 0, 0);
	add(t, 0x80000000, 0, 0x80000026, 0x68747541, 0x444d4163, 0x69746e65);
	add(t, 0x80000001, 0, 0xa20f12, 0, 0x75c237ff, 0x2fd3fbff);
	add(t, 0x80000008, 0, 0x3030, 0, 0x607f, 0);
	add(t, 0x8000000a, 0, 1, 0x8000, 0, 0xf);
	add(t, 0x8000001d, 0, 0x4121, 0x1c0003f, 0x3f, 0);
	add(t, 0x8000001d, 2, 0x4143, 0x1c0003f, 0x3ff, 2);
	add(t, 0x8000001d, 3, 0x3c163, 0x3c0003f, 0x7fff, 1);
	add(t, 0x8000001d, 4, 0, 0, 0, 0);
	add(t, 0x8000001e, 0, 0x2a, 0x115, 0x101, 0);
	add(t, 0x80000022, 0, 1, 6, 0, 0);
	add(t, 0x80000026, 0, 1, 2, 0x100, 0x2a);
}

/* Each line of the table: vCPUs, SMT, and what the guest must then see. */
static const struct {
	unsigned int vcpus;
	bool smt;
	unsigned int threads, thread_bits, total_bits, cores_pow2;
} machines[] = {
	{ 1, false, 1, 0, 0, 1 },   { 1, true, 1, 0, 0, 1 },   { 2, false, 1, 0, 1, 2 }, { 2, true, 2, 1, 1, 1 },
	{ 3, false, 1, 0, 2, 4 },   { 4, true, 2, 1, 2, 2 },   { 6, true, 2, 1, 3, 4 },  { 8, false, 1, 0, 3, 8 },
	{ 31, false, 1, 0, 5, 32 }, { 32, true, 2, 1, 5, 16 },
};
#define NR_MACHINES (sizeof(machines) / sizeof(machines[0]))

static void every_vcpu_sees_its_own_place(void **state)
{
	(void)state;
	for (size_t m = 0; m < NR_MACHINES; m++) {
		for (unsigned int i = 0; i < machines[m].vcpus; i++) {
			struct cpuid_table t;
			const struct kvm_cpuid_entry2 *e;

			intel_host(&t);
			cpuid_normalize(&t, i, machines[m].vcpus, machines[m].smt, TSC_KHZ);
			e = need(&t, 1, 0);
			assert_int_equal(e->ebx >> 24, i);
			assert_int_equal(e->ebx >> 16 & 0xff, 1u << machines[m].total_bits);
			assert_int_equal(e->ebx & 0xffff, 0x0800); /* CLFLUSH size stays, brand index goes */
			assert_int_equal(e->edx >> 28 & 1, machines[m].vcpus > 1);
			e = need(&t, 0xb, 0);
			assert_int_equal(e->eax, machines[m].thread_bits);
			assert_int_equal(e->ebx, machines[m].threads);
			assert_int_equal(e->ecx, 0x100);
			assert_int_equal(e->edx, i);
			assert_true(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
			e = need(&t, 0xb, 1);
			assert_int_equal(e->eax, machines[m].total_bits);
			assert_int_equal(e->ebx, machines[m].vcpus);
			assert_int_equal(e->ecx, 0x201);
			assert_int_equal(e->edx, i);
			e = need(&t, 0xb, 2);
			assert_int_equal(e->ebx, 0);
			assert_int_equal(e->ecx, 2);
			assert_int_equal(e->edx, i);
			assert_null(get(&t, 0x1f, 0));
			assert_null(get(&t, 0x1f, 1));
			/* Level 1 and 2 caches per core, level 3 for all. */
			assert_int_equal(need(&t, 4, 0)->eax >> 14 & 0xfff, machines[m].threads - 1);
			assert_int_equal(need(&t, 4, 2)->eax >> 14 & 0xfff, machines[m].threads - 1);
			assert_int_equal(need(&t, 4, 3)->eax >> 14 & 0xfff, (1u << machines[m].total_bits) - 1);
			assert_int_equal(need(&t, 4, 3)->eax >> 26, machines[m].cores_pow2 - 1);
			assert_int_equal(need(&t, 4, 3)->eax & 0x3fff, 0x163);
			assert_int_equal(need(&t, 4, 4)->eax, 0);
		}
	}
}

static void amd_topology_agrees(void **state)
{
	(void)state;
	for (size_t m = 0; m < NR_MACHINES; m++) {
		for (unsigned int i = 0; i < machines[m].vcpus; i++) {
			struct cpuid_table t;
			const struct kvm_cpuid_entry2 *e;

			amd_host(&t);
			cpuid_normalize(&t, i, machines[m].vcpus, machines[m].smt, TSC_KHZ);
			e = need(&t, 0x80000008, 0);
			assert_int_equal(e->ecx, machines[m].total_bits << 12 | (machines[m].vcpus - 1));
			assert_int_equal(e->eax, 0x3030); /* address widths are the host's */
			e = need(&t, 0x8000001e, 0);
			assert_int_equal(e->eax, i);
			assert_int_equal(e->ebx, (machines[m].threads - 1) << 8 | i / machines[m].threads);
			assert_int_equal(e->ecx, 0);
			assert_int_equal(need(&t, 0x8000001d, 0)->eax, 0x121 | (machines[m].threads - 1) << 14);
			assert_int_equal(need(&t, 0x8000001d, 3)->eax, 0x163 | ((1u << machines[m].total_bits) - 1)
										       << 14);
			assert_int_equal(need(&t, 0x80000001, 0)->ecx >> 1 & 1, machines[m].vcpus > 1);
			assert_int_equal(need(&t, 0xb, 1)->ebx, machines[m].vcpus);
			assert_null(get(&t, 0x80000026, 0));
		}
	}
}

static void features_are_on_and_off(void **state)
{
	struct cpuid_table t;
	uint32_t ecx;

	(void)state;
	intel_host(&t);
	cpuid_normalize(&t, 0, 2, false, TSC_KHZ);
	ecx = need(&t, 1, 0)->ecx;
	assert_true(ecx & 1u << 31);  /* hypervisor */
	assert_true(ecx & 1u << 24);  /* TSC deadline */
	assert_true(ecx & 1u << 21);  /* x2APIC */
	assert_false(ecx & 1u << 3);  /* MONITOR */
	assert_false(ecx & 1u << 5);  /* VMX */
	assert_false(ecx & 1u << 15); /* PDCM */
	assert_int_equal(need(&t, 1, 0)->eax, 0x806f8);
	assert_null(get(&t, 0xa, 0));
	assert_null(get(&t, 5, 0));
	/* The rest is the host's, KVM's own leaves among it. */
	assert_int_equal(need(&t, 7, 0)->ebx, 0xf1bf07ab);
	assert_int_equal(need(&t, 0x40000001, 0)->eax, 0x1007efb);
	assert_int_equal(need(&t, 0x80000001, 0)->ecx, 0x121);
	assert_int_equal(need(&t, 0x80000008, 0)->ecx, 0);
	assert_null(get(&t, 0x8000001e, 0));

	amd_host(&t);
	cpuid_normalize(&t, 0, 2, false, TSC_KHZ);
	ecx = need(&t, 0x80000001, 0)->ecx;
	assert_false(ecx & 1u << 2);                          /* SVM */
	assert_false(ecx & (1u << 23 | 1u << 24 | 1u << 28)); /* performance counters */
	assert_true(ecx & 1u << 22);                          /* topology extensions */
	assert_null(get(&t, 0x8000000a, 0));
	assert_null(get(&t, 0x80000022, 0));
}

static void frequencies_are_true_or_absent(void **state)
{
	static const struct {
		uint32_t eax, ebx, ecx, tsc_khz;
		bool kept;
	} rows[] = {
		{ 2, 200, 25000000, 2500000, true },
		{ 2, 200, 25000000, 2501000, true },  /* within a thousandth */
		{ 2, 200, 25000000, 2400000, false }, /* scaled: not what this guest's TSC does */
		{ 2, 200, 0, 2500000, false },        /* crystal not enumerated */
		{ 0, 200, 25000000, 2500000, false },
		{ 2, 0, 25000000, 2500000, false },
		{ 2, 200, 25000000, 0, false }, /* KVM does not know */
		{ 1, UINT32_MAX, UINT32_MAX, 2500000, false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct cpuid_table t;

		intel_host(&t);
		add(&t, 0x15, 0, rows[i].eax, rows[i].ebx, rows[i].ecx, 0);
		cpuid_normalize(&t, 0, 1, false, rows[i].tsc_khz);
		assert_int_equal(!!get(&t, 0x15, 0), rows[i].kept);
		if (rows[i].tsc_khz) {
			assert_int_equal(need(&t, 0x40000010, 0)->eax, rows[i].tsc_khz);
			assert_int_equal(need(&t, 0x40000010, 0)->ebx, 1000000);
			assert_int_equal(need(&t, 0x40000000, 0)->eax, 0x40000010);
		} else {
			assert_null(get(&t, 0x40000010, 0));
			assert_int_equal(need(&t, 0x40000000, 0)->eax, 0x40000001);
		}
	}
}

/* The machine goes from vCPU to vCPU with one table: nothing of the one before may remain. */
static void one_table_serves_all_vcpus(void **state)
{
	(void)state;
	for (unsigned int amd = 0; amd < 2; amd++) {
		struct cpuid_table walked;

		(amd ? amd_host : intel_host)(&walked);
		for (unsigned int i = 0; i < 8; i++) {
			struct cpuid_table fresh;

			(amd ? amd_host : intel_host)(&fresh);
			cpuid_normalize(&fresh, i, 8, true, TSC_KHZ);
			cpuid_normalize(&walked, i, 8, true, TSC_KHZ);
			assert_int_equal(walked.head.nent, fresh.head.nent);
			for (uint32_t n = 0; n < fresh.head.nent; n++) {
				const struct kvm_cpuid_entry2 *f = &fresh.entries[n];

				assert_memory_equal(need(&walked, f->function, f->index), f, sizeof(*f));
			}
		}
	}
}

/* Hosts that say little, and one that fills the table: no crash, no overrun. */
static void sparse_and_full_tables_are_survived(void **state)
{
	struct {
		struct cpuid_table t;
		uint8_t guard[64];
	} s;

	(void)state;
	memset(&s, 0x5a, sizeof(s));
	s.t.head.nent = 0;
	cpuid_normalize(&s.t, 31, 32, true, TSC_KHZ);
	assert_int_equal(need(&s.t, 0xb, 0)->edx, 31);

	/* An old CPU whose highest leaf is below the topology leaf. */
	s.t.head.nent = 0;
	add(&s.t, 0, 0, 4, 0x756e6547, 0x6c65746e, 0x49656e69);
	cpuid_normalize(&s.t, 0, 2, false, TSC_KHZ);
	assert_int_equal(need(&s.t, 0, 0)->eax, 0xb);

	s.t.head.nent = 0;
	while (s.t.head.nent < CPUID_MAX)
		add(&s.t, 0xd, s.t.head.nent, 1, 1, 1, 1);
	cpuid_normalize(&s.t, 0, 32, true, TSC_KHZ);
	assert_int_equal(s.t.head.nent, CPUID_MAX);
	for (size_t i = 0; i < sizeof(s.guard); i++)
		assert_int_equal(s.guard[i], 0x5a);
}

static void kvm_that_is_not_there_is_a_sentence(void **state)
{
	struct cpuid_table t;
	struct error err = { 0 };

	(void)state;
	assert_int_equal(cpuid_supported(-1, &t, &err), -EBADF);
	assert_true(err.message[0]);
	assert_int_equal(x86_set_msrs(-1, &err), -EBADF);
	assert_non_null(strstr(err.message, "MSRs"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_vcpu_sees_its_own_place),
		cmocka_unit_test(amd_topology_agrees),
		cmocka_unit_test(features_are_on_and_off),
		cmocka_unit_test(frequencies_are_true_or_absent),
		cmocka_unit_test(one_table_serves_all_vcpus),
		cmocka_unit_test(sparse_and_full_tables_are_survived),
		cmocka_unit_test(kvm_that_is_not_there_is_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
