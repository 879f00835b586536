/* vmgenid.c: writes generation IDs, and raises the interrupts behind which drivers look at them. */
#include "legacy/vmgenid.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "boot/boot.h"
#include "retry.h"
#include "x86/x86.h"

#define FIRST_VECTOR 32u /* those below are exceptions (Intel SDM 3A, 6.2) */

static int write_new_id(struct guest_memory *memory, struct error *err)
{
	uint8_t id[VMGENID_SIZE];

	if (RETRY_INTERRUPTED(getrandom(id, sizeof(id), 0)) != (ssize_t)sizeof(id))
		return error_set(err, -errno, "generation ID: no random bytes: %s", strerror(errno));
	if (gm_write(memory, BOOT_VMGENID_GPA, id, sizeof(id)))
		return error_set(err, -EFAULT, "machine-config.mem_size_mib: no RAM for the generation ID");
	return 0;
}

/* Reads as zero, which the bus has seen to. */
static void port_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	(void)opaque, (void)offset, (void)data, (void)len;
}

static bool is_wish(uint8_t vector)
{
	return !vector || vector >= FIRST_VECTOR;
}

static void port_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct vmgenid *g = opaque;
	const uint8_t vector = *(const uint8_t *)data;

	(void)offset, (void)len;
	if (is_wish(vector))
		atomic_store(&g->vector, vector);
}

int vmgenid_init(struct vmgenid *g, struct guest_memory *memory, struct ioapic *ioapic, unsigned int nr_vcpus,
		 struct bus *pio, struct error *err)
{
	static const struct bus_ops ops = { .read = port_read, .write = port_write };
	int ret;

	*g = (struct vmgenid){ .memory = memory, .ioapic = ioapic, .nr_vcpus = nr_vcpus };
	ret = bus_add(pio, X86_VMGENID_PORT, 1, &ops, g);
	return ret ? error_set(err, ret, "generation ID: its port is taken") : write_new_id(memory, err);
}

int vmgenid_renew(struct vmgenid *g, struct error *err)
{
	const uint8_t vector = atomic_load(&g->vector);
	int ret = write_new_id(g->memory, err);

	if (ret)
		return ret;
	ioapic_raise(g->ioapic, X86_VMGENID_GSI);
	for (unsigned int i = 0; vector && i < g->nr_vcpus; i++)
		ioapic_send(g->ioapic, i, vector);
	return 0;
}

void vmgenid_save(const struct vmgenid *g, struct state_writer *w)
{
	const struct vmgenid_state state = { .vector = atomic_load(&g->vector) };

	state_put(w, STATE_VMGENID, 0, &state, sizeof(state));
}

int vmgenid_restore(struct vmgenid *g, struct state_reader *r, struct error *err)
{
	struct vmgenid_state state;
	int ret = state_get(r, STATE_VMGENID, 0, &state, sizeof(state), sizeof(state), err);

	if (ret)
		return ret;
	if (!is_wish(state.vector))
		return state_bad(err, STATE_VMGENID, 0, "the vector that its driver wants is one of the CPU's own");
	atomic_store(&g->vector, state.vector);
	return 0;
}
