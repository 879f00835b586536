/* layout.h: the numbers that start.S, guest.ld and the C files must agree on. */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

/*
 * The image starts at 1 MiB, where every loader accepts it. Descriptor tables and exception entries have fixed
 * addresses, so that the split address fields of gates and of the TSS descriptor are assembly-time constants and no
 * instruction has to build them.
 */
#define TABLES_ADDR 0x100000
#define TSS_OFFSET  0x40
#define TSS_ADDR    (TABLES_ADDR + TSS_OFFSET)
#define STUBS_ADDR  0x110000
#define STUB_SIZE   16

/* Where the second vCPU starts: a page below 640 KiB, whose number is in the SIPI, that no loader uses any more. */
#define AP_ADDR  0x10000
#define AP_STACK 16384

/* Selectors. */
#define SEL_CODE0 0x08
#define SEL_DATA0 0x10
#define SEL_DATA3 (0x18 | 3)
#define SEL_CODE3 (0x20 | 3)
#define SEL_TSS   0x28

#define VECTORS 32

/* What service() can do. */
#define SERVICE_IDLE  1 /* hlt for ever, interrupts off */
#define SERVICE_CRASH 2 /* triple fault */

/* How the machine was entered: the first argument of guest_main(). */
#define ENTERED_LINUX64 0
#define ENTERED_PVH     1

#endif
