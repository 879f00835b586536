/* gnu.h: what gcc and glibc give the product's sources and Frama-C does not know, with exactly their meaning. */
#ifndef MAYFLY_PROOFS_GNU_H
#define MAYFLY_PROOFS_GNU_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

/* As glibc has it: Frama-C's own is a long long, and mayfly_proofs.ml gives that 128 bits. */
#undef UINT64_MAX
#define UINT64_MAX 18446744073709551615UL

/* Values that gcc predefines. Frama-C analyses one thread, for which an order says nothing. */
#ifndef __ATOMIC_RELAXED
#define __ATOMIC_RELAXED 0
#define __ATOMIC_ACQUIRE 2
#define __ATOMIC_RELEASE 3
#define __ATOMIC_SEQ_CST 5
#endif

/*
 * An atomic load of memory that the guest shares yields anything, whatever was stored or loaded there before: that is
 * the guest's other vCPU at work. \offset: aligned within the guest's region, which starts on a page.
 */
/*@ requires readable: \valid_read(p);
    requires aligned: \offset(p) % sizeof(*p) == 0;
    assigns \result \from \nothing;
    ensures 0 <= \result <= UINT16_MAX; */
uint16_t proof_atomic_load16(const uint16_t *p, int order);
#define __atomic_load_n(p, order) proof_atomic_load16((p), (order))

/*@ requires writable: \valid(p);
    requires aligned: \offset(p) % sizeof(*p) == 0;
    assigns *p \from value;
    ensures *p == value; */
void proof_atomic_store16(uint16_t *p, uint16_t value, int order);
#define __atomic_store_n(p, value, order) proof_atomic_store16((p), (value), (order))

/*@ assigns \nothing; */
void proof_fence(int order);
#define __atomic_thread_fence(order) proof_fence(order)

/* gcc: the sum modulo 2^64 is stored; true when it is not the sum. */
/*@ requires writable: \valid(sum);
    assigns *sum, \result \from a, b;
    ensures stored: \initialized(sum);
    behavior fits:
      assumes a + b <= UINT64_MAX;
      ensures \result == 0;
      ensures *sum == a + b;
    behavior wraps:
      assumes a + b > UINT64_MAX;
      ensures \result == 1;
      ensures *sum == a + b - UINT64_MAX - 1;
    complete behaviors;
    disjoint behaviors; */
bool proof_add_overflow(uint64_t a, uint64_t b, uint64_t *sum);
#define __builtin_add_overflow(a, b, sum) proof_add_overflow((a), (b), (sum))

/* mayfly_proofs.ml: long long has 128 bits where this is used. */
#define __int128 long long

/* glibc declares it in <sys/mman.h>, Frama-C does not. */
int madvise(void *addr, unsigned long len, int advice);

/* glibc's <endian.h> on x86: the identity, on the fixed width. */
#define htole16(x) ((uint16_t)(x))
#define htole32(x) ((uint32_t)(x))
#define le16toh(x) ((uint16_t)(x))
#define le32toh(x) ((uint32_t)(x))
#define le64toh(x) ((uint64_t)(x))

#endif
