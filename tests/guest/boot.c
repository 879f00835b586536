/* boot.c: reads what the loader left: command line, RAM map, virtio-mmio devices. */
#include <asm/bootparam.h>

#include "guest.h"
#include "layout.h"

#define HVM_START_MAGIC 0x336ec578
#define PVH_MEMMAP_RAM  1
#define E820_RAM        1

/* Xen's public start_info.h, version 1. */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

static void add_ram(struct guest *g, uint64_t start, uint64_t len)
{
	if (len && g->nr_ram < MAX_RAM_RANGES)
		g->ram[g->nr_ram++] = (struct ram_range){ start, start + len };
}

static void copy_cmdline(struct guest *g, uint64_t addr)
{
	const char *text = (const char *)addr;
	size_t i;

	for (i = 0; addr && i < CMDLINE_MAX - 1 && text[i]; i++)
		g->cmdline[i] = text[i];
}

static void parse_linux64(struct guest *g, uint64_t info)
{
	const struct boot_params *bp = (const struct boot_params *)info;
	unsigned int i;

	copy_cmdline(g, bp->hdr.cmd_line_ptr | (uint64_t)bp->ext_cmd_line_ptr << 32);
	for (i = 0; i < bp->e820_entries && i < E820_MAX_ENTRIES_ZEROPAGE; i++) {
		if (bp->e820_table[i].type == E820_RAM)
			add_ram(g, bp->e820_table[i].addr, bp->e820_table[i].size);
	}
}

static void parse_pvh(struct guest *g, uint64_t info)
{
	const struct hvm_start_info *si = (const struct hvm_start_info *)info;
	const struct hvm_memmap_entry *map;
	unsigned int i;

	if (si->magic != HVM_START_MAGIC)
		return;
	copy_cmdline(g, si->cmdline_paddr);
	map = (const struct hvm_memmap_entry *)si->memmap_paddr;
	for (i = 0; si->version >= 1 && i < si->memmap_entries; i++) {
		if (map[i].type == PVH_MEMMAP_RAM)
			add_ram(g, map[i].addr, map[i].size);
	}
}

/* virtio_mmio.device=<size>@<base>:<irq>[:<id>], as Linux takes it. */
static void parse_device(struct guest *g, const char *s)
{
	uint64_t size, base;

	if (!parse_number(s, &size, &s) || *s != '@' || !parse_number(s + 1, &base, &s))
		return;
	/* CPL 3 sees 4 GiB and no more. */
	if (g->nr_devices < MAX_DEVICES && base < (1ull << 32))
		g->device[g->nr_devices++] = base;
}

static void parse_devices(struct guest *g)
{
	const char *s = g->cmdline;
	const char *value;

	while (*s) {
		value = starts_with(s, "virtio_mmio.device=");
		if (value)
			parse_device(g, value);
		while (*s && *s != ' ')
			s++;
		while (*s == ' ')
			s++;
	}
}

uint64_t ram_end(const struct guest *g)
{
	uint64_t end = 0;
	unsigned int i;

	for (i = 0; i < g->nr_ram; i++) {
		if (g->ram[i].end > end)
			end = g->ram[i].end;
	}
	return end;
}

bool is_ram(const struct guest *g, uint64_t addr)
{
	unsigned int i;

	for (i = 0; i < g->nr_ram; i++) {
		if (addr >= g->ram[i].start && addr < g->ram[i].end)
			return true;
	}
	return false;
}

/* The arena is the rest of the range that holds the image, less its last page, which hostile chains point across. */
static void find_arena(struct guest *g)
{
	uint64_t image_end = (uint64_t)guest_end;
	unsigned int i;

	for (i = 0; i < g->nr_ram; i++) {
		if (g->ram[i].start < image_end && g->ram[i].end > image_end + 4096) {
			g->arena = image_end;
			g->arena_end = g->ram[i].end - 4096;
		}
	}
	/* ACPI tables, command line and such sit at either end of RAM with some loaders; none uses more than 1 MiB. */
	if (g->arena_end > g->arena + (8ull << 20))
		g->arena_end -= 1ull << 20;
	if (g->arena_end > 1ull << 32)
		g->arena_end = 1ull << 32;
}

void boot_parse(struct guest *g, unsigned int how, uint64_t info)
{
	if (how == ENTERED_PVH)
		parse_pvh(g, info);
	else
		parse_linux64(g, info);
	find_arena(g);
	parse_devices(g);
}
