/* io.h: ports, MMIO, barriers and the time stamp counter. */
#ifndef GUEST_IO_H
#define GUEST_IO_H

#include <stdint.h>

#define DEFINE_PORT(bits, suffix)                                                               \
	static inline void out##bits(uint16_t port, uint##bits##_t value)                       \
	{                                                                                       \
		__asm__ volatile("out" suffix " %0, %1" : : "a"(value), "Nd"(port) : "memory"); \
	}                                                                                       \
	static inline uint##bits##_t in##bits(uint16_t port)                                    \
	{                                                                                       \
		uint##bits##_t value;                                                           \
                                                                                                \
		__asm__ volatile("in" suffix " %1, %0" : "=a"(value) : "Nd"(port) : "memory");  \
		return value;                                                                   \
	}

/*
 * Plain mov instructions with a register operand: the compiler must neither split, merge nor fold these, because each
 * one is meant to be exactly one access of exactly this size.
 */
#define DEFINE_MMIO(bits, suffix)                                                                \
	static inline void mmio_write##bits(uint64_t addr, uint##bits##_t value)                 \
	{                                                                                        \
		__asm__ volatile("mov" suffix " %0, (%1)" : : "r"(value), "r"(addr) : "memory"); \
	}                                                                                        \
	static inline uint##bits##_t mmio_read##bits(uint64_t addr)                              \
	{                                                                                        \
		uint##bits##_t value;                                                            \
                                                                                                 \
		__asm__ volatile("mov" suffix " (%1), %0" : "=r"(value) : "r"(addr) : "memory"); \
		return value;                                                                    \
	}

DEFINE_PORT(8, "b")
DEFINE_PORT(16, "w")
DEFINE_PORT(32, "l")
DEFINE_MMIO(8, "b")
DEFINE_MMIO(16, "w")
DEFINE_MMIO(32, "l")
DEFINE_MMIO(64, "q")

/* A string write: one instruction, many bytes, one exit with count > 1 on KVM. */
static inline void outs8(uint16_t port, const void *data, uint64_t count)
{
	__asm__ volatile("rep outsb" : "+S"(data), "+c"(count) : "d"(port) : "memory");
}

static inline uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* Written before the device is told about it; stores must not pass a later load (the avail index / avail_event pair).
 */
static inline void full_barrier(void)
{
	__sync_synchronize();
}

#endif
