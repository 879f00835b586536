/* serial.h: a 16550A UART (PC16550D datasheet), the guest's console port. */
#ifndef MAYFLY_SERIAL_H
#define MAYFLY_SERIAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus.h"
#include "error.h"

#define SERIAL_COM1      0x3f8
#define SERIAL_RX_FIFO   64
#define SERIAL_TX_BUFFER 16384 /* bytes of output that wait for the host, a power of two */

struct state_reader;
struct state_writer;

struct serial {
	/* Filled in by the machine: an edge on the UART's line, any thread. */
	void (*irq)(void *irq_opaque);
	void *irq_opaque;
	/* Filled in by the console; vCPU thread, quick. */
	void (*tx_ready)(void *opaque);  /* the output buffer is no longer empty */
	void (*rx_wanted)(void *opaque); /* the guest has room for input again, or for the first time */
	void *opaque;

	pthread_mutex_t lock; /* guards all below */
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	bool thr_pending;        /* transmitter-empty interrupt not yet seen by the guest */
	unsigned int idle_polls; /* reads of the line status since the last byte sent, up to the limit that counts */
	bool tx_stalled;         /* the guest was told "not empty" and waits */
	uint8_t rx[SERIAL_RX_FIFO];
	unsigned int rx_head, rx_count;
	uint32_t tx_head, tx_tail; /* free-running; the loop thread moves head, vCPUs tail */
	uint8_t tx[SERIAL_TX_BUFFER];
};

/* serial_init - power-on state; claims 8 ports at SERIAL_COM1. Start-up thread. */
int serial_init(struct serial *serial, struct bus *pio, struct error *err);

/* serial_rx_room, serial_receive - how many bytes of input fit; hand over n ≤ that many. Loop thread. */
size_t serial_rx_room(struct serial *serial);
void serial_receive(struct serial *serial, const uint8_t *data, size_t n);

/* serial_peek - up to max bytes of waiting output into out; serial_consume drops the first n of them. Loop thread. */
size_t serial_peek(struct serial *serial, uint8_t *out, size_t max);
void serial_consume(struct serial *serial, size_t n);

/* ---- in a state file ---- */

struct serial_state {
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t thr_pending, tx_stalled;
	uint32_t idle_polls;
	uint32_t rx_count;
	uint8_t rx[SERIAL_RX_FIFO]; /* oldest first */
};

/*
 * serial_save, serial_restore - STATE_SERIAL 0, and the output that waits for the host as STATE_SERIAL 1 and 2 (3 is
 * console.h's) What the guest still expects an interrupt for has raised its edge, which is the interrupt controllers'
 * since, or will do so when the host takes output: restoring tells the console that some waits. 0, or -EINVAL with a
 * sentence and nothing changed. No vCPU runs; the callbacks are filled in.
 */
void serial_save(struct serial *serial, struct state_writer *w);
int serial_restore(struct serial *serial, struct state_reader *r, struct error *err);

#endif
