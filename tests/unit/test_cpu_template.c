/* test_cpu_template.c: CPU templates applied to tables and MSRs as hosts have them; which bits the static ones change.
 */
#include "unit.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "x86/cpu_template.h"

#define SKYLAKE      0x50654
#define CASCADE_LAKE 0x50657
#define ICE_LAKE     0x606a6
#define MILAN        0xa00f11
#define TURIN        0xb00f21

#define ARCH_CAPABILITIES 0x10a

/* ---- a KVM that knows 80 MSRs from 0x200 on, and one more; 0x210 takes only 32 bits ---- */

#define NR_FAKE_MSRS 80
static uint64_t fake_msr[NR_FAKE_MSRS], fake_arch_capabilities;
static unsigned int fake_calls;
static uint32_t fake_missing_cap;
static const struct cpuid_table *fake_shown;

static uint64_t *fake_find(uint32_t index)
{
	if (index == ARCH_CAPABILITIES)
		return &fake_arch_capabilities;
	return index >= 0x200 && index < 0x200 + NR_FAKE_MSRS ? &fake_msr[index - 0x200] : NULL;
}

int ioctl(int fd, unsigned long request, ...)
{
	struct kvm_msrs *msrs;
	unsigned long arg;
	va_list ap;
	uint32_t i;

	(void)fd;
	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (request == KVM_CHECK_EXTENSION)
		return arg != fake_missing_cap;
	if (request == KVM_GET_CPUID2) {
		memcpy((void *)arg, fake_shown, sizeof(*fake_shown));
		return 0;
	}
	fake_calls++;
	msrs = (struct kvm_msrs *)arg;
	for (i = 0; i < msrs->nmsrs; i++) {
		uint64_t *value = fake_find(msrs->entries[i].index);

		if (!value || (request == KVM_SET_MSRS && value == &fake_msr[0x10] && msrs->entries[i].data >> 32))
			break;
		if (request == KVM_SET_MSRS)
			*value = msrs->entries[i].data;
		else
			msrs->entries[i].data = *value;
	}
	return (int)i;
}

/* ---- tables ---- */

static void add(struct cpuid_table *t, struct kvm_cpuid_entry2 entry)
{
	t->entries[t->head.nent++] = entry;
}

/* Every bit that a template may clear is set, and the other way round when `ones` is 0. */
static void host(struct cpuid_table *t, uint32_t model, uint32_t ones)
{
	const bool amd = model == MILAN || model == TURIN;
	const char *vendor = amd ? "AuthenticAMD" : "GenuineIntel";
	struct kvm_cpuid_entry2 first = { .function = 0, .eax = 0x20 };
	static const uint32_t leaves[][2] = { { 7, 0 },   { 7, 1 },          { 0xd, 0 },
					      { 0xd, 1 }, { 0x80000001, 0 }, { 0x80000008, 0 } };

	memcpy(&first.ebx, vendor, 4);
	memcpy(&first.edx, vendor + 4, 4);
	memcpy(&first.ecx, vendor + 8, 4);
	memset(t, 0, sizeof(*t));
	add(t, first);
	add(t,
	    (struct kvm_cpuid_entry2){ .function = 1, .eax = model | 0x3000, .ebx = ones, .ecx = ones, .edx = ones });
	for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
		add(t,
		    (struct kvm_cpuid_entry2){ .function = leaves[i][0],
					       .index = leaves[i][1],
					       .flags = leaves[i][0] < 0x80000000 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
					       .eax = ones,
					       .ebx = ones,
					       .ecx = ones,
					       .edx = ones });
}

static const struct kvm_cpuid_entry2 *leaf(struct cpuid_table *t, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, function, index);

	assert_non_null(e);
	return e;
}

static void apply(const char *name, struct cpuid_table *t)
{
	const struct cpu_template *template = cpu_template_static(name);
	struct error err = { 0 };

	assert_non_null(template);
	if (cpu_template_apply_cpuid(template, t, &err))
		fail_msg("%s: %s", name, err.message);
}

/* ---- tests ---- */

static void test_bits(void **state)
{
	static const struct cpuid_modifier leaves[] = {
		{ 7, 0, 1, { { 0, 0 }, { 0xff00, 0x0f }, { 0xffff0000, 0xffff0000 }, { 0, 0 } } },
		{ 1, 0, 0, { { 0xf, 0x3 }, { 0, 0 }, { 0, 0 }, { 0, 0 } } },
		{ 1, 0, 4, { { 0x1, 0 }, { 0, 0 }, { 0, 0 }, { 0, 0x80000000 } } },
	};
	const struct cpu_template template = { .leaves = leaves, .nr_leaves = 3 };
	struct cpuid_table t, before;
	struct error err = { 0 };

	(void)state;
	host(&t, TURIN, 0x12345670);
	before = t;
	assert_int_equal(cpu_template_apply_cpuid(&template, &t, &err), 0);
	assert_int_equal(leaf(&t, 7, 0)->eax, 0x12345670);
	assert_int_equal(leaf(&t, 7, 0)->ebx, 0x1234007f);
	assert_int_equal(leaf(&t, 7, 0)->ecx, 0xffff5670);
	assert_int_equal(leaf(&t, 7, 0)->edx, 0x12345670);
	assert_int_equal(leaf(&t, 7, 0)->flags, 1);
	/* One leaf twice: one after the other. */
	assert_int_equal(leaf(&t, 1, 0)->eax, ((TURIN | 0x3000) & ~0xfu) | 2);
	assert_int_equal(leaf(&t, 1, 0)->edx, 0x92345670);
	assert_int_equal(leaf(&t, 1, 0)->flags, 4);
	/* Nothing else. */
	assert_memory_equal(leaf(&t, 7, 1), leaf(&before, 7, 1), sizeof(struct kvm_cpuid_entry2));
	assert_memory_equal(leaf(&t, 0x80000008, 0), leaf(&before, 0x80000008, 0), sizeof(struct kvm_cpuid_entry2));
	assert_int_equal(t.head.nent, before.head.nent);
}

static void test_missing_leaf(void **state)
{
	static const struct cpuid_modifier leaves[] = {
		{ 0x7, 0x2, 1, { { 0, 0 }, { 0, 0 }, { 0, 0 }, { 1, 0 } } },
	};
	const struct cpu_template template = { .leaves = leaves, .nr_leaves = 1 };
	struct cpuid_table t;
	struct error err = { 0 };

	(void)state;
	host(&t, TURIN, 0);
	assert_int_equal(cpu_template_apply_cpuid(&template, &t, &err), -ENOTSUP);
	assert_non_null(strstr(err.message, "cpu-config: CPUID leaf 0x7, subleaf 0x2, register edx: "));
}

/* A KVM that shows other bits than it was given is found out, but only about bits that the template names. */
static void test_kept(void **state)
{
	static const struct cpuid_modifier leaves[] = {
		{ 7, 0, 1, { { 0, 0 }, { 0xff00, 0x0f }, { 0, 0 }, { 0, 0 } } },
		{ 1, 0, 0, { { 0, 0 }, { 0, 0 }, { 0x10, 0 }, { 0, 0x20 } } },
	};
	const struct cpu_template template = { .leaves = leaves, .nr_leaves = 2 };
	struct cpuid_table wanted, shown;

	(void)state;
	host(&wanted, TURIN, 0xffffffff);
	assert_int_equal(cpu_template_apply_cpuid(&template, &wanted, NULL), 0);
	shown = wanted;
	fake_shown = &shown;
	assert_int_equal(cpu_template_warn_kept(&template, 3, &wanted), 0);
	cpuid_find(&shown, 7, 0)->eax ^= 0xff00; /* not the template's */
	cpuid_find(&shown, 7, 0)->ebx ^= 0xf0;
	cpuid_find(&shown, 7, 1)->ebx ^= 0xff00;
	assert_int_equal(cpu_template_warn_kept(&template, 3, &wanted), 0);
	cpuid_find(&shown, 7, 0)->ebx ^= 0x100; /* shown, should be hidden */
	assert_int_equal(cpu_template_warn_kept(&template, 3, &wanted), 1);
	cpuid_find(&shown, 1, 0)->ecx ^= 0x10;
	cpuid_find(&shown, 1, 0)->edx ^= 0x20; /* hidden, should be shown */
	assert_int_equal(cpu_template_warn_kept(&template, 3, &wanted), 3);
	shown.head.nent = 1;
	assert_int_equal(cpu_template_warn_kept(&template, 3, &wanted), 0);
}

/* What is the microVM's to say stays so, whatever the template wants: as in Firecracker, it comes first. */
static void test_normalized_afterwards(void **state)
{
	static const struct cpuid_modifier leaves[] = {
		{ 1, 0, 0, { { 0, 0 }, { 0, 0xffff0000 }, { 0xffffffff, 1u << 5 }, { 0, 0 } } },
		{ 0x80000008, 0, 0, { { 0, 0 }, { 0, 0 }, { 0, 0xffff }, { 0, 0 } } },
	};
	const struct cpu_template template = { .leaves = leaves, .nr_leaves = 2 };
	struct cpuid_table t;

	(void)state;
	host(&t, TURIN, 0xffffffff);
	assert_int_equal(cpu_template_apply_cpuid(&template, &t, NULL), 0);
	for (unsigned int i = 0; i < 4; i++) {
		cpuid_normalize(&t, i, 4, false, 2500000);
		assert_int_equal(leaf(&t, 1, 0)->ebx >> 16, i << 8 | 4);
		assert_int_equal(leaf(&t, 0x80000008, 0)->ecx, 2 << 12 | 3);
		/* No VMX, but x2APIC, TSC deadline and the hypervisor; the rest of ECX is the template's. */
		assert_int_equal(leaf(&t, 1, 0)->ecx, 1u << 21 | 1u << 24 | 1u << 31);
	}
}

/* Which templates are for which processors. */
static void test_processors(void **state)
{
	static const char *const names[] = { "C3", "T2", "T2S", "T2CL", "T2A" };
	static const struct {
		uint32_t model;
		const char *fit; /* one letter each, in the order of names */
	} hosts[] = {
		{ SKYLAKE, "yyynn" },
		{ CASCADE_LAKE, "yyyyn" },
		{ ICE_LAKE, "yynyn" },
		{ MILAN, "nnnny" },
		{ TURIN, "nnnnn" },
		{ 0x50655, "nnnnn" },
		{ ICE_LAKE | 0x100000, "nnnnn" },
		{ 0x806f8, "nnnnn" },
	};
	struct cpuid_table t, before;

	(void)state;
	for (size_t h = 0; h < sizeof(hosts) / sizeof(hosts[0]); h++) {
		for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
			struct error err = { 0 };
			int ret;

			host(&t, hosts[h].model, 0);
			before = t;
			ret = cpu_template_apply_cpuid(cpu_template_static(names[n]), &t, &err);
			assert_int_equal(ret, hosts[h].fit[n] == 'y' ? 0 : -ENOTSUP);
			if (ret)
				assert_memory_equal(&t, &before, sizeof(t));
		}
	}
	assert_null(cpu_template_static("None"));
	assert_null(cpu_template_static(""));
	assert_null(cpu_template_static("t2"));
}

static void test_wrong_processor_is_named(void **state)
{
	struct cpuid_table t;
	struct error err = { 0 };

	(void)state;
	host(&t, TURIN, 0);
	assert_int_not_equal(cpu_template_apply_cpuid(cpu_template_static("T2"), &t, &err), 0);
	assert_string_equal(err.message, "machine-config.cpu_template: \"T2\" is for Intel Skylake, Cascade Lake and "
					 "Ice Lake; this host's processor is AuthenticAMD, family 26, model 2, "
					 "stepping 1 (cpu-config takes any processor)");
	host(&t, 0x806f8, 0);
	assert_int_not_equal(cpu_template_apply_cpuid(cpu_template_static("T2CL"), &t, &err), 0);
	assert_non_null(strstr(err.message, "GenuineIntel, family 6, model 143, stepping 8"));
	t.head.nent = 0;
	assert_int_not_equal(cpu_template_apply_cpuid(cpu_template_static("T2CL"), &t, &err), 0);
	assert_non_null(strstr(err.message, "processor is unknown"));
}

/* What every template is for, by the names that the manuals give the bits. */
static void test_features(void **state)
{
	enum { EBX, ECX, EDX };
	static const struct {
		uint32_t leaf;
		int reg;
		unsigned int bit;
		const char *what, *cleared; /* by which of C3, T2, T2S, T2CL, T2A */
	} facts[] = {
		{ 7, EBX, 16, "AVX512F", "yyyyy" },
		{ 7, EBX, 17, "AVX512DQ", "yyyyy" },
		{ 7, EBX, 21, "AVX512_IFMA", "yyyyy" },
		{ 7, EBX, 28, "AVX512CD", "yyyyy" },
		{ 7, EBX, 30, "AVX512BW", "yyyyy" },
		{ 7, EBX, 31, "AVX512VL", "yyyyy" },
		{ 7, ECX, 11, "AVX512_VNNI", "yyyyy" },
		{ 7, ECX, 6, "AVX512_VBMI2", "nyyyy" },
		{ 7, EBX, 5, "AVX2", "ynnnn" },
		{ 7, EBX, 3, "BMI1", "ynnnn" },
		{ 7, EBX, 0, "FSGSBASE", "nnnnn" },
		{ 7, EBX, 7, "SMEP", "nnnnn" },
		{ 7, EBX, 20, "SMAP", "nnnnn" },
		{ 7, EBX, 4, "HLE", "yyyyy" },
		{ 7, EBX, 11, "RTM", "yyyyy" },
		{ 7, EBX, 22, "PCOMMIT", "nyyyy" },
		{ 7, EDX, 4, "FSRM", "nyyyy" },
		{ 7, EDX, 26, "SPEC_CTRL", "nnnnn" },
		{ 7, EDX, 29, "ARCH_CAPABILITIES", "nnnnn" },
		{ 1, ECX, 12, "FMA", "ynnnn" },
		{ 1, ECX, 22, "MOVBE", "ynnnn" },
		{ 1, ECX, 3, "MONITOR", "yyyyy" },
		{ 1, ECX, 18, "DCA", "nyyyy" },
		{ 1, ECX, 25, "AES", "nnnnn" },
		{ 1, ECX, 30, "RDRAND", "nnnnn" },
		{ 1, EDX, 22, "ACPI", "yyyyy" },
		{ 1, EDX, 26, "SSE2", "nnnnn" },
		{ 0x80000001, ECX, 5, "LZCNT", "ynnnn" },
		{ 0x80000001, ECX, 6, "SSE4A", "nnnyy" },
		{ 0x80000001, ECX, 2, "SVM", "nnnny" },
		{ 0x80000001, ECX, 29, "MONITORX", "nyyyy" },
		{ 0x80000001, EDX, 26, "1 GiB pages", "yyyyy" },
		{ 0x80000001, EDX, 29, "long mode", "nnnnn" },
		{ 0x80000008, EBX, 9, "WBNOINVD", "nyyyy" },
		{ 0x80000008, EBX, 0, "CLZERO", "nnnny" },
	};
	static const char *const names[] = { "C3", "T2", "T2S", "T2CL", "T2A" };
	struct cpuid_table t;

	(void)state;
	for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
		host(&t, n == 4 ? MILAN : CASCADE_LAKE, 0xffffffff);
		apply(names[n], &t);
		for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
			const struct kvm_cpuid_entry2 *e = leaf(&t, facts[i].leaf, 0);
			const uint32_t regs[] = { e->ebx, e->ecx, e->edx };
			bool cleared = !(regs[facts[i].reg] >> facts[i].bit & 1);

			if (cleared != (facts[i].cleared[n] == 'y'))
				fail_msg("%s: %s is %s", names[n], facts[i].what, cleared ? "cleared" : "kept");
		}
		/* State of MPX, AVX-512 and PKRU; XSAVEC, XGETBV and XSAVES. */
		assert_int_equal(leaf(&t, 0xd, 0)->eax, ~0x2f8u);
		assert_int_equal(leaf(&t, 0xd, 1)->eax, ~0xeu);
		assert_int_equal(leaf(&t, 7, 1)->eax, 0xffffffff);
		assert_int_equal(leaf(&t, 1, 0)->ebx, 0xffffffff);
		/* KVM ignores the subleaf of an entry without this. */
		assert_int_equal(leaf(&t, 7, 0)->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		assert_int_equal(leaf(&t, 0xd, 1)->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	}
}

/* The other way round: what they set where the host has nothing, and the processor they show. */
static void test_set_bits(void **state)
{
	struct cpuid_table t;

	(void)state;
	host(&t, SKYLAKE, 0);
	apply("C3", &t);
	assert_int_equal(leaf(&t, 1, 0)->eax, 0x306e4);
	assert_int_equal(leaf(&t, 1, 0)->edx, 1u << 7 | 1u << 12);
	assert_int_equal(leaf(&t, 7, 0)->ebx, 0);
	host(&t, ICE_LAKE, 0);
	apply("T2", &t);
	assert_int_equal(leaf(&t, 1, 0)->eax, 0x306f2);
	assert_int_equal(leaf(&t, 1, 0)->ecx, 0);
	assert_int_equal(leaf(&t, 1, 0)->edx, 1u << 7 | 1u << 12);
	assert_int_equal(leaf(&t, 7, 0)->ebx, 1u << 9);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ebx, 0);
	host(&t, MILAN, 0);
	apply("T2A", &t);
	assert_int_equal(leaf(&t, 1, 0)->eax, 0x306f2);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ebx, 0x1c0004);
	assert_int_equal(leaf(&t, 0x80000001, 0)->ecx, 0);
}

static void test_static_msrs(void **state)
{
	(void)state;
	fake_arch_capabilities = UINT64_MAX;
	assert_int_equal(cpu_template_apply_msrs(cpu_template_static("T2S"), 3, NULL), 0);
	assert_int_equal(fake_arch_capabilities, 0xc0a0c4c);
	fake_arch_capabilities = 0;
	assert_int_equal(cpu_template_apply_msrs(cpu_template_static("T2S"), 3, NULL), 0);
	assert_int_equal(fake_arch_capabilities, 0xc0a0c4c);
	/* Keeps RDCL_NO to TAA_NO, *_NO of MMIO, FB_CLEAR, RRSBA, PBRSB_NO, GDS_NO, RFDS_NO and RFDS_CLEAR. */
	fake_arch_capabilities = UINT64_MAX;
	assert_int_equal(cpu_template_apply_msrs(cpu_template_static("T2CL"), 3, NULL), 0);
	assert_int_equal(fake_arch_capabilities, 0x1d0ae1ff);
	fake_arch_capabilities = 0x1234;
	assert_int_equal(cpu_template_apply_msrs(cpu_template_static("T2"), 3, NULL), 0);
	assert_int_equal(cpu_template_apply_msrs(cpu_template_static("C3"), 3, NULL), 0);
	assert_int_equal(cpu_template_apply_msrs(cpu_template_static("T2A"), 3, NULL), 0);
	assert_int_equal(fake_arch_capabilities, 0x1234);
}

static void test_many_msrs(void **state)
{
	struct msr_modifier msrs[NR_FAKE_MSRS];
	const struct cpu_template template = { .msrs = msrs, .nr_msrs = NR_FAKE_MSRS };

	(void)state;
	for (uint32_t i = 0; i < NR_FAKE_MSRS; i++) {
		fake_msr[i] = 0xff00 + i;
		msrs[i] = (struct msr_modifier){ 0x200 + i, 0xf000, 1u << 20 };
	}
	fake_calls = 0;
	assert_int_equal(cpu_template_apply_msrs(&template, 3, NULL), 0);
	for (uint32_t i = 0; i < NR_FAKE_MSRS; i++)
		assert_int_equal(fake_msr[i], 0x100f00 + i);
	assert_in_range(fake_calls, 2, 8);
}

static void test_bad_msrs(void **state)
{
	struct msr_modifier msrs[40];
	const struct cpu_template template = { .msrs = msrs, .nr_msrs = 40 };
	struct error err = { 0 };

	(void)state;
	for (uint32_t i = 0; i < 40; i++)
		msrs[i] = (struct msr_modifier){ 0x220 + i, 0, 0 };
	memset(fake_msr, 0, sizeof(fake_msr));
	/* One MSR twice: one after the other. */
	msrs[3] = (struct msr_modifier){ 0x230, 0, 0xf0 };
	msrs[5] = (struct msr_modifier){ 0x230, 0x30, 0 };
	msrs[16] = msrs[5];
	assert_int_equal(cpu_template_apply_msrs(&template, 3, &err), 0);
	assert_int_equal(fake_msr[0x30], 0xc0);

	msrs[35].index = 0xc0000999;
	assert_int_equal(cpu_template_apply_msrs(&template, 3, &err), -ENOTSUP);
	assert_non_null(strstr(err.message, "cpu-config: MSR 0xc0000999: this host's KVM does not know it"));

	msrs[35] = (struct msr_modifier){ 0x210, 0, 1ull << 40 };
	assert_int_equal(cpu_template_apply_msrs(&template, 3, &err), -ENOTSUP);
	assert_non_null(strstr(err.message, "MSR 0x210: this host's KVM does not take the value 0x10000000000"));
}

static void test_capabilities(void **state)
{
	static const struct cap_modifier caps[] = {
		{ 11, false }, { 56, true }, { 121, false }, { 121, true }, { 7, true }, { 7, false },
	};
	const struct cpu_template template = { .caps = caps, .nr_caps = 6 };
	struct error err = { 0 };

	(void)state;
	fake_missing_cap = 1000;
	assert_int_equal(cpu_template_check_caps(&template, 3, &err), 0);
	fake_missing_cap = 56; /* not asked for */
	assert_int_equal(cpu_template_check_caps(&template, 3, &err), 0);
	fake_missing_cap = 121; /* taken back */
	assert_int_equal(cpu_template_check_caps(&template, 3, &err), 0);
	fake_missing_cap = 7; /* taken back, and asked for again */
	assert_int_equal(cpu_template_check_caps(&template, 3, &err), -ENOTSUP);
	assert_non_null(strstr(err.message, "cpu-config.kvm_capabilities[5]: this host's KVM lacks capability 7"));
	fake_missing_cap = 11;
	assert_int_equal(cpu_template_check_caps(&template, 3, &err), -ENOTSUP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bits),        cmocka_unit_test(test_missing_leaf),
		cmocka_unit_test(test_kept),        cmocka_unit_test(test_normalized_afterwards),
		cmocka_unit_test(test_processors),  cmocka_unit_test(test_wrong_processor_is_named),
		cmocka_unit_test(test_features),    cmocka_unit_test(test_set_bits),
		cmocka_unit_test(test_static_msrs), cmocka_unit_test(test_many_msrs),
		cmocka_unit_test(test_bad_msrs),    cmocka_unit_test(test_capabilities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
