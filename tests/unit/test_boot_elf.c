/* test_boot_elf.c: ELF kernels: what is loaded where, where it starts, and what is refused with which words. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "elf_fixture.h"

static void segments_and_bss_are_in_place(void **state)
{
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;
	const uint8_t *at;

	(void)state;
	build(&im);
	im.bytes[2 * PAGE] = 0x11;
	im.bytes[3 * PAGE + 4] = 0x22;
	im.bytes[5 * PAGE] = 0x33;
	im.bytes[6 * PAGE + 99] = 0x44;
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	at = gm_at(&gm, TEXT_GPA, 16 * PAGE);
	assert_int_equal(at[0], 0x90);
	assert_int_equal(at[PAGE], 0x11);
	assert_int_equal(at[2 * PAGE + 4], 0x22);
	assert_int_equal(at[2 * PAGE + 5], 0); /* the file goes on here, the segment does not */
	assert_int_equal(at[4 * PAGE], 0x33);
	assert_int_equal(at[5 * PAGE + 99], 0x44);
	for (size_t i = 5 * PAGE + 100; i < 13 * PAGE; i++)
		assert_int_equal(at[i], 0);
	assert_int_equal(entry.protocol, BOOT_PVH);
	assert_int_equal(entry.entry_gpa, TEXT_GPA + 0x20);
	assert_int_equal(entry.params_gpa, BOOT_PVH_INFO_GPA);
	assert_int_equal(entry.kernel_end, DATA_GPA + 9 * PAGE);
	assert_int_equal(entry.initrd_size, 0);
	gm_destroy(&gm);
}

/* ---- every way to be wrong ---- */

#define CASE(name, ...)                    \
	static void name(struct image *im) \
	{                                  \
		__VA_ARGS__;               \
	}

CASE(empty, im->len = 0)
CASE(one_byte, im->len = 1)
CASE(magic_only, im->len = 4)
CASE(half_header, im->len = 40)
CASE(wrong_magic, im->hdr.e_ident[1] = 'F')
CASE(class32, im->hdr.e_ident[EI_CLASS] = ELFCLASS32)
CASE(big_endian, im->hdr.e_ident[EI_DATA] = ELFDATA2MSB)
CASE(machine_386, im->hdr.e_machine = EM_386)
CASE(machine_arm64, im->hdr.e_machine = EM_AARCH64)
CASE(object_file, im->hdr.e_type = ET_REL)
CASE(core_file, im->hdr.e_type = ET_CORE)
CASE(phentsize_0, im->hdr.e_phentsize = 0)
CASE(phentsize_57, im->hdr.e_phentsize = 57)
CASE(phnum_0, im->hdr.e_phnum = 0)
CASE(phnum_65, im->hdr.e_phnum = 65)
CASE(phnum_max, im->hdr.e_phnum = 0xffff)
CASE(phoff_past_end, im->hdr.e_phoff = sizeof(im->bytes))
CASE(phoff_wraps, im->hdr.e_phoff = UINT64_MAX - 8)
CASE(headers_cut, im->hdr.e_phoff = sizeof(im->bytes) - 60)
CASE(no_load, im->phdr[TEXT].p_type = im->phdr[DATA].p_type = 0)
CASE(empty_loads, im->phdr[TEXT].p_filesz = im->phdr[TEXT].p_memsz = 0; im->phdr[DATA].p_type = 0)
CASE(filesz_over_memsz, im->phdr[TEXT].p_memsz = im->phdr[TEXT].p_filesz - 1)
CASE(offset_past_end, im->phdr[TEXT].p_offset = sizeof(im->bytes) + 1)
CASE(offset_wraps, im->phdr[TEXT].p_offset = UINT64_MAX - PAGE + 1)
CASE(filesz_past_end, im->phdr[DATA].p_filesz = im->phdr[DATA].p_memsz = 3 * PAGE + 1)
CASE(filesz_huge, im->phdr[DATA].p_filesz = im->phdr[DATA].p_memsz = UINT64_MAX)
CASE(file_cut, im->len = 6 * PAGE)
CASE(at_zero, im->phdr[TEXT].p_paddr = 0)
CASE(below_1m, im->phdr[TEXT].p_paddr = TEXT_GPA - 1)
CASE(over_boot_params, im->phdr[TEXT].p_paddr = BOOT_PARAMS_GPA)
CASE(outside_ram, im->phdr[DATA].p_paddr = 64 * MIB)
CASE(past_ram_end, im->phdr[DATA].p_paddr = 2 * MIB - 9 * PAGE + 1)
CASE(in_the_hole, im->phdr[DATA].p_paddr = GM_HOLE_START)
CASE(bss_huge, im->phdr[DATA].p_memsz = 1ull << 40)
CASE(memsz_wraps, im->phdr[DATA].p_memsz = UINT64_MAX - DATA_GPA + 1)
CASE(paddr_at_top, im->phdr[DATA].p_paddr = UINT64_MAX - PAGE)
CASE(overlap_first_byte, im->phdr[DATA].p_paddr = TEXT_GPA + 2 * PAGE + 4)
CASE(overlap_same, im->phdr[DATA].p_paddr = TEXT_GPA)
CASE(overlap_bss, im->phdr[TEXT].p_paddr = DATA_GPA + 8 * PAGE; im->hdr.e_entry = DATA_GPA)
CASE(overlap_around, im->phdr[TEXT].p_memsz = 40 * PAGE)
CASE(pvh_entry_outside, put_note(im, 4, 4, 18, "Xen", 0x200000))
CASE(pvh_entry_in_bss, put_note(im, 4, 4, 18, "Xen", DATA_GPA + 4 * PAGE))
CASE(pvh_entry_zero, put_note(im, 4, 4, 18, "Xen", 0))
CASE(pvh_entry_64bit, put_note(im, 4, 8, 18, "Xen", UINT64_MAX))
CASE(pvh_desc_2, put_note(im, 4, 2, 18, "Xen", 0))
CASE(pvh_desc_0, put_note(im, 4, 0, 18, "Xen", 0))
CASE(note_past_segment, put_note(im, 4, 100, 18, "Xen", 0))
CASE(note_name_huge, put_note(im, 0xffffffff, 4, 18, "Xen", 0))
CASE(note_desc_huge, put_note(im, 4, 0xffffffff, 18, "Xen", 0))
CASE(note_all_huge, put_note(im, 0xffffffff, 0xffffffff, 18, "Xen", 0))
CASE(notes_past_end, im->phdr[NOTE].p_offset = sizeof(im->bytes) - 8)
CASE(notes_offset_wraps, im->phdr[NOTE].p_offset = UINT64_MAX)
CASE(notes_huge, im->phdr[NOTE].p_offset = 0; im->phdr[NOTE].p_filesz = 70000; im->len = 70000)
CASE(entry_outside, im->hdr.e_phnum = 2; im->hdr.e_entry = 0x200000)
CASE(entry_virtual, im->hdr.e_phnum = 2; im->hdr.e_entry = 0xffffffff81000000)
CASE(entry_in_bss, im->hdr.e_phnum = 2; im->hdr.e_entry = DATA_GPA + 2 * PAGE)
CASE(entry_after_text, im->hdr.e_phnum = 2; im->hdr.e_entry = TEXT_GPA + 2 * PAGE + 5)

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
	ROW(empty, -EINVAL, "is empty"),
	ROW(one_byte, -ENOEXEC, "neither an ELF vmlinux nor a bzImage"),
	ROW(magic_only, -ENOEXEC, "cannot hold an ELF header"),
	ROW(half_header, -ENOEXEC, "cannot hold an ELF header"),
	ROW(wrong_magic, -ENOEXEC, "neither an ELF vmlinux nor a bzImage"),
	ROW(class32, -ENOEXEC, "not a 64-bit little-endian"),
	ROW(big_endian, -ENOEXEC, "not a 64-bit little-endian"),
	ROW(machine_386, -ENOEXEC, "ELF machine 3;"),
	ROW(machine_arm64, -ENOEXEC, "ELF machine 183;"),
	ROW(object_file, -ENOEXEC, "of type 1;"),
	ROW(core_file, -ENOEXEC, "of type 4;"),
	ROW(phentsize_0, -ENOEXEC, "program headers of 0 bytes"),
	ROW(phentsize_57, -ENOEXEC, "program headers of 57 bytes"),
	ROW(phnum_0, -ENOEXEC, "has 0 program headers"),
	ROW(phnum_65, -ENOEXEC, "has 65 program headers"),
	ROW(phnum_max, -ENOEXEC, "has 65535 program headers"),
	ROW(phoff_past_end, -EIO, "cut short"),
	ROW(phoff_wraps, -EIO, "cut short"),
	ROW(headers_cut, -EIO, "cut short"),
	ROW(no_load, -ENOEXEC, "no segment to load"),
	ROW(empty_loads, -ENOEXEC, "no segment to load"),
	ROW(filesz_over_memsz, -ENOEXEC, "segment 0 has 0x2005 bytes in the file but only 0x2004"),
	ROW(offset_past_end, -ENOEXEC, "cut short: segment 0"),
	ROW(offset_wraps, -ENOEXEC, "cut short: segment 0"),
	ROW(filesz_past_end, -ENOEXEC, "cut short: segment 1"),
	ROW(filesz_huge, -ENOEXEC, "cut short: segment 1"),
	ROW(file_cut, -ENOEXEC, "cut short: segment 1"),
	ROW(at_zero, -ENOEXEC, "first MiB is taken"),
	ROW(below_1m, -ENOEXEC, "first MiB is taken"),
	ROW(over_boot_params, -ENOEXEC, "first MiB is taken"),
	ROW(outside_ram, -ENOMEM, "outside the guest's RAM of 2 MiB"),
	ROW(past_ram_end, -ENOMEM, "outside the guest's RAM of 2 MiB"),
	ROW(in_the_hole, -ENOMEM, "outside the guest's RAM of 2 MiB"),
	ROW(bss_huge, -ENOMEM, "outside the guest's RAM of 2 MiB"),
	ROW(memsz_wraps, -ENOEXEC, "segment 1 wraps round"),
	ROW(paddr_at_top, -ENOEXEC, "segment 1 wraps round"),
	ROW(overlap_first_byte, -ENOEXEC, "segments 0 and 1 overlap at 0x102004"),
	ROW(overlap_same, -ENOEXEC, "segments 0 and 1 overlap"),
	ROW(overlap_bss, -ENOEXEC, "segments 0 and 1 overlap"),
	ROW(overlap_around, -ENOEXEC, "segments 0 and 1 overlap"),
	ROW(pvh_entry_outside, -ENOEXEC, "PVH entry 0x200000 is in no segment"),
	ROW(pvh_entry_in_bss, -ENOEXEC, "is in no segment"),
	ROW(pvh_entry_zero, -ENOEXEC, "PVH entry 0x0 is in no segment"),
	ROW(pvh_entry_64bit, -ENOEXEC, "is in no segment"),
	ROW(pvh_desc_2, -ENOEXEC, "PVH note of 2 bytes"),
	ROW(pvh_desc_0, -ENOEXEC, "PVH note of 0 bytes"),
	ROW(note_past_segment, -ENOEXEC, "note that reaches past"),
	ROW(note_name_huge, -ENOEXEC, "note that reaches past"),
	ROW(note_desc_huge, -ENOEXEC, "note that reaches past"),
	ROW(note_all_huge, -ENOEXEC, "note that reaches past"),
	ROW(notes_past_end, -ENOEXEC, "note segment 2 lies past"),
	ROW(notes_offset_wraps, -ENOEXEC, "note segment 2 lies past"),
	ROW(notes_huge, -ENOEXEC, "note segment of 70000 bytes"),
	ROW(entry_outside, -ENOEXEC, "entry 0x200000 is in no segment"),
	ROW(entry_virtual, -ENOEXEC, "must be a physical address"),
	ROW(entry_in_bss, -ENOEXEC, "is in no segment"),
	ROW(entry_after_text, -ENOEXEC, "is in no segment"),
};

static void bad_kernels_are_refused_with_a_sentence(void **state)
{
	struct image *im = malloc(sizeof(*im));

	(void)state;
	assert_non_null(im);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct guest_memory gm;
		struct boot_entry entry;
		struct memory_file f;
		struct error err;
		int ret;

		build(im);
		bad[i].spoil(im);
		f = file_create(im->bytes, im->len < sizeof(im->bytes) ? im->len : sizeof(im->bytes));
		file_resize(&f, im->len);
		ret = load(&gm, 2, f.path, NULL, "x", &entry, &err);
		if (ret != bad[i].code)
			fail_msg("%s: %d (%s)", bad[i].name, ret, err.message);
		expect_sentence(&err, FIELD, bad[i].says);
		/* What is refused leaves no trace. */
		for (const uint64_t *w = gm_at(&gm, 0, 2 * MIB), *end = w + 2 * MIB / 8; w < end; w++)
			assert_int_equal(*w, 0);
		gm_destroy(&gm);
		file_close(&f);
	}
	free(im);
}

/* Whatever the headers say, loading ends with success or with a sentence; the sanitizers watch the rest. */
static void random_headers_do_no_harm(void **state)
{
	struct image *im = malloc(sizeof(*im));
	uint32_t seed = 12345;
	unsigned int refused = 0;

	(void)state;
	assert_non_null(im);
	for (unsigned int round = 0; round < 3000; round++) {
		struct guest_memory gm;
		struct boot_entry entry;
		struct error err;

		build(im);
		for (unsigned int flips = 1 + next_random(&seed) % 4; flips; flips--) {
			uint32_t area = next_random(&seed) % 8 ? sizeof(im->hdr) + sizeof(im->phdr) : NOTE_OFFSET + 64;

			im->bytes[4 + next_random(&seed) % (area - 4)] = (uint8_t)next_random(&seed);
		}
		if (load_image(im, &gm, 2, NULL, "x", &entry, &err)) {
			assert_true(err.message[0] && err.code < 0);
			refused++;
		} else {
			assert_non_null(gm_at(&gm, entry.entry_gpa, 1));
		}
		gm_destroy(&gm);
	}
	assert_in_range(refused, 300, 2900);
	free(im);
}

/* ---- entry points ---- */

static void without_a_note_the_header_says_where(void **state)
{
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	im.hdr.e_phnum = 2;
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	assert_int_equal(entry.protocol, BOOT_LINUX64);
	assert_int_equal(entry.entry_gpa, TEXT_GPA + 0x10);
	assert_int_equal(entry.params_gpa, BOOT_PARAMS_GPA);
	gm_destroy(&gm);
}

static void notes_are_found_behind_others_and_in_both_widths(void **state)
{
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	put_note(&im, 4, 8, 18, "Xen", TEXT_GPA + 0x30);
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	assert_int_equal(entry.entry_gpa, TEXT_GPA + 0x30);
	gm_destroy(&gm);
	/* Not ours: another number, another name. */
	put_note(&im, 4, 4, 17, "Xen", TEXT_GPA + 0x30);
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	assert_int_equal(entry.protocol, BOOT_LINUX64);
	gm_destroy(&gm);
	put_note(&im, 4, 4, 18, "GNU", TEXT_GPA + 0x30);
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	assert_int_equal(entry.protocol, BOOT_LINUX64);
	gm_destroy(&gm);
}

/* A note that starts just before the end of what is read at once, behind a long one. */
static void notes_further_than_one_window_are_found(void **state)
{
	struct elf64_note filler = { .n_namesz = 4, .n_descsz = PAGE - 40, .n_type = 1 };
	struct elf64_note note = { .n_namesz = 4, .n_descsz = 4, .n_type = 18 };
	uint32_t value = TEXT_GPA + 0x40;
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;
	uint8_t *at;

	(void)state;
	build(&im);
	/* The data segment's pages serve as the note segment too. */
	im.phdr[NOTE].p_offset = 3 * PAGE;
	im.phdr[NOTE].p_filesz = 16 + PAGE - 40 + 20;
	at = im.bytes + 3 * PAGE;
	memcpy(at, &filler, sizeof(filler));
	at += 16 + PAGE - 40;
	memcpy(at, &note, sizeof(note));
	memcpy(at + 12, "Xen", 4);
	memcpy(at + 16, &value, 4);
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	assert_int_equal(entry.protocol, BOOT_PVH);
	assert_int_equal(entry.entry_gpa, value);
	gm_destroy(&gm);
}

static void program_headers_may_lie_anywhere(void **state)
{
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	memcpy(im.bytes + 7 * PAGE + 3, im.phdr, 3 * sizeof(im.phdr[0]));
	memset(im.phdr, 0xff, sizeof(im.phdr));
	im.hdr.e_phoff = 7 * PAGE + 3;
	assert_int_equal(load_image(&im, &gm, 2, NULL, "x", &entry, &err), 0);
	assert_int_equal(entry.protocol, BOOT_PVH);
	gm_destroy(&gm);
}

static void the_identity_map_bounds_64_bit_kernels(void **state)
{
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;
	struct image im;

	(void)state;
	build(&im);
	im.phdr[DATA].p_paddr = BOOT_IDENTITY_SIZE - PAGE;
	assert_int_equal(load_image(&im, &gm, 1100, NULL, "x", &entry, &err), 0); /* PVH starts without page tables */
	gm_destroy(&gm);
	im.hdr.e_phnum = 2;
	assert_int_equal(load_image(&im, &gm, 1100, NULL, "x", &entry, &err), -ENOEXEC);
	expect_sentence(&err, FIELD, "page tables end at 0x40000000");
	gm_destroy(&gm);
	im.phdr[DATA].p_paddr = BOOT_IDENTITY_SIZE - 9 * PAGE;
	assert_int_equal(load_image(&im, &gm, 1100, NULL, "x", &entry, &err), 0);
	gm_destroy(&gm);
}

/* ---- what is not a kernel file at all ---- */

static void other_files_are_named(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *says;
	} rows[] = {
		{ "\x1f\x8b\x08", 3, "gzip-compressed" },
		{ "\x28\xb5\x2f\xfd....", 8, "zstd-compressed" },
		{ "\xfd"
		  "7zXZ\0",
		  6, "xz-compressed" },
		{ "#!/bin/sh\n", 10, "neither an ELF vmlinux nor a bzImage" },
	};
	char dir[] = "/tmp/mayfly-test-XXXXXX", path[64];
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct memory_file f = file_create(rows[i].bytes, rows[i].len);

		assert_int_equal(load(&gm, 2, f.path, NULL, "x", &entry, &err), -ENOEXEC);
		expect_sentence(&err, FIELD, rows[i].says);
		gm_destroy(&gm);
		file_close(&f);
	}
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(load(&gm, 2, path, NULL, "x", &entry, &err), -EINVAL); /* at once: nobody writes to it */
	expect_sentence(&err, FIELD, "must be a regular file");
	gm_destroy(&gm);
	assert_int_equal(load(&gm, 2, dir, NULL, "x", &entry, &err), -EINVAL);
	expect_sentence(&err, FIELD, "is a directory");
	gm_destroy(&gm);
	unlink(path);
	assert_int_equal(load(&gm, 2, path, NULL, "x", &entry, &err), -ENOENT);
	expect_sentence(&err, FIELD, "No such file");
	gm_destroy(&gm);
	rmdir(dir);
}

/* A program is an ELF file as well, linked at 0: this one. */
static void an_ordinary_program_is_no_kernel(void **state)
{
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	assert_int_equal(load(&gm, 64, "/proc/self/exe", NULL, "x", &entry, &err), -ENOEXEC);
	expect_sentence(&err, FIELD, "first MiB is taken");
	gm_destroy(&gm);
}

static void long_paths_leave_room_for_the_reason(void **state)
{
	char path[3000];
	struct guest_memory gm;
	struct boot_entry entry;
	struct error err;

	(void)state;
	memset(path, '/', sizeof(path));
	memcpy(path + sizeof(path) - 9, "/missing", 9);
	assert_int_equal(load(&gm, 2, path, NULL, "x", &entry, &err), -ENOENT);
	expect_sentence(&err, FIELD "...", "/missing: No such file or directory");
	gm_destroy(&gm);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_and_bss_are_in_place),
		cmocka_unit_test(bad_kernels_are_refused_with_a_sentence),
		cmocka_unit_test(random_headers_do_no_harm),
		cmocka_unit_test(without_a_note_the_header_says_where),
		cmocka_unit_test(notes_are_found_behind_others_and_in_both_widths),
		cmocka_unit_test(notes_further_than_one_window_are_found),
		cmocka_unit_test(program_headers_may_lie_anywhere),
		cmocka_unit_test(the_identity_map_bounds_64_bit_kernels),
		cmocka_unit_test(other_files_are_named),
		cmocka_unit_test(an_ordinary_program_is_no_kernel),
		cmocka_unit_test(long_paths_leave_room_for_the_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
