/* fuzz_tables.c: any configuration's firmware tables, command line and boot parameters, read back strictly. */
#include <asm/bootparam.h>
#include <asm/e820.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/cmdline.h"
#include "boot/image.h"
#include "firmware_check.h"
#include "fuzz.h"
#include "x86/aml.h"
#include "x86/x86.h"

static struct config cfg;
static struct drive_config drives[2];

/* As many as there may be, and a little more. */
static unsigned int take_count(struct input *in, unsigned int most)
{
	uint8_t n = take8(in);

	return n == 0xff ? take32(in) : n % (most + 3);
}

static void configure(struct input *in)
{
	uint8_t how = take8(in);
	size_t len = take16(in) % sizeof(cfg.boot.boot_args);

	cfg = (struct config){ .drives = drives, .nr_drives = how & 3 ? 2 : 0 };
	drives[0].is_root_device = how & 1;
	drives[1].is_root_device = how & 2;
	drives[1].is_read_only = how & 4;
	memcpy(drives[1].partuuid, "0eaa91a0-01", how & 8 ? 12 : 0);
	drives[1].partuuid[how & 8 ? 12 : 0] = '\0';
	cfg.boot.boot_args_given = how & 16;
	if (how & 32)
		memset(cfg.boot.boot_args, 'a', len);
	else
		take_bytes(in, cfg.boot.boot_args, len);
	cfg.boot.boot_args[len] = '\0';
}

/* The user's words first, init's last, and each device once. */
static void check_cmdline(const char *cmdline, unsigned int nr_virtio)
{
	const char *at = cmdline;
	unsigned int devices = 0;

	CHECK(strlen(cmdline) < CONFIG_CMDLINE_SIZE);
	while ((at = strstr(at, " virtio_mmio.device=4K@0x"))) {
		devices++;
		at++;
	}
	/* More only when the user wrote the same. */
	CHECK(devices >= nr_virtio);
}

/* Sorted, without overlap, and RAM is what there is, but for the legacy hole. */
static void check_map(const struct boot_params *params, const struct guest_memory *gm)
{
	uint64_t last = 0, ram = 0;
	unsigned int i;

	CHECK(params->e820_entries <= 8);
	for (i = 0; i < params->e820_entries; i++) {
		const struct boot_e820_entry *e = &params->e820_table[i];

		CHECK(e->addr >= last && e->size && e->addr + e->size > e->addr);
		last = e->addr + e->size;
		if (e->type != E820_RAM)
			continue;
		CHECK(gm_at(gm, e->addr, e->size));
		CHECK(last <= BOOT_EBDA_GPA || e->addr >= BOOT_HIGH_GPA);
		ram += e->size;
	}
	CHECK(ram == gm->size - (BOOT_HIGH_GPA - BOOT_EBDA_GPA));
}

static void check_params(struct guest_memory *gm, const char *cmdline, uint64_t rsdp, uint8_t how)
{
	const struct boot_images images = { .cmdline = cmdline, .acpi_rsdp_gpa = rsdp };
	struct boot_kernel kernel = { .protocol = how & 1 ? BOOT_PVH : BOOT_LINUX64,
				      .cmdline_max = how & 2 ? 4000 : 2047 };
	struct boot_entry entry = { 0 };
	const struct boot_params *params;
	struct error err;

	CHECK(params_write(gm, &images, &kernel, &entry, &err) == 0);
	CHECK(strcmp(gm_at(gm, BOOT_CMDLINE_GPA, 1), cmdline) == 0);
	CHECK(x86_tables_write(gm, kernel.protocol, &err) == 0);
	if (kernel.protocol == BOOT_PVH)
		return;
	params = gm_at(gm, entry.params_gpa, sizeof(*params));
	CHECK(params && params->hdr.cmd_line_ptr == BOOT_CMDLINE_GPA && params->acpi_rsdp_addr == rsdp);
	check_map(params, gm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint8_t how = take8(&in);
	unsigned int nr_vcpus = take_count(&in, 32), nr_virtio = take_count(&in, X86_MAX_VIRTIO);
	/* From the least that holds the tables to both sides of the hole. */
	uint64_t mib = how & 4 ? 3070 + take8(&in) : 2 + take8(&in), rsdp = 0;
	char cmdline[CONFIG_CMDLINE_SIZE];
	struct guest_memory gm;
	struct error err;
	int ret, wanted;

	configure(&in);
	CHECK(gm_create(&gm, mib, HUGE_PAGES_NONE, &err) == 0);
	wanted = nr_vcpus && nr_vcpus <= 32 ? 0 : -1;
	ret = mptable_write(&gm, nr_vcpus, &err);
	CHECK((ret != 0) == (wanted != 0));
	if (!ret)
		firmware_check_mptable(&gm, nr_vcpus);
	ret = acpi_write(&gm, nr_vcpus, nr_virtio, &rsdp, &err);
	CHECK((ret != 0) == (wanted || nr_virtio > X86_MAX_VIRTIO));
	if (!ret) {
		firmware_check_acpi(&gm, rsdp, nr_vcpus, nr_virtio);
		if (cmdline_build(cmdline, &cfg, nr_virtio, &err) == 0) {
			check_cmdline(cmdline, nr_virtio);
			check_params(&gm, cmdline, rsdp, how);
		}
	}
	gm_destroy(&gm);
	return 0;
}
