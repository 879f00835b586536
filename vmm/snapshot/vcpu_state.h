/* vcpu_state.h: all that KVM says of a vCPU, into a state file and back. */
#ifndef MAYFLY_VCPU_STATE_H
#define MAYFLY_VCPU_STATE_H

#include "error.h"
#include "kvm.h"
#include "snapshot/state.h"
#include "vcpu.h"

/*
 * vcpu_state_save - the records of a vCPU that is out of the guest, its last exit completed. Loop thread
 * What this KVM does not know is left out; 0, or a negative errno with a sentence when it refuses what it should know.
 */
int vcpu_state_save(const struct vcpu *vcpu, const struct kvm *kvm, struct state_writer *w, struct error *err);

/*
 * vcpu_state_restore - give a vCPU, just created, the state that vcpu_state_save wrote. Start-up thread
 * An MSR that KVM refuses is named in the log, and is as KVM has it then. 0, or a negative errno with a sentence.
 */
int vcpu_state_restore(struct vcpu *vcpu, const struct kvm *kvm, struct state_reader *r, struct error *err);

/*
 * vcpu_state_set_tsc - have the guest's TSC be the host's plus offset, its deadline with it
 * 0, or a negative errno with a sentence. Start-up thread, after vcpu_state_restore.
 */
int vcpu_state_set_tsc(struct vcpu *vcpu, uint64_t offset, struct error *err);

#endif
