/* cpu_template.h: changes to what a guest's CPUs say of themselves, by CPUID leaf and by MSR. */
#ifndef MAYFLY_CPU_TEMPLATE_H
#define MAYFLY_CPU_TEMPLATE_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "x86/x86.h"

/* What a template may hold at most. Those that describe a whole processor have 70 leaves and 50 MSRs. */
#define CPU_TEMPLATE_MAX_CAPS   64
#define CPU_TEMPLATE_MAX_LEAVES CPUID_MAX
#define CPU_TEMPLATE_MAX_MSRS   256

/* A KVM_CAP_… of linux/kvm.h that the host must have; `dropped` takes back one that stands before it in the list. */
struct cap_modifier {
	uint32_t cap;
	bool dropped;
};

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX, NR_CPUID_REGS };
#define CPUID_REG_NAMES "eax", "ebx", "ecx", "edx"

/* Bits in neither keep what the host has; a bit in both is set. */
struct cpuid_bits {
	uint32_t clear, set;
};

struct cpuid_modifier {
	uint32_t leaf, subleaf;
	uint32_t flags; /* KVM_CPUID_FLAG_…, replaces the host's */
	struct cpuid_bits reg[NR_CPUID_REGS];
};

struct msr_modifier {
	uint32_t index;
	uint64_t clear, set;
};

#define CPU_TEMPLATE_MAX_MODELS 3

struct cpu_template {
	const char *name;                         /* of a static template; NULL: a custom one */
	const char *vendor;                       /* the 12 letters of CPUID leaf 0; NULL: for any processor */
	uint32_t models[CPU_TEMPLATE_MAX_MODELS]; /* CPUID leaf 1, EAX, without the processor type; 0 ends the list */
	const char *processors;                   /* the same in words */
	const char *warning;                      /* what to know about it on models[0], or NULL */
	const struct cap_modifier *caps;
	const struct cpuid_modifier *leaves;
	const struct msr_modifier *msrs;
	unsigned int nr_caps, nr_leaves, nr_msrs;
};

/* cpu_template_static - Firecracker's template of this name (one of CPU_TEMPLATE_NAMES); NULL: there is none. Any
 * thread. */
#define CPU_TEMPLATE_NAMES "\"C3\", \"T2\", \"T2S\", \"T2CL\", \"T2A\""
const struct cpu_template *cpu_template_static(const char *name);

/* cpu_template_check_caps - 0, or -ENOTSUP naming the capability that KVM lacks. kvm_fd is /dev/kvm. */
int cpu_template_check_caps(const struct cpu_template *t, int kvm_fd, struct error *err);

/*
 * cpu_template_apply_cpuid - change the host's table, before cpuid_normalize makes it fit each vCPU
 * What is Mayfly's to say (topology, APIC ids, what is never offered) is said there, whatever the template wants; so
 * does Firecracker. Returns 0, or -ENOTSUP with a sentence: the processor is none that the template is for, or the
 * table lacks a leaf. table is partly changed then. Once per table; start-up thread.
 */
int cpu_template_apply_cpuid(const struct cpu_template *t, struct cpuid_table *table, struct error *err);

/*
 * cpu_template_warn_kept - log a warning for each register in which KVM shows the guest other bits than the template's
 * Some KVMs take a table and change it without a word: on PVM, where user code runs on the bare processor, what it sees
 * there anyway cannot be hidden. wanted is what KVM_SET_CPUID2 was given. Returns how many there are; start-up thread.
 */
unsigned int cpu_template_warn_kept(const struct cpu_template *t, int vcpu_fd, struct cpuid_table *wanted);

/*
 * cpu_template_apply_msrs - change the MSRs of one vCPU, which has its CPUID and x86_set_msrs behind it
 * Returns 0, or a negative errno with a sentence that names the MSR which KVM does not read or does not take.
 */
int cpu_template_apply_msrs(const struct cpu_template *t, int vcpu_fd, struct error *err);

#endif
