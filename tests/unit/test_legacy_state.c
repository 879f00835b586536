/* test_legacy_state.c: IOAPIC, keyboard controller and serial port go on in another microVM where they stopped. */
#include "state_fixture.h"

#include <linux/serial_reg.h>

#include "legacy/i8042.h"
#include "legacy/ioapic.h"
#include "legacy/serial.h"

enum { SELECT = 0x00, WINDOW = 0x10, PIN = 9 };

/* One microVM's, and the other's. */
static struct side {
	struct bus pio, mmio;
	struct ioapic ioapic;
	struct i8042 kbc;
	struct serial serial;
	unsigned int irqs, tx_wakes, rx_wakes;
} old, new;
static struct saved saved;

static void count(void *opaque)
{
	++*(unsigned int *)opaque;
}

static void on_tx(void *opaque)
{
	((struct side *)opaque)->tx_wakes++;
}

static void on_rx(void *opaque)
{
	((struct side *)opaque)->rx_wakes++;
}

static void make_side(struct side *s)
{
	struct error err;

	memset(s, 0, sizeof(*s));
	s->kbc.irq = s->serial.irq = count;
	s->kbc.irq_opaque = s->serial.irq_opaque = &s->irqs;
	s->serial.tx_ready = on_tx;
	s->serial.rx_wanted = on_rx;
	s->serial.opaque = s;
	assert_int_equal(ioapic_init(&s->ioapic, -1, &s->mmio, &err), 0);
	assert_int_equal(i8042_init(&s->kbc, &s->pio), 0);
	assert_int_equal(serial_init(&s->serial, &s->pio, &err), 0);
}

static int start(void **state)
{
	(void)state;
	make_side(&old);
	make_side(&new);
	return 0;
}

static int end(void **state)
{
	(void)state;
	state_free(&saved.w);
	return 0;
}

static uint8_t in(struct side *s, uint64_t port)
{
	uint8_t value = 0;

	bus_read(&s->pio, port, &value, 1);
	return value;
}

static void out(struct side *s, uint64_t port, uint8_t value)
{
	bus_write(&s->pio, port, &value, 1);
}

/* ---- IOAPIC ---- */

static void ioapic_write(struct side *s, uint32_t index, uint32_t value)
{
	bus_write(&s->mmio, X86_IOAPIC_GPA + SELECT, &index, 4);
	bus_write(&s->mmio, X86_IOAPIC_GPA + WINDOW, &value, 4);
}

static uint32_t ioapic_selected(struct side *s)
{
	uint32_t value;

	bus_read(&s->mmio, X86_IOAPIC_GPA + WINDOW, &value, 4);
	return value;
}

static void save_ioapic(void)
{
	ioapic_save(&old.ioapic, saved_begin(&saved));
	saved_end(&saved);
}

static void the_ioapic_keeps_its_entries_and_what_is_pending(void **state)
{
	uint32_t index;

	(void)state;
	ioapic_write(&old, 0, 0x05000000);
	for (index = 0x10; index < 0x10 + 2 * X86_IOAPIC_PINS; index++)
		ioapic_write(&old, index, index & 1 ? index << 24 : (1u << 16) | index);
	ioapic_raise(&old.ioapic, PIN);
	index = 0x10 + 2 * PIN + 1;
	bus_write(&old.mmio, X86_IOAPIC_GPA + SELECT, &index, 4);
	save_ioapic();
	assert_int_equal(ioapic_restore(&new.ioapic, &saved.r, &saved.err), 0);
	assert_int_equal(ioapic_selected(&new), ioapic_selected(&old)); /* the guest was between its two accesses */
	for (index = 0; index < 0x10 + 2 * X86_IOAPIC_PINS; index++) {
		bus_write(&old.mmio, X86_IOAPIC_GPA + SELECT, &index, 4);
		bus_write(&new.mmio, X86_IOAPIC_GPA + SELECT, &index, 4);
		assert_int_equal(ioapic_selected(&new), ioapic_selected(&old));
	}
	/* The edge that came while the pin was masked is delivered once the guest unmasks it. */
	assert_int_equal(new.ioapic.pending, 1u << PIN);
	ioapic_write(&new, 0x10 + 2 * PIN, 0x31);
	assert_int_equal(new.ioapic.pending, 0);
}

static void an_ioapic_that_cannot_be_is_refused(void **state)
{
	struct ioapic before = new.ioapic;
	struct ioapic_state *s;

	(void)state;
	save_ioapic();
	s = saved_payload(&saved, STATE_IOAPIC, 0);
	s->id = 0x10;
	assert_refused(&saved, ioapic_restore(&new.ioapic, saved_rewind(&saved), &saved.err),
		       "IOAP 0: the IOAPIC's ID");
	s->id = 0;
	s->pending = 1u << 24;
	assert_refused(&saved, ioapic_restore(&new.ioapic, saved_rewind(&saved), &saved.err), "does not have");
	s->pending = 1u << 3;
	s->rte[3] = 0x31;
	assert_refused(&saved, ioapic_restore(&new.ioapic, saved_rewind(&saved), &saved.err), "not masked");
	s->pending = 0;
	s->rte[23] |= 1u << 14;
	assert_refused(&saved, ioapic_restore(&new.ioapic, saved_rewind(&saved), &saved.err), "read-only");
	assert_memory_equal(&before.rte, &new.ioapic.rte, sizeof(before.rte));
	s->rte[23] = 0;
	assert_int_equal(ioapic_restore(&new.ioapic, saved_rewind(&saved), &saved.err), 0);
}

/* ---- keyboard controller ---- */

static void keys_not_read_yet_are_read_in_the_other_microvm(void **state)
{
	(void)state;
	out(&old, 0x64, 0x60);
	out(&old, 0x60, 0x01);
	assert_int_equal(i8042_ctrl_alt_del(&old.kbc, &saved.err), 0);
	assert_int_equal(in(&old, 0x60), 0x14);
	out(&old, 0x64, 0xd1); /* and a command that waits for its byte */
	i8042_save(&old.kbc, saved_begin(&saved));
	saved_end(&saved);
	assert_int_equal(i8042_restore(&new.kbc, &saved.r, &saved.err), 0);
	assert_int_equal(new.irqs, 0); /* the edge is the interrupt controllers' */
	out(&new, 0x60, 0x03);         /* which is no byte for the keyboard */
	assert_int_equal(in(&new, 0x64), 0x11);
	assert_int_equal(in(&new, 0x60), 0x11);
	assert_int_equal(in(&new, 0x60), 0xe0);
	assert_int_equal(in(&new, 0x60), 0x71);
	assert_int_equal(in(&new, 0x64), 0x10);
	out(&new, 0x64, 0xd0);
	assert_int_equal(in(&new, 0x60), 0x03);
	out(&new, 0x64, 0x20);
	assert_int_equal(in(&new, 0x60), 0x01);
}

static void a_keyboard_controller_that_cannot_be_is_refused(void **state)
{
	struct i8042_state *s;

	(void)state;
	i8042_save(&old.kbc, saved_begin(&saved));
	saved_end(&saved);
	s = saved_payload(&saved, STATE_I8042, 0);
	s->nr_keys = I8042_KEYS + 1;
	assert_refused(&saved, i8042_restore(&new.kbc, saved_rewind(&saved), &saved.err), "more keys");
	s->nr_keys = 255;
	assert_refused(&saved, i8042_restore(&new.kbc, saved_rewind(&saved), &saved.err), "more keys");
	s->nr_keys = I8042_KEYS;
	s->output_port = 0;
	assert_refused(&saved, i8042_restore(&new.kbc, saved_rewind(&saved), &saved.err), "reset line");
	s->output_port = 1;
	s->command = 0x20;
	assert_refused(&saved, i8042_restore(&new.kbc, saved_rewind(&saved), &saved.err), "command");
	assert_int_equal(in(&new, 0x64), 0x10);
	s->command = 0x60;
	assert_int_equal(i8042_restore(&new.kbc, saved_rewind(&saved), &saved.err), 0);
}

/* ---- serial port ---- */

static void save_serial(void)
{
	serial_save(&old.serial, saved_begin(&saved));
	saved_end(&saved);
}

static uint8_t serial_in(struct side *s, unsigned int reg)
{
	return in(s, SERIAL_COM1 + reg);
}

static void serial_out(struct side *s, unsigned int reg, uint8_t value)
{
	out(s, SERIAL_COM1 + reg, value);
}

/* Registers, input that wraps round the FIFO, output that wraps round its buffer. */
static void the_serial_port_goes_on(void **state)
{
	static const uint8_t typed[SERIAL_RX_FIFO] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-";
	uint8_t got[64];
	unsigned int i;

	(void)state;
	serial_out(&old, UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
	serial_out(&old, UART_DLL, 12);
	serial_out(&old, UART_DLM, 34);
	serial_out(&old, UART_LCR, UART_LCR_WLEN8);
	serial_out(&old, UART_SCR, 0x5a);
	serial_out(&old, UART_MCR, UART_MCR_OUT2 | UART_MCR_DTR);
	serial_out(&old, UART_IER, UART_IER_RDI);
	serial_receive(&old.serial, typed, 40);
	for (i = 0; i < 40; i++)
		(void)serial_in(&old, UART_RX);
	serial_receive(&old.serial, typed, sizeof(typed));
	old.serial.tx_head = old.serial.tx_tail = SERIAL_TX_BUFFER - 3;
	for (i = 0; i < 8; i++)
		serial_out(&old, UART_TX, (uint8_t)('A' + i));
	serial_consume(&old.serial, 1);
	save_serial();
	assert_int_equal(serial_restore(&new.serial, &saved.r, &saved.err), 0);
	assert_int_equal(state_end(&saved.r, &saved.err), 0);
	assert_int_equal(new.irqs, 0);
	assert_int_equal(new.tx_wakes, 1);
	assert_int_equal(new.rx_wakes, 1);
	assert_int_equal(serial_peek(&new.serial, got, sizeof(got)), 7);
	assert_memory_equal(got, "BCDEFGH", 7);
	assert_int_equal(serial_rx_room(&new.serial), 0);
	for (i = 0; i < sizeof(typed); i++) {
		assert_int_equal(serial_in(&new, UART_IIR) & 0x0f, UART_IIR_RDI);
		assert_int_equal(serial_in(&new, UART_RX), typed[i]);
	}
	assert_int_equal(serial_in(&new, UART_SCR), 0x5a);
	assert_int_equal(serial_in(&new, UART_MCR), UART_MCR_OUT2 | UART_MCR_DTR);
	assert_int_equal(serial_in(&new, UART_IER), UART_IER_RDI);
	serial_out(&new, UART_LCR, UART_LCR_DLAB);
	assert_int_equal(serial_in(&new, UART_DLL), 12);
	assert_int_equal(serial_in(&new, UART_DLM), 34);
}

/* A guest that waits for the transmitter to be empty gets its interrupt from the host that takes the output. */
static void output_that_waits_interrupts_once_it_is_taken(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; serial_in(&old, UART_LSR) & UART_LSR_THRE; i++)
		serial_out(&old, UART_TX, (uint8_t)i);
	serial_out(&old, UART_IER, UART_IER_THRI);
	(void)serial_in(&old, UART_IIR);
	save_serial();
	assert_int_equal(serial_restore(&new.serial, &saved.r, &saved.err), 0);
	assert_int_equal(new.tx_wakes, 1);
	assert_int_equal(new.irqs, 0);
	serial_consume(&new.serial, i);
	assert_int_equal(new.irqs, 1);
	assert_int_equal(serial_in(&new, UART_IIR) & 0x0f, UART_IIR_THRI);
	assert_int_equal(serial_in(&new, UART_IIR) & 0x0f, UART_IIR_NO_INT);
}

/* One that is acknowledged after the restore only. */
static void an_interrupt_not_acknowledged_stays(void **state)
{
	(void)state;
	serial_out(&old, UART_IER, UART_IER_THRI);
	save_serial();
	assert_int_equal(serial_restore(&new.serial, &saved.r, &saved.err), 0);
	assert_int_equal(new.tx_wakes, 0);
	assert_int_equal(serial_in(&new, UART_IIR) & 0x0f, UART_IIR_THRI);
	assert_int_equal(serial_in(&new, UART_IIR) & 0x0f, UART_IIR_NO_INT);
}

/* A guest that polls, without interrupts, is still one that listens. */
static void a_guest_that_polls_still_gets_input(void **state)
{
	unsigned int i;

	(void)state;
	for (i = 0; i < 100; i++)
		(void)serial_in(&old, UART_LSR);
	save_serial();
	assert_int_equal(serial_rx_room(&new.serial), 0);
	assert_int_equal(serial_restore(&new.serial, &saved.r, &saved.err), 0);
	assert_int_equal(serial_rx_room(&new.serial), SERIAL_RX_FIFO);
	assert_int_equal(new.rx_wakes, 1);
}

static void a_serial_port_that_cannot_be_is_refused(void **state)
{
	static uint8_t output[SERIAL_TX_BUFFER + 1];
	struct serial_state good, *s;
	struct state_writer *w;
	unsigned int i;

	(void)state;
	save_serial();
	s = saved_payload(&saved, STATE_SERIAL, 0);
	good = *s;
	for (i = 0; i < 6; i++) {
		*s = good;
		if (i == 0)
			s->ier = 0x10;
		else if (i == 1)
			s->mcr = 0x20;
		else if (i == 2)
			s->rx_count = SERIAL_RX_FIFO + 1;
		else if (i == 3)
			s->rx_count = UINT32_MAX;
		else if (i == 4)
			s->thr_pending = 2;
		else
			s->idle_polls = 33;
		assert_refused(&saved, serial_restore(&new.serial, saved_rewind(&saved), &saved.err), "SERL 0: ");
	}
	state_free(&saved.w);
	w = saved_begin(&saved);
	state_put(w, STATE_SERIAL, 0, &good, sizeof(good));
	state_put(w, STATE_SERIAL, 1, output, SERIAL_TX_BUFFER);
	state_put(w, STATE_SERIAL, 2, output, 1);
	saved_end(&saved);
	assert_refused(&saved, serial_restore(&new.serial, &saved.r, &saved.err), "SERL 1: more output");
	assert_int_equal(new.tx_wakes, 0);
	state_free(&saved.w);
	w = saved_begin(&saved);
	state_put(w, STATE_SERIAL, 0, &good, sizeof(good));
	state_put(w, STATE_SERIAL, 1, output, SERIAL_TX_BUFFER);
	saved_end(&saved);
	assert_refused(&saved, serial_restore(&new.serial, &saved.r, &saved.err), "SERL 2: this record is missing");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_ioapic_keeps_its_entries_and_what_is_pending, start, end),
		cmocka_unit_test_setup_teardown(an_ioapic_that_cannot_be_is_refused, start, end),
		cmocka_unit_test_setup_teardown(keys_not_read_yet_are_read_in_the_other_microvm, start, end),
		cmocka_unit_test_setup_teardown(a_keyboard_controller_that_cannot_be_is_refused, start, end),
		cmocka_unit_test_setup_teardown(the_serial_port_goes_on, start, end),
		cmocka_unit_test_setup_teardown(output_that_waits_interrupts_once_it_is_taken, start, end),
		cmocka_unit_test_setup_teardown(an_interrupt_not_acknowledged_stays, start, end),
		cmocka_unit_test_setup_teardown(a_guest_that_polls_still_gets_input, start, end),
		cmocka_unit_test_setup_teardown(a_serial_port_that_cannot_be_is_refused, start, end),
	};

	return cmocka_run_group_tests_name("legacy state", tests, NULL, NULL);
}
