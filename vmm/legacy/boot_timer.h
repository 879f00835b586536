/* boot_timer.h: where the guest says "user space reached" and, at its end, with which status it stops. */
#ifndef MAYFLY_BOOT_TIMER_H
#define MAYFLY_BOOT_TIMER_H

#include <stdint.h>

#include "bus.h"

struct boot_timer {
	void (*booted)(void *opaque); /* byte 123 at offset 0, as Firecracker; vCPU thread */
	void (*status)(void *opaque,
		       uint32_t status); /* 32-bit word at offset 4: the workload's exit status; vCPU thread */
	void *opaque;
};

/* boot_timer_init - claim X86_BOOT_TIMER_GPA; 0 or -errno. Start-up thread. */
int boot_timer_init(struct boot_timer *timer, struct bus *mmio);

#endif
