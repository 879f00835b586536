/* cpu_check.c: can the processor here be the one that a snapshot's guest found when it started? */
#include "snapshot/cpu_check.h"

#include <asm/kvm_para.h>
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "x86/cpu_template.h"
#include "x86/x86.h"

/* What decides which features KVM offers, as far as it can be had at once. */
struct host_record {
	uint32_t version[4], features[4], extended[4]; /* leaves 1, 7 and 0x80000001 */
	char release[65], build[65];                   /* uname: KVM comes with the kernel */
	uint8_t zero[6];
};

_Static_assert(sizeof(struct host_record) == 3 * 16 + 2 * 65 + 6, "no holes");

void cpu_check_name(char name[48])
{
	unsigned int leaf, r[4];

	for (leaf = 0; leaf < 3; leaf++) {
		__cpuid(0x80000002u + leaf, r[0], r[1], r[2], r[3]);
		memcpy(name + leaf * sizeof(r), r, sizeof(r));
	}
	name[47] = '\0';
}

static void describe_host(struct host_record *host)
{
	struct utsname name;
	uint32_t *v = host->version, *f = host->features, *e = host->extended;

	memset(host, 0, sizeof(*host));
	__cpuid(1, v[0], v[1], v[2], v[3]);
	__cpuid_count(7, 0, f[0], f[1], f[2], f[3]);
	__cpuid(0x80000001u, e[0], e[1], e[2], e[3]);
	v[1] &= 0x0000ffffu; /* above: the number of the CPU that we run on */
	v[2] &= ~(1u << 27); /* OSXSAVE follows the mode */
	if (uname(&name) == 0) {
		memcpy(host->release, name.release, sizeof(host->release));
		memcpy(host->build, name.version, sizeof(host->build));
	}
}

void cpu_check_save(struct state_writer *w)
{
	struct host_record host;

	describe_host(&host);
	state_put_optional(w, STATE_HOST, 0, &host, sizeof(host));
}

bool cpu_check_host(struct state_reader *r)
{
	struct host_record saved, here;

	if (!state_has(r, STATE_HOST, 0) || state_get(r, STATE_HOST, 0, &saved, sizeof(saved), sizeof(saved), NULL))
		return false;
	describe_host(&here);
	return memcmp(&saved, &here, sizeof(here)) == 0;
}

/* Registers in which a bit says that there is a feature. Others say how much, or who. */
static const struct feature_reg {
	uint32_t leaf, index;
	enum cpuid_reg reg;
} feature_regs[] = {
	{ 0x1, 0, CPUID_ECX },        { 0x1, 0, CPUID_EDX },        { 0x7, 0, CPUID_EBX },
	{ 0x7, 0, CPUID_ECX },        { 0x7, 0, CPUID_EDX },        { 0x7, 1, CPUID_EAX },
	{ 0x7, 1, CPUID_EDX },        { 0xd, 0, CPUID_EAX },        { 0xd, 0, CPUID_EDX },
	{ 0xd, 1, CPUID_EAX },        { 0x80000001, 0, CPUID_ECX }, { 0x80000001, 0, CPUID_EDX },
	{ 0x80000007, 0, CPUID_EDX }, { 0x80000008, 0, CPUID_EBX }, { KVM_CPUID_FEATURES, 0, CPUID_EAX },
};

static uint32_t reg_of(const struct kvm_cpuid_entry2 *entry, enum cpuid_reg reg)
{
	const uint32_t value[] = {
		[CPUID_EAX] = entry->eax, [CPUID_EBX] = entry->ebx, [CPUID_ECX] = entry->ecx, [CPUID_EDX] = entry->edx
	};

	return value[reg];
}

/* What we say ourselves, whatever KVM supports: that there is a hypervisor, OSXSAVE, threads, x2APIC, the deadline. */
static uint32_t not_kvms(const struct feature_reg *f)
{
	if (f->leaf == 0x1 && f->reg == CPUID_ECX)
		return 1u << 31 | 1u << 27 | 1u << 24 | 1u << 21;
	return f->leaf == 0x1 && f->reg == CPUID_EDX ? 1u << 28 : 0;
}

static uint32_t missing(const struct feature_reg *f, struct cpuid_table *guest, struct cpuid_table *host)
{
	const struct kvm_cpuid_entry2 *wanted = cpuid_find(guest, f->leaf, f->index);
	const struct kvm_cpuid_entry2 *given = cpuid_find(host, f->leaf, f->index);

	if (!wanted)
		return 0;
	return reg_of(wanted, f->reg) & ~(given ? reg_of(given, f->reg) : 0) & ~not_kvms(f);
}

static int compare(struct cpuid_table *guest, struct cpuid_table *host, struct error *err)
{
	static const char *const reg_name[] = { CPUID_REG_NAMES };
	const struct feature_reg *first = NULL;
	uint32_t lacks, first_lacks = 0;
	unsigned int more = 0, i;
	char others[48] = "";

	for (i = 0; i < sizeof(feature_regs) / sizeof(feature_regs[0]); i++) {
		lacks = missing(&feature_regs[i], guest, host);
		more += lacks && first;
		if (lacks && !first) {
			first = &feature_regs[i];
			first_lacks = lacks;
		}
	}
	if (!first)
		return 0;
	if (more)
		snprintf(others, sizeof(others), ", and lacks bits in %u more registers", more);
	return error_set(
		err, -ENOTSUP,
		"the snapshot's guest uses CPU features that this host's KVM does not offer: CPUID leaf 0x%x.%u "
		"%s lacks bits 0x%x%s (start it there with a CPU template that both hosts have)",
		first->leaf, first->index, reg_name[first->reg], first_lacks, others);
}

int cpu_check_features(const struct state_reader *r, const struct kvm *kvm, struct error *err)
{
	static struct cpuid_table guest, host;
	struct state_reader look = *r;
	const struct state_record *record;
	const void *payload;
	int ret;

	while (state_next(&look, &record, &payload) && record->tag != STATE_CPUID)
		;
	if (look.at >= look.end || record->size > sizeof(guest.entries) || record->size % sizeof(guest.entries[0]))
		return state_bad(err, STATE_CPUID, 0, "this record is missing, or of a size that it cannot have");
	memcpy(guest.entries, payload, record->size);
	guest.head.nent = record->size / (uint32_t)sizeof(guest.entries[0]);
	ret = cpuid_supported(kvm->fd, &host, err);
	return ret ? ret : compare(&guest, &host, err);
}
