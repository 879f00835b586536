/* test_guest_memory.c: the one door to guest memory lets nothing past its frame. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot_fixture.h"
#include "guest_memory.h"

#define MIB  (1ull << 20)
#define PAGE 4096u

static void regions_leave_the_hole_free(void **state)
{
	static const struct {
		uint64_t mib, low, high;
	} rows[] = {
		{ 1, 1 * MIB, 0 },
		{ 128, 128 * MIB, 0 },
		{ 3071, 3071 * MIB, 0 },
		{ 3072, GM_HOLE_START, 0 },
		{ 3073, GM_HOLE_START, 1 * MIB },
		{ 6144, GM_HOLE_START, 3072 * MIB },
		{ 1 << 20, GM_HOLE_START, (1ull << 40) - GM_HOLE_START },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct error err = { 0 };
		struct guest_memory gm;

		assert_int_equal(gm_create(&gm, rows[i].mib, HUGE_PAGES_NONE, &err), 0);
		assert_int_equal(gm.nr_regions, rows[i].high ? 2 : 1);
		assert_int_equal(gm.size, rows[i].low + rows[i].high);
		assert_int_equal(gm.region[0].gpa, 0);
		assert_int_equal(gm.region[0].size, rows[i].low);
		if (rows[i].high) {
			assert_int_equal(gm.region[1].gpa, GM_HOLE_END);
			assert_int_equal(gm.region[1].size, rows[i].high);
		}
		gm_destroy(&gm);
		assert_null(gm_at(&gm, 0, 1));
	}
}

static void bad_sizes_are_refused(void **state)
{
	static const struct {
		uint64_t mib;
		enum huge_pages huge;
		const char *what;
	} rows[] = {
		{ 0, HUGE_PAGES_NONE, "must be from 1" },
		{ (4ull << 20) + 1, HUGE_PAGES_NONE, "must be from 1" },
		{ 10ull << 20, HUGE_PAGES_NONE, "must be from 1" },
		{ UINT64_MAX, HUGE_PAGES_NONE, "must be from 1" },
		{ 1ull << 44, HUGE_PAGES_NONE, "must be from 1" }, /* whose bytes wrap to 0 */
		{ 129, HUGE_PAGES_2M, "must be even" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct error err = { 0 };
		struct guest_memory gm;

		assert_int_equal(gm_create(&gm, rows[i].mib, rows[i].huge, &err), -EINVAL);
		expect_sentence(&err, "machine-config.mem_size_mib: ", rows[i].what);
		gm_destroy(&gm); /* nothing to undo, and no harm */
	}
}

static void addresses_are_checked(void **state)
{
	static const struct {
		uint64_t gpa, len;
		bool valid;
	} rows[] = {
		{ 0, 0, true },
		{ 0, 1, true },
		{ 0, GM_HOLE_START, true },
		{ 0, GM_HOLE_START + 1, false },
		{ GM_HOLE_START - 1, 1, true },
		{ GM_HOLE_START - 1, 2, false },
		{ GM_HOLE_START - 1, 0, true },
		{ GM_HOLE_START, 0, false },
		{ GM_HOLE_START, 1, false },
		{ GM_HOLE_END - 1, 1, false },
		{ GM_HOLE_END - 1, 2, false },
		{ GM_HOLE_END, 0, true },
		{ GM_HOLE_END, 1 * MIB, true },
		{ GM_HOLE_END, 1 * MIB + 1, false },
		{ GM_HOLE_END + MIB - 1, 1, true },
		{ GM_HOLE_END + MIB - 1, 2, false },
		{ GM_HOLE_END + MIB, 0, false },
		{ GM_HOLE_END + MIB, 1, false },
		{ 0, GM_HOLE_END + MIB, false },
		{ 0, UINT64_MAX, false },
		{ 1, UINT64_MAX, false },
		{ 4096, UINT64_MAX - 4095, false },
		{ UINT64_MAX, 0, false },
		{ UINT64_MAX, 1, false },
		{ UINT64_MAX, UINT64_MAX, false },
		{ UINT64_MAX - 4095, 4096, false },
		{ GM_HOLE_END, UINT64_MAX, false },
	};
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	assert_int_equal(gm_create(&gm, 3073, HUGE_PAGES_NONE, &err), 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!gm_at(&gm, rows[i].gpa, rows[i].len) == rows[i].valid)
			fail_msg("gm_at(0x%llx, 0x%llx)", (unsigned long long)rows[i].gpa,
				 (unsigned long long)rows[i].len);
	gm_destroy(&gm);
}

static void copies_are_whole_or_nothing(void **state)
{
	uint8_t in[16], out[16];
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	memset(in, 0xa5, sizeof(in));
	memset(out, 0, sizeof(out));
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(gm_write(&gm, 100, in, sizeof(in)), 0);
	assert_int_equal(gm_read(&gm, 100, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	/* Half inside: not a byte moves. */
	assert_int_equal(gm_write(&gm, MIB - 8, in, sizeof(in)), -EFAULT);
	assert_int_equal(*(uint8_t *)gm_at(&gm, MIB - 8, 1), 0);
	memset(out, 0x11, sizeof(out));
	assert_int_equal(gm_read(&gm, MIB - 8, out, sizeof(out)), -EFAULT);
	assert_int_equal(out[0], 0x11);
	/* Nothing to copy is fine where there is memory. */
	assert_int_equal(gm_read(&gm, 0, NULL, 0), 0);
	assert_int_equal(gm_write(&gm, MIB, NULL, 0), -EFAULT);
	gm_destroy(&gm);
}

/* A file whose byte at n tells n, so that a shift or a gap shows. */
static uint8_t pattern(uint64_t n)
{
	return (uint8_t)(n * 7 + (n >> 8) * 13 + 1);
}

static struct memory_file pattern_file(size_t len)
{
	uint8_t *bytes = malloc(len);
	struct memory_file f;

	assert_non_null(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = pattern(i);
	f = file_create(bytes, len);
	free(bytes);
	return f;
}

static void files_appear_exactly_where_asked(void **state)
{
	static const struct {
		uint64_t gpa, offset, len;
	} rows[] = {
		{ 16 * PAGE, 0, 8 * PAGE },                /* whole pages */
		{ 16 * PAGE, 0, 8 * PAGE - 1 },            /* a tail */
		{ 16 * PAGE + 100, 100, 4 * PAGE },        /* head and tail */
		{ 16 * PAGE + 100, 2 * PAGE + 100, PAGE }, /* no whole page */
		{ 16 * PAGE + 4095, 4095, 1 },             /* one byte */
		{ 16 * PAGE + 4095, 4095, 2 },             /* one byte on each side of a boundary */
		{ 16 * PAGE + 4095, 4095, PAGE + 1 },      /* a head and one whole page */
		{ 16 * PAGE, 512, 3 * PAGE },              /* offsets that cannot be mapped */
		{ 16 * PAGE + 1, 0, 2 * PAGE },
		{ 16 * PAGE, 8 * PAGE, 2 * PAGE + 17 }, /* up to the file's end */
		{ 16 * PAGE, 4 * PAGE, 0 },
		{ 16 * PAGE, 10 * PAGE + 17, 0 },
	};
	struct memory_file f = pattern_file(10 * PAGE + 17);

	(void)state;
	for (unsigned int huge = HUGE_PAGES_NONE; huge <= HUGE_PAGES_TRANSPARENT; huge++) {
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			uint64_t gpa = rows[i].gpa, len = rows[i].len;
			struct error err = { 0 };
			struct guest_memory gm;
			const uint8_t *at;

			assert_int_equal(gm_create(&gm, 4, (enum huge_pages)huge, &err), 0);
			memset(gm_at(&gm, 0, 64 * PAGE), 0xee, 64 * PAGE);
			assert_int_equal(gm_load_file(&gm, gpa, f.fd, 10 * PAGE + 17, rows[i].offset, len,
						      i % 2 ? GM_COPY : GM_MAP, &err),
					 0);
			at = gm_at(&gm, 0, 64 * PAGE);
			for (uint64_t n = 0; n < 64 * PAGE; n++) {
				bool inside = n >= gpa && n < gpa + len;

				if (at[n] != (inside ? pattern(n - gpa + rows[i].offset) : 0xee))
					fail_msg("row %zu: byte 0x%llx is wrong", i, (unsigned long long)n);
			}
			gm_destroy(&gm);
		}
	}
	file_close(&f);
}

static void whole_pages_are_shared_and_writes_stay_private(void **state)
{
	struct memory_file f = pattern_file(4 * PAGE);
	uint8_t changed = 0xff, byte;
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(gm_load_file(&gm, 16 * PAGE, f.fd, 4 * PAGE, 0, 3 * PAGE + 10, GM_MAP, &err), 0);
	/* The guest writes: the file does not change. */
	assert_int_equal(gm_write(&gm, 16 * PAGE, &changed, 1), 0);
	assert_int_equal(pread(f.fd, &byte, 1, 0), 1);
	assert_int_equal(byte, pattern(0));
	/* A page not written yet is the page cache's (no copy was made), the tail is ours. */
	assert_int_equal(pwrite(f.fd, &changed, 1, PAGE), 1);
	assert_int_equal(pwrite(f.fd, &changed, 1, 3 * PAGE), 1);
	assert_int_equal(*(uint8_t *)gm_at(&gm, 17 * PAGE, 1), changed);
	assert_int_equal(*(uint8_t *)gm_at(&gm, 19 * PAGE, 1), pattern(3 * PAGE));
	gm_destroy(&gm);
	file_close(&f);
}

static void bad_loads_are_refused(void **state)
{
	static const struct {
		uint64_t gpa, offset, len;
		int code;
	} rows[] = {
		{ 0, 0, 3 * PAGE + 1, -EIO }, /* longer than the file */
		{ 0, 3 * PAGE + 1, 0, -EIO }, /* past its end */
		{ 0, 2 * PAGE, 2 * PAGE, -EIO },
		{ 0, UINT64_MAX, 2, -EIO }, /* sums that wrap */
		{ 0, UINT64_MAX - PAGE + 1, PAGE, -EIO },
		{ MIB - PAGE, 0, 2 * PAGE, -EFAULT }, /* past RAM */
		{ MIB, 0, PAGE, -EFAULT },
		{ UINT64_MAX - PAGE + 1, 0, PAGE, -EFAULT },
		{ 0, 0, UINT64_MAX, -EFAULT },
	};
	struct memory_file f = pattern_file(3 * PAGE);

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct error err = { 0 };
		struct guest_memory gm;

		assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
		assert_int_equal(
			gm_load_file(&gm, rows[i].gpa, f.fd, 3 * PAGE, rows[i].offset, rows[i].len, GM_MAP, &err),
			rows[i].code);
		assert_true(err.message[0]);
		gm_destroy(&gm);
	}
	file_close(&f);
}

/* The file shrank after its size was read: where bytes are copied it is an error, not a short copy. */
static void a_file_cut_short_is_noticed(void **state)
{
	struct memory_file f = pattern_file(3 * PAGE);
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	file_resize(&f, PAGE);
	assert_int_equal(gm_load_file(&gm, 0, f.fd, 3 * PAGE, 512, 2 * PAGE, GM_MAP, &err), -EIO);
	assert_non_null(strstr(err.message, "too early"));
	close(f.fd);
	assert_int_equal(gm_load_file(&gm, 0, f.fd, 3 * PAGE, 512, 2 * PAGE, GM_MAP, &err), -EBADF);
	gm_destroy(&gm);
}

static void transparent_memory_is_aligned(void **state)
{
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	assert_int_equal(gm_create(&gm, 3, HUGE_PAGES_TRANSPARENT, &err), 0);
	assert_int_equal((uintptr_t)gm.region[0].hva % (2 * MIB), 0);
	memset(gm_at(&gm, 0, 3 * MIB), 1, 3 * MIB);
	gm_destroy(&gm);
}

/* Whichever the host has: memory that works, or a sentence that says how many pages are missing. */
static void huge_pages_are_there_or_refused(void **state)
{
	struct memory_file f = pattern_file(2 * PAGE);
	struct error err = { 0 };
	struct guest_memory gm;
	int ret = gm_create(&gm, 4, HUGE_PAGES_2M, &err);

	(void)state;
	if (ret) {
		assert_int_equal(ret, -ENOMEM);
		expect_sentence(&err, "machine-config.huge_pages: ", "needs 2 free huge pages");
	} else {
		assert_int_equal(gm_load_file(&gm, PAGE, f.fd, 2 * PAGE, 0, 2 * PAGE, GM_MAP, &err), 0);
		assert_int_equal(*(uint8_t *)gm_at(&gm, 2 * PAGE, 1), pattern(PAGE));
	}
	gm_destroy(&gm);
	/* More than any machine has. */
	assert_int_equal(gm_create(&gm, 4ull << 20, HUGE_PAGES_2M, &err), -ENOMEM);
	expect_sentence(&err, "machine-config.huge_pages: ", "nr_hugepages");
	file_close(&f);
}

static void kvm_refusal_is_a_sentence(void **state)
{
	struct error err = { 0 };
	struct guest_memory gm;

	(void)state;
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(gm_register(&gm, -1, &err), -EBADF);
	expect_sentence(&err, "machine-config.mem_size_mib: ", "KVM refused 1 MiB");
	gm_destroy(&gm);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(regions_leave_the_hole_free),
		cmocka_unit_test(bad_sizes_are_refused),
		cmocka_unit_test(addresses_are_checked),
		cmocka_unit_test(copies_are_whole_or_nothing),
		cmocka_unit_test(files_appear_exactly_where_asked),
		cmocka_unit_test(whole_pages_are_shared_and_writes_stay_private),
		cmocka_unit_test(bad_loads_are_refused),
		cmocka_unit_test(a_file_cut_short_is_noticed),
		cmocka_unit_test(transparent_memory_is_aligned),
		cmocka_unit_test(huge_pages_are_there_or_refused),
		cmocka_unit_test(kvm_refusal_is_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
