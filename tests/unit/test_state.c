/* test_state.c: state files are read back as they were written, and no damaged one is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "snapshot/state.h"

static const char config[] = "{\"drives\":[]}";

static void write_sample(struct state_writer *w)
{
	const struct state_info info = { .memory_size = 1 << 20, .version = "1", .nr_vcpus = 2 };
	const uint32_t later[] = { 1, 2, 3 };
	struct error err;

	*w = (struct state_writer){ 0 };
	state_begin(w);
	state_put(w, STATE_INFO, 0, &info, sizeof(info));
	state_put(w, STATE_CONFIG, 0, config, sizeof(config) - 1);
	state_put_optional(w, STATE_TAG('N', 'E', 'W', '!'), 7, later, sizeof(later));
	state_put(w, STATE_VCPU, 0, "abc", 3);
	state_put(w, STATE_VCPU, 1, NULL, 0);
	assert_int_equal(state_finish(w, &err), 0);
}

static void test_round_trip(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct state_info info;
	const void *payload;
	uint8_t small[8];
	struct error err;
	size_t size;

	(void)state;
	write_sample(&w);
	assert_int_equal(state_open(&r, w.data, w.len, &err), 0);
	assert_int_equal(state_get(&r, STATE_INFO, 0, &info, sizeof(info), sizeof(info), &err), 0);
	assert_int_equal(info.memory_size, 1 << 20);
	assert_int_equal(info.nr_vcpus, 2);
	assert_int_equal(state_view(&r, STATE_CONFIG, 0, &payload, &size, 1, &err), 0);
	assert_int_equal(size, sizeof(config) - 1);
	assert_memory_equal(payload, config, size);
	/* Over the optional one; what is shorter than the struct is filled with zeros. */
	assert_true(state_has(&r, STATE_VCPU, 0));
	memset(small, 0xff, sizeof(small));
	assert_int_equal(state_get(&r, STATE_VCPU, 0, small, 3, sizeof(small), &err), 0);
	assert_memory_equal(small, "abc\0\0\0\0\0", 8);
	assert_int_equal(state_view(&r, STATE_VCPU, 1, &payload, &size, 8, &err), 0);
	assert_int_equal(size, 0);
	assert_int_equal(state_end(&r, &err), 0);
	state_free(&w);
}

static void test_order_and_sizes(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct state_info info;
	const void *payload;
	struct error err;
	size_t size;

	(void)state;
	write_sample(&w);
	assert_int_equal(state_open(&r, w.data, w.len, &err), 0);
	assert_true(state_get(&r, STATE_VCPU, 0, &info, 1, sizeof(info), &err) < 0); /* INFO comes first */
	assert_string_equal(err.message, "the state file: VCPU 0: this record is missing, or out of order");
	assert_true(state_get(&r, STATE_INFO, 1, &info, 1, sizeof(info), &err) < 0);
	assert_true(state_get(&r, STATE_INFO, 0, &info, sizeof(info) + 1, sizeof(info) + 8, &err) < 0);
	assert_int_equal(state_open(&r, w.data, w.len, &err), 0);
	assert_true(state_get(&r, STATE_INFO, 0, &info, 1, sizeof(info) - 1, &err) < 0);
	assert_true(state_view(&r, STATE_CONFIG, 0, &payload, &size, 8, &err) < 0);
	assert_int_equal(state_open(&r, w.data, w.len, &err), 0);
	assert_true(state_end(&r, &err) < 0);
	assert_string_equal(err.message, "the state file: INFO 0: this record is one too many");
	state_free(&w);
}

/* The checksum finds every flipped bit; every shorter file is refused, too. */
static void test_damage(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct error err;
	uint8_t *copy;
	size_t i;

	(void)state;
	write_sample(&w);
	for (i = 0; i < w.len; i++) {
		/* Of its own size, so that the sanitizer sees what reads on. */
		copy = malloc(i);
		memcpy(copy, w.data, i);
		assert_true(state_open(&r, copy, i, &err) < 0);
		free(copy);
		w.data[i] ^= (uint8_t)(1u << i % 8);
		assert_true(state_open(&r, w.data, w.len, &err) < 0);
		w.data[i] ^= (uint8_t)(1u << i % 8);
	}
	assert_int_equal(state_open(&r, w.data, w.len, &err), 0);
	state_free(&w);
}

static void reseal(struct state_writer *w)
{
	const uint64_t crc = crc64(0, w->data, w->len - 8);

	memcpy(w->data + w->len - 8, &crc, 8);
}

static void test_versions(void **state)
{
	struct state_writer w;
	struct state_reader r;
	struct error err;
	uint16_t version;

	(void)state;
	write_sample(&w);
	version = STATE_MINOR + 1;
	memcpy(w.data + offsetof(struct state_header, minor), &version, 2);
	reseal(&w);
	assert_true(state_open(&r, w.data, w.len, &err) < 0);
	assert_non_null(strstr(err.message, "needs a newer Mayfly"));
	version = STATE_MAJOR + 1;
	memcpy(w.data + offsetof(struct state_header, major), &version, 2);
	reseal(&w);
	assert_true(state_open(&r, w.data, w.len, &err) < 0);
	assert_non_null(strstr(err.message, "needs a newer Mayfly"));
	state_free(&w);
}

/* With a checksum that fits: sizes that lie. */
static void test_lying_records(void **state)
{
	static const uint32_t lies[] = { UINT32_MAX, UINT32_MAX - 7, 1u << 31, 4096 };
	struct state_writer w;
	struct state_reader r;
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		write_sample(&w);
		memcpy(w.data + sizeof(struct state_header) + offsetof(struct state_record, size), &lies[i], 4);
		reseal(&w);
		assert_true(state_open(&r, w.data, w.len, &err) < 0);
		state_free(&w);
	}
}

static void test_crc(void **state)
{
	(void)state;
	/* The check value of CRC-64/XZ. */
	assert_int_equal(crc64(0, "123456789", 9), 0x995dc9bbdf1939faull);
	assert_int_equal(crc64(crc64(0, "1234", 4), "56789", 5), 0x995dc9bbdf1939faull);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_order_and_sizes),
		cmocka_unit_test(test_damage),        cmocka_unit_test(test_versions),
		cmocka_unit_test(test_lying_records), cmocka_unit_test(test_crc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
