/* vcpu.h: one virtual CPU and the thread that runs it. */
#ifndef MAYFLY_VCPU_H
#define MAYFLY_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "error.h"
#include "kvm.h"
#include "x86/x86.h"

struct vcpu;

/* Why a vCPU thread ended. */
enum vcpu_end {
	VCPU_KICKED,     /* vcpu_kick() */
	VCPU_SHUTDOWN,   /* triple fault, or a system event that says shut down */
	VCPU_RESET,      /* a system event that says reset */
	VCPU_CRASHED,    /* an exit that nobody handles; logged with registers */
	VCPU_HOST_ERROR, /* KVM_RUN failed; logged */
};

struct vcpu {
	unsigned int index;
	char name[16]; /* of its thread, in log lines: Firecracker's, since people's log filters know it */
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	const struct bus *pio, *mmio;
	_Atomic bool stop;
	/* Called once, on the vCPU's thread, as its last act. */
	void (*ended)(struct vcpu *vcpu, enum vcpu_end end);
	void *opaque;
};

/* vcpu_create - KVM_CREATE_VCPU and its shared page, for a guest of nr_vcpus. Start-up thread; the fd goes with the
 * process. */
int vcpu_create(struct vcpu *vcpu, const struct kvm *kvm, unsigned int index, struct error *err);

/*
 * vcpu_setup - CPUID, MSRs and, for the first vCPU (entry not NULL), the registers that the boot protocol asks for
 * The others stay in reset until the guest sends them INIT and SIPI. Start-up thread.
 */
int vcpu_setup(struct vcpu *vcpu, struct cpuid_table *cpuid, unsigned int nr_vcpus, bool smt,
	       const struct boot_entry *entry, struct error *err);

/* vcpu_start - let it run on its own thread. ended, opaque, pio and mmio are set by then. 0 or -errno with a sentence.
 */
int vcpu_start(struct vcpu *vcpu, struct error *err);

/* vcpu_kick_prepare - once per process, before vcpu_start: the signal that interrupts KVM_RUN. */
void vcpu_kick_prepare(void);

/* vcpu_kick_and_join - make it leave the guest and wait until its thread has ended. Any other thread. */
void vcpu_kick_and_join(struct vcpu *vcpu);

#endif
