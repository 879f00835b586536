/* i8042.h: of the keyboard controller, the line that resets the machine. */
#ifndef MAYFLY_I8042_H
#define MAYFLY_I8042_H

#include "bus.h"

struct i8042 {
	void (*reset)(void *opaque); /* the guest pulsed the CPU reset line; runs on a vCPU thread */
	void *opaque;
};

/* i8042_init - claim ports 0x60 and 0x64; 0 or -errno. Start-up thread. */
int i8042_init(struct i8042 *kbc, struct bus *pio);

#endif
