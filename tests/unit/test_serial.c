/* test_serial.c: the UART as a 16550A driver sees it. */
#include "unit.h"

#include <linux/serial_reg.h>
#include <string.h>

#include "legacy/serial.h"

static struct serial serial;
static struct bus pio;
static unsigned int irqs, tx_wakes, rx_wakes;

static void count(void *opaque)
{
	++*(unsigned int *)opaque;
}

static void on_tx(void *opaque)
{
	(void)opaque;
	tx_wakes++;
}

static void on_rx(void *opaque)
{
	(void)opaque;
	rx_wakes++;
}

static int start(void **state)
{
	struct error err;

	(void)state;
	memset(&serial, 0, sizeof(serial));
	memset(&pio, 0, sizeof(pio));
	irqs = tx_wakes = rx_wakes = 0;
	serial.irq = count;
	serial.irq_opaque = &irqs;
	serial.tx_ready = on_tx;
	serial.rx_wanted = on_rx;
	return serial_init(&serial, &pio, &err);
}

static uint8_t in(unsigned int reg)
{
	uint8_t value;

	bus_read(&pio, SERIAL_COM1 + reg, &value, 1);
	return value;
}

static void out(unsigned int reg, uint8_t value)
{
	bus_write(&pio, SERIAL_COM1 + reg, &value, 1);
}

static void output_arrives_in_order(void **state)
{
	uint8_t got[16];

	(void)state;
	for (const char *c = "hello"; *c; c++)
		out(UART_TX, (uint8_t)*c);
	assert_int_equal(tx_wakes, 1); /* once for the lot: the loop takes all there is */
	assert_int_equal(serial_peek(&serial, got, sizeof(got)), 5);
	assert_memory_equal(got, "hello", 5);
	serial_consume(&serial, 2);
	assert_int_equal(serial_peek(&serial, got, sizeof(got)), 3);
	assert_memory_equal(got, "llo", 3);
}

static void input_interrupts_and_drains(void **state)
{
	(void)state;
	out(UART_IER, UART_IER_RDI);
	assert_int_equal(in(UART_LSR)&UART_LSR_DR, 0);
	serial_receive(&serial, (const uint8_t *)"ab", 2);
	assert_int_equal(irqs, 1);
	assert_int_equal(in(UART_IIR)&UART_IIR_ID, UART_IIR_RDI);
	rx_wakes = 0;
	assert_int_equal(in(UART_RX), 'a');
	assert_int_equal(rx_wakes, 0);
	assert_int_equal(in(UART_RX), 'b');
	assert_int_equal(rx_wakes, 1);
	assert_int_equal(in(UART_IIR)&UART_IIR_NO_INT, UART_IIR_NO_INT);
	assert_int_equal(in(UART_RX), 0);
}

static void a_guest_that_polls_is_heard_too(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 1000; i++) { /* a console that only prints */
		in(UART_LSR);
		out(UART_TX, 'x');
	}
	assert_int_equal(serial_rx_room(&serial), 0);
	for (unsigned int i = 0; i < 100; i++)
		in(UART_LSR);
	assert_int_equal(rx_wakes, 1);
	assert_int_equal(serial_rx_room(&serial), SERIAL_RX_FIFO);
}

static void input_never_overflows(void **state)
{
	uint8_t flood[SERIAL_RX_FIFO * 2] = { 0 };

	(void)state;
	assert_int_equal(serial_rx_room(&serial), 0); /* nobody listens yet */
	out(UART_IER, 0xf);                           /* as autoconfig() does, to see which bits stay */
	assert_int_equal(serial_rx_room(&serial), 0);
	out(UART_IER, UART_IER_RDI);
	assert_int_equal(rx_wakes, 0);
	out(UART_MCR, UART_MCR_OUT2);
	assert_int_equal(rx_wakes, 1);
	serial_receive(&serial, flood, sizeof(flood));
	assert_int_equal(serial_rx_room(&serial), 0);
	in(UART_RX);
	assert_int_equal(serial_rx_room(&serial), 1);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	assert_int_equal(serial_rx_room(&serial), SERIAL_RX_FIFO);
	assert_int_equal(rx_wakes, 2); /* whoever had more to say is asked again */
}

static void transmitter_empty_interrupts_once_per_cause(void **state)
{
	(void)state;
	out(UART_IER, UART_IER_THRI);
	assert_int_equal(irqs, 1);
	assert_int_equal(in(UART_IIR)&UART_IIR_ID, UART_IIR_THRI);
	assert_int_equal(in(UART_IIR)&UART_IIR_NO_INT, UART_IIR_NO_INT); /* reading it acknowledged it */
	out(UART_TX, 'x');
	assert_int_equal(irqs, 2);
}

/* Fill the buffer as a careful driver does: it asks before each FIFO-full. Nothing may be lost. */
static void a_slow_host_stalls_the_guest_and_loses_nothing(void **state)
{
	unsigned int sent = 0;
	uint8_t byte;

	(void)state;
	out(UART_IER, UART_IER_THRI);
	while (in(UART_LSR)&UART_LSR_THRE) {
		for (unsigned int i = 0; i < 16; i++)
			out(UART_TX, (uint8_t)sent++);
		assert_true(sent <= SERIAL_TX_BUFFER);
	}
	in(UART_IIR);
	irqs = 0;
	serial_consume(&serial, 0);
	assert_int_equal(irqs, 0);
	for (unsigned int i = 0; i < sent; i++) {
		assert_int_equal(serial_peek(&serial, &byte, 1), 1);
		assert_int_equal(byte, (uint8_t)i);
		serial_consume(&serial, 1);
	}
	assert_true(irqs >= 1); /* woken, as there is room again */
	assert_true(in(UART_LSR)&UART_LSR_THRE);
}

static void a_driver_that_does_not_ask_harms_nobody(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < SERIAL_TX_BUFFER * 2; i++)
		out(UART_TX, 'x');
	assert_int_equal(serial.tx_tail - serial.tx_head, SERIAL_TX_BUFFER);
}

static void drivers_recognise_a_16550a(void **state)
{
	(void)state;
	/* What Linux's autoconfig() does: IER keeps 4 bits, scratch keeps 8, loopback mirrors the modem lines, IIR
	 * shows FIFOs. */
	out(UART_IER, 0xff);
	assert_int_equal(in(UART_IER), 0x0f);
	out(UART_SCR, 0xa5);
	assert_int_equal(in(UART_SCR), 0xa5);
	out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
	assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS);
	out(UART_TX, 'z'); /* loops back instead of going out */
	assert_int_equal(in(UART_RX), 'z');
	out(UART_MCR, 0);
	assert_int_equal(in(UART_IIR)&0xc0, 0xc0);
	out(UART_LCR, UART_LCR_DLAB);
	out(UART_DLL, 12);
	out(UART_DLM, 1);
	assert_int_equal(in(UART_DLL) | in(UART_DLM) << 8, 0x10c);
	out(UART_LCR, UART_LCR_WLEN8);
	assert_int_equal(in(UART_LCR), UART_LCR_WLEN8);
}

static void odd_access_sizes_are_ignored(void **state)
{
	uint32_t wide = 0x41414141;

	(void)state;
	bus_write(&pio, SERIAL_COM1, &wide, 4);
	bus_write(&pio, SERIAL_COM1 + 7, &wide, 2); /* straddles the end */
	assert_int_equal(serial.tx_tail, 0);
	bus_read(&pio, SERIAL_COM1, &wide, 4);
	assert_int_equal(wide, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(output_arrives_in_order, start),
		cmocka_unit_test_setup(input_interrupts_and_drains, start),
		cmocka_unit_test_setup(a_guest_that_polls_is_heard_too, start),
		cmocka_unit_test_setup(input_never_overflows, start),
		cmocka_unit_test_setup(transmitter_empty_interrupts_once_per_cause, start),
		cmocka_unit_test_setup(a_slow_host_stalls_the_guest_and_loses_nothing, start),
		cmocka_unit_test_setup(a_driver_that_does_not_ask_harms_nobody, start),
		cmocka_unit_test_setup(drivers_recognise_a_16550a, start),
		cmocka_unit_test_setup(odd_access_sizes_are_ignored, start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
