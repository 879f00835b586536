/* stack.h: the metadata service as a station on the guest's network that exists nowhere else: ARP, IPv4, TCP, HTTP. */
#ifndef MAYFLY_MMDS_STACK_H
#define MAYFLY_MMDS_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "error.h"
#include "event_loop.h"
#include "mmds.h"

#define MMDS_MAC                                   \
	{                                          \
		0x06, 0x01, 0x23, 0x45, 0x67, 0x01 \
	} /* Firecracker's */

struct mmds_stack;

/*
 * mmds_stack_create - the service for one network interface
 * ipv4: its address, host byte order. ready(opaque) is called when frames wait for mmds_stack_to_guest: at the end of
 * mmds_stack_from_guest and from a timer. mmds and loop must outlive the stack. Memory for connections is mapped when
 * the first one arrives. 0 or -errno with a sentence. Loop thread only, as everything here.
 */
int mmds_stack_create(struct mmds_stack **out, struct mmds *mmds, uint32_t ipv4, struct event_loop *loop,
		      void (*ready)(void *opaque), void *opaque, struct error *err);
void mmds_stack_destroy(struct mmds_stack *stack);

/*
 * mmds_stack_from_guest - look at a frame of len bytes that the guest sends (the network hook's from_guest)
 * head: a private copy of its first bytes, all of it or at least 42; rest: the others, in guest memory. true: it was
 * for the service and must not go anywhere else. Bounded work: at most one request is answered for it, and
 * RESPONSE_BUDGET (tcp.c) worth of others that waited.
 */
bool mmds_stack_from_guest(void *stack, const void *head, size_t head_len, const struct iovec *rest,
			   unsigned int nr_rest, size_t len);

/*
 * mmds_stack_to_guest - write the next frame for the guest to buf (the network hook's to_guest)
 * At most 1514 bytes, with all checksums; size is at least 60, and what does not fit is sent in smaller segments.
 * Returns its length, 0: there is none.
 */
size_t mmds_stack_to_guest(void *stack, void *buf, size_t size);

#endif
