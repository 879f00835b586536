/* test_boot_bzimage.c: bzImages: where they go, what their header is believed, and which lies are caught. */
#include "unit.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot_fixture.h"

#define MIB         (1ull << 20)
#define FIELD       "boot-source.kernel_image_path: "
#define SETUP       0x1f1u
#define SECTS       7u /* (7 + 1) * 512: the kernel starts on a page of the file */
#define KERNEL_SIZE 0x8000u
#define FILE_SIZE   ((SECTS + 1) * 512 + KERNEL_SIZE)
#define LOAD_GPA    (16 * MIB)
#define INIT_SIZE   (4 * MIB)

struct image {
	uint8_t bytes[FILE_SIZE];
	struct setup_header *setup; /* in bytes */
	size_t len;
};

static void build(struct image *im)
{
	memset(im, 0, sizeof(*im));
	im->len = sizeof(im->bytes);
	im->setup = (struct setup_header *)(im->bytes + SETUP);
	*im->setup = (struct setup_header){
		.setup_sects = SECTS,
		.syssize = KERNEL_SIZE / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* to 0x202 + 0x6a: behind the header */
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.code32_start = 0x100000,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 2 * MIB,
		.relocatable_kernel = 1,
		.min_alignment = 21,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = 0x400,
		.payload_length = KERNEL_SIZE - 0x400,
		.pref_address = LOAD_GPA,
		.init_size = INIT_SIZE,
	};
	for (size_t i = FILE_SIZE - KERNEL_SIZE; i < FILE_SIZE; i++)
		im->bytes[i] = (uint8_t)(i * 5 + (i >> 8));
}

static int load_image(const struct image *im, struct guest_memory *gm, uint64_t mib, const char *initrd,
		      const char *cmdline, struct boot_entry *entry, struct error *err)
{
	struct memory_file f = file_create(im->bytes, im->len);
	int ret = load(gm, mib, f.path, initrd, cmdline, entry, err);

	file_close(&f);
	return ret;
}

static void the_kernel_is_where_it_prefers(void **state)
{
	static const struct {
		uint64_t pref;
		uint32_t align;
		uint8_t relocatable;
		uint64_t gpa;
	} rows[] = {
		{ LOAD_GPA, 2 * MIB, 1, LOAD_GPA },
		{ LOAD_GPA, 2 * MIB, 0, LOAD_GPA },
		{ 1 * MIB, 2 * MIB, 1, 2 * MIB }, /* aligned up, as boot.rst computes the runtime start */
		{ 1 * MIB, 2 * MIB, 0, 1 * MIB },
		{ 1 * MIB, 0, 0, 1 * MIB }, /* an alignment that nobody uses may be nonsense */
	};
	struct image *im = malloc(sizeof(*im));

	(void)state;
	assert_non_null(im);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct guest_memory gm;
		struct boot_entry entry;
		struct error err;

		build(im);
		im->setup->pref_address = rows[i].pref;
		im->setup->kernel_alignment = rows[i].align;
		im->setup->relocatable_kernel = rows[i].relocatable;
		if (load_image(im, &gm, 32, NULL, "x", &entry, &err))
			fail_msg("row %zu: %s", i, err.message);
		assert_int_equal(entry.protocol, BOOT_LINUX64);
		assert_int_equal(entry.entry_gpa, rows[i].gpa + 0x200);
		assert_int_equal(entry.kernel_end, rows[i].gpa + INIT_SIZE);
		assert_memory_equal(gm_at(&gm, rows[i].gpa, KERNEL_SIZE), im->bytes + FILE_SIZE - KERNEL_SIZE,
				    KERNEL_SIZE);
		assert_int_equal(*(uint8_t *)gm_at(&gm, rows[i].gpa + KERNEL_SIZE, 1), 0);
		assert_int_equal(*(uint8_t *)gm_at(&gm, rows[i].gpa - 1, 1), 0);
		gm_destroy(&gm);
	}
	free(im);
}

/* Signed kernels carry their signature behind the image; setup_sects 0 is four; the last paragraph may be short. */
static void odd_but_honest_sizes_are_fine(void **state)
{
	struct image *im = malloc(sizeof(*im));
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	assert_non_null(im);
	build(im);
	im->setup->syssize = KERNEL_SIZE / 16 - 2;
	im->setup->payload_length = 100;
	assert_int_equal(load_image(im, &gm, 32, NULL, "x", &entry, &err), 0);
	assert_int_equal(*(uint8_t *)gm_at(&gm, LOAD_GPA + KERNEL_SIZE - 32, 1), 0);
	gm_destroy(&gm);

	build(im);
	im->len -= 15;
	im->setup->payload_length -= 15;
	assert_int_equal(load_image(im, &gm, 32, NULL, "x", &entry, &err), 0);
	gm_destroy(&gm);

	build(im);
	im->setup->setup_sects = 0;
	assert_int_equal(load_image(im, &gm, 32, NULL, "x", &entry, &err), 0);
	assert_memory_equal(gm_at(&gm, LOAD_GPA, 512), im->bytes + 5 * 512, 512);
	gm_destroy(&gm);
	free(im);
}

/* ---- every way to be wrong ---- */

#define CASE(name, ...)                             \
	static void name(struct image *im)          \
	{                                           \
		struct setup_header *s = im->setup; \
		(void)s;                            \
		__VA_ARGS__;                        \
	}

CASE(no_boot_flag, s->boot_flag = 0)
CASE(no_magic, s->header = 0)
CASE(cut_before_magic, im->len = 0x204)
CASE(cut_after_magic, im->len = 0x210)
CASE(cut_in_setup, im->len = 0x600)
CASE(cut_at_kernel, im->len = FILE_SIZE - KERNEL_SIZE)
CASE(cut_by_a_paragraph, im->len = FILE_SIZE - 16)
CASE(cut_in_half, im->len = FILE_SIZE / 2)
CASE(old_protocol, s->version = 0x020b)
CASE(ancient_protocol, s->version = 0x0100)
CASE(header_too_short, im->bytes[0x201] = 0x40)
CASE(header_empty, im->bytes[0x201] = 0)
CASE(no_64_bit, s->xloadflags = 0)
CASE(zimage, s->loadflags = 0)
CASE(sects_past_end, s->setup_sects = 255)
CASE(syssize_huge, s->syssize = 0xffffffff)
CASE(syssize_wraps_32, s->syssize = 0x10000000 + KERNEL_SIZE / 16)
CASE(syssize_zero, s->syssize = 0)
CASE(syssize_before_entry, s->syssize = 0x200 / 16)
CASE(payload_empty, s->payload_length = 0)
CASE(payload_past_end, s->payload_length += 1)
CASE(payload_offset_past_end, s->payload_offset = KERNEL_SIZE + 1)
CASE(payload_wraps, s->payload_offset = 0x1000; s->payload_length = 0xfffff000)
CASE(init_size_zero, s->init_size = 0)
CASE(init_size_below_size, s->init_size = KERNEL_SIZE - 1)
CASE(init_size_huge, s->init_size = 0xffffffff)
CASE(init_size_past_ram, s->init_size = 16 * MIB + 1)
CASE(pref_zero, s->pref_address = 0)
CASE(pref_below_1m, s->pref_address = 0x90000)
CASE(pref_odd, s->pref_address = LOAD_GPA + 8)
CASE(pref_in_hole, s->pref_address = 0xd0000000)
CASE(pref_huge, s->pref_address = UINT64_MAX & ~0xfffull)
CASE(pref_past_ram, s->pref_address = 32 * MIB)
CASE(align_zero, s->kernel_alignment = 0)
CASE(align_odd, s->kernel_alignment = 3 * MIB)
CASE(align_tiny, s->kernel_alignment = 512)
CASE(align_huge, s->kernel_alignment = 0x80000000)

static const struct {
	const char *name;
	void (*spoil)(struct image *im);
	int code;
	const char *says;
} bad[] = {
#define ROW(fn, code, says)         \
	{                           \
#fn, fn, code, says \
	}
	ROW(no_boot_flag, -ENOEXEC, "neither an ELF vmlinux nor a bzImage"),
	ROW(no_magic, -ENOEXEC, "neither an ELF vmlinux nor a bzImage"),
	ROW(cut_before_magic, -ENOEXEC, "neither an ELF vmlinux nor a bzImage"),
	ROW(cut_after_magic, -ENOEXEC, "cannot hold a kernel header"),
	ROW(cut_in_setup, -ENOEXEC, "is cut short"),
	ROW(cut_at_kernel, -ENOEXEC, "is cut short"),
	ROW(cut_by_a_paragraph, -ENOEXEC, "is cut short"),
	ROW(cut_in_half, -ENOEXEC, "promises 32768 bytes after the first 4096 and the file has 18432"),
	ROW(old_protocol, -ENOEXEC, "boot protocol 2.11;"),
	ROW(ancient_protocol, -ENOEXEC, "boot protocol 1.00;"),
	ROW(header_too_short, -ENOEXEC, "too short for boot protocol 2.12"),
	ROW(header_empty, -ENOEXEC, "too short for boot protocol 2.12"),
	ROW(no_64_bit, -ENOEXEC, "no 64-bit entry point"),
	ROW(zimage, -ENOEXEC, "is a zImage"),
	ROW(sects_past_end, -ENOEXEC, "is cut short"),
	ROW(syssize_huge, -ENOEXEC, "promises 68719476720 bytes"),
	ROW(syssize_wraps_32, -ENOEXEC, "promises 4295000064 bytes"),
	ROW(syssize_zero, -ENOEXEC, "too short for the entry point"),
	ROW(syssize_before_entry, -ENOEXEC, "too short for the entry point"),
	ROW(payload_empty, -ENOEXEC, "claims 0 bytes of compressed kernel"),
	ROW(payload_past_end, -ENOEXEC, "of compressed kernel at 1024 of 32768"),
	ROW(payload_offset_past_end, -ENOEXEC, "of compressed kernel at 32769 of 32768"),
	ROW(payload_wraps, -ENOEXEC, "claims 4294963200 bytes"),
	ROW(init_size_zero, -ENOEXEC, "claims to unpack within 0 bytes"),
	ROW(init_size_below_size, -ENOEXEC, "claims to unpack within 32767 bytes"),
	ROW(init_size_huge, -ENOMEM, "the guest has 32 MiB"),
	ROW(init_size_past_ram, -ENOMEM, "needs RAM up to 0x2000001 (33 MiB)"),
	ROW(pref_zero, -ENOEXEC, "asks for load address 0x0"),
	ROW(pref_below_1m, -ENOEXEC, "asks for load address 0x90000"),
	ROW(pref_odd, -ENOEXEC, "asks for load address 0x1000008"),
	ROW(pref_in_hole, -ENOEXEC, "RAM for kernels ends at"),
	ROW(pref_huge, -ENOEXEC, "RAM for kernels ends at"),
	ROW(pref_past_ram, -ENOMEM, "the guest has 32 MiB"),
	ROW(align_zero, -ENOEXEC, "kernel alignment 0x0"),
	ROW(align_odd, -ENOEXEC, "kernel alignment 0x300000"),
	ROW(align_tiny, -ENOEXEC, "kernel alignment 0x200"),
	ROW(align_huge, -ENOMEM, "needs RAM up to 0x80400000"),
};

static void bad_kernels_are_refused_with_a_sentence(void **state)
{
	struct image *im = malloc(sizeof(*im));

	(void)state;
	assert_non_null(im);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct guest_memory gm;
		struct boot_entry entry;
		struct error err;
		int ret;

		build(im);
		bad[i].spoil(im);
		ret = load_image(im, &gm, 32, NULL, "x", &entry, &err);
		if (ret != bad[i].code)
			fail_msg("%s: %d (%s)", bad[i].name, ret, err.message);
		expect_sentence(&err, FIELD, bad[i].says);
		gm_destroy(&gm);
	}
	free(im);
}

static void kernels_past_the_identity_map_are_refused(void **state)
{
	struct image *im = malloc(sizeof(*im));
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	assert_non_null(im);
	build(im);
	im->setup->pref_address = BOOT_IDENTITY_SIZE - 2 * MIB;
	assert_int_equal(load_image(im, &gm, 1100, NULL, "x", &entry, &err), -ENOEXEC);
	expect_sentence(&err, FIELD, "page tables end at");
	gm_destroy(&gm);
	free(im);
}

static void random_headers_do_no_harm(void **state)
{
	struct image *im = malloc(sizeof(*im));
	unsigned int refused = 0;
	uint32_t seed = 54321;

	(void)state;
	assert_non_null(im);
	for (unsigned int round = 0; round < 3000; round++) {
		struct guest_memory gm;
		struct boot_entry entry;
		struct error err;

		build(im);
		for (unsigned int flips = 1 + next_random(&seed) % 4; flips; flips--)
			im->bytes[SETUP + next_random(&seed) % sizeof(*im->setup)] = (uint8_t)next_random(&seed);
		if (load_image(im, &gm, 32, NULL, "x", &entry, &err)) {
			assert_true(err.message[0] && err.code < 0);
			refused++;
		} else {
			assert_non_null(gm_at(&gm, entry.entry_gpa, 1));
			assert_true(entry.kernel_end <= gm.size);
		}
		gm_destroy(&gm);
	}
	assert_in_range(refused, 300, 2900);
	free(im);
}

/* ---- what the kernel is told ---- */

static void the_header_comes_back_filled_in(void **state)
{
	struct memory_file initrd = file_create("initrd", 6);
	struct image *im = malloc(sizeof(*im));
	const struct boot_params *params;
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	assert_non_null(im);
	build(im);
	im->setup->hardware_subarch = 0x77;
	memset(im->bytes, 0xff, SETUP); /* and nothing from in front of it, the sentinel least of all */
	assert_int_equal(load_image(im, &gm, 32, initrd.path, "quiet", &entry, &err), 0);
	assert_int_equal(entry.params_gpa, BOOT_PARAMS_GPA);
	params = gm_at(&gm, BOOT_PARAMS_GPA, sizeof(*params));
	assert_int_equal(params->sentinel, 0);
	assert_int_equal(params->hdr.version, 0x020f);
	assert_int_equal(params->hdr.hardware_subarch, 0x77);
	assert_int_equal(params->hdr.init_size, INIT_SIZE);
	assert_int_equal(params->hdr.code32_start, LOAD_GPA);
	assert_int_equal(params->hdr.type_of_loader, 0xff);
	assert_int_equal(params->hdr.cmd_line_ptr, BOOT_CMDLINE_GPA);
	assert_int_equal(params->hdr.ramdisk_image, 32 * MIB - 4096);
	assert_int_equal(params->hdr.ramdisk_size, 6);
	assert_int_equal(params->e820_entries, 4);
	assert_string_equal(gm_at(&gm, BOOT_CMDLINE_GPA, 6), "quiet");
	gm_destroy(&gm);
	free(im);
	file_close(&initrd);
}

/* A header that ends where 2.12 ends: what later versions added reads as zero, not as code bytes. */
static void fields_past_the_header_are_zero(void **state)
{
	struct image *im = malloc(sizeof(*im));
	const struct boot_params *params;
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	assert_non_null(im);
	build(im);
	im->setup->version = 0x020c;
	im->setup->handover_offset = 0xdeadbeef;
	im->setup->kernel_info_offset = 0xdeadbeef;
	im->bytes[0x201] = 0x264 - 0x202;
	assert_int_equal(load_image(im, &gm, 32, NULL, "x", &entry, &err), 0);
	params = gm_at(&gm, BOOT_PARAMS_GPA, sizeof(*params));
	assert_int_equal(params->hdr.init_size, INIT_SIZE);
	assert_int_equal(params->hdr.handover_offset, 0);
	assert_int_equal(params->hdr.kernel_info_offset, 0);
	gm_destroy(&gm);
	free(im);
}

static void initrd_and_command_line_obey_the_header(void **state)
{
	struct memory_file initrd = file_create("initrd", 6);
	struct image *im = malloc(sizeof(*im));
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	assert_non_null(im);
	build(im);
	im->setup->initrd_addr_max = 24 * MIB - 1;
	im->setup->cmdline_size = 255;
	assert_int_equal(load_image(im, &gm, 32, initrd.path, "x", &entry, &err), 0);
	assert_int_equal(entry.initrd_gpa, 24 * MIB - 4096);
	gm_destroy(&gm);
	/* A limit inside the kernel leaves no room at all. */
	im->setup->initrd_addr_max = LOAD_GPA;
	assert_int_equal(load_image(im, &gm, 32, initrd.path, "x", &entry, &err), -ENOMEM);
	expect_sentence(&err, "boot-source.initrd_path: ", "and 0 are free");
	gm_destroy(&gm);
	/* Linux says 2 GiB; a guest with 3 keeps to it. */
	im->setup->initrd_addr_max = 0x7fffffff;
	assert_int_equal(load_image(im, &gm, 3072, initrd.path, "x", &entry, &err), 0);
	assert_int_equal(entry.initrd_gpa, 2048 * MIB - 4096);
	gm_destroy(&gm);
	im->setup->initrd_addr_max = 0xffffffff;
	assert_int_equal(load_image(im, &gm, 4096, initrd.path, "x", &entry, &err), 0);
	assert_int_equal(entry.initrd_gpa, GM_HOLE_START - 4096);
	gm_destroy(&gm);
	/* 256 bytes for a kernel that takes 255. */
	char cmdline[257];
	memset(cmdline, 'a', 256);
	cmdline[256] = '\0';
	assert_int_equal(load_image(im, &gm, 32, NULL, cmdline, &entry, &err), -EINVAL);
	expect_sentence(&err, "boot-source.boot_args: ", "at most 255");
	gm_destroy(&gm);
	cmdline[255] = '\0';
	assert_int_equal(load_image(im, &gm, 32, NULL, cmdline, &entry, &err), 0);
	gm_destroy(&gm);
	free(im);
	file_close(&initrd);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_kernel_is_where_it_prefers),
		cmocka_unit_test(odd_but_honest_sizes_are_fine),
		cmocka_unit_test(bad_kernels_are_refused_with_a_sentence),
		cmocka_unit_test(kernels_past_the_identity_map_are_refused),
		cmocka_unit_test(random_headers_do_no_harm),
		cmocka_unit_test(the_header_comes_back_filled_in),
		cmocka_unit_test(fields_past_the_header_are_zero),
		cmocka_unit_test(initrd_and_command_line_obey_the_header),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
