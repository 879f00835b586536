/* i8042.c: as much of the keyboard controller as a driver needs to find a keyboard that only ever sends Ctrl-Alt-Del.
 */
#include "legacy/i8042.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "metrics.h"
#include "snapshot/state.h"

enum { I8042_BASE = 0x60, I8042_SIZE = 5, PORT_DATA = 0, PORT_COMMAND = 4 };

/* Commands and bits as in IBM's PS/2 Technical Reference, "Keyboard and auxiliary device controller". */
enum {
	COMMAND_READ_CONTROL = 0x20,
	COMMAND_WRITE_CONTROL = 0x60,
	COMMAND_READ_OUTPUT = 0xd0,
	COMMAND_WRITE_OUTPUT = 0xd1,
	COMMAND_PULSE_RESET = 0xfe,
	STATUS_OUTPUT_FULL = 0x01,
	STATUS_NOT_LOCKED = 0x10,
	CONTROL_INTERRUPT = 0x01,
	OUTPUT_NOT_RESET = 0x01,
	KEYBOARD_READ_ID = 0xf2,
	KEYBOARD_RESET = 0xff,
	KEYBOARD_ACK = 0xfa,
	KEYBOARD_PASSED = 0xaa,
};

static const uint8_t keyboard_id[] = { 0xab, 0x83 };

/* Scan code set 2. Linux takes it untranslated, since bit 6 of the control byte is 0. */
static const uint8_t ctrl_alt_del[] = { 0x14, 0x11, 0xe0, 0x71 };

static void raise_if_wanted(struct i8042 *kbc)
{
	if (kbc->nr_keys && (kbc->control & CONTROL_INTERRUPT))
		kbc->irq(kbc->irq_opaque);
}

/* What does not fit is lost, as on a real one. */
static void push(struct i8042 *kbc, uint8_t byte)
{
	if (kbc->nr_keys < I8042_KEYS)
		kbc->key[kbc->nr_keys++] = byte;
}

static uint8_t pop(struct i8042 *kbc)
{
	uint8_t byte = kbc->key[0];

	if (!kbc->nr_keys)
		return 0;
	kbc->nr_keys--;
	memmove(kbc->key, kbc->key + 1, kbc->nr_keys);
	raise_if_wanted(kbc);
	return byte;
}

/* The input buffer is always free, so no driver waits for us. */
static void i8042_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	struct i8042 *kbc = opaque;
	uint8_t *out = data;

	metrics_inc(i8042_read_count);
	if (len != 1)
		return;
	pthread_mutex_lock(&kbc->lock);
	if (offset == PORT_DATA)
		*out = pop(kbc);
	else if (offset == PORT_COMMAND)
		*out = STATUS_NOT_LOCKED | (kbc->nr_keys ? STATUS_OUTPUT_FULL : 0);
	pthread_mutex_unlock(&kbc->lock);
}

static void run_command(struct i8042 *kbc, uint8_t command)
{
	kbc->command = 0;
	switch (command) {
	case COMMAND_READ_CONTROL:
		push(kbc, kbc->control);
		break;
	case COMMAND_READ_OUTPUT:
		push(kbc, kbc->output_port);
		break;
	case COMMAND_WRITE_CONTROL:
	case COMMAND_WRITE_OUTPUT:
		kbc->command = command;
		break;
	default:
		break; /* there is no second port, and nothing to test */
	}
}

/* Whatever the keyboard is told, it agrees; where an answer has to follow, nobody has to wait for it in vain. */
static void tell_keyboard(struct i8042 *kbc, uint8_t byte)
{
	push(kbc, KEYBOARD_ACK);
	if (byte == KEYBOARD_READ_ID) {
		push(kbc, keyboard_id[0]);
		push(kbc, keyboard_id[1]);
	} else if (byte == KEYBOARD_RESET) {
		push(kbc, KEYBOARD_PASSED);
	}
}

static void take_data(struct i8042 *kbc, uint8_t byte)
{
	if (kbc->command == COMMAND_WRITE_CONTROL)
		kbc->control = byte;
	else if (kbc->command == COMMAND_WRITE_OUTPUT)
		kbc->output_port = byte | OUTPUT_NOT_RESET;
	else
		tell_keyboard(kbc, byte);
	kbc->command = 0;
	raise_if_wanted(kbc);
}

static void i8042_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct i8042 *kbc = opaque;
	uint8_t byte = *(const uint8_t *)data;

	metrics_inc(i8042_write_count);
	if (len != 1)
		return;
	if (offset == PORT_COMMAND && byte == COMMAND_PULSE_RESET) {
		metrics_inc(i8042_reset_count);
		kbc->reset(kbc->opaque);
		return;
	}
	pthread_mutex_lock(&kbc->lock);
	if (offset == PORT_COMMAND)
		run_command(kbc, byte);
	else if (offset == PORT_DATA)
		take_data(kbc, byte);
	pthread_mutex_unlock(&kbc->lock);
}

int i8042_init(struct i8042 *kbc, struct bus *pio)
{
	static const struct bus_ops ops = { .read = i8042_read, .write = i8042_write };

	pthread_mutex_init(&kbc->lock, NULL);
	kbc->output_port = OUTPUT_NOT_RESET;
	return bus_add(pio, I8042_BASE, I8042_SIZE, &ops, kbc);
}

int i8042_ctrl_alt_del(struct i8042 *kbc, struct error *err)
{
	bool listening, room;
	size_t i;

	pthread_mutex_lock(&kbc->lock);
	listening = kbc->control & CONTROL_INTERRUPT;
	room = kbc->nr_keys + sizeof(ctrl_alt_del) <= I8042_KEYS;
	for (i = 0; listening && room && i < sizeof(ctrl_alt_del); i++)
		push(kbc, ctrl_alt_del[i]);
	if (listening && room)
		raise_if_wanted(kbc);
	pthread_mutex_unlock(&kbc->lock);
	if (!listening)
		return error_set(
			err, -ENODEV,
			"SendCtrlAltDel: the guest has no keyboard driver at work (needs CONFIG_SERIO_I8042 and "
			"CONFIG_KEYBOARD_ATKBD)");
	return room ? 0 : error_set(err, -EBUSY, "SendCtrlAltDel: the guest has not read the keys pressed before");
}

/* ---- in a state file ---- */

_Static_assert(sizeof(struct i8042_state) == 4 + I8042_KEYS, "no holes");

void i8042_save(struct i8042 *kbc, struct state_writer *w)
{
	struct i8042_state state = { 0 };

	pthread_mutex_lock(&kbc->lock);
	state.control = kbc->control;
	state.output_port = kbc->output_port;
	state.command = kbc->command;
	state.nr_keys = (uint8_t)kbc->nr_keys;
	memcpy(state.key, kbc->key, kbc->nr_keys);
	pthread_mutex_unlock(&kbc->lock);
	state_put(w, STATE_I8042, 0, &state, sizeof(state));
}

/* NULL, or what no guest could have brought about. */
static const char *wrong(const struct i8042_state *state)
{
	if (state->nr_keys > I8042_KEYS)
		return "more keys wait than the keyboard controller keeps";
	if (!(state->output_port & OUTPUT_NOT_RESET))
		return "the keyboard controller holds the reset line down";
	if (state->command && state->command != COMMAND_WRITE_CONTROL && state->command != COMMAND_WRITE_OUTPUT)
		return "a command of the keyboard controller waits that never does";
	return NULL;
}

int i8042_restore(struct i8042 *kbc, struct state_reader *r, struct error *err)
{
	struct i8042_state state;
	int ret = state_get(r, STATE_I8042, 0, &state, sizeof(state), sizeof(state), err);

	if (ret)
		return ret;
	if (wrong(&state))
		return state_bad(err, STATE_I8042, 0, wrong(&state));
	pthread_mutex_lock(&kbc->lock);
	kbc->control = state.control;
	kbc->output_port = state.output_port;
	kbc->command = state.command;
	kbc->nr_keys = state.nr_keys;
	memcpy(kbc->key, state.key, sizeof(kbc->key));
	pthread_mutex_unlock(&kbc->lock);
	return 0;
}
