/* timeline.h: when each step of start-up was done. */
#ifndef MAYFLY_TIMELINE_H
#define MAYFLY_TIMELINE_H

#include <stdbool.h>
#include <stdint.h>

/* In the order they happen. */
enum timeline_step {
	STEP_CONFIGURED, /* arguments and configuration read */
	STEP_VM,         /* KVM_CREATE_VM */
	STEP_MEMORY,     /* memory slots, irqchip */
	STEP_KERNEL,     /* images mapped, tables written */
	STEP_DEVICES,    /* drives, console */
	STEP_VCPUS,      /* created and set up */
	STEP_STARTED,    /* first vCPU thread about to enter the guest */
	STEP_USER_SPACE, /* the guest wrote the boot timer */
	STEP_COUNT,
};

struct timeline {
	bool wanted;       /* --boot-timer: log it when user space is reached */
	uint64_t start_ns; /* CLOCK_MONOTONIC at main() */
	uint64_t at_ns[STEP_COUNT];
};

/* timeline_begin - the clock starts now. */
void timeline_begin(struct timeline *timeline);

/* timeline_mark - the step is done now. timeline_log - one aligned line per step, in ms, at level info. */
void timeline_mark(struct timeline *timeline, enum timeline_step step);
void timeline_log(const struct timeline *timeline);

#endif
