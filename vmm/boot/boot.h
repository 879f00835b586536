/* boot.h: put a kernel, its initrd, command line and boot parameters into guest memory. */
#ifndef MAYFLY_BOOT_H
#define MAYFLY_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "guest_memory.h"

/* How the first vCPU must start. */
enum boot_protocol {
	BOOT_LINUX64, /* 64-bit boot protocol: long mode, rsi = boot_params (Documentation/arch/x86/boot.rst, 1.15) */
	BOOT_PVH,     /* PVH: 32-bit protected mode, ebx = hvm_start_info (xen/interface/hvm/start_info.h) */
};

/*
 * Fixed guest addresses below 1 MiB, each written once by boot (the room ends at the next one). What every boot needs
 * shares one page, because each guest page touched before the first instruction is a page fault.
 */
enum boot_layout {
	BOOT_GDT_GPA = 0x6000,
	BOOT_PVH_INFO_GPA = 0x6100, /* hvm_start_info, modlist, memmap */
	BOOT_CMDLINE_GPA = 0x6800,  /* BOOT_CMDLINE_MAX bytes and a NUL */
	BOOT_PARAMS_GPA = 0x7000,   /* struct boot_params ("zero page") */
	BOOT_STACK_GPA = 0x8ff0,
	BOOT_PAGE_TABLES_GPA = 0x9000, /* PML4, PDPT, PD: 3 pages */
	BOOT_EBDA_GPA = 0x9fc00,       /* end of low RAM; the MP table in the last KiB before the VGA hole */
	BOOT_VGA_GPA = 0xa0000,
	BOOT_ACPI_GPA = 0xe0000,    /* RSDP and tables */
	BOOT_VMGENID_GPA = 0xe0ff0, /* the generation ID: the last 16 bytes of their page */
	BOOT_HIGH_GPA = 0x100000,
};

#define BOOT_CMDLINE_MAX   2047         /* bytes without the NUL: x86 COMMAND_LINE_SIZE - 1 */
#define BOOT_IDENTITY_SIZE (1ull << 30) /* guest bytes from 0 that the page tables of BOOT_LINUX64 map */

struct boot_images {
	const char *kernel_path;
	const char *initrd_path; /* NULL: none */
	const char *cmdline;     /* complete */
	uint64_t acpi_rsdp_gpa;  /* 0: none */
};

struct boot_entry {
	enum boot_protocol protocol;
	uint64_t entry_gpa;  /* rip */
	uint64_t params_gpa; /* rsi or ebx */
	uint64_t kernel_end; /* gpa after the kernel: for the log */
	uint64_t initrd_gpa, initrd_size;
};

/*
 * boot_load - load everything and say how to start
 * Tells an ELF vmlinux from a bzImage by content. Refuses what does not fit or lies about itself, with a sentence that
 * begins with the field (boot-source.kernel_image_path, boot-source.initrd_path, boot-source.boot_args). Writes nothing
 * outside RAM. Start-up thread.
 */
int boot_load(struct guest_memory *gm, const struct boot_images *img, struct boot_entry *out, struct error *err);

#endif
