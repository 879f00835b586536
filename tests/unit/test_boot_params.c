/* test_boot_params.c: initrd, command line, boot_params and hvm_start_info: where they are and what they say. */
#include "unit.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "elf_fixture.h"

/* ---- initrd ---- */

static void initrds_go_to_the_top(void **state)
{
	static const struct {
		uint64_t mib, size, gpa;
	} rows[] = {
		{ 4, PAGE, 4 * MIB - PAGE },
		{ 4, 1, 4 * MIB - PAGE },
		{ 4, PAGE + 1, 4 * MIB - 2 * PAGE },
		{ 4, 3 * MIB - 13 * PAGE, MIB + 13 * PAGE }, /* right up to the kernel */
		{ 3072, PAGE, GM_HOLE_START - PAGE },
		{ 6144, 3 * PAGE, GM_HOLE_START - 3 * PAGE }, /* never above 4 GiB */
	};
	struct image im;

	(void)state;
	build(&im);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct memory_file initrd = file_create("abc", 1);
		struct guest_memory gm;
		struct boot_entry entry;
		struct error err;

		file_resize(&initrd, rows[i].size);
		assert_int_equal(pwrite(initrd.fd, "z", 1, (off_t)rows[i].size - 1), 1);
		if (load_image(&im, &gm, rows[i].mib, initrd.path, "x", &entry, &err))
			fail_msg("row %zu: %s", i, err.message);
		assert_int_equal(entry.initrd_gpa, rows[i].gpa);
		assert_int_equal(entry.initrd_size, rows[i].size);
		assert_int_equal(*(char *)gm_at(&gm, entry.initrd_gpa + rows[i].size - 1, 1), 'z');
		gm_destroy(&gm);
		file_close(&initrd);
	}
}

static void bad_initrds_are_refused(void **state)
{
	static const struct {
		uint64_t size;
		int code;
		const char *says;
	} rows[] = {
		{ 0, -EINVAL, "is empty" },
		{ 3 * MIB - 13 * PAGE + 1, -ENOMEM, "3092480 are free" },
		{ 4 * MIB, -ENOMEM, "4194304 bytes long" },
		{ 1ull << 40, -ENOMEM, "1099511627776 bytes long" },
	};
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct memory_file initrd = file_create("", 0);

		file_resize(&initrd, rows[i].size);
		assert_int_equal(load_image(&im, &gm, 4, initrd.path, "x", &entry, &err), rows[i].code);
		expect_sentence(&err, "boot-source.initrd_path: ", rows[i].says);
		gm_destroy(&gm);
		file_close(&initrd);
	}
	assert_int_equal(load_image(&im, &gm, 4, "/nowhere", "x", &entry, &err), -ENOENT);
	expect_sentence(&err, "boot-source.initrd_path: /nowhere: ", "No such file");
	gm_destroy(&gm);
	assert_int_equal(load_image(&im, &gm, 4, "/", "x", &entry, &err), -EINVAL);
	expect_sentence(&err, "boot-source.initrd_path: /: ", "is a directory");
	gm_destroy(&gm);
}

/* ---- what the kernel is told ---- */

static void read_cmdline(const struct guest_memory *gm, uint64_t gpa, const char *want)
{
	const char *at = gm_at(gm, gpa, strlen(want) + 1);

	assert_non_null(at);
	assert_string_equal(at, want);
}

static void pvh_start_info_is_complete(void **state)
{
	struct memory_file initrd = file_create("initrd", 6);
	const uint32_t *info;
	const uint64_t *info64, *module, *map;
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	assert_int_equal(load_image(&im, &gm, 6144, initrd.path, "console=ttyS0 quiet", &entry, &err), 0);
	info = gm_at(&gm, entry.params_gpa, 56);
	info64 = (const uint64_t *)info;
	assert_int_equal(info[0], 0x336ec578);
	assert_int_equal(info[1], 1); /* version */
	assert_int_equal(info[3], 1); /* modules */
	module = gm_at(&gm, info64[2], 32);
	assert_int_equal(module[0], entry.initrd_gpa);
	assert_int_equal(module[1], 6);
	read_cmdline(&gm, info64[3], "console=ttyS0 quiet");
	assert_int_equal(info64[4], BOOT_ACPI_GPA);
	assert_int_equal(info[12], 5);
	map = gm_at(&gm, info64[5], 5 * 24);
	assert_int_equal(map[3 * 4], GM_HOLE_END); /* the last entry: RAM above the hole */
	assert_int_equal(map[3 * 4 + 1], 3072 * MIB);
	assert_int_equal(map[3 * 4 + 2], 1);
	gm_destroy(&gm);
	/* Without an initrd there is no module. */
	assert_int_equal(load_image(&im, &gm, 2, NULL, "", &entry, &err), 0);
	info = gm_at(&gm, entry.params_gpa, 56);
	assert_int_equal(info[3], 0);
	assert_int_equal(info[12], 4);
	gm_destroy(&gm);
	file_close(&initrd);
}

static void boot_params_are_complete(void **state)
{
	struct memory_file initrd = file_create("initrd", 6);
	const struct boot_params *params;
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	im.hdr.e_phnum = 2;
	assert_int_equal(load_image(&im, &gm, 4096, initrd.path, "root=/dev/vda", &entry, &err), 0);
	params = gm_at(&gm, entry.params_gpa, sizeof(*params));
	assert_int_equal(params->hdr.boot_flag, 0xaa55);
	assert_int_equal(params->hdr.header, 0x53726448);
	assert_int_equal(params->hdr.type_of_loader, 0xff);
	assert_true(params->hdr.loadflags & LOADED_HIGH);
	assert_int_equal(params->hdr.ramdisk_image, entry.initrd_gpa);
	assert_int_equal(params->hdr.ramdisk_size, 6);
	assert_int_equal(params->acpi_rsdp_addr, BOOT_ACPI_GPA);
	assert_int_equal(params->sentinel, 0);
	read_cmdline(&gm, params->hdr.cmd_line_ptr, "root=/dev/vda");
	assert_int_equal(params->e820_entries, 5);
	for (unsigned int i = 0; i < params->e820_entries; i++) {
		const struct boot_e820_entry *e = &params->e820_table[i];

		/* RAM is where the guest has RAM, entries ascend, and our tables are in none of the RAM that may be
		 * reused. */
		assert_non_null(gm_at(&gm, e->addr, e->size));
		if (i)
			assert_true(e->addr >= e[-1].addr + e[-1].size);
		if (e->type == 1 && e->addr < BOOT_HIGH_GPA)
			assert_true(e->addr + e->size <= BOOT_EBDA_GPA);
	}
	gm_destroy(&gm);
	file_close(&initrd);
}

static void command_lines_have_a_limit(void **state)
{
	char cmdline[BOOT_CMDLINE_MAX + 2];
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	memset(cmdline, 'a', sizeof(cmdline));
	cmdline[BOOT_CMDLINE_MAX + 1] = '\0';
	assert_int_equal(load_image(&im, &gm, 2, NULL, cmdline, &entry, &err), -EINVAL);
	expect_sentence(&err, "boot-source.boot_args: ", "at most 2047");
	gm_destroy(&gm);
	cmdline[BOOT_CMDLINE_MAX] = '\0';
	assert_int_equal(load_image(&im, &gm, 2, NULL, cmdline, &entry, &err), 0);
	read_cmdline(&gm, BOOT_CMDLINE_GPA, cmdline);
	assert_int_equal(*(uint8_t *)gm_at(&gm, BOOT_PARAMS_GPA, 1), 0); /* its end does not reach the next structure */
	gm_destroy(&gm);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(initrds_go_to_the_top),      cmocka_unit_test(bad_initrds_are_refused),
		cmocka_unit_test(pvh_start_info_is_complete), cmocka_unit_test(boot_params_are_complete),
		cmocka_unit_test(command_lines_have_a_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
