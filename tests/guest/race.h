/* race.h: a second vCPU, and what it is for: changing rings and buffers while a device reads them. */
#ifndef GUEST_RACE_H
#define GUEST_RACE_H

#include "guest.h"

/* smp.c: start the vCPU with APIC id 1 in work(arg), at CPL 3, once; false when it did not come. It must never return.
 */
bool smp_start(void (*work)(void *arg), void *arg);

/* The step "race DEVICE [ms=N] [seed=N]". */
bool race_step(struct step *s);

#endif
