/* msrs.c: the few model-specific registers that a firmware would have set. */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "log.h"
#include "x86/x86.h"

/* Intel SDM 4, table 2-2. No uapi header has these numbers. */
#define MSR_IA32_MISC_ENABLE         0x1a0u
#define MISC_ENABLE_FAST_STRING      (1u << 0)
#define MISC_ENABLE_BTS_UNAVAILABLE  (1u << 11)
#define MISC_ENABLE_PEBS_UNAVAILABLE (1u << 12)

#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MTRR_ENABLE       (1u << 11)
#define MTRR_WRITE_BACK   6u

#define NR_MSRS 2u

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[NR_MSRS];
};

static const struct kvm_msr_entry firmware_msrs[NR_MSRS] = {
	/* Without it Linux believes that "rep movs" is slow. BTS and PEBS: KVM's own default, since there is no PMU. */
	{ .index = MSR_IA32_MISC_ENABLE,
	  .data = MISC_ENABLE_FAST_STRING | MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE },
	/* All of memory write-back; Linux distrusts PAT when the MTRRs are off. */
	{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK },
};

/*
 * KVM sets MSRs in order and says how many it took. Both are comforts, without which kernels start as well, and some
 * hosts refuse one: that one is skipped.
 */
int x86_set_msrs(int vcpu_fd, struct error *err)
{
	unsigned int next = 0;

	while (next < NR_MSRS) {
		struct msr_list list = { .head = { .nmsrs = NR_MSRS - next } };
		int done;

		memcpy(list.entry, firmware_msrs + next, (NR_MSRS - next) * sizeof(list.entry[0]));
		done = ioctl(vcpu_fd, KVM_SET_MSRS, &list);
		if (done < 0)
			return error_set(err, -errno, "KVM refused to set MSRs: %s", strerror(errno));
		next += (unsigned int)done;
		if (next < NR_MSRS) {
			log_warn("this host does not let MSR 0x%x be set; going on without", firmware_msrs[next].index);
			next++;
		}
	}
	return 0;
}
