/* fuzz.h: what every fuzz target shares: an input read as a program, a clock that it moves, a host that does no harm.
 */
#ifndef MAYFLY_FUZZ_H
#define MAYFLY_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "event_loop.h"

/* A broken promise is a finding like any crash. */
#define CHECK(condition)                                                                          \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

/* ---- the input ---- */

/* Bytes not read yet. Past the end everything is 0, so each prefix of a program is a program. */
struct input {
	const uint8_t *at;
	size_t left;
};

uint8_t take8(struct input *in);
uint16_t take16(struct input *in);
uint32_t take32(struct input *in);
uint64_t take64(struct input *in);
/* take_bytes - up to len bytes into buf, the rest of it zero; how many there were. */
size_t take_bytes(struct input *in, void *buf, size_t len);
/* take_span - the next len bytes, or as many as there are, where they lie. */
struct input take_span(struct input *in, size_t len);

/* ---- the host ---- */

/* Stands for the VM's descriptor: MSIs are counted, ioeventfds are kept. */
#define FUZZ_VM_FD 1000000
/* Sockets between here and there answer TUNGETIFF like a TAP whose frames have a vnet header. */
extern bool fuzz_sockets_are_taps;
/* No input follows: files are the host's own again (gcc's coverage counters are written at the exit). */
extern bool fuzz_over;

/* fuzz_file - opening path opens what fd is. Every other path does not exist, but for /dev/null. For this input. */
void fuzz_file(const char *path, int fd);

struct fuzz_host {
	uint64_t now_ns; /* every clock; moved by fuzz_pass_ns alone */
	unsigned long msis;
	int ioeventfd[4]; /* by datamatch; -1: none */
	/* Called before each access to guest memory that goes through its door; NULL: nothing happens there. */
	void (*on_access)(void);
};
extern struct fuzz_host fuzz_host;

/* fuzz_begin, fuzz_end - around each input: the host as new; no descriptor, timer or work of the loop was left. */
void fuzz_begin(struct event_loop *loop);
void fuzz_end(struct event_loop *loop);

static inline void fuzz_pass_ns(uint64_t ns)
{
	fuzz_host.now_ns += ns;
}

/* fuzz_turn - one turn of the loop for what is ready now; false: there was nothing. Waits for nothing. */
bool fuzz_turn(struct event_loop *loop);
/* fuzz_rest - turns until there is nothing to do; a finding when that does not come. */
void fuzz_rest(struct event_loop *loop);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#endif
