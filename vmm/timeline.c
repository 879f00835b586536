/* timeline.c: keeps and prints when each step of start-up was done. */
#include "timeline.h"

#include "event_loop.h"
#include "log.h"

void timeline_begin(struct timeline *timeline)
{
	timeline->start_ns = event_loop_now_ns();
}

void timeline_mark(struct timeline *timeline, enum timeline_step step)
{
	timeline->at_ns[step] = event_loop_now_ns();
}

void timeline_log(const struct timeline *timeline)
{
	static const char *const name[STEP_COUNT] = {
		[STEP_CONFIGURED] = "configuration read",
		[STEP_VM] = "VM created",
		[STEP_MEMORY] = "memory and interrupt controller",
		[STEP_KERNEL] = "kernel and tables in place",
		[STEP_DEVICES] = "devices opened",
		[STEP_VCPUS] = "vCPUs set up",
		[STEP_STARTED] = "vCPU threads started",
		[STEP_USER_SPACE] = "guest in user space",
	};
	uint64_t before = timeline->start_ns;
	unsigned int i;

	for (i = 0; i < STEP_COUNT; i++) {
		uint64_t at = timeline->at_ns[i];

		log_info("%-32s %9.3f ms  + %8.3f ms", name[i], (double)(at - timeline->start_ns) / 1e6,
			 (double)(at - before) / 1e6);
		before = at;
	}
}
