/* i8042.c: command 0xfe resets; every status reads as "nothing there, ready for more", so no driver waits for us. */
#include "legacy/i8042.h"

#include "metrics.h"

enum { I8042_BASE = 0x60, I8042_SIZE = 5, I8042_COMMAND = 4, COMMAND_PULSE_RESET = 0xfe };

/* Data port and status both read zero: output buffer empty, input buffer free. */
static void i8042_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	(void)opaque, (void)offset, (void)data, (void)len;
	metrics_inc(i8042_read_count);
}

static void i8042_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct i8042 *kbc = opaque;

	metrics_inc(i8042_write_count);
	if (offset != I8042_COMMAND || len != 1 || *(const uint8_t *)data != COMMAND_PULSE_RESET)
		return;
	metrics_inc(i8042_reset_count);
	kbc->reset(kbc->opaque);
}

int i8042_init(struct i8042 *kbc, struct bus *pio)
{
	static const struct bus_ops ops = { .read = i8042_read, .write = i8042_write };

	return bus_add(pio, I8042_BASE, I8042_SIZE, &ops, kbc);
}
