/* cpuid.c: what the guest's CPUID instruction says: the host's CPU, with the microVM's own topology. */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "x86/x86.h"

/* Leaves, after Intel SDM 2A "CPUID" and AMD APM 3, appendix E. */
enum {
	LEAF_VENDOR = 0x0,
	LEAF_FEATURES = 0x1,
	LEAF_CACHE_INTEL = 0x4,
	LEAF_MWAIT = 0x5,
	LEAF_PMU = 0xa,
	LEAF_TOPOLOGY = 0xb,
	LEAF_TSC = 0x15,
	LEAF_TOPOLOGY_V2 = 0x1f,
};
#define LEAF_VMM_TIMING      0x40000010u /* VMware's: TSC and APIC bus frequency in kHz */
#define LEAF_EXT_FEATURES    0x80000001u
#define LEAF_EXT_SIZES       0x80000008u
#define LEAF_SVM             0x8000000au
#define LEAF_CACHE_AMD       0x8000001du
#define LEAF_TOPOLOGY_AMD    0x8000001eu
#define LEAF_PMU_AMD         0x80000022u
#define LEAF_TOPOLOGY_AMD_V2 0x80000026u

/* Leaf 1, ECX and EDX */
#define ECX_DTES64       (1u << 2)
#define ECX_MONITOR      (1u << 3)
#define ECX_DS_CPL       (1u << 4)
#define ECX_VMX          (1u << 5)
#define ECX_PDCM         (1u << 15)
#define ECX_X2APIC       (1u << 21)
#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_OSXSAVE      (1u << 27)
#define ECX_HYPERVISOR   (1u << 31)
#define EDX_DS           (1u << 21)
#define EDX_HTT          (1u << 28)

/* Leaf 0x80000001, ECX */
#define EXT_CMP_LEGACY (1u << 1)
#define EXT_SVM        (1u << 2)
#define EXT_TOPOLOGY   (1u << 22)
#define EXT_PERFCTR    (1u << 23 | 1u << 24 | 1u << 28)

/* Leaf 0xb: level types in ECX 15:8 */
#define LEVEL_SMT  1u
#define LEVEL_CORE 2u

#define APIC_BUS_KHZ 1000000u /* KVM's local APIC timer counts nanoseconds */

struct topology {
	unsigned int index;   /* of this vCPU, and its APIC id */
	unsigned int total;   /* vCPUs, all in one package */
	unsigned int threads; /* per core */
	unsigned int cores;
	bool amd;
};

_Static_assert(offsetof(struct cpuid_table, entries) == sizeof(struct kvm_cpuid2), "entries follow the header");

int cpuid_supported(int kvm_fd, struct cpuid_table *out, struct error *err)
{
	out->head = (struct kvm_cpuid2){ .nent = CPUID_MAX };
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, out) < 0)
		return error_set(err, -errno, "KVM does not say which CPU features it supports: %s", strerror(errno));
	return 0;
}

struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *t, uint32_t leaf, uint32_t index)
{
	for (uint32_t i = 0; i < t->head.nent; i++)
		if (t->entries[i].function == leaf && t->entries[i].index == index)
			return &t->entries[i];
	return NULL;
}

/* A leaf that is not in the table reads as zero. */
static void drop(struct cpuid_table *t, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < t->head.nent; i++)
		if (t->entries[i].function != leaf)
			t->entries[kept++] = t->entries[i];
	t->head.nent = kept;
}

static void put(struct cpuid_table *t, struct kvm_cpuid_entry2 entry)
{
	if (t->head.nent < CPUID_MAX)
		t->entries[t->head.nent++] = entry;
}

/* Smallest n with 1 << n at least value. */
static unsigned int bits_for(unsigned int value)
{
	unsigned int n = 0;

	while (1u << n < value)
		n++;
	return n;
}

static void raise_limit(struct cpuid_table *t, uint32_t limit_leaf, uint32_t to)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, limit_leaf, 0);

	if (e && e->eax < to)
		e->eax = to;
}

static bool vendor_is(const struct kvm_cpuid_entry2 *e, const char *name)
{
	uint32_t words[3] = { e->ebx, e->edx, e->ecx };

	return !memcmp(words, name, sizeof(words));
}

/*
 * Nested virtualization (VMX, SVM) is not offered: it is the largest part of KVM that a guest could reach, and state
 * that no snapshot of ours holds. Neither is a PMU, nor MONITOR/MWAIT, with which an idle guest would keep a host CPU.
 */
static void set_features(struct cpuid_table *t, const struct topology *topo)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, LEAF_FEATURES, 0);

	if (e) {
		e->ebx = (e->ebx & 0xff00) | topo->index << 24 | (1u << bits_for(topo->total)) << 16;
		e->ecx |= ECX_HYPERVISOR | ECX_X2APIC | ECX_TSC_DEADLINE;
		e->ecx &= ~(ECX_DTES64 | ECX_MONITOR | ECX_DS_CPL | ECX_VMX | ECX_PDCM | ECX_OSXSAVE);
		e->edx &= ~(EDX_DS | EDX_HTT);
		e->edx |= topo->total > 1 ? EDX_HTT : 0;
	}
	e = cpuid_find(t, LEAF_EXT_FEATURES, 0);
	if (e) {
		e->ecx &= ~(EXT_SVM | EXT_PERFCTR | EXT_CMP_LEGACY);
		e->ecx |= topo->amd && topo->total > 1 ? EXT_CMP_LEGACY : 0;
	}
	drop(t, LEAF_MWAIT);
	drop(t, LEAF_PMU);
	drop(t, LEAF_PMU_AMD);
	drop(t, LEAF_SVM);
}

/* Leaf 0xb as every x2APIC kernel reads it; its later variants would repeat or contradict it. */
static void set_topology(struct cpuid_table *t, const struct topology *topo)
{
	drop(t, LEAF_TOPOLOGY);
	drop(t, LEAF_TOPOLOGY_V2);
	drop(t, LEAF_TOPOLOGY_AMD_V2);
	raise_limit(t, LEAF_VENDOR, LEAF_TOPOLOGY);
	put(t, (struct kvm_cpuid_entry2){ .function = LEAF_TOPOLOGY,
					  .index = 0,
					  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
					  .eax = bits_for(topo->threads),
					  .ebx = topo->threads,
					  .ecx = LEVEL_SMT << 8 | 0,
					  .edx = topo->index });
	put(t, (struct kvm_cpuid_entry2){ .function = LEAF_TOPOLOGY,
					  .index = 1,
					  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
					  .eax = bits_for(topo->total),
					  .ebx = topo->total,
					  .ecx = LEVEL_CORE << 8 | 1,
					  .edx = topo->index });
	/* Past the last level KVM answers type 0 with the APIC id by itself; other readers find it here. */
	put(t, (struct kvm_cpuid_entry2){ .function = LEAF_TOPOLOGY,
					  .index = 2,
					  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
					  .ecx = 2,
					  .edx = topo->index });
}

/* Who shares a cache: threads of a core up to level 2, everyone from level 3. */
static void set_caches(struct cpuid_table *t, const struct topology *topo)
{
	for (uint32_t i = 0; i < t->head.nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];
		unsigned int type = e->eax & 0x1f, level = e->eax >> 5 & 0x7;
		unsigned int sharing = level < 3 ? topo->threads : topo->total;

		if ((e->function != LEAF_CACHE_INTEL && e->function != LEAF_CACHE_AMD) || !type)
			continue;
		e->eax &= 0x3fff;
		e->eax |= ((1u << bits_for(sharing)) - 1) << 14;
		if (e->function == LEAF_CACHE_INTEL)
			e->eax |= ((1u << bits_for(topo->cores)) - 1) << 26;
	}
}

static void set_amd_topology(struct cpuid_table *t, const struct topology *topo)
{
	const struct kvm_cpuid_entry2 *features = cpuid_find(t, LEAF_EXT_FEATURES, 0);
	struct kvm_cpuid_entry2 *e = cpuid_find(t, LEAF_EXT_SIZES, 0);

	if (e)
		e->ecx = bits_for(topo->total) << 12 | (topo->total - 1);
	drop(t, LEAF_TOPOLOGY_AMD);
	if (!features || !(features->ecx & EXT_TOPOLOGY))
		return;
	raise_limit(t, 0x80000000u, LEAF_TOPOLOGY_AMD);
	/* ECX 0: node 0, one node. */
	put(t, (struct kvm_cpuid_entry2){ .function = LEAF_TOPOLOGY_AMD,
					  .eax = topo->index,
					  .ebx = (topo->threads - 1) << 8 | topo->index / topo->threads });
}

/*
 * Leaf 0x15 stays only if what it says of the TSC is true to 1/1000: a guest that trusts a wrong one keeps wrong time.
 * 0x40000010 is always true, and comes with KVM's own leaves.
 */
static void set_frequencies(struct cpuid_table *t, uint32_t tsc_khz)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, LEAF_TSC, 0);
	uint64_t khz = 0;

	if (e && e->eax)
		khz = (uint64_t)e->ecx / 1000 * e->ebx / e->eax;
	if (!tsc_khz || khz > tsc_khz + tsc_khz / 1000ull || khz < tsc_khz - tsc_khz / 1000ull)
		drop(t, LEAF_TSC);
	drop(t, LEAF_VMM_TIMING);
	if (!tsc_khz || !cpuid_find(t, KVM_CPUID_SIGNATURE, 0))
		return;
	raise_limit(t, KVM_CPUID_SIGNATURE, LEAF_VMM_TIMING);
	put(t, (struct kvm_cpuid_entry2){ .function = LEAF_VMM_TIMING, .eax = tsc_khz, .ebx = APIC_BUS_KHZ });
}

void cpuid_normalize(struct cpuid_table *table, unsigned int index, unsigned int nr_vcpus, bool smt, uint32_t tsc_khz)
{
	const struct kvm_cpuid_entry2 *vendor = cpuid_find(table, LEAF_VENDOR, 0);
	struct topology topo = { .index = index, .total = nr_vcpus, .threads = smt && nr_vcpus > 1 ? 2 : 1 };

	topo.cores = (nr_vcpus + topo.threads - 1) / topo.threads;
	topo.amd = vendor && (vendor_is(vendor, "AuthenticAMD") || vendor_is(vendor, "HygonGenuine"));
	set_features(table, &topo);
	set_topology(table, &topo);
	set_caches(table, &topo);
	if (topo.amd)
		set_amd_topology(table, &topo);
	set_frequencies(table, tsc_khz);
}
