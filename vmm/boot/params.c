/* params.c: what a kernel is told at its entry: command line, memory map, initrd, ACPI tables. */
#include <asm/e820.h>
#include <errno.h>
#include <string.h>

#include "boot/image.h"

/* xen/interface/hvm/start_info.h, "Start of day structure passed to PVH guests", version 1. No uapi header has it. */
#define HVM_START_MAGIC   0x336ec578u
#define HVM_START_VERSION 1u

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved; /* types are e820's */
};

#define MAP_ENTRIES 5u

struct memory_map {
	unsigned int count;
	struct boot_e820_entry entry[MAP_ENTRIES];
};

struct pvh_block {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_entry map[MAP_ENTRIES];
};

_Static_assert(sizeof(struct hvm_start_info) == 56 && sizeof(struct hvm_modlist_entry) == 32 &&
		       sizeof(struct hvm_memmap_entry) == 24,
	       "layout of start_info.h");
_Static_assert(BOOT_PVH_INFO_GPA + sizeof(struct pvh_block) <= BOOT_CMDLINE_GPA, "PVH block fits its room");
_Static_assert(BOOT_CMDLINE_GPA + BOOT_CMDLINE_MAX + 1 <= BOOT_PARAMS_GPA, "command line fits its room");
_Static_assert(sizeof(struct boot_params) == 4096, "boot_params is one page");

static void map_add(struct memory_map *map, uint64_t start, uint64_t end, uint32_t type)
{
	if (end > start)
		map->entry[map->count++] = (struct boot_e820_entry){ .addr = start, .size = end - start, .type = type };
}

/* The legacy hole from 640 KiB up stays out of the map, except where our tables are. */
static void map_build(struct memory_map *map, const struct guest_memory *gm)
{
	map->count = 0;
	map_add(map, 0, BOOT_EBDA_GPA, E820_RAM);
	map_add(map, BOOT_EBDA_GPA, BOOT_VGA_GPA, E820_RESERVED);
	map_add(map, BOOT_ACPI_GPA, BOOT_HIGH_GPA, E820_RESERVED);
	map_add(map, BOOT_HIGH_GPA, gm->region[0].size, E820_RAM);
	for (unsigned int i = 1; i < gm->nr_regions; i++)
		map_add(map, gm->region[i].gpa, gm->region[i].gpa + gm->region[i].size, E820_RAM);
}

static int write_cmdline(struct guest_memory *gm, const char *cmdline, uint32_t max, struct error *err)
{
	size_t len = strlen(cmdline);

	if (max > BOOT_CMDLINE_MAX)
		max = BOOT_CMDLINE_MAX;
	if (len > max)
		return error_set(
			err, -EINVAL,
			"boot-source.boot_args: the command line is %zu bytes long with what is added for devices; "
			"this kernel takes at most %u",
			len, max);
	if (gm_write(gm, BOOT_CMDLINE_GPA, cmdline, len + 1))
		return error_set(err, -EFAULT, "machine-config.mem_size_mib: no RAM for the command line");
	return 0;
}

/* Documentation/arch/x86/boot.rst and zero-page.rst */
static int write_linux64(struct guest_memory *gm, const struct boot_images *img, const struct boot_kernel *kernel,
			 const struct boot_entry *entry)
{
	struct boot_params params = { .hdr = kernel->setup };
	struct memory_map map;

	params.hdr.type_of_loader = 0xff; /* a loader without a number of its own */
	params.hdr.cmd_line_ptr = BOOT_CMDLINE_GPA;
	params.hdr.ramdisk_image = (uint32_t)entry->initrd_gpa; /* below 3 GiB */
	params.hdr.ramdisk_size = (uint32_t)entry->initrd_size;
	params.acpi_rsdp_addr = img->acpi_rsdp_gpa;
	map_build(&map, gm);
	params.e820_entries = (uint8_t)map.count;
	memcpy(params.e820_table, map.entry, map.count * sizeof(map.entry[0]));
	return gm_write(gm, BOOT_PARAMS_GPA, &params, sizeof(params));
}

static int write_pvh(struct guest_memory *gm, const struct boot_images *img, const struct boot_entry *entry)
{
	struct pvh_block block = {
		.info = {
			.magic = HVM_START_MAGIC,
			.version = HVM_START_VERSION,
			.nr_modules = entry->initrd_size ? 1 : 0,
			.modlist_paddr = BOOT_PVH_INFO_GPA + offsetof(struct pvh_block, module),
			.cmdline_paddr = BOOT_CMDLINE_GPA,
			.rsdp_paddr = img->acpi_rsdp_gpa,
			.memmap_paddr = BOOT_PVH_INFO_GPA + offsetof(struct pvh_block, map),
		},
		.module = { .paddr = entry->initrd_gpa, .size = entry->initrd_size },
	};
	struct memory_map map;

	map_build(&map, gm);
	block.info.memmap_entries = map.count;
	for (unsigned int i = 0; i < map.count; i++)
		block.map[i] = (struct hvm_memmap_entry){ .addr = map.entry[i].addr,
							  .size = map.entry[i].size,
							  .type = map.entry[i].type };
	return gm_write(gm, BOOT_PVH_INFO_GPA, &block, sizeof(block));
}

int params_write(struct guest_memory *gm, const struct boot_images *img, const struct boot_kernel *kernel,
		 struct boot_entry *entry, struct error *err)
{
	int ret = write_cmdline(gm, img->cmdline, kernel->cmdline_max, err);

	if (ret)
		return ret;
	if (kernel->protocol == BOOT_PVH) {
		entry->params_gpa = BOOT_PVH_INFO_GPA;
		ret = write_pvh(gm, img, entry);
	} else {
		entry->params_gpa = BOOT_PARAMS_GPA;
		ret = write_linux64(gm, img, kernel, entry);
	}
	return ret ? error_set(err, ret, "machine-config.mem_size_mib: no RAM for boot parameters") : 0;
}
