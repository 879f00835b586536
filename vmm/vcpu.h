/* vcpu.h: one virtual CPU and the thread that runs it. */
#ifndef MAYFLY_VCPU_H
#define MAYFLY_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus.h"
#include "config.h"
#include "error.h"
#include "kvm.h"
#include "x86/cpu_template.h"
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
	_Atomic pid_t tid;        /* 0: not running yet */
	struct kvm_cpuid2 *cpuid; /* as it was set: KVM may show another (PVM does). malloc'ed; NULL: not set yet */
	bool has_tsc_offset;      /* it was restored, and the next is known */
	uint64_t tsc_offset;      /* from the host's TSC to the guest's, where it was saved */
	const struct bus *pio, *mmio;
	_Atomic bool stop, pause;
	sem_t resumed;
	/* Called once, on the vCPU's thread, when that has confined itself; it then waits for vcpu_let_run. */
	void (*confined)(struct vcpu *vcpu);
	/* Called each time it has left the guest to pause, on the vCPU's thread. */
	void (*parked)(struct vcpu *vcpu);
	/* Called once, on the vCPU's thread, as its last act. */
	void (*ended)(struct vcpu *vcpu, enum vcpu_end end);
	void *opaque;
};

/* vcpu_create - KVM_CREATE_VCPU and its shared page, for a guest of nr_vcpus. Start-up thread; the fd goes with the
 * process. */
int vcpu_create(struct vcpu *vcpu, const struct kvm *kvm, unsigned int index, struct error *err);

/*
 * vcpu_setup - CPUID, MSRs and, for the first vCPU (entry not NULL), the registers that the boot protocol asks for
 * The others stay in reset until the guest sends them INIT and SIPI. cpuid has the changes of the CPU template (NULL:
 * none) in it; the MSRs get theirs here. Start-up thread.
 */
int vcpu_setup(struct vcpu *vcpu, struct cpuid_table *cpuid, const struct cpu_template *cpu_template,
	       const struct machine_config *machine, const struct boot_entry *entry, struct error *err);

/*
 * vcpu_start - make its thread, which confines itself and waits; the callbacks, opaque, pio and mmio are set by then
 * Loop thread. 0 or -errno with a sentence. vcpu_let_run lets it run the guest, or end with VCPU_HOST_ERROR if it could
 * not be confined. Each once; the latter on any thread.
 */
int vcpu_start(struct vcpu *vcpu, struct error *err);
void vcpu_let_run(struct vcpu *vcpu);

/* vcpu_set_cpuid - what its CPUID instruction says; start-up thread. 0 or -errno with a sentence, to which hint is
 * added. */
int vcpu_set_cpuid(struct vcpu *vcpu, const struct cpuid_table *cpuid, const char *hint, struct error *err);

/* vcpu_destroy - undo vcpu_create (a failed one, too); its thread has ended or never ran. */
void vcpu_destroy(struct vcpu *vcpu, const struct kvm *kvm);

/*
 * vcpu_pause - make it leave the guest, with its last exit completed, and wait; parked() says when it has
 * vcpu_resume lets it go on, and tells the guest's clock that time was stolen. Loop thread; each once, in turn.
 */
void vcpu_pause(struct vcpu *vcpu);
void vcpu_resume(struct vcpu *vcpu);

/* vcpu_kick_prepare - once per process, before vcpu_start: the signal that interrupts KVM_RUN. */
void vcpu_kick_prepare(void);

/* vcpu_stop - make it leave the guest, for good; vcpu_join - wait until its thread has ended. Any other thread. */
void vcpu_stop(struct vcpu *vcpu);
void vcpu_join(struct vcpu *vcpu);

#endif
