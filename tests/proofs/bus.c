/* bus.c: proof of vmm/bus.c. Any table, any range added to it, any access: see docs/proofs.md, "bus". */
#include "bus.h"
#include "proof.h"

/* Sizes that devices have, and the ends of what a size can be. The bases are arbitrary. */
static const uint64_t sizes[] = { 1, 5, 8, 0x1000, UINT64_MAX };
static const unsigned int lengths[] = { 1, 2, 4, 8 };
static uint64_t size;

/* The promise of struct bus_ops: the access lies within the device. */
static void check_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	/*@ assert within: offset + len <= size; */
	/*@ assert whole: opaque == &size && \valid((char *)data + (0 .. len - 1)); */
	Frama_C_make_unknown(data, len);
}

static void check_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	/*@ assert within: offset + len <= size; */
	/*@ assert whole: opaque == &size && \valid_read((char *)data + (0 .. len - 1)); */
}

static const struct bus_ops ops = { .read = check_read, .write = check_write };

/* Sorted or not, overlapping or not: searching and adding must be safe on any table. */
static void fill(struct bus *bus)
{
	bus->nr = Frama_C_unsigned_int_interval(0, BUS_MAX_DEVICES);
	for (unsigned int i = 0; i < BUS_MAX_DEVICES; i++)
		bus->device[i] = (struct bus_device){ .base = ANY_U64(), .size = size, .ops = &ops, .opaque = &size };
}

static void add(struct bus *bus)
{
	/*@ split bus->nr; */
	bus_add(bus, UP_TO(UINT64_MAX - size), size, &ops, &size);
}

static void access(const struct bus *bus)
{
	uint8_t data[8];
	unsigned int len = ANY_OF(lengths);

	/*@ split len; */
	if (ANY_BOOL()) {
		bus_read(bus, ANY_U64(), data, len);
	} else {
		Frama_C_make_unknown((char *)data, len);
		bus_write(bus, ANY_U64(), data, len);
	}
}

int main(void)
{
	struct bus bus;

	size = ANY_OF(sizes);
	/*@ split size; */
	fill(&bus);
	if (ANY_BOOL())
		add(&bus);
	else
		access(&bus);
	return 0;
}
