/*
 * ioapic.c: turns an edge on a pin into the MSI that its redirection entry describes.
 *
 * KVM_SIGNAL_MSI takes the message itself, so there is no GSI routing table to keep in step with the entries (each
 * change of it would wait for an SRCU grace period inside a guest exit) and no irqfd per device to create at start-up
 * and tear down at the end. See docs/decisions.md, "interrupts".
 */
#include "legacy/ioapic.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "log.h"
#include "snapshot/state.h"

/* 82093AA datasheet, 3.1 and 3.2. */
enum { REG_SELECT = 0x00, REG_WINDOW = 0x10, IOAPIC_SIZE = 0x1000 };
enum { INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2, INDEX_RTE = 0x10 };
#define ID_MASK        0xfu
#define IOAPIC_VERSION 0x11u

#define RTE_VECTOR        0xffull
#define RTE_DELIVERY_MODE 0x700ull
#define RTE_DEST_LOGICAL  (1ull << 11)
#define RTE_READ_ONLY     ((1ull << 12) | (1ull << 14)) /* delivery status, remote IRR */
#define RTE_MASKED        (1ull << 16)
#define RTE_DEST_SHIFT    56

/* Intel SDM 3A, 11.11: an MSI has the fields of a redirection entry at other places. */
static void deliver(struct ioapic *ioapic, uint64_t rte)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)(X86_LAPIC_GPA | (rte >> RTE_DEST_SHIFT) << 12 |
					 (rte & RTE_DEST_LOGICAL ? 1u << 2 : 0)),
		.data = (uint32_t)(rte & (RTE_VECTOR | RTE_DELIVERY_MODE)),
	};

	if (ioctl(ioapic->vm_fd, KVM_SIGNAL_MSI, &msi) < 0)
		log_warn_limited("IOAPIC: KVM_SIGNAL_MSI address %#x data %#x: %s", msi.address_lo, msi.data,
				 strerror(errno));
}

void ioapic_raise(struct ioapic *ioapic, unsigned int gsi)
{
	if (gsi >= X86_IOAPIC_PINS)
		return;
	pthread_mutex_lock(&ioapic->lock);
	if (ioapic->rte[gsi] & RTE_MASKED)
		ioapic->pending |= 1u << gsi;
	else
		deliver(ioapic, ioapic->rte[gsi]);
	pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_send(struct ioapic *ioapic, unsigned int vcpu, uint8_t vector)
{
	deliver(ioapic, (uint64_t)vcpu << RTE_DEST_SHIFT | vector);
}

/* Two registers a pin, low half first; X86_IOAPIC_PINS or more: there is no such pin. */
static unsigned int selected_pin(const struct ioapic *ioapic)
{
	return ioapic->select < INDEX_RTE ? X86_IOAPIC_PINS : (ioapic->select - INDEX_RTE) / 2u;
}

static uint32_t read_register(const struct ioapic *ioapic)
{
	unsigned int pin = selected_pin(ioapic);

	switch (ioapic->select) {
	case INDEX_ID:
	case INDEX_ARBITRATION:
		return (uint32_t)ioapic->id << 24;
	case INDEX_VERSION:
		return IOAPIC_VERSION | (X86_IOAPIC_PINS - 1u) << 16;
	default:
		if (pin >= X86_IOAPIC_PINS)
			return 0;
		return (uint32_t)(ioapic->rte[pin] >> (ioapic->select & 1 ? 32 : 0));
	}
}

static void write_entry(struct ioapic *ioapic, unsigned int pin, bool high, uint32_t value)
{
	uint64_t rte = ioapic->rte[pin];

	if (high)
		rte = (rte & 0xffffffffull) | (uint64_t)value << 32;
	else
		rte = (rte & ~0xffffffffull) | (value & ~RTE_READ_ONLY);
	ioapic->rte[pin] = rte;
	if (!(rte & RTE_MASKED) && (ioapic->pending & 1u << pin)) {
		ioapic->pending &= ~(1u << pin);
		deliver(ioapic, rte);
	}
}

static void write_register(struct ioapic *ioapic, uint32_t value)
{
	unsigned int pin = selected_pin(ioapic);

	if (ioapic->select == INDEX_ID)
		ioapic->id = (value >> 24) & ID_MASK;
	else if (pin < X86_IOAPIC_PINS)
		write_entry(ioapic, pin, ioapic->select & 1, value);
}

static void ioapic_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	struct ioapic *ioapic = opaque;
	uint32_t value = 0;

	pthread_mutex_lock(&ioapic->lock);
	if (offset == REG_SELECT)
		value = ioapic->select;
	else if (offset == REG_WINDOW)
		value = read_register(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	memcpy(data, &value, len < sizeof(value) ? len : sizeof(value));
}

static void ioapic_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct ioapic *ioapic = opaque;
	uint32_t value = 0;

	memcpy(&value, data, len < sizeof(value) ? len : sizeof(value));
	pthread_mutex_lock(&ioapic->lock);
	if (offset == REG_SELECT)
		ioapic->select = (uint8_t)value;
	else if (offset == REG_WINDOW)
		write_register(ioapic, value);
	pthread_mutex_unlock(&ioapic->lock);
}

int ioapic_init(struct ioapic *ioapic, int vm_fd, struct bus *mmio, struct error *err)
{
	static const struct bus_ops ops = { .read = ioapic_read, .write = ioapic_write };
	unsigned int i;
	int ret;

	memset(ioapic, 0, sizeof(*ioapic));
	ioapic->vm_fd = vm_fd;
	pthread_mutex_init(&ioapic->lock, NULL);
	for (i = 0; i < X86_IOAPIC_PINS; i++)
		ioapic->rte[i] = RTE_MASKED;
	ret = bus_add(mmio, X86_IOAPIC_GPA, IOAPIC_SIZE, &ops, ioapic);
	return ret ? error_set(err, ret, "IOAPIC: its address is taken") : 0;
}

/* ---- in a state file ---- */

_Static_assert(sizeof(struct ioapic_state) == X86_IOAPIC_PINS * 8 + 4 + 4, "no holes");

void ioapic_save(struct ioapic *ioapic, struct state_writer *w)
{
	struct ioapic_state state = { 0 };

	pthread_mutex_lock(&ioapic->lock);
	memcpy(state.rte, ioapic->rte, sizeof(state.rte));
	state.pending = ioapic->pending;
	state.select = ioapic->select;
	state.id = ioapic->id;
	pthread_mutex_unlock(&ioapic->lock);
	state_put(w, STATE_IOAPIC, 0, &state, sizeof(state));
}

/* NULL, or what no guest could have brought about. */
static const char *wrong(const struct ioapic_state *state)
{
	unsigned int i;

	if (state->id > ID_MASK)
		return "the IOAPIC's ID has more than 4 bits";
	if (state->pending >> X86_IOAPIC_PINS)
		return "a pin that the IOAPIC does not have is pending";
	for (i = 0; i < X86_IOAPIC_PINS; i++) {
		if (state->rte[i] & RTE_READ_ONLY)
			return "a redirection entry has a read-only bit set";
		if ((state->pending & 1u << i) && !(state->rte[i] & RTE_MASKED))
			return "a pin is pending that is not masked";
	}
	return NULL;
}

int ioapic_restore(struct ioapic *ioapic, struct state_reader *r, struct error *err)
{
	struct ioapic_state state;
	int ret = state_get(r, STATE_IOAPIC, 0, &state, sizeof(state), sizeof(state), err);

	if (ret)
		return ret;
	if (wrong(&state))
		return state_bad(err, STATE_IOAPIC, 0, wrong(&state));
	pthread_mutex_lock(&ioapic->lock);
	memcpy(ioapic->rte, state.rte, sizeof(state.rte));
	ioapic->pending = state.pending;
	ioapic->select = state.select;
	ioapic->id = state.id;
	pthread_mutex_unlock(&ioapic->lock);
	return 0;
}
