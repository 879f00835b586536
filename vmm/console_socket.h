/* console_socket.h: the serial console on a Unix socket: the last output is kept, terminals come and go. */
#ifndef MAYFLY_CONSOLE_SOCKET_H
#define MAYFLY_CONSOLE_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "event_loop.h"

#define CONSOLE_SOCKET_CLIENTS 4
#define CONSOLE_SOCKET_RING    65536u /* bytes of output kept, a power of two; touched as the guest prints */

struct console_socket;

/*
 * console_socket_create - listen at path; what clients type goes to input(opaque, …), which returns how much it took
 * Everything on the loop thread. 0, or -errno with a sentence that starts with serial.serial_socket_path.
 * console_socket_destroy sends clients what they can take at once, and removes the socket.
 */
int console_socket_create(struct console_socket **out, const char *path, struct event_loop *loop,
			  size_t (*input)(void *opaque, const uint8_t *data, size_t n), void *opaque,
			  struct error *err);
void console_socket_destroy(struct console_socket *cs);

/* console_socket_output - keep n bytes of the guest's output and send them to who is there. Never waits for anybody. */
void console_socket_output(struct console_socket *cs, const uint8_t *data, size_t n);

/* console_socket_wants_input - input() may have room again. */
void console_socket_wants_input(struct console_socket *cs);

#endif
