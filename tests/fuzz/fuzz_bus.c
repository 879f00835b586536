/*
 * fuzz_bus.c: a hostile guest at the ports and addresses of serial port, keyboard controller, IOAPIC, boot timer and
 * generation ID.
 */
#include <string.h>

#include "bus.h"
#include "fuzz.h"
#include "legacy/boot_timer.h"
#include "legacy/i8042.h"
#include "legacy/ioapic.h"
#include "legacy/serial.h"
#include "legacy/vmgenid.h"

#define NR_VCPUS 3u

static struct bus pio, mmio;
static struct serial serial;
static struct i8042 i8042;
static struct ioapic ioapic;
static struct boot_timer boot_timer;
static struct vmgenid vmgenid;
static struct guest_memory memory;
static unsigned int resets, boots;
static bool flooded;

static void on_reset(void *opaque)
{
	(void)opaque;
	resets++;
}

static void on_booted(void *opaque)
{
	(void)opaque;
	boots++;
}

static void on_status(void *opaque, uint32_t status)
{
	(void)opaque;
	(void)status;
}

static void nothing(void *opaque)
{
	(void)opaque;
}

static void raise_serial(void *opaque)
{
	ioapic_raise(opaque, X86_SERIAL_GSI);
}

static void raise_keyboard(void *opaque)
{
	ioapic_raise(opaque, X86_KEYBOARD_GSI);
}

static void power_on(void)
{
	struct error err;

	pio.nr = mmio.nr = 0;
	serial = (struct serial){
		.irq = raise_serial, .irq_opaque = &ioapic, .tx_ready = nothing, .rx_wanted = nothing
	};
	i8042 = (struct i8042){ .reset = on_reset, .irq = raise_keyboard, .irq_opaque = &ioapic };
	boot_timer = (struct boot_timer){ .booted = on_booted, .status = on_status };
	CHECK(ioapic_init(&ioapic, FUZZ_VM_FD, &mmio, &err) == 0);
	CHECK(serial_init(&serial, &pio, &err) == 0);
	CHECK(i8042_init(&i8042, &pio) == 0);
	CHECK(boot_timer_init(&boot_timer, &mmio) == 0);
	CHECK(memory.nr_regions || gm_create(&memory, 1, HUGE_PAGES_NONE, &err) == 0);
	CHECK(vmgenid_init(&vmgenid, &memory, &ioapic, NR_VCPUS, &pio, &err) == 0);
}

/* Ports and addresses of devices, and around them. */
static uint64_t take_port(struct input *in)
{
	uint8_t port = take8(in);

	if (port < 0x10)
		return SERIAL_COM1 - 4u + port;
	if (port < 0x18)
		return 0x60u + port - 0x10;
	return port < 0x1c ? X86_VMGENID_PORT - 2u + port - 0x18 : take16(in);
}

static uint64_t take_address(struct input *in)
{
	uint8_t address = take8(in);

	if (address < 0x80)
		return X86_IOAPIC_GPA + (address & 0x1f);
	if (address < 0xc0)
		return X86_BOOT_TIMER_GPA + (address & 0x1f);
	if (address < 0xf0)
		return X86_IOAPIC_GPA + 0xff0 + (address & 0x1f);
	return take64(in);
}

static void access_bus(struct input *in, const struct bus *bus, uint64_t address, bool is_write)
{
	unsigned int len = 1u << (take8(in) & 3);
	/* One byte more than any access: it must stay as it is. */
	uint8_t data[9];

	memset(data, 0x5a, sizeof(data));
	if (is_write) {
		take_bytes(in, data, len);
		bus_write(bus, address, data, len);
	} else {
		bus_read(bus, address, data, len);
	}
	CHECK(data[len] == 0x5a || len == 8);
	CHECK(data[8] == 0x5a);
}

static void type(struct input *in)
{
	uint8_t keys[SERIAL_RX_FIFO];
	size_t room = serial_rx_room(&serial), n = take8(in);

	CHECK(room <= sizeof(keys));
	n = n < room ? n : room;
	take_bytes(in, keys, n);
	serial_receive(&serial, keys, n);
	CHECK(serial_rx_room(&serial) <= room);
}

static void print(struct input *in)
{
	static uint8_t text[SERIAL_TX_BUFFER];
	size_t n = serial_peek(&serial, text, 1u + take16(in) % sizeof(text));

	CHECK(n <= sizeof(text));
	serial_consume(&serial, n ? take16(in) % (n + 1) : 0);
}

/* A guest that never asks whether there is room; once for each input, or it would do little else. */
static void flood(struct input *in)
{
	unsigned int n = flooded ? 0 : take8(in) * 80u; /* more than the buffer holds */
	uint8_t byte = take8(in);

	flooded = true;
	while (n--)
		bus_write(&pio, SERIAL_COM1, &byte, 1);
}

/* Whatever the guest made of the pin: each vCPU gets the interrupt it asked for, and no exception. */
static void renew(void)
{
	const bool pin = !(ioapic.rte[X86_VMGENID_GSI] & 1u << 16);
	const unsigned long before = fuzz_host.msis;
	struct error err;

	CHECK(!vmgenid.vector || vmgenid.vector >= 32);
	CHECK(vmgenid_renew(&vmgenid, &err) == 0);
	CHECK(fuzz_host.msis == before + pin + (vmgenid.vector ? NR_VCPUS : 0));
}

static void step(struct input *in)
{
	uint8_t op = take8(in);
	struct error err;

	switch (op & 7) {
	case 0:
	case 1:
		access_bus(in, &pio, take_port(in), op & 1);
		break;
	case 2:
	case 3:
		access_bus(in, &mmio, take_address(in), op & 1);
		break;
	case 4:
		ioapic_raise(&ioapic, op == 0xfc ? take32(in) : op >> 3);
		break;
	case 5:
		type(in);
		break;
	case 6:
		print(in);
		break;
	default:
		if ((op & 0xc0) == 0xc0)
			renew();
		else if (op & 0x80)
			(void)i8042_ctrl_alt_del(&i8042, &err);
		else
			flood(in);
	}
}

/* Whatever the guest did to it, the port prints, and an unmasked pin interrupts. */
static void expect_alive(void)
{
	static uint8_t text[SERIAL_TX_BUFFER];
	const uint8_t lcr = 3, x = 'x', index[] = { 0x10 + 2 * 7, 0x11 + 2 * 7 };
	const uint32_t zero = 0, entry = 0x31;
	unsigned long before;
	size_t n;

	while ((n = serial_peek(&serial, text, sizeof(text))))
		serial_consume(&serial, n);
	bus_write(&pio, SERIAL_COM1 + 3, &lcr, 1);
	bus_write(&pio, SERIAL_COM1 + 4, &(uint8_t){ 0 }, 1); /* no loopback */
	bus_write(&pio, SERIAL_COM1, &x, 1);
	CHECK(serial_peek(&serial, text, sizeof(text)) == 1 && text[0] == x);
	bus_write(&mmio, X86_IOAPIC_GPA, &index[1], 1);
	bus_write(&mmio, X86_IOAPIC_GPA + 0x10, &zero, 4);
	bus_write(&mmio, X86_IOAPIC_GPA, &index[0], 1);
	bus_write(&mmio, X86_IOAPIC_GPA + 0x10, &entry, 4);
	before = fuzz_host.msis;
	ioapic_raise(&ioapic, 7);
	CHECK(fuzz_host.msis == before + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct event_loop loop;
	struct input in = { data, size };
	unsigned int i;

	fuzz_begin(&loop);
	power_on();
	flooded = false;
	for (i = 0; i < 500 && in.left; i++)
		step(&in);
	expect_alive();
	fuzz_end(&loop);
	return 0;
}
