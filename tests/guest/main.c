/* main.c: the test guest's life at CPL 3: read the boot information, run the script, report, reset. */
#include "guest.h"
#include "io.h"
#include "layout.h"

#define I8042_COMMAND 0x64
#define I8042_RESET   0xfe
#define STATUS_FAULT  255

void guest_main(unsigned int how, uint64_t info);
void fault_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t address);

static void __attribute__((noreturn)) leave(void)
{
	unsigned int i;

	out8(I8042_COMMAND, I8042_RESET);
	/* The monitor may take a moment to stop this vCPU; one without an i8042 gets a triple fault. */
	for (i = 0; i < 100000000; i++)
		pause();
	service(SERVICE_CRASH);
	__builtin_unreachable();
}

static void send_status(struct guest *g)
{
	if (!g->status_sent || g->failed)
		mmio_write32(STATUS_ADDR, g->failed ? 1 : 0);
}

void guest_main(unsigned int how, uint64_t info)
{
	/* The one machine; too large for the stack, zero at start like all of .bss. */
	static struct guest machine;
	struct guest *g = &machine;

	boot_parse(g, how, info);
	script_run(g);
	say("guest: %u steps, %u failed\n", g->steps, g->failed);
	send_status(g);
	leave();
}

/* Called by the trap handler in start.S, at CPL 3 again and on a fresh stack. */
void fault_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t address)
{
	say("\nguest: fault %llu, error 0x%llx, rip 0x%llx, address 0x%llx\n", (unsigned long long)vector,
	    (unsigned long long)error, (unsigned long long)rip, (unsigned long long)address);
	mmio_write32(STATUS_ADDR, STATUS_FAULT);
	leave();
}
