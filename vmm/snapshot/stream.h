/* stream.h: a microVM on its way to another process: what is sent, and how to get at the socket that carries it. */
#ifndef MAYFLY_SNAPSHOT_STREAM_H
#define MAYFLY_SNAPSHOT_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "snapshot/state.h"

/*
 * One way, in order: struct stream_header, then parts, each a struct stream_part and what its type says. RAM begins as
 * zeros; of a page that comes twice the later one counts. Exactly one STREAM_STATE follows the last of RAM, and
 * STREAM_END that. Little-endian; RAM is counted as in a memory file (memory_file.h).
 */
#define STREAM_MAGIC    "MAYFLYST" /* 8 bytes, no NUL */
#define STREAM_VERSION  1
#define STREAM_PART_MAX (1u << 20) /* bytes of RAM in a part */

struct stream_header {
	char magic[8];
	uint16_t version;
	uint16_t zero[3];
	uint64_t memory_size;      /* bytes of RAM */
	uint8_t id[STATE_ID_SIZE]; /* struct state_info, memory_id */
};

enum stream_part_type {
	STREAM_PAGES = 1, /* len bytes of RAM, which follow, go to at; both multiples of GM_PAGE */
	STREAM_ZEROS = 2, /* so many bytes there are zeros (again); nothing follows */
	STREAM_STATE = 3, /* a state file of len bytes follows */
	STREAM_END = 4,   /* nothing follows; len 0 */
};

struct stream_part {
	uint32_t type; /* enum stream_part_type */
	uint32_t zero;
	uint64_t at, len; /* bytes */
};

/* stream_has_name - may name stand for a stream, rather than for a file? Any thread. */
bool stream_has_name(const char *name);

/*
 * stream_open - "unix:/path" connects to whoever listens there, "fd:N" is an inherited socket or, to be read from, pipe
 * A descriptor for the caller to close, or a negative errno with a sentence. Loop thread.
 */
int stream_open(const char *name, struct error *err);

#endif
