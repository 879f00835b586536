/* ioapic.h: a 24-pin edge-triggered IOAPIC (Intel 82093AA) in front of KVM's local APICs (split irqchip). */
#ifndef MAYFLY_IOAPIC_H
#define MAYFLY_IOAPIC_H

#include <pthread.h>
#include <stdint.h>

#include "bus.h"
#include "error.h"
#include "x86/x86.h"

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

#endif
