/* state.h: the state file of a snapshot: tagged records in a fixed order, and a checksum over all of them. */
#ifndef MAYFLY_STATE_H
#define MAYFLY_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

/*
 * File: struct state_header, records, CRC-64 (as of XZ: ECMA-182, reflected) of all bytes before it. Record: struct
 * state_record, payload, zeros up to a multiple of 8. Little-endian, x86-64.
 *
 * A payload is a struct with no holes that only ever grows at its end: with each growth, and each new tag, the minor
 * version goes up. What an older minor version did not write reads as zeros. Another major version is refused, and so
 * is a newer minor one.
 */
#define STATE_MAGIC "MAYFLYVM" /* 8 bytes, no NUL */
#define STATE_MAJOR 1
#define STATE_MINOR 0
#define STATE_MAX   (64ul << 20) /* bytes: far more than 32 vCPUs and 19 devices need */

struct state_header {
	char magic[8];
	uint16_t major, minor;
	uint32_t zero;
	uint64_t size; /* bytes, of the whole file */
};

struct state_record {
	uint32_t tag;   /* STATE_… below */
	uint32_t index; /* which of several: vCPU, virtio transport (the slot), drive, … */
	uint32_t size;  /* bytes of payload */
	uint32_t flags; /* STATE_OPTIONAL */
};

/* Whoever does not know it may pass over it. */
#define STATE_OPTIONAL 1u

#define STATE_TAG(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* In the order of the file; those of one vCPU or one device stand together. */
enum state_tag {
	STATE_INFO = STATE_TAG('I', 'N', 'F', 'O'),     /* struct state_info */
	STATE_HOST = STATE_TAG('H', 'O', 'S', 'T'),     /* optional; cpu_check.h */
	STATE_CONFIG = STATE_TAG('C', 'O', 'N', 'F'),   /* JSON, as GET /vm/config answers; no NUL */
	STATE_METADATA = STATE_TAG('M', 'M', 'D', 'S'), /* JSON, the metadata service's contents; optional */
	STATE_IOAPIC = STATE_TAG('I', 'O', 'A', 'P'),
	STATE_I8042 = STATE_TAG('I', '8', '0', '4'),
	STATE_SERIAL = STATE_TAG('S', 'E', 'R', 'L'),
	STATE_VMGENID = STATE_TAG('V', 'G', 'I', 'D'),
	STATE_TRANSPORT = STATE_TAG('V', 'M', 'I', 'O'), /* of each virtio device, by slot; before the device's own */
	STATE_BLOCK = STATE_TAG('V', 'B', 'L', 'K'),
	STATE_NET = STATE_TAG('V', 'N', 'E', 'T'),
	STATE_VSOCK = STATE_TAG('V', 'S', 'C', 'K'),
	STATE_VCPU = STATE_TAG('V', 'C', 'P', 'U'),  /* of each vCPU: registers, events, … */
	STATE_CPUID = STATE_TAG('C', 'P', 'I', 'D'), /* struct kvm_cpuid_entry2[] */
	STATE_MSRS = STATE_TAG('M', 'S', 'R', 'S'),  /* struct kvm_msr_entry[] */
	STATE_XSAVE = STATE_TAG('X', 'S', 'A', 'V'), /* as KVM_GET_XSAVE2 fills it */
	STATE_CLOCK = STATE_TAG('C', 'L', 'C', 'K'), /* kvm-clock; last, since it goes with the vCPUs' TSCs */
};

#define STATE_ID_SIZE 16

/* What a reader wants to know first. */
struct state_info {
	uint8_t memory_id[STATE_ID_SIZE]; /* of the memory file that belongs to this state (memory_file.h) */
	uint64_t memory_size;             /* bytes of RAM */
	uint64_t created_ns;              /* CLOCK_REALTIME */
	char version[32];                 /* of the Mayfly that wrote it; NUL-terminated */
	char cpu[48];                     /* the processor's name as the guest sees it; NUL-terminated */
	uint32_t nr_vcpus;
	uint32_t nr_transports;
};

/* ---- writing ---- */

/* Zeroed before state_begin. One that runs out of memory fails at state_finish, not before. */
struct state_writer {
	uint8_t *data; /* malloc'ed; state_free */
	size_t len, room;
	bool failed;
};

void state_begin(struct state_writer *w);
/* state_put - append a record; state_put_optional - one that older readers of this major version may pass over. */
void state_put(struct state_writer *w, enum state_tag tag, uint32_t index, const void *payload, size_t size);
void state_put_optional(struct state_writer *w, enum state_tag tag, uint32_t index, const void *payload, size_t size);
/* state_finish - complete it: data[0 .. len) is the file then. 0, or -ENOMEM or -EFBIG with a sentence. */
int state_finish(struct state_writer *w, struct error *err);
void state_free(struct state_writer *w);

/* ---- reading ---- */

/* Nothing of the file is believed but what was checked; all bounds are. The data stays the caller's. */
struct state_reader {
	const uint8_t *data;
	size_t end; /* of the records */
	size_t at;
	uint16_t minor;
};

/* state_open - check header, size, version, checksum and that all records are whole. 0, or -EINVAL, -ENOTSUP (another
 * version) with a sentence. */
int state_open(struct state_reader *r, const void *data, size_t len, struct error *err);

/*
 * state_get - the next record, which must be this one: its payload, of at least `least` bytes (what its first version
 * had), goes to out; what is missing of `size` bytes is zeroed
 * state_view - the same, in place, for records of variable size, of any size that is a multiple of `unit`. Aligned to 8
 * bytes if data is. state_has - is it the next record? Optional records before it are passed over by all three. 0, or
 * -EINVAL with a sentence.
 */
int state_get(struct state_reader *r, enum state_tag tag, uint32_t index, void *out, size_t least, size_t size,
	      struct error *err);
int state_view(struct state_reader *r, enum state_tag tag, uint32_t index, const void **payload, size_t *size,
	       size_t unit, struct error *err);
bool state_has(struct state_reader *r, enum state_tag tag, uint32_t index);
/* state_end - was that all? 0, or -EINVAL with a sentence. */
int state_end(struct state_reader *r, struct error *err);

/* state_bad - for a record's reader: -EINVAL, and "the state file: VBLK 0: WHY". */
int state_bad(struct error *err, enum state_tag tag, uint32_t index, const char *why);

/* state_next - any next record, for tools that show them all; false at the end. */
bool state_next(struct state_reader *r, const struct state_record **record, const void **payload);

/* crc64 - of len bytes, going on from crc (0 at first). */
uint64_t crc64(uint64_t crc, const void *data, size_t len);

#endif
