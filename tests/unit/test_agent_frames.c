/* test_agent_frames.c: the codec of the agent's protocol, and what a host sends through it that a tar archive is made
 * of. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "frames.h"
#include "tar.h"

static struct frame_reader r;

/* Feed bytes in pieces of a size; returns what the last frame_got said, and how many bytes it took. */
static int feed(const uint8_t *data, size_t len, size_t piece, size_t *taken)
{
	int ret = 0;

	for (*taken = 0; *taken < len && !ret;) {
		size_t n = frame_wanted(&r);

		assert_true(n > 0);
		n = n < piece ? n : piece;
		n = n < len - *taken ? n : len - *taken;
		memcpy(frame_space(&r), data + *taken, n);
		*taken += n;
		ret = frame_got(&r, n);
	}
	return ret;
}

static void test_frames(void **state)
{
	static uint8_t stream[2 * FRAME_HEADER + FRAME_MAX + 5];
	size_t taken, piece;

	(void)state;
	frame_header(stream, FRAME_STDIN, 5);
	assert_memory_equal(stream, "\5\0\0\0\3\0\0\0", 8);
	memcpy(stream + 8, "hello", 5);
	frame_header(stream + 13, FRAME_DATA, FRAME_MAX);
	assert_memory_equal(stream + 13, "\0\0\1\0\11\0\0\0", 8);
	memset(stream + 21, 'x', FRAME_MAX);
	for (piece = 1; piece < 70000; piece = piece * 3 + 1) {
		memset(&r, 0, sizeof(r));
		assert_int_equal(feed(stream, sizeof(stream), piece, &taken), 1);
		assert_int_equal(taken, 13); /* and not a byte of the next */
		assert_int_equal(r.type, FRAME_STDIN);
		assert_string_equal(frame_payload(&r), "hello");
		frame_next(&r);
		assert_int_equal(feed(stream + 13, sizeof(stream) - 13, piece, &taken), 1);
		assert_int_equal(r.len, FRAME_MAX);
		assert_int_equal(taken, FRAME_HEADER + FRAME_MAX);
	}
	frame_next(&r);
	frame_header(stream, FRAME_EXIT, 0);
	assert_int_equal(feed(stream, 8, 8, &taken), 1);
	assert_int_equal(r.len, 0);
	assert_string_equal(frame_payload(&r), "");
}

static int one_header(const char *bytes)
{
	size_t taken;

	memset(&r, 0, sizeof(r));
	return feed((const uint8_t *)bytes, FRAME_HEADER, 1, &taken);
}

static void test_bad_frames(void **state)
{
	(void)state;
	assert_int_equal(one_header("\0\0\1\0\1\0\0\0"), 0);
	assert_int_equal(one_header("\1\0\1\0\1\0\0\0"), -EMSGSIZE);
	assert_int_equal(one_header("\377\377\377\377\1\0\0\0"), -EMSGSIZE);
	assert_int_equal(one_header("\0\0\0\0\0\0\0\0"), -EPROTO);
	assert_int_equal(one_header("\0\0\0\0\12\0\0\0"), -EPROTO);
	assert_int_equal(one_header("\0\0\0\0\377\0\0\0"), -EPROTO);
	assert_int_equal(one_header("\0\0\0\0\1\1\0\0"), -EPROTO);
	assert_int_equal(one_header("\0\0\0\0\1\0\1\0"), -EPROTO);
	assert_int_equal(one_header("\0\0\0\0\1\0\0\1"), -EPROTO);
}

#define FIELDS(text) (&(struct fields){ text, sizeof(text) })

static void test_fields(void **state)
{
	const struct fields *f = FIELDS("a=1\0arg=x=y\0arg=\0b_2=\0arg=last");
	const char *value = NULL;

	(void)state;
	assert_int_equal(fields_check(f->text, f->len), 0);
	assert_string_equal(field_get(f, "a"), "1");
	assert_string_equal(field_get(f, "b_2"), "");
	assert_null(field_get(f, "ar"));
	assert_null(field_get(f, "argx"));
	value = field_next(f, "arg", value);
	assert_string_equal(value, "x=y");
	value = field_next(f, "arg", value);
	assert_string_equal(value, "");
	value = field_next(f, "arg", value);
	assert_string_equal(value, "last");
	assert_null(field_next(f, "arg", value));
	value = field_next(f, NULL, NULL);
	assert_string_equal(value, "a=1");
	assert_string_equal(field_next(f, NULL, value), "arg=x=y");
	assert_int_equal(fields_check(NULL, 0), 0);
	assert_null(field_next(&(struct fields){ 0 }, NULL, NULL));
	assert_int_equal(fields_check("a=1", 3), -EPROTO); /* without its 0 */
	assert_int_equal(fields_check("a", 2), -EPROTO);
	assert_int_equal(fields_check("=1", 3), -EPROTO);
	assert_int_equal(fields_check("A=1", 4), -EPROTO);
	assert_int_equal(fields_check("a b=1", 6), -EPROTO);
	assert_int_equal(fields_check("a=1\0", 5), -EPROTO); /* an empty one */
	assert_int_equal(fields_check("\0a=1", 5), -EPROTO);
}

static void test_end_of_a_request(void **state)
{
	(void)state;
	assert_true(fields_are_whole("end=1", 6));
	assert_true(fields_are_whole("a=1\0end=1", 10));
	assert_false(fields_are_whole("a=1\0end=1", 9)); /* its 0 is still to come */
	assert_false(fields_are_whole("a=end=1", 8));
	assert_false(fields_are_whole("append=1", 9));
	assert_false(fields_are_whole("end=1\0a=2", 10));
	assert_false(fields_are_whole("", 0));
}

static void test_numbers(void **state)
{
	static const char *const bad[] = {
		"", "x", "1x", " 1", "1 ", "+1", "-", "--1", "0x10", "1.0", "99999999999999999999", "11", "-1"
	};
	char text[40];
	int64_t n = 5;

	(void)state;
	assert_int_equal(field_number(FIELDS("n=10"), "n", 0, 10, &n), 0);
	assert_int_equal(n, 10);
	assert_int_equal(field_number(FIELDS("n=-9223372036854775808"), "n", INT64_MIN, INT64_MAX, &n), 0);
	assert_true(n == INT64_MIN);
	assert_int_equal(field_number(FIELDS("m=10"), "n", 0, 10, &n), -ENOENT);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		int len = snprintf(text, sizeof(text), "n=%s", bad[i]);

		n = 5;
		assert_int_equal(field_number(&(struct fields){ text, (size_t)len + 1 }, "n", 0, 10, &n), -EINVAL);
		assert_int_equal(n, 5);
	}
}

static void test_building(void **state)
{
	char text[16];
	struct field_buffer b = { .text = text, .size = sizeof(text) };

	(void)state;
	field_add(&b, "a", "");
	field_add_number(&b, "n", -7);
	assert_int_equal(b.len, 8);
	assert_memory_equal(text, "a=\0n=-7", 8);
	field_add(&b, "key", "1234"); /* one byte too long: left out whole */
	assert_true(b.full);
	assert_int_equal(b.len, 8);
	field_add(&b, "k", "");
	assert_int_equal(b.len, 8); /* and nothing behind it, so nothing is missing in the middle */
	b.full = false;
	field_add(&b, "key", "123");
	assert_false(b.full);
	assert_int_equal(b.len, 16);
}

static void test_tar_names(void **state)
{
	static const char *const good[] = { "a", "a/b", "..a", "a../b", "...", "./a", "a//b" };
	static const char *const bad[] = { "", "/", "/a", "..", "../a", "a/..", "a/../b", "a//..", "./../a" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_true(tar_name_ok(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(tar_name_ok(bad[i]));
}

static void unknown(struct tar_entry *e)
{
	memset(e, 0, sizeof(*e));
	e->size = -1;
	e->uid = (uid_t)-1;
	e->gid = (gid_t)-1;
}

/* Take blocks as tar_format made them apart again. */
static int parse(char *blocks, size_t len, struct tar_entry *e)
{
	struct tar_entry own;
	struct tar_header h;

	unknown(e);
	if (len > TAR_BLOCK) {
		unknown(&own);
		memcpy(&h, blocks, sizeof(h));
		if (tar_parse(&h, &own) != 1 || own.type != 'x')
			return -1;
		/* A copy that ends in a 0, as the caller must have it. */
		char records[TAR_BLOCK * 40] = { 0 };

		memcpy(records, blocks + TAR_BLOCK, (size_t)own.size);
		if (!tar_records('x', records, (size_t)own.size, e))
			return -1;
	}
	memcpy(&h, blocks + len - TAR_BLOCK, sizeof(h));
	return tar_parse(&h, e);
}

static void test_tar_round_trip(void **state)
{
	static struct tar_entry in, out;
	static char blocks[40 * TAR_BLOCK];
	static const int64_t sizes[] = { 0, 1, 077777777777, 0100000000000, INT64_MAX };

	(void)state;
	for (size_t name = 1; name < PATH_MAX; name = name * 3 / 2 + 1)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			in = (struct tar_entry){ .type = '0', .size = sizes[i], .mtime = 1000000000 };
			in.mode = 04755;
			in.uid = i ? 4294967294U : 1000;
			in.gid = 07777777;
			memset(in.name, 'n', name);
			memset(in.link, 'l', PATH_MAX - 1 - name);
			size_t len = tar_format(&in, blocks, sizeof(blocks));

			assert_true(len >= TAR_BLOCK && len % TAR_BLOCK == 0);
			assert_int_equal(parse(blocks, len, &out), 1);
			assert_string_equal(in.name, out.name);
			assert_string_equal(in.link, out.link);
			assert_true(in.size == out.size && in.uid == out.uid && in.gid == out.gid);
			assert_true(in.mtime == out.mtime && in.mode == out.mode && in.type == out.type);
		}
	memset(in.name, 'n', PATH_MAX - 1);
	assert_int_equal(tar_format(&in, blocks, 6 * TAR_BLOCK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames),    cmocka_unit_test(test_bad_frames),
		cmocka_unit_test(test_fields),    cmocka_unit_test(test_end_of_a_request),
		cmocka_unit_test(test_numbers),   cmocka_unit_test(test_building),
		cmocka_unit_test(test_tar_names), cmocka_unit_test(test_tar_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
