/* proof.h: what the drivers are made of: values that stand for every value, and guest memory that nobody can trust. */
#ifndef MAYFLY_PROOFS_PROOF_H
#define MAYFLY_PROOFS_PROOF_H

#include <__fc_builtin.h>
#include <stdint.h>
#include <stdlib.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

#define UP_TO(max)     Frama_C_unsigned_long_interval(0, (max))
#define ANY_U16()      Frama_C_unsigned_short_interval(0, UINT16_MAX)
#define ANY_U32()      Frama_C_unsigned_int_interval(0, UINT32_MAX)
#define ANY_U64()      UP_TO(UINT64_MAX)
#define MULTIPLE_OF(n) (UP_TO(UINT64_MAX / (n)) * (n))
#define ANY_BOOL()     ((bool)Frama_C_interval(0, 1))
#define ANY_OF(list)   ((list)[Frama_C_interval_split(0, sizeof(list) / sizeof((list)[0]) - 1)])

#endif
