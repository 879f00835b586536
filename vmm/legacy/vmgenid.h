/* vmgenid.h: the generation ID: 16 random bytes in guest memory that change when the guest may have become a copy. */
#ifndef MAYFLY_VMGENID_H
#define MAYFLY_VMGENID_H

#include <stdint.h>

#include "bus.h"
#include "error.h"
#include "guest_memory.h"
#include "legacy/ioapic.h"
#include "snapshot/state.h"

#define VMGENID_SIZE 16u /* "Virtual Machine Generation ID", Microsoft, 2018 */

struct vmgenid {
	struct guest_memory *memory;
	struct ioapic *ioapic;
	unsigned int nr_vcpus;
	_Atomic uint8_t vector; /* where each vCPU wants an interrupt; 0: nowhere. Part of the machine's state */
};

/*
 * vmgenid_init - put a first ID where the ACPI tables and the command line say it is, claim X86_VMGENID_PORT
 * memory and ioapic stay the caller's and outlive g. A guest that is restored gets its next ID by vmgenid_renew. 0 or
 * -errno with a sentence. Start-up thread.
 */
int vmgenid_init(struct vmgenid *g, struct guest_memory *memory, struct ioapic *ioapic, unsigned int nr_vcpus,
		 struct bus *pio, struct error *err);

/*
 * vmgenid_renew - a new ID, and the interrupts that say so: X86_VMGENID_GSI for drivers that found it by ACPI, and a
 * vector on each vCPU for one that asked for that by X86_VMGENID_PORT (rootfs/kernel/vmgenid_cmdline.c)
 * With no vCPU running, they are the first thing that a vCPU does once it runs, or has its interrupts on again. A guest
 * whose driver is not there yet loses nothing: the ID is new when it looks. 0 or -errno with a sentence, with nothing
 * changed. Loop thread.
 */
int vmgenid_renew(struct vmgenid *g, struct error *err);

/*
 * vmgenid_save, vmgenid_restore - STATE_VMGENID. The ID itself is in RAM; who is restored gets another by vmgenid_renew
 * 0, or -EINVAL with a sentence. No vCPU runs.
 */
struct vmgenid_state {
	uint8_t vector, zero[7];
};
void vmgenid_save(const struct vmgenid *g, struct state_writer *w);
int vmgenid_restore(struct vmgenid *g, struct state_reader *r, struct error *err);

#endif
