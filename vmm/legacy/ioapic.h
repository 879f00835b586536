/* ioapic.h: a 24-pin edge-triggered IOAPIC (Intel 82093AA) in front of KVM's local APICs (split irqchip). */
#ifndef MAYFLY_IOAPIC_H
#define MAYFLY_IOAPIC_H

#include <pthread.h>
#include <stdint.h>

#include "bus.h"
#include "error.h"
#include "x86/x86.h"

struct state_reader;
struct state_writer;

struct ioapic {
	int vm_fd;
	pthread_mutex_t lock; /* guards all below */
	uint8_t select;       /* IOREGSEL */
	uint8_t id;
	uint32_t pending; /* pins that fired while masked */
	uint64_t rte[X86_IOAPIC_PINS];
};

/* ioapic_init - all pins masked; claims its page on bus. vm_fd stays the caller's. Start-up thread. */
int ioapic_init(struct ioapic *ioapic, int vm_fd, struct bus *mmio, struct error *err);

/*
 * ioapic_raise - an edge on pin gsi: deliver what its redirection entry says, as one MSI to the local APICs
 * A masked pin remembers one edge until it is unmasked. Any thread.
 */
void ioapic_raise(struct ioapic *ioapic, unsigned int gsi);

/* ioapic_send - an interrupt at vector of one vCPU, past the pins. Any thread. */
void ioapic_send(struct ioapic *ioapic, unsigned int vcpu, uint8_t vector);

/* ---- in a state file ---- */

struct ioapic_state {
	uint64_t rte[X86_IOAPIC_PINS];
	uint32_t pending;
	uint8_t select, id;
	uint8_t zero[2];
};

/*
 * ioapic_save, ioapic_restore - STATE_IOAPIC
 * Edges that were delivered are the local APICs' since, those that were not are pending: none is lost, and restoring
 * delivers none. 0, or -EINVAL with a sentence and nothing changed. No vCPU runs.
 */
void ioapic_save(struct ioapic *ioapic, struct state_writer *w);
int ioapic_restore(struct ioapic *ioapic, struct state_reader *r, struct error *err);

#endif
