/* vcpu_state.c: all that KVM says of a vCPU, into a state file and back (KVM API, 4). */
#include "snapshot/vcpu_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "log.h"
#include "x86/x86.h"

/* Intel SDM 4, table 2-2; no uapi header has these numbers. */
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_MTRR_PHYS_FIRST   0x200u
#define MSR_MTRR_PHYS_LAST    0x20fu
#define MSR_MTRR_DEF_TYPE     0x2ffu

#define MAX_MSRS  1024u
#define MAX_XSAVE (64u << 10) /* AMX needs 11 KiB */

/* All of the architecture that has a fixed size. */
struct vcpu_record {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_sregs2 sregs2;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	struct kvm_mp_state mp_state;
	uint32_t has_sregs2;
	uint32_t tsc_khz; /* 0: this KVM does not say */
	uint32_t has_tsc_offset;
	uint64_t tsc_offset; /* to the host's TSC, which is not scaled */
	struct kvm_lapic_state lapic;
};

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MAX_MSRS];
};

_Static_assert(offsetof(struct msr_list, entry) == sizeof(struct kvm_msrs), "entries follow the head");

/* One of KVM's GET or SET calls. */
struct call {
	uint32_t request;
	const char *name;
	void *arg;
};

#define CALL(request, arg)             \
	{                              \
		request, #request, arg \
	}

static int make_calls(const struct vcpu *vcpu, const struct call *call, unsigned int nr, struct error *err)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (ioctl(vcpu->fd, call[i].request, call[i].arg) < 0)
			return error_set(err, -errno, "vCPU %u: %s: %s", vcpu->index, call[i].name, strerror(errno));
	}
	return 0;
}

static bool has_cap(const struct kvm *kvm, int cap)
{
	return ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, cap) > 0;
}

/* ---- MSRs ---- */

/* KVM's own list, and the memory types, which older KVMs leave out of it. */
static unsigned int list_msrs(const struct kvm *kvm, struct msr_list *msrs)
{
	static const uint32_t fixed_mtrrs[] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
						0x26b, 0x26c, 0x26d, 0x26e, 0x26f, MSR_MTRR_DEF_TYPE };
	static struct {
		struct kvm_msr_list head;
		uint32_t index[MAX_MSRS];
	} known;
	unsigned int n = 0, i;

	known.head.nmsrs = MAX_MSRS - sizeof(fixed_mtrrs) / sizeof(fixed_mtrrs[0]) - 1 -
			   (MSR_MTRR_PHYS_LAST - MSR_MTRR_PHYS_FIRST + 1);
	if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, &known) < 0)
		known.head.nmsrs = 0;
	for (i = MSR_MTRR_PHYS_FIRST; i <= MSR_MTRR_PHYS_LAST; i++)
		msrs->entry[n++].index = i;
	for (i = 0; i < sizeof(fixed_mtrrs) / sizeof(fixed_mtrrs[0]); i++)
		msrs->entry[n++].index = fixed_mtrrs[i];
	for (i = 0; i < known.head.nmsrs; i++) {
		if (known.index[i] != MSR_IA32_TSC_DEADLINE)
			msrs->entry[n++].index = known.index[i];
	}
	/* Last: what it counts to depends on the TSC. */
	msrs->entry[n++].index = MSR_IA32_TSC_DEADLINE;
	return n;
}

/* KVM stops at the first that it does not let be read: that one is left out. */
static unsigned int read_msrs(const struct vcpu *vcpu, struct msr_list *msrs, unsigned int nr)
{
	static struct msr_list part;
	unsigned int next = 0, good = 0;
	int done;

	while (next < nr) {
		part.head = (struct kvm_msrs){ .nmsrs = nr - next };
		memcpy(part.entry, msrs->entry + next, (nr - next) * sizeof(part.entry[0]));
		done = ioctl(vcpu->fd, KVM_GET_MSRS, &part);
		if (done < 0)
			done = 0;
		memcpy(msrs->entry + good, part.entry, (size_t)done * sizeof(part.entry[0]));
		good += (unsigned int)done;
		next += (unsigned int)done + 1;
	}
	return good;
}

static void save_msrs(const struct vcpu *vcpu, const struct kvm *kvm, struct state_writer *w)
{
	static struct msr_list msrs;
	unsigned int n;

	memset(&msrs, 0, sizeof(msrs));
	n = read_msrs(vcpu, &msrs, list_msrs(kvm, &msrs));
	state_put(w, STATE_MSRS, vcpu->index, msrs.entry, n * sizeof(msrs.entry[0]));
}

/* The same the other way. Most are refused by no host, a few (0x3a) by some: the guest goes on with what KVM has. */
static int restore_msrs(const struct vcpu *vcpu, struct state_reader *r, struct error *err)
{
	static struct msr_list part;
	const struct kvm_msr_entry *entry;
	const void *payload;
	size_t size, next = 0, nr;
	int done;
	int ret = state_view(r, STATE_MSRS, vcpu->index, &payload, &size, sizeof(*entry), err);

	if (ret)
		return ret;
	entry = payload;
	nr = size / sizeof(*entry);
	if (nr > MAX_MSRS)
		return state_bad(err, STATE_MSRS, vcpu->index, "more MSRs than there are");
	while (next < nr) {
		part.head = (struct kvm_msrs){ .nmsrs = (uint32_t)(nr - next) };
		memcpy(part.entry, entry + next, (nr - next) * sizeof(*entry));
		done = ioctl(vcpu->fd, KVM_SET_MSRS, &part);
		if (done < 0)
			return error_set(err, -errno, "vCPU %u: KVM_SET_MSRS: %s", vcpu->index, strerror(errno));
		next += (size_t)done;
		if (next < nr) {
			log_warn("vCPU %u: this host does not let MSR 0x%x be set to 0x%llx; going on without",
				 vcpu->index, entry[next].index, (unsigned long long)entry[next].data);
			next++;
		}
	}
	return 0;
}

/* ---- the time stamp counter ---- */

static bool tsc_offset(const struct vcpu *vcpu, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return ioctl(vcpu->fd, (uint32_t)request, &attr) == 0;
}

/* Scaled, the guest's TSC is not a matter of an offset. A KVM that does not tell (before Linux 5.18) has not been asked
 * to scale by us, but for a snapshot from elsewhere. */
static bool is_scaled(const struct kvm *kvm, uint32_t tsc_khz)
{
	int native = ioctl(kvm->vm_fd, KVM_GET_TSC_KHZ, 0);

	return native > 0 && (uint32_t)native != tsc_khz;
}

int vcpu_state_set_tsc(struct vcpu *vcpu, uint64_t offset, struct error *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} deadline = { .head = { .nmsrs = 1 }, .entry = { .index = MSR_IA32_TSC_DEADLINE } };

	if (!tsc_offset(vcpu, KVM_SET_DEVICE_ATTR, &offset))
		return error_set(err, -errno, "vCPU %u: KVM_VCPU_TSC_OFFSET: %s", vcpu->index, strerror(errno));
	/* The timer was set by the TSC as it was before. */
	if (ioctl(vcpu->fd, KVM_GET_MSRS, &deadline) == 1 && deadline.entry.data)
		(void)ioctl(vcpu->fd, KVM_SET_MSRS, &deadline);
	return 0;
}

/* ---- saving ---- */

static int save_xsave(const struct vcpu *vcpu, const struct kvm *kvm, struct state_writer *w, struct error *err)
{
	int size = ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	bool large = size > (int)sizeof(struct kvm_xsave) && size <= (int)MAX_XSAVE;
	struct call get = CALL(KVM_GET_XSAVE, NULL);
	void *xsave;
	int ret;

	if (large)
		get = (struct call)CALL(KVM_GET_XSAVE2, NULL);
	else
		size = sizeof(struct kvm_xsave);
	xsave = calloc(1, (size_t)size);
	if (!xsave)
		return error_set(err, -ENOMEM, "vCPU %u: no memory for its state", vcpu->index);
	get.arg = xsave;
	ret = make_calls(vcpu, &get, 1, err);
	if (!ret)
		state_put(w, STATE_XSAVE, vcpu->index, xsave, (size_t)size);
	free(xsave);
	return ret;
}

int vcpu_state_save(const struct vcpu *vcpu, const struct kvm *kvm, struct state_writer *w, struct error *err)
{
	static struct vcpu_record v;
	const struct call get[] = {
		/* First: it settles what the local APIC has pending (KVM API, 4.38). */
		CALL(KVM_GET_MP_STATE, &v.mp_state),  CALL(KVM_GET_REGS, &v.regs),
		CALL(KVM_GET_SREGS, &v.sregs),        CALL(KVM_GET_DEBUGREGS, &v.debugregs),
		CALL(KVM_GET_VCPU_EVENTS, &v.events), CALL(KVM_GET_XCRS, &v.xcrs),
		CALL(KVM_GET_LAPIC, &v.lapic),
	};
	const struct call get_sregs2 = CALL(KVM_GET_SREGS2, &v.sregs2);
	int tsc_khz, ret;

	memset(&v, 0, sizeof(v));
	ret = make_calls(vcpu, get, sizeof(get) / sizeof(get[0]), err);
	if (!ret && has_cap(kvm, KVM_CAP_SREGS2)) {
		v.has_sregs2 = 1;
		ret = make_calls(vcpu, &get_sregs2, 1, err);
	}
	tsc_khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	v.tsc_khz = tsc_khz > 0 ? (uint32_t)tsc_khz : 0;
	v.has_tsc_offset = tsc_offset(vcpu, KVM_GET_DEVICE_ATTR, &v.tsc_offset) && !is_scaled(kvm, v.tsc_khz);
	if (ret)
		return ret;
	state_put(w, STATE_CPUID, vcpu->index, vcpu->cpuid->entries,
		  vcpu->cpuid->nent * sizeof(vcpu->cpuid->entries[0]));
	state_put(w, STATE_VCPU, vcpu->index, &v, sizeof(v));
	ret = save_xsave(vcpu, kvm, w, err);
	if (!ret)
		save_msrs(vcpu, kvm, w);
	return ret;
}

/* ---- restoring ---- */

static int restore_cpuid(struct vcpu *vcpu, struct state_reader *r, struct error *err)
{
	static struct cpuid_table table;
	const void *payload;
	size_t size;
	int ret = state_view(r, STATE_CPUID, vcpu->index, &payload, &size, sizeof(table.entries[0]), err);

	if (ret)
		return ret;
	if (size > sizeof(table.entries))
		return state_bad(err, STATE_CPUID, vcpu->index, "more leaves than there are");
	memcpy(table.entries, payload, size);
	table.head = (struct kvm_cpuid2){ .nent = (uint32_t)(size / sizeof(table.entries[0])) };
	return vcpu_set_cpuid(vcpu, &table, "", err);
}

static int restore_xsave(const struct vcpu *vcpu, const struct kvm *kvm, struct state_reader *r, struct error *err)
{
	int size = ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	struct call set = CALL(KVM_SET_XSAVE, NULL);
	const void *payload;
	size_t given, wanted = size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
	void *xsave;
	int ret = state_view(r, STATE_XSAVE, vcpu->index, &payload, &given, 1, err);

	if (ret)
		return ret;
	if (given < sizeof(struct kvm_xsave) || given > MAX_XSAVE || wanted > MAX_XSAVE)
		return state_bad(err, STATE_XSAVE, vcpu->index, "this record has a size that it cannot have");
	/* KVM reads as much as the guest may use, whatever we have. */
	xsave = calloc(1, given > wanted ? given : wanted);
	if (!xsave)
		return error_set(err, -ENOMEM, "vCPU %u: no memory for its state", vcpu->index);
	memcpy(xsave, payload, given);
	set.arg = xsave;
	ret = make_calls(vcpu, &set, 1, err);
	free(xsave);
	return ret;
}

/* Where the TSC runs at another speed, KVM has to scale it, or the guest's clocks would be wrong. */
static int restore_tsc_khz(const struct vcpu *vcpu, uint32_t tsc_khz, struct error *err)
{
	int here = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	/* As QEMU does: 250 parts in a million are no difference that a clock would notice. */
	uint32_t tolerated = here > 0 ? (uint32_t)here / 4000 : 0;

	if (!tsc_khz || here <= 0 || (tsc_khz >= (uint32_t)here - tolerated && tsc_khz <= (uint32_t)here + tolerated))
		return 0;
	if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, tsc_khz) < 0)
		return error_set(err, -ENOTSUP,
				 "the snapshot was taken where the TSC runs at %u kHz, here it is %d, and this host "
				 "cannot scale it (needs KVM_CAP_TSC_CONTROL)",
				 tsc_khz, here);
	return 0;
}

/* The order that KVM asks for: CPUID decides what may be set, the APIC's base comes with sregs, time before timers. */
int vcpu_state_restore(struct vcpu *vcpu, const struct kvm *kvm, struct state_reader *r, struct error *err)
{
	static struct vcpu_record v;
	struct call first[] = {
		CALL(KVM_SET_MP_STATE, &v.mp_state),   CALL(KVM_SET_SREGS, &v.sregs),
		CALL(KVM_SET_REGS, &v.regs),           CALL(KVM_SET_XCRS, &v.xcrs),
		CALL(KVM_SET_DEBUGREGS, &v.debugregs), CALL(KVM_SET_LAPIC, &v.lapic),
	};
	const struct call events = CALL(KVM_SET_VCPU_EVENTS, &v.events);
	int ret = restore_cpuid(vcpu, r, err);

	if (!ret)
		ret = state_get(r, STATE_VCPU, vcpu->index, &v, sizeof(v), sizeof(v), err);
	if (!ret)
		ret = restore_tsc_khz(vcpu, v.tsc_khz, err);
	vcpu->has_tsc_offset = v.has_tsc_offset && !is_scaled(kvm, v.tsc_khz);
	vcpu->tsc_offset = v.tsc_offset;
	if (!ret && v.has_sregs2 && has_cap(kvm, KVM_CAP_SREGS2))
		first[1] = (struct call)CALL(KVM_SET_SREGS2, &v.sregs2);
	if (!ret)
		ret = make_calls(vcpu, first, sizeof(first) / sizeof(first[0]), err);
	if (!ret)
		ret = restore_xsave(vcpu, kvm, r, err);
	if (!ret)
		ret = restore_msrs(vcpu, r, err);
	if (!ret)
		ret = make_calls(vcpu, &events, 1, err);
	/* Time has passed that the guest's watchdogs must not count; one without kvm-clock has none to tell. */
	if (!ret)
		(void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
	return ret;
}
