/* bus.h: who answers at which port or guest physical address. */
#ifndef MAYFLY_BUS_H
#define MAYFLY_BUS_H

#include <stdbool.h>
#include <stdint.h>

#define BUS_MAX_DEVICES 40

/*
 * Handlers run on vCPU threads: they take their device's lock, return quickly and do no I/O. data is in guest byte
 * order, len 1, 2, 4 or 8, and [offset, offset + len) lies within the device's size. reads start zeroed.
 */
struct bus_ops {
	void (*read)(void *opaque, uint64_t offset, void *data, unsigned int len);
	void (*write)(void *opaque, uint64_t offset, const void *data, unsigned int len);
};

struct bus_device {
	uint64_t base, size; /* first address or port; bytes */
	const struct bus_ops *ops;
	void *opaque;
};

/* Sorted by base, filled before the vCPUs run and constant afterwards, so no lock is needed to search it. */
struct bus {
	struct bus_device device[BUS_MAX_DEVICES];
	unsigned int nr;
};

/* bus_add - 0, -EEXIST when the range overlaps another, -ENOSPC. Start-up thread only. */
/*@ requires table: \valid(bus) && bus->nr <= BUS_MAX_DEVICES;
    requires range: base + size <= UINT64_MAX;
    behavior full:
      assumes bus->nr == BUS_MAX_DEVICES;
      ensures \result == -ENOSPC && bus->nr == BUS_MAX_DEVICES;
    behavior room:
      assumes bus->nr < BUS_MAX_DEVICES;
      ensures added: \result == 0 ==> bus->nr == \old(bus->nr) + 1;
      ensures refused: \result != 0 ==> \result == -EEXIST && bus->nr == \old(bus->nr); */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops, void *opaque);

/* bus_read, bus_write - an access nobody claims, or that straddles a device's end, reads as ones and writes nowhere. */
/*@ requires table: \valid_read(bus) && bus->nr <= BUS_MAX_DEVICES;
    requires access: len == 1 || len == 2 || len == 4 || len == 8;
    requires buffer: \valid((char *)data + (0 .. len - 1));
    ensures whole: \initialized((char *)data + (0 .. len - 1)); */
void bus_read(const struct bus *bus, uint64_t addr, void *data, unsigned int len);
/*@ requires table: \valid_read(bus) && bus->nr <= BUS_MAX_DEVICES;
    requires access: len == 1 || len == 2 || len == 4 || len == 8;
    requires buffer: \valid_read((char *)data + (0 .. len - 1)); */
void bus_write(const struct bus *bus, uint64_t addr, const void *data, unsigned int len);

#endif
