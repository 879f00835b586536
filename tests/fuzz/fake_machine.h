/* fake_machine.h: a microVM without KVM, for the API's target. */
#ifndef MAYFLY_FUZZ_FAKE_MACHINE_H
#define MAYFLY_FUZZ_FAKE_MACHINE_H

#include "machine.h"

struct machine {
	struct event_loop *loop;
	const struct config *cfg;
	enum machine_state state;
	machine_told *told;
	void *opaque;
	struct mmds *mmds;
	struct block *drive[CONFIG_MAX_DRIVES];
	struct machine_waiter *waiters;
};
extern struct machine fake_machine;

/* fake_machine_begin - not started; who listened goes on. fake_machine_end - whoever waits for a pause gets it. */
void fake_machine_begin(struct event_loop *loop, const struct config *cfg);
void fake_machine_end(void);
/* fake_machine_parked - the vCPUs have stopped, if they were to. */
void fake_machine_parked(void);
void fake_machine_tell(const struct machine_news *news);

#endif
