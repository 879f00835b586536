/* machine.h: the life of one microVM: configured, running, gone. */
#ifndef MAYFLY_MACHINE_H
#define MAYFLY_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "error.h"
#include "timeline.h"
#include "x86/host_cpuid.h"

struct machine;

/* Why a microVM ended. */
enum machine_end {
	MACHINE_GUEST_OFF,   /* the guest shut down or reset itself */
	MACHINE_GUEST_CRASH, /* triple fault, or KVM could not go on with it */
	MACHINE_HOST_ERROR,  /* KVM_RUN failed */
	MACHINE_SIGNAL,      /* SIGINT, SIGTERM or SIGHUP to this process */
	MACHINE_QUIT,        /* Ctrl-A x on the console */
};

struct machine_result {
	enum machine_end end;
	int signal;            /* for MACHINE_SIGNAL */
	bool has_guest_status; /* the guest wrote the boot timer's status register */
	uint32_t guest_status;
};

/*
 * machine_create - everything up to the first instruction: VM, memory, kernel, devices, vCPUs set up
 * cfg and timeline stay the caller's and outlive the machine; timeline is marked at each step, and logged once the
 * guest reports user space when timeline->wanted. host_cpuid has begun. Returns 0, or a negative errno with a sentence.
 * *blame says whose mistake it was. *out is set in any case (NULL only without memory) and is for machine_finish.
 */
enum machine_blame { BLAME_CONFIG, BLAME_HOST };
int machine_create(struct machine **out, const struct config *cfg, struct timeline *timeline,
		   struct host_cpuid *host_cpuid, enum machine_blame *blame, struct error *err);

/* machine_run - start the vCPUs and serve devices on this thread until the microVM ends. 0 or -errno with a sentence.
 */
int machine_run(struct machine *m, struct machine_result *result, struct error *err);

/*
 * machine_finish - what must be right when the process ends: console written and terminal restored, vCPUs out of the
 * guest Memory and descriptors are left to the exit of the process, which is quicker at it. m may be half-made
 * (machine_create failed).
 */
void machine_finish(struct machine *m);

#endif
