/* fork_server.h: a process that was split off before the guest ran, and becomes copies of the microVM when asked. */
#ifndef MAYFLY_FORK_SERVER_H
#define MAYFLY_FORK_SERVER_H

#include <jansson.h>

#include "error.h"
#include "jail.h"

/*
 * The microVM's own process may not start others: whatever a guest could make of it, that is not among it. This one
 * can, sees nothing of the guest, and reaches only /dev/kvm, /dev/net/tun and what --allow-path names, as do the
 * copies. They speak over a SOCK_SEQPACKET pair: one packet of JSON, a list of the copies wanted, with the descriptors
 * of state and memory; one packet back.
 */
#define FORK_MAX_COPIES  1024
#define FORK_PACKET_SIZE (256u << 10) /* bytes of JSON, at most */

/*
 * What a copy does, in its own process: it is `wanted`, an element of the list; report_fd is to get one newline when it
 * runs, or a sentence why not. Returns the exit code.
 */
typedef int fork_copy(void *opaque, json_t *wanted, int state_fd, int memory_fd, int report_fd);

/*
 * fork_server_start - split it off; *fd is the caller's end of the pair, closed on exec
 * While the process has one thread, before it confines itself by seccomp. confine() is called in the new process before
 * it serves; fd is what it serves by. 0, or a negative errno with a sentence.
 */
int fork_server_start(int *fd, int (*confine)(void *opaque, int fd, struct error *err), fork_copy *copy, void *opaque,
		      struct error *err);

/* fork_server_ask - send a request; the answer makes fd readable. 0, or a negative errno with a sentence. Loop thread.
 */
int fork_server_ask(int fd, const json_t *wanted, int state_fd, int memory_fd, struct error *err);

/* fork_server_answer - take it: process ids in the order of the list, the caller's to json_decref. NULL with *err: none
 * of them runs. Loop thread. */
json_t *fork_server_answer(int fd, struct error *err);

#endif
