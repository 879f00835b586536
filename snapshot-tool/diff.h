/* diff.h: the list of differences between two state files, A and B. */
#ifndef MAYFLY_SNAPSHOT_DIFF_H
#define MAYFLY_SNAPSHOT_DIFF_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Each is an object: "record"; "where" in it, "" for all of it; "a" and "b", what stands there, without the one or the
 * other where it has nothing; "bits" of a register, "names" of those that have one; "bytes" and "offset" for contents
 * that nobody here can read.
 */

/* diff_add - one difference; takes a and b, of which one may be NULL. Returns it, for more to be set, or NULL. */
json_t *diff_add(json_t *list, const char *record, const char *where, json_t *a, json_t *b);

/* diff_cpuid, diff_msrs - the contents of two such records, sizes in bytes; what is not a whole entry is left out. */
void diff_cpuid(json_t *list, const char *record, const void *a, size_t a_size, const void *b, size_t b_size);
void diff_msrs(json_t *list, const char *record, const void *a, size_t a_size, const void *b, size_t b_size);

/* cpuid_bit_name - as in /proc/cpuinfo; NULL: it has none here. reg: 0 to 3, EAX to EDX. msr_name - NULL, too. */
const char *cpuid_bit_name(uint32_t leaf, uint32_t subleaf, unsigned int reg, unsigned int bit);
const char *msr_name(uint32_t index);

#endif
