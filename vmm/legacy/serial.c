/*
 * serial.c: the UART's registers and its two buffers.
 *
 * Output is never lost while the guest keeps to the rules: the transmitter reads "not empty" while the host is slow,
 * as a real UART under flow control would. vCPU threads only fill buffers; the loop thread moves bytes to and from the
 * host.
 */
#include "legacy/serial.h"

#include <linux/serial_reg.h>
#include <string.h>

#include "metrics.h"
#include "snapshot/state.h"

#define SERIAL_PORTS 8
/* A driver that saw "empty" may write a whole FIFO (16 bytes, up to 64 on clones) without asking again. */
#define TX_RESERVE      64
#define POLLS_TO_LISTEN 32u
#define IER_MASK        0x0fu
#define MCR_MASK        0x1fu

static uint32_t tx_used(const struct serial *s)
{
	return s->tx_tail - s->tx_head;
}

static bool tx_has_room(const struct serial *s)
{
	return tx_used(s) <= SERIAL_TX_BUFFER - TX_RESERVE;
}

/* Is there a condition that the guest enabled interrupts for? */
static bool interrupt_due(const struct serial *s)
{
	return ((s->ier & UART_IER_RDI) && s->rx_count) || ((s->ier & UART_IER_THRI) && s->thr_pending);
}

static uint8_t read_iir(struct serial *s)
{
	const uint8_t fifos_on = 0xc0;

	if ((s->ier & UART_IER_RDI) && s->rx_count)
		return fifos_on | UART_IIR_RDI;
	if ((s->ier & UART_IER_THRI) && s->thr_pending) {
		s->thr_pending = false; /* reading it is what acknowledges it */
		return fifos_on | UART_IIR_THRI;
	}
	return fifos_on | UART_IIR_NO_INT;
}

/* What the loop thread has to be told once the lock is released. */
struct wake {
	bool tx_ready, rx_wanted;
};

/* A driver opens the line to the interrupt controller with OUT2 (a PC's wiring) only once it has found and reset the
 * chip. */
static bool rx_interrupts_on(const struct serial *s)
{
	return (s->ier & UART_IER_RDI) && (s->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;
}

/*
 * Does the guest listen? While a driver starts up it clears the FIFO, and what was typed or piped in before would be
 * lost: so input waits until receive interrupts are on, or the line status is read again and again with nothing sent.
 */
static bool guest_listens(const struct serial *s)
{
	return rx_interrupts_on(s) || s->idle_polls >= POLLS_TO_LISTEN;
}

static uint8_t read_lsr(struct serial *s, struct wake *wake)
{
	uint8_t lsr = s->rx_count ? UART_LSR_DR : 0;

	if (tx_has_room(s))
		lsr |= UART_LSR_THRE | UART_LSR_TEMT;
	else
		s->tx_stalled = true;
	if (s->idle_polls < POLLS_TO_LISTEN && ++s->idle_polls == POLLS_TO_LISTEN)
		wake->rx_wanted = true;
	return lsr;
}

static uint8_t read_rbr(struct serial *s, struct wake *wake)
{
	uint8_t byte;

	if (!s->rx_count)
		return 0;
	byte = s->rx[s->rx_head];
	s->rx_head = (s->rx_head + 1) % SERIAL_RX_FIFO;
	s->rx_count--;
	wake->rx_wanted = s->rx_count == 0;
	metrics_inc(uart_read_count);
	return byte;
}

static uint8_t read_register(struct serial *s, uint64_t offset, struct wake *wake)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	switch (offset) {
	case UART_RX:
		return dlab ? s->dll : read_rbr(s, wake);
	case UART_IER:
		return dlab ? s->dlm : s->ier;
	case UART_IIR:
		return read_iir(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return read_lsr(s, wake);
	case UART_MSR:
		if (s->mcr & UART_MCR_LOOP) /* the modem lines come back: how drivers tell that the chip is there */
			return (uint8_t)((s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
					 (s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
					 (s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
					 (s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0));
		return UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
	default:
		return s->scr;
	}
}

static void transmit(struct serial *s, uint8_t byte, struct wake *wake)
{
	if (s->mcr & UART_MCR_LOOP) {
		if (s->rx_count < SERIAL_RX_FIFO)
			s->rx[(s->rx_head + s->rx_count++) % SERIAL_RX_FIFO] = byte;
		return;
	}
	if (tx_used(s) == SERIAL_TX_BUFFER) {
		metrics_inc(uart_missed_write_count);
		return;
	}
	s->idle_polls = 0;
	wake->tx_ready = tx_used(s) == 0;
	s->tx[s->tx_tail++ % SERIAL_TX_BUFFER] = byte;
	metrics_inc(uart_write_count);
	if (tx_has_room(s))
		s->thr_pending = true;
	else
		s->tx_stalled = true;
}

static void write_ier(struct serial *s, uint8_t value)
{
	uint8_t enabled = value & (uint8_t)~s->ier;

	/* Enabling the transmitter interrupt while it is empty fires it. */
	if ((enabled & UART_IER_THRI) && tx_has_room(s))
		s->thr_pending = true;
	s->ier = value & IER_MASK;
}

static void write_register(struct serial *s, uint64_t offset, uint8_t value, struct wake *wake)
{
	bool dlab = s->lcr & UART_LCR_DLAB, listened = rx_interrupts_on(s);

	switch (offset) {
	case UART_TX:
		if (dlab)
			s->dll = value;
		else
			transmit(s, value, wake);
		break;
	case UART_IER:
		if (dlab)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case UART_FCR:
		if (value & UART_FCR_CLEAR_RCVR) {
			s->rx_count = 0;
			wake->rx_wanted = true;
		}
		break;
	case UART_LCR:
		s->lcr = value;
		break;
	case UART_MCR:
		s->mcr = value & MCR_MASK;
		break;
	case UART_SCR:
		s->scr = value;
		break;
	default:
		break;
	}
	wake->rx_wanted |= rx_interrupts_on(s) && !listened;
}

static void tell(struct serial *s, const struct wake *wake)
{
	if (wake->tx_ready)
		s->tx_ready(s->opaque);
	if (wake->rx_wanted)
		s->rx_wanted(s->opaque);
}

static void serial_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	struct serial *s = opaque;
	struct wake wake = { 0 };

	if (len != 1)
		return;
	pthread_mutex_lock(&s->lock);
	*(uint8_t *)data = read_register(s, offset, &wake);
	pthread_mutex_unlock(&s->lock);
	tell(s, &wake);
}

static void serial_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct serial *s = opaque;
	struct wake wake = { 0 };
	bool was_due, due;

	if (len != 1)
		return;
	pthread_mutex_lock(&s->lock);
	was_due = interrupt_due(s);
	write_register(s, offset, *(const uint8_t *)data, &wake);
	due = interrupt_due(s) && (!was_due || offset == UART_TX);
	pthread_mutex_unlock(&s->lock);
	tell(s, &wake);
	if (due)
		s->irq(s->irq_opaque);
}

size_t serial_rx_room(struct serial *s)
{
	size_t room;

	pthread_mutex_lock(&s->lock);
	room = guest_listens(s) ? SERIAL_RX_FIFO - s->rx_count : 0;
	pthread_mutex_unlock(&s->lock);
	return room;
}

void serial_receive(struct serial *s, const uint8_t *data, size_t n)
{
	bool due;
	size_t i;

	pthread_mutex_lock(&s->lock);
	for (i = 0; i < n && s->rx_count < SERIAL_RX_FIFO; i++)
		s->rx[(s->rx_head + s->rx_count++) % SERIAL_RX_FIFO] = data[i];
	due = (s->ier & UART_IER_RDI) && s->rx_count;
	pthread_mutex_unlock(&s->lock);
	if (due)
		s->irq(s->irq_opaque);
}

size_t serial_peek(struct serial *s, uint8_t *out, size_t max)
{
	size_t n;

	pthread_mutex_lock(&s->lock);
	for (n = 0; n < max && n < tx_used(s); n++)
		out[n] = s->tx[(s->tx_head + n) % SERIAL_TX_BUFFER];
	pthread_mutex_unlock(&s->lock);
	return n;
}

void serial_consume(struct serial *s, size_t n)
{
	bool due = false;

	pthread_mutex_lock(&s->lock);
	s->tx_head += (uint32_t)n;
	if (s->tx_stalled && tx_has_room(s)) {
		s->tx_stalled = false;
		s->thr_pending = true;
		due = s->ier & UART_IER_THRI;
	}
	pthread_mutex_unlock(&s->lock);
	if (due)
		s->irq(s->irq_opaque);
}

int serial_init(struct serial *s, struct bus *pio, struct error *err)
{
	static const struct bus_ops ops = { .read = serial_read, .write = serial_write };
	int ret;

	pthread_mutex_init(&s->lock, NULL);
	s->dll = 1; /* 115200 baud */
	s->lcr = UART_LCR_WLEN8;
	ret = bus_add(pio, SERIAL_COM1, SERIAL_PORTS, &ops, s);
	return ret ? error_set(err, ret, "serial: ports 0x3f8-0x3ff are taken") : 0;
}

/* ---- in a state file ---- */

/* Of the output, what lies before the end of its ring, and what lies after it: nothing has to be copied together. */
enum { RECORD_REGISTERS, RECORD_OUTPUT, RECORD_OUTPUT_REST };

_Static_assert(sizeof(struct serial_state) == 8 + 8 + SERIAL_RX_FIFO, "no holes");

void serial_save(struct serial *s, struct state_writer *w)
{
	struct serial_state state = { 0 };
	uint32_t i, first, head;

	pthread_mutex_lock(&s->lock);
	state.ier = s->ier;
	state.lcr = s->lcr;
	state.mcr = s->mcr;
	state.scr = s->scr;
	state.dll = s->dll;
	state.dlm = s->dlm;
	state.thr_pending = s->thr_pending;
	state.tx_stalled = s->tx_stalled;
	state.idle_polls = s->idle_polls;
	state.rx_count = s->rx_count;
	for (i = 0; i < s->rx_count; i++)
		state.rx[i] = s->rx[(s->rx_head + i) % SERIAL_RX_FIFO];
	state_put(w, STATE_SERIAL, RECORD_REGISTERS, &state, sizeof(state));
	head = s->tx_head % SERIAL_TX_BUFFER;
	first = tx_used(s) < SERIAL_TX_BUFFER - head ? tx_used(s) : SERIAL_TX_BUFFER - head;
	state_put(w, STATE_SERIAL, RECORD_OUTPUT, s->tx + head, first);
	state_put(w, STATE_SERIAL, RECORD_OUTPUT_REST, s->tx, tx_used(s) - first);
	pthread_mutex_unlock(&s->lock);
}

/* NULL, or what no guest could have brought about. */
static const char *wrong(const struct serial_state *state)
{
	if (state->ier & ~IER_MASK || state->mcr & ~MCR_MASK)
		return "a register of the serial port has bits that it does not have";
	if (state->thr_pending > 1 || state->tx_stalled > 1 || state->idle_polls > POLLS_TO_LISTEN)
		return "the serial port is in no state that it can be in";
	if (state->rx_count > SERIAL_RX_FIFO)
		return "more input waits than the serial port's FIFO takes";
	return NULL;
}

static void set_registers(struct serial *s, const struct serial_state *state)
{
	s->ier = state->ier;
	s->lcr = state->lcr;
	s->mcr = state->mcr;
	s->scr = state->scr;
	s->dll = state->dll;
	s->dlm = state->dlm;
	s->thr_pending = state->thr_pending;
	s->tx_stalled = state->tx_stalled;
	s->idle_polls = state->idle_polls;
	s->rx_head = 0;
	s->rx_count = state->rx_count;
	memcpy(s->rx, state->rx, sizeof(s->rx));
}

/* The two records of output, to be copied once nothing can fail any more. */
struct output {
	const void *part[2];
	size_t len[2];
};

static int view_output(struct state_reader *r, struct output *output, struct error *err)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < 2 && !ret; i++)
		ret = state_view(r, STATE_SERIAL, RECORD_OUTPUT + i, &output->part[i], &output->len[i], 1, err);
	/* Each is at most STATE_MAX. */
	if (!ret && output->len[0] + output->len[1] > SERIAL_TX_BUFFER)
		ret = state_bad(err, STATE_SERIAL, RECORD_OUTPUT, "more output waits than the serial port keeps");
	return ret;
}

int serial_restore(struct serial *s, struct state_reader *r, struct error *err)
{
	struct output output = { 0 };
	struct serial_state state;
	struct wake wake;
	int ret = state_get(r, STATE_SERIAL, RECORD_REGISTERS, &state, sizeof(state), sizeof(state), err);

	if (!ret && wrong(&state))
		ret = state_bad(err, STATE_SERIAL, RECORD_REGISTERS, wrong(&state));
	if (!ret)
		ret = view_output(r, &output, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&s->lock);
	set_registers(s, &state);
	memcpy(s->tx, output.part[0], output.len[0]);
	memcpy(s->tx + output.len[0], output.part[1], output.len[1]);
	s->tx_head = 0;
	s->tx_tail = (uint32_t)(output.len[0] + output.len[1]);
	wake = (struct wake){ .tx_ready = s->tx_tail != 0, .rx_wanted = guest_listens(s) };
	pthread_mutex_unlock(&s->lock);
	tell(s, &wake);
	return 0;
}
