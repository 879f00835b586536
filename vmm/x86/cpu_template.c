/* cpu_template.c: applies a CPU template to the host's CPUID table and to a vCPU's MSRs. */
#include "x86/cpu_template.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "log.h"

#define LEAF_VENDOR   0x0
#define LEAF_FEATURES 0x1
#define MODEL_MASK    0x0fff0fffu /* leaf 1, EAX: all but the processor type */

#define MSRS_AT_ONCE 32u

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSRS_AT_ONCE];
};

/* Where in the configuration it was asked for. */
static const char *field(const struct cpu_template *t)
{
	return t->name ? "machine-config.cpu_template" : "cpu-config";
}

static const char *const reg_names[] = { CPUID_REG_NAMES };

/* ---- KVM capabilities ---- */

static bool is_dropped_after(const struct cpu_template *t, unsigned int i)
{
	uint32_t cap = t->caps[i].cap;

	while (++i < t->nr_caps)
		if (t->caps[i].cap == cap && t->caps[i].dropped)
			return true;
	return false;
}

int cpu_template_check_caps(const struct cpu_template *t, int kvm_fd, struct error *err)
{
	unsigned int i;

	for (i = 0; i < t->nr_caps; i++) {
		if (t->caps[i].dropped || is_dropped_after(t, i))
			continue;
		if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, (unsigned long)t->caps[i].cap) <= 0)
			return error_set(err, -ENOTSUP,
					 "%s.kvm_capabilities[%u]: this host's KVM lacks capability %u (leave it out, "
					 "or use a newer host kernel)",
					 field(t), i, t->caps[i].cap);
	}
	return 0;
}

/* ---- CPUID ---- */

/* Families and models above 14 continue in the extended fields (Intel SDM 2A, "CPUID", figure 3-6). */
static int fail_processor(const struct cpu_template *t, const char *vendor, uint32_t eax, struct error *err)
{
	uint32_t family = eax >> 8 & 0xf, model = (eax >> 4 & 0xf) | (eax >> 12 & 0xf0);

	if (family == 0xf)
		family += eax >> 20 & 0xff;
	return error_set(err, -ENOTSUP,
			 "%s: \"%s\" is for %s; this host's processor is %s, family %u, model %u, stepping %u "
			 "(cpu-config takes any processor)",
			 field(t), t->name, t->processors, vendor, family, model, eax & 0xf);
}

static int check_processor(const struct cpu_template *t, struct cpuid_table *table, struct error *err)
{
	const struct kvm_cpuid_entry2 *vendor = cpuid_find(table, LEAF_VENDOR, 0);
	const struct kvm_cpuid_entry2 *features = cpuid_find(table, LEAF_FEATURES, 0);
	uint32_t model = features ? features->eax & MODEL_MASK : 0;
	char name[13] = "unknown";
	unsigned int i;

	if (!t->vendor)
		return 0;
	if (vendor) {
		memcpy(name, &vendor->ebx, 4);
		memcpy(name + 4, &vendor->edx, 4);
		memcpy(name + 8, &vendor->ecx, 4);
	}
	if (strcmp(name, t->vendor) == 0) {
		for (i = 0; i < CPU_TEMPLATE_MAX_MODELS && t->models[i]; i++)
			if (t->models[i] == model)
				break;
		if (i < CPU_TEMPLATE_MAX_MODELS && t->models[i]) {
			if (i == 0 && t->warning)
				log_warn("%s: \"%s\": %s", field(t), t->name, t->warning);
			return 0;
		}
	}
	return fail_processor(t, name, model, err);
}

/* The sentence names the first register that was to be changed. */
static int fail_leaf(const struct cpu_template *t, const struct cpuid_modifier *m, struct error *err)
{
	unsigned int r = 0;

	while (r < NR_CPUID_REGS - 1 && !m->reg[r].clear && !m->reg[r].set)
		r++;
	return error_set(err, -ENOTSUP,
			 "%s: CPUID leaf 0x%x, subleaf 0x%x, register %s: KVM offers no such leaf on this host (a "
			 "template can only change leaves that there are)",
			 field(t), m->leaf, m->subleaf, reg_names[r]);
}

static uint32_t changed(uint32_t value, const struct cpuid_bits *bits)
{
	return (value & ~bits->clear) | bits->set;
}

int cpu_template_apply_cpuid(const struct cpu_template *t, struct cpuid_table *table, struct error *err)
{
	int ret = check_processor(t, table, err);
	unsigned int i;

	for (i = 0; i < t->nr_leaves && !ret; i++) {
		const struct cpuid_modifier *m = &t->leaves[i];
		struct kvm_cpuid_entry2 *e = cpuid_find(table, m->leaf, m->subleaf);

		if (!e)
			return fail_leaf(t, m, err);
		e->flags = m->flags;
		e->eax = changed(e->eax, &m->reg[CPUID_EAX]);
		e->ebx = changed(e->ebx, &m->reg[CPUID_EBX]);
		e->ecx = changed(e->ecx, &m->reg[CPUID_ECX]);
		e->edx = changed(e->edx, &m->reg[CPUID_EDX]);
	}
	return ret;
}

static unsigned int warn_leaf(const struct cpu_template *t, const struct cpuid_modifier *m,
			      const struct kvm_cpuid_entry2 *wanted, const struct kvm_cpuid_entry2 *shown)
{
	const uint32_t want[] = { wanted->eax, wanted->ebx, wanted->ecx, wanted->edx };
	const uint32_t show[] = { shown->eax, shown->ebx, shown->ecx, shown->edx };
	unsigned int r, kept = 0;

	for (r = 0; r < NR_CPUID_REGS; r++) {
		uint32_t differ = (want[r] ^ show[r]) & (m->reg[r].clear | m->reg[r].set);

		if (!differ)
			continue;
		kept++;
		log_warn("%s: CPUID leaf 0x%x, subleaf 0x%x, register %s: this host's KVM shows the guest 0x%x all the "
			 "same, bits 0x%x are not the template's",
			 field(t), m->leaf, m->subleaf, reg_names[r], show[r], differ);
	}
	return kept;
}

unsigned int cpu_template_warn_kept(const struct cpu_template *t, int vcpu_fd, struct cpuid_table *wanted)
{
	struct cpuid_table shown;
	unsigned int i, kept = 0;

	shown.head.nent = CPUID_MAX;
	if (!t->nr_leaves || ioctl(vcpu_fd, KVM_GET_CPUID2, &shown) < 0)
		return 0;
	for (i = 0; i < t->nr_leaves; i++) {
		const struct cpuid_modifier *m = &t->leaves[i];
		const struct kvm_cpuid_entry2 *want = cpuid_find(wanted, m->leaf, m->subleaf);
		const struct kvm_cpuid_entry2 *show = cpuid_find(&shown, m->leaf, m->subleaf);

		if (want && show)
			kept += warn_leaf(t, m, want, show);
	}
	return kept;
}

/* ---- MSRs ---- */

/* What entry i of the list is to be changed from: an MSR may be in it twice. */
static uint64_t value_before(const struct msr_list *list, unsigned int i)
{
	unsigned int j = i;

	while (j-- > 0)
		if (list->entry[j].index == list->entry[i].index)
			return list->entry[j].data;
	return list->entry[i].data;
}

/* KVM reads and sets MSRs in order and says how many it did: the next one is what it stopped at. */
static int change_msrs(const struct cpu_template *t, const struct msr_modifier *m, unsigned int n, int vcpu_fd,
		       struct error *err)
{
	struct msr_list list = { .head = { .nmsrs = n } };
	unsigned int i;
	int done;

	for (i = 0; i < n; i++)
		list.entry[i].index = m[i].index;
	done = ioctl(vcpu_fd, KVM_GET_MSRS, &list);
	if (done < 0)
		return error_set(err, -errno, "%s: KVM_GET_MSRS: %s", field(t), strerror(errno));
	if ((unsigned int)done < n)
		return error_set(err, -ENOTSUP, "%s: MSR 0x%x: this host's KVM does not know it (leave it out)",
				 field(t), m[done].index);
	for (i = 0; i < n; i++)
		list.entry[i].data = (value_before(&list, i) & ~m[i].clear) | m[i].set;
	done = ioctl(vcpu_fd, KVM_SET_MSRS, &list);
	if (done < 0)
		return error_set(err, -errno, "%s: KVM_SET_MSRS: %s", field(t), strerror(errno));
	if ((unsigned int)done < n)
		return error_set(err, -ENOTSUP,
				 "%s: MSR 0x%x: this host's KVM does not take the value 0x%llx (leave more bits as "
				 "they are, or leave it out)",
				 field(t), m[done].index, (unsigned long long)list.entry[done].data);
	return 0;
}

int cpu_template_apply_msrs(const struct cpu_template *t, int vcpu_fd, struct error *err)
{
	unsigned int at, n;
	int ret = 0;

	for (at = 0; at < t->nr_msrs && !ret; at += n) {
		n = t->nr_msrs - at < MSRS_AT_ONCE ? t->nr_msrs - at : MSRS_AT_ONCE;
		ret = change_msrs(t, &t->msrs[at], n, vcpu_fd, err);
	}
	return ret;
}
