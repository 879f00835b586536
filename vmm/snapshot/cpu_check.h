/* cpu_check.h: can the processor here be the one that a snapshot's guest found when it started? */
#ifndef MAYFLY_CPU_CHECK_H
#define MAYFLY_CPU_CHECK_H

#include "error.h"
#include "kvm.h"
#include "snapshot/state.h"

/* cpu_check_name - the processor's name (CPUID leaves 0x80000002 to 4), NUL-terminated. */
void cpu_check_name(char name[48]);

/* cpu_check_save - note processor, kernel and KVM of this host (STATE_HOST). Loop thread. */
void cpu_check_save(struct state_writer *w);

/*
 * cpu_check_host - is this the host it was saved on, or one like it? Takes STATE_HOST from r, if that is next
 * Costs 20 µs where a CPUID instruction traps; cpu_check_features, needed only if not, half a millisecond.
 */
bool cpu_check_host(struct state_reader *r);

/*
 * cpu_check_features - does KVM here offer every feature of the CPUID record of vCPU 0, which is not taken from r?
 * 0, or -ENOTSUP with a sentence that names the first leaf, register and bits that are missing, and how many more
 * registers lack some. Start-up thread.
 */
int cpu_check_features(const struct state_reader *r, const struct kvm *kvm, struct error *err);

#endif
