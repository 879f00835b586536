/* bus.c: a sorted table of address ranges. */
#include "bus.h"

#include <errno.h>
#include <string.h>

int bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops, void *opaque)
{
	unsigned int at;

	if (bus->nr == BUS_MAX_DEVICES)
		return -ENOSPC;
	for (unsigned int i = 0; i < bus->nr; i++) {
		const struct bus_device *d = &bus->device[i];

		if (base < d->base + d->size && d->base < base + size)
			return -EEXIST;
	}
	for (at = bus->nr; at && bus->device[at - 1].base > base; at--)
		bus->device[at] = bus->device[at - 1];
	bus->device[at] = (struct bus_device){ .base = base, .size = size, .ops = ops, .opaque = opaque };
	bus->nr++;
	return 0;
}

/* The device whose range holds all of [addr, addr + len), and where in it that is; or NULL. */
static const struct bus_device *find(const struct bus *bus, uint64_t addr, unsigned int len, uint64_t *offset)
{
	unsigned int low = 0, high = bus->nr;

	while (low < high) {
		unsigned int mid = (low + high) / 2;
		const struct bus_device *d = &bus->device[mid];

		*offset = addr - d->base;
		if (addr < d->base)
			high = mid;
		else if (*offset >= d->size)
			low = mid + 1;
		else
			return len <= d->size - *offset ? d : NULL;
	}
	return NULL;
}

void bus_read(const struct bus *bus, uint64_t addr, void *data, unsigned int len)
{
	uint64_t offset = 0;
	const struct bus_device *d = find(bus, addr, len, &offset);

	memset(data, d ? 0 : 0xff, len);
	if (d)
		d->ops->read(d->opaque, offset, data, len);
}

void bus_write(const struct bus *bus, uint64_t addr, const void *data, unsigned int len)
{
	uint64_t offset = 0;
	const struct bus_device *d = find(bus, addr, len, &offset);

	if (d)
		d->ops->write(d->opaque, offset, data, len);
}
