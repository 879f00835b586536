/* smp.c: starts a second vCPU as firmware would (Intel SDM 3A, 9.4.4): INIT, then a start-up IPI with the page to begin
 * at. */
#include "io.h"
#include "layout.h"
#include "race.h"

#define LAPIC_SPURIOUS 0xfee000f0ull
#define LAPIC_ENABLE   0x1ffu /* and the vector it has anyway */
#define LAPIC_ICR_LOW  0xfee00300ull
#define LAPIC_ICR_HIGH 0xfee00310ull
#define ICR_INIT       0x4500u
#define ICR_STARTUP    0x4600u
#define AP_APIC_ID     1u
#define PATIENCE_MS    5000u

extern char ap_start[], ap_end[];
void smp_main(void);

static struct {
	void (*work)(void *arg);
	void *arg;
	bool here;
} ap;

/* The second vCPU's life, called by start.S. */
void smp_main(void)
{
	__atomic_store_n(&ap.here, true, __ATOMIC_RELEASE);
	ap.work(ap.arg);
}

static void wait_ms(uint64_t ms)
{
	uint64_t end = ticks() + ms * TICKS_PER_MS;

	while (ticks() < end)
		pause();
}

static void send_ipi(uint32_t what)
{
	mmio_write32(LAPIC_ICR_HIGH, AP_APIC_ID << 24);
	mmio_write32(LAPIC_ICR_LOW, what);
}

bool smp_start(void (*work)(void *arg), void *arg)
{
	uint64_t end;

	ap.work = work;
	ap.arg = arg;
	memcpy((void *)AP_ADDR, ap_start, (size_t)(ap_end - ap_start));
	mmio_write32(LAPIC_SPURIOUS, LAPIC_ENABLE); /* KVM finds no targets for one that is off */
	send_ipi(ICR_INIT);
	wait_ms(10);
	send_ipi(ICR_STARTUP | AP_ADDR >> 12);
	end = ticks() + PATIENCE_MS * TICKS_PER_MS;
	while (!__atomic_load_n(&ap.here, __ATOMIC_ACQUIRE) && ticks() < end)
		pause();
	if (!ap.here)
		say("the second vCPU did not start\n");
	return ap.here;
}
