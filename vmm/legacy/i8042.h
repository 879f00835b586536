/* i8042.h: of the keyboard controller, the line that resets the machine, and a keyboard that can press Ctrl-Alt-Del. */
#ifndef MAYFLY_I8042_H
#define MAYFLY_I8042_H

#include <pthread.h>
#include <stdint.h>

#include "bus.h"
#include "error.h"

#define I8042_KEYS 8 /* bytes that wait for the guest to read them */

struct state_reader;
struct state_writer;

struct i8042 {
	/* Filled in by the machine. */
	void (*reset)(void *opaque); /* the guest pulsed the CPU reset line; vCPU thread */
	void *opaque;
	void (*irq)(void *irq_opaque); /* an edge on the keyboard's line; any thread */
	void *irq_opaque;

	pthread_mutex_t lock; /* guards all below */
	uint8_t control;      /* the controller's command byte */
	uint8_t output_port;
	uint8_t command; /* 0, or the command that waits for its byte at the data port */
	uint8_t key[I8042_KEYS];
	unsigned int nr_keys;
};

/* i8042_init - claim ports 0x60 and 0x64; 0 or -errno. Start-up thread. */
int i8042_init(struct i8042 *kbc, struct bus *pio);

/* i8042_ctrl_alt_del - press the three keys. 0, or -errno with a sentence when nobody would see it. Any thread. */
int i8042_ctrl_alt_del(struct i8042 *kbc, struct error *err);

/* ---- in a state file ---- */

struct i8042_state {
	uint8_t control, output_port, command, nr_keys;
	uint8_t key[I8042_KEYS];
};

/*
 * i8042_save, i8042_restore - STATE_I8042
 * The edge for the byte that waits was raised when it came to wait, and is the interrupt controllers' since. 0, or
 * -EINVAL with a sentence and nothing changed. No vCPU runs.
 */
void i8042_save(struct i8042 *kbc, struct state_writer *w);
int i8042_restore(struct i8042 *kbc, struct state_reader *r, struct error *err);

#endif
