/* test_lazy_memory.c: what is not touched is not there, even where the host gives everybody huge pages. */
#include "unit.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lazy_memory.h"

#define LEN ((size_t)8 << 20)

/* Does the kernel's list of this mapping's flags have the one? */
static bool has_flag(const void *p, const char *flag)
{
	unsigned long start, end;
	bool here = false;
	char line[512];
	FILE *f = fopen("/proc/self/smaps", "r");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (unsigned long)p && (unsigned long)p < end;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			break;
	}
	fclose(f);
	return here && strstr(line, flag);
}

static size_t resident(void *p)
{
	static unsigned char page[LEN / 4096];
	size_t n = 0;

	assert_int_equal(mincore(p, LEN, page), 0);
	for (size_t i = 0; i < sizeof(page); i++)
		n += page[i] & 1;
	return n;
}

static void only_touched_pages_are_there(void **state)
{
	char *p = lazy_alloc(LEN);

	(void)state;
	assert_non_null(p);
	assert_int_equal(resident(p), 0);
	for (size_t at = 0; at < LEN; at += LEN / 8) {
		assert_int_equal(p[at], 0);
		p[at] = 1;
	}
	assert_int_equal(resident(p), 8);
	if (access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0)
		assert_true(has_flag(p, " nh"));
	assert_int_equal(munmap(p, LEN), 0);
}

static void too_much_is_refused(void **state)
{
	(void)state;
	assert_null(lazy_alloc((size_t)1 << 60));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_touched_pages_are_there),
		cmocka_unit_test(too_much_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
