/* console.h: the host's end of the serial port: standard input and output, or a file. */
#ifndef MAYFLY_CONSOLE_H
#define MAYFLY_CONSOLE_H

#include <stdbool.h>
#include <termios.h>

#include "config.h"
#include "console_socket.h"
#include "event_loop.h"
#include "legacy/serial.h"
#include "rate_limiter.h"
#include "snapshot/state.h"

#define CONSOLE_TYPED_MAX 1024

struct console {
	struct serial *serial;
	struct event_loop *loop;
	struct event_fd in, out;
	struct event_work tx_work, rx_work;
	struct event_timer throttle, in_retry;
	struct rate_limiter limiter;
	uint64_t owed; /* bytes written that the limiter has not been asked for yet */
	bool in_watched, out_watched;
	bool terminal;                    /* standard input is a terminal that we put into raw mode */
	bool escape;                      /* the byte before was Ctrl-A */
	uint8_t typed[CONSOLE_TYPED_MAX]; /* input that the guest has not taken yet */
	size_t nr_typed;
	struct termios saved;
	struct console_socket *sock; /* NULL: none */
	int watcher_fd;              /* see terminal_watcher() */
	void (*quit)(void *opaque);  /* the person typed Ctrl-A x; loop thread */
	void *opaque;
};

/*
 * console_init - connect serial to where cfg says; a terminal becomes raw (Ctrl-A x ends the microVM, Ctrl-A twice
 * types one) Sets serial's tx_ready, rx_wanted and opaque. 0 or -errno with a sentence naming serial.serial_out_path.
 * Start-up thread, before guest memory and disks are there: it forks the process that puts the terminal right should
 * this one be killed.
 */
int console_init(struct console *con, struct serial *serial, const struct serial_config *cfg, struct event_loop *loop,
		 struct error *err);

/*
 * console_save, console_restore - the input that was read and that the guest has not taken, STATE_SERIAL 3
 * 0, or -EINVAL with a sentence. No vCPU runs.
 */
void console_save(const struct console *con, struct state_writer *w);
int console_restore(struct console *con, struct state_reader *r, struct error *err);

/*
 * console_finish - write what output is left (bounded in time), let go of the loop, restore the terminal
 * con is as before console_init then. Loop thread, or after it ended; no vCPU runs.
 */
void console_finish(struct console *con);

#endif
