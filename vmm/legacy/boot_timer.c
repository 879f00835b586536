/* boot_timer.c: two write-only registers at X86_BOOT_TIMER_GPA. */
#include "legacy/boot_timer.h"

#include <string.h>

#include "x86/x86.h"

enum { REG_BOOTED = 0, REG_STATUS = 4, BOOT_TIMER_SIZE = 0x1000, BOOTED = 123 };

/* Reads as zero, which the bus has seen to. */
static void boot_timer_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	(void)opaque, (void)offset, (void)data, (void)len;
}

static void boot_timer_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct boot_timer *timer = opaque;
	uint32_t status;

	if (offset == REG_BOOTED && len == 1 && *(const uint8_t *)data == BOOTED) {
		timer->booted(timer->opaque);
	} else if (offset == REG_STATUS && len == sizeof(status)) {
		memcpy(&status, data, sizeof(status));
		timer->status(timer->opaque, status);
	}
}

int boot_timer_init(struct boot_timer *timer, struct bus *mmio)
{
	static const struct bus_ops ops = { .read = boot_timer_read, .write = boot_timer_write };

	return bus_add(mmio, X86_BOOT_TIMER_GPA, BOOT_TIMER_SIZE, &ops, timer);
}
