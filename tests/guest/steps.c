/* steps.c: the steps a script is made of, except those for devices. */
#include <linux/serial_reg.h>

#include "blk.h"
#include "guest.h"
#include "io.h"
#include "layout.h"
#include "net.h"
#include "race.h"
#include "vsock.h"

#define TIMER_VALUE 123
#define COM1        0x3f8

static bool do_print(struct step *s)
{
	const char *text = starts_with(s->text, "print");

	say("%s\n", *text ? text + 1 : text);
	return true;
}

static bool do_timer(struct step *s)
{
	(void)s;
	mmio_write8(TIMER_ADDR, TIMER_VALUE);
	return true;
}

static bool do_status(struct step *s)
{
	uint64_t value;

	if (!step_number(s, 1, &value))
		return false;
	mmio_write32(STATUS_ADDR, (uint32_t)value);
	s->g->status_sent = true;
	return true;
}

static bool do_reset(struct step *s)
{
	unsigned int i;

	(void)s;
	out8(0x64, 0xfe);
	for (i = 0; i < 100000000; i++)
		pause();
	say("still running after a reset\n");
	return false;
}

static bool do_triplefault(struct step *s)
{
	(void)s;
	service(SERVICE_CRASH);
	return false;
}

static bool do_idle(struct step *s)
{
	(void)s;
	service(SERVICE_IDLE);
	return false;
}

static bool do_spin(struct step *s)
{
	for (;;)
		pause();
	return s;
}

static bool do_delay(struct step *s)
{
	uint64_t i, n;

	if (!step_number(s, 1, &n))
		return false;
	for (i = 0; i < n; i++)
		pause();
	return true;
}

/* A touch of what a crashed guest does: reads an address that no page table maps. */
static bool do_fault(struct step *s)
{
	(void)s;
	mmio_read8(1ull << 40);
	return false;
}

/* touch N: write one word into each page of N bytes of fresh memory. */
static bool do_touch(struct step *s)
{
	uint64_t i, n;
	char *p;

	if (!step_number(s, 1, &n))
		return false;
	p = reserve(s->g, n, 4096);
	if (!p) {
		say("not that much memory\n");
		return false;
	}
	for (i = 0; i < n; i += 4096)
		*(volatile uint64_t *)(p + i) = i + 1;
	for (i = 0; i < n; i += 4096) {
		if (*(volatile uint64_t *)(p + i) != i + 1)
			return false;
	}
	return true;
}

/* scatter N: write one word into each page of N bytes of fresh memory; at the next character, read them all, in no
 * order. */
static bool do_scatter(struct step *s)
{
	uint64_t i, n, page;
	char *p;

	if (!step_number(s, 1, &n))
		return false;
	n /= 4096;
	p = reserve(s->g, n * 4096, 4096);
	if (!p) {
		say("not that much memory\n");
		return false;
	}
	for (i = 0; i < n; i++)
		*(volatile uint64_t *)(p + i * 4096) = i + 1;
	say("scattered\n");
	while (!(in8(COM1 + UART_LSR) & UART_LSR_DR))
		pause();
	(void)in8(COM1 + UART_RX);
	/* Each page once, far from the one before: a prime larger than what a host reads at once. */
	for (i = 0; i < n; i++) {
		page = i * 10007 % n;
		if (*(volatile uint64_t *)(p + page * 4096) != page + 1)
			return false;
	}
	return true;
}

/* What generation g of word i is: any word that is lost, old or of another copy shows. */
static uint64_t generation(uint64_t g, uint64_t i)
{
	uint64_t x = (g << 32 ^ i) + 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	return x ^ x >> 27;
}

/*
 * cycle N: rewrite N bytes of memory whenever a character arrives on the serial port, after checking what is there
 * 'q' ends it. Whoever looks from outside sees one line for each round.
 */
static bool do_cycle(struct step *s)
{
	volatile uint64_t *p;
	uint64_t n, i, g = 0;
	char c;

	if (!step_number(s, 1, &n))
		return false;
	p = reserve(s->g, n, 4096);
	if (!p) {
		say("not that much memory\n");
		return false;
	}
	for (i = 0; i < n / 8; i++)
		p[i] = generation(0, i);
	for (;;) {
		say("round %llu\n", (unsigned long long)g);
		while (!(in8(COM1 + UART_LSR) & UART_LSR_DR))
			pause();
		c = (char)in8(COM1 + UART_RX);
		for (i = 0; i < n / 8; i++) {
			if (p[i] != generation(g, i)) {
				say("round %llu: word %llu is wrong\n", (unsigned long long)g, (unsigned long long)i);
				return false;
			}
		}
		if (c == 'q')
			return true;
		/* Another letter is another future. */
		g = g * 31 + (uint64_t)c;
		for (i = 0; i < n / 8; i++)
			p[i] = generation(g, i);
	}
}

/* wait C: until the serial port has received the character C. */
static bool do_wait(struct step *s)
{
	char want = s->nr > 1 ? s->word[1][0] : '\n';

	for (;;) {
		if (!(in8(COM1 + UART_LSR) & UART_LSR_DR))
			pause();
		else if ((char)in8(COM1 + UART_RX) == want)
			return true;
	}
}

static bool do_info(struct step *s)
{
	unsigned int i;

	for (i = 0; i < s->g->nr_ram; i++)
		say("ram 0x%llx … 0x%llx\n", (unsigned long long)s->g->ram[i].start,
		    (unsigned long long)s->g->ram[i].end);
	for (i = 0; i < s->g->nr_devices; i++)
		say("dev%u at 0x%llx: magic 0x%x, version %u, device %u\n", i, (unsigned long long)s->g->device[i],
		    mmio_read32(s->g->device[i]), mmio_read32(s->g->device[i] + 4), mmio_read32(s->g->device[i] + 8));
	return true;
}

/* The value read, checked against the one expected when there is one. */
static bool got(struct step *s, unsigned int i, uint64_t value)
{
	uint64_t want = value;

	say("%s %s = 0x%llx\n", s->word[0], s->word[i - 1], (unsigned long long)value);
	if (i < s->nr && !step_number(s, i, &want))
		return false;
	if (want != value)
		say("expected 0x%llx\n", (unsigned long long)want);
	return want == value;
}

static bool do_out(struct step *s)
{
	uint64_t port, value;

	if (!step_number(s, 1, &port) || !step_number(s, 2, &value))
		return false;
	if (equal(s->word[0], "out8"))
		out8((uint16_t)port, (uint8_t)value);
	else if (equal(s->word[0], "out16"))
		out16((uint16_t)port, (uint16_t)value);
	else
		out32((uint16_t)port, (uint32_t)value);
	return true;
}

static bool do_in(struct step *s)
{
	uint64_t port;
	uint32_t value;

	if (!step_number(s, 1, &port))
		return false;
	if (equal(s->word[0], "in8"))
		value = in8((uint16_t)port);
	else if (equal(s->word[0], "in16"))
		value = in16((uint16_t)port);
	else
		value = in32((uint16_t)port);
	return got(s, 2, value);
}

/* cpuid LEAF SUBLEAF: what the monitor lets the processor say of itself. */
static bool do_cpuid(struct step *s)
{
	uint64_t leaf, subleaf;
	uint32_t eax, ebx, ecx, edx;

	if (!step_number(s, 1, &leaf) || !step_number(s, 2, &subleaf))
		return false;
	__asm__ volatile("call cpuid_service"
			 : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx)
			 : "a"((uint32_t)leaf), "c"((uint32_t)subleaf)
			 : "memory");
	say("cpuid 0x%x 0x%x: eax=0x%x ebx=0x%x ecx=0x%x edx=0x%x\n", (uint32_t)leaf, (uint32_t)subleaf, eax, ebx, ecx,
	    edx);
	return true;
}

/* outs PORT TEXT: one string instruction; ends with a newline. */
static bool do_outs(struct step *s)
{
	const char *text = s->text;
	uint64_t port;

	if (s->nr < 3 || !step_number(s, 1, &port))
		return false;
	text += s->word[2] - s->word[0];
	outs8((uint16_t)port, text, strlen(text));
	outs8((uint16_t)port, "\n", 1);
	return true;
}

static bool mmio_read(uint64_t size, uint64_t addr, uint64_t *value)
{
	switch (size) {
	case 1:
		*value = mmio_read8(addr);
		return true;
	case 2:
		*value = mmio_read16(addr);
		return true;
	case 4:
		*value = mmio_read32(addr);
		return true;
	case 8:
		*value = mmio_read64(addr);
		return true;
	default:
		return false;
	}
}

static bool mmio_write(uint64_t size, uint64_t addr, uint64_t value)
{
	switch (size) {
	case 1:
		mmio_write8(addr, (uint8_t)value);
		return true;
	case 2:
		mmio_write16(addr, (uint16_t)value);
		return true;
	case 4:
		mmio_write32(addr, (uint32_t)value);
		return true;
	case 8:
		mmio_write64(addr, value);
		return true;
	default:
		return false;
	}
}

/* mmio r|w SIZE ADDR [VALUE]: the address may have any alignment. */
static bool do_mmio(struct step *s)
{
	uint64_t size, addr, value;

	if (s->nr < 4 || !step_number(s, 2, &size) || !step_number(s, 3, &addr))
		return false;
	if (equal(s->word[1], "w"))
		return step_number(s, 4, &value) && mmio_write(size, addr, value);
	return equal(s->word[1], "r") && mmio_read(size, addr, &value) && got(s, 4, value);
}

static const struct {
	const char *name;
	bool (*run)(struct step *s);
} verbs[] = {
	{ "print", do_print },
	{ "timer", do_timer },
	{ "status", do_status },
	{ "reset", do_reset },
	{ "triplefault", do_triplefault },
	{ "idle", do_idle },
	{ "halt", do_idle },
	{ "spin", do_spin },
	{ "delay", do_delay },
	{ "fault", do_fault },
	{ "touch", do_touch },
	{ "scatter", do_scatter },
	{ "cycle", do_cycle },
	{ "wait", do_wait },
	{ "info", do_info },
	{ "out8", do_out },
	{ "out16", do_out },
	{ "out32", do_out },
	{ "in8", do_in },
	{ "in16", do_in },
	{ "in32", do_in },
	{ "outs", do_outs },
	{ "cpuid", do_cpuid },
	{ "mmio", do_mmio },
	{ "blk", blk_step },
	{ "net", net_step },
	{ "vsock", vsock_step },
	{ "race", race_step },
};

bool step_run(struct step *s)
{
	unsigned int i;

	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (equal(s->word[0], verbs[i].name))
			return verbs[i].run(s);
	}
	say("no such step: \"%s\"\n", s->word[0]);
	return false;
}
