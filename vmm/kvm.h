/* kvm.h: the handles on the host's KVM that one microVM needs. */
#ifndef MAYFLY_KVM_H
#define MAYFLY_KVM_H

#include <stddef.h>

#include "error.h"

struct kvm {
	int fd; /* /dev/kvm */
	int vm_fd;
	size_t run_size; /* bytes of struct kvm_run's mapping */
};

/* kvm_open - open /dev/kvm and make an empty VM. 0, or -errno with a sentence that says what the host lacks. */
int kvm_open(struct kvm *kvm, struct error *err);

/* kvm_close - give the VM back; kvm may be zeroed, or half-open. */
void kvm_close(struct kvm *kvm);

/* kvm_split_irqchip - local APICs in KVM, the IOAPIC ours. After the memory slots: the other order costs 8 ms
 * (design.md, 3). */
int kvm_split_irqchip(const struct kvm *kvm, struct error *err);

#endif
