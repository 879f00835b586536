/* test_mmds_store.c: the metadata document: replacing, patching, its limit, and what is found at a path. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmds/store.h"

static struct mmds_store store;
static struct error err;

static int start(void **state)
{
	(void)state;
	mmds_store_init(&store, MMDS_DEFAULT_SIZE_LIMIT);
	return 0;
}

static int end(void **state)
{
	(void)state;
	mmds_store_free(&store);
	return 0;
}

static int with(int (*change)(struct mmds_store *, json_t *, struct error *), const char *text)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
	int ret;

	assert_non_null(json);
	ret = change(&store, json, &err);
	json_decref(json);
	return ret;
}

/* NULL when there is nothing; valid until the next call. */
static const char *get(const char *path, enum mmds_format format)
{
	static char text[60000];
	struct buffer out = { 0 };
	int ret = mmds_store_get(&store, path, strlen(path), format, &out);

	assert_false(out.failed);
	if (ret == -ENOTSUP)
		strcpy(text, "unsupported");
	else if (ret == 0)
		memcpy(text, out.data ? out.data : "", out.len);
	if (ret == 0)
		text[out.len] = '\0';
	free(out.data);
	return ret == -ENOENT ? NULL : text;
}

#define assert_json(path, expected) assert_string_equal(get(path, MMDS_FORMAT_JSON), expected)
#define assert_imds(path, expected) assert_string_equal(get(path, MMDS_FORMAT_IMDS), expected)

/* The table of Firecracker's data_store.rs. */
static void values_in_both_formats(void **state)
{
	(void)state;
	assert_int_equal(with(mmds_store_put,
			      "{\"name\":{\"second\":\"Doe\",\"first\":\"John\",\"more\":{}},\"age\":43,"
			      "\"phones\":[\"+401234567\",\"+441234567\"],\"member\":false,"
			      "\"share\":12.12,\"balance\":-24,\"none\":null,\"empty\":{},"
			      "\"text\":\"{\\n  \\\"hello\\\": \\\"world\\\"\\n}\"}"),
			 0);
	assert_json("/name", "{\"first\":\"John\",\"more\":{},\"second\":\"Doe\"}");
	assert_imds("/name", "first\nmore/\nsecond");
	assert_imds("/", "age\nbalance\nempty/\nmember\nname/\nnone\nphones\nshare\ntext");
	assert_json("/age", "43");
	assert_imds("/age", "unsupported");
	assert_json("/phones/", "[\"+401234567\",\"+441234567\"]");
	assert_imds("/phones", "unsupported");
	assert_imds("/phones/0", "+401234567");
	assert_json("/phones/1", "\"+441234567\"");
	assert_json("/member", "false");
	assert_imds("/member", "unsupported");
	assert_json("/share", "12.12");
	assert_json("/balance", "-24");
	assert_json("/none", "null");
	assert_imds("/none", "unsupported");
	assert_json("/empty", "{}");
	assert_imds("/empty", "");
	assert_imds("/text", "{\n  \"hello\": \"world\"\n}");
	assert_json("/text", "\"{\\n  \\\"hello\\\": \\\"world\\\"\\n}\"");
}

static void paths_are_json_pointers(void **state)
{
	(void)state;
	assert_int_equal(with(mmds_store_put,
			      "{\"a\":{\"b/c\":1,\"~\":2,\"~1\":3,\"\":4,\"d\":[[5]]},\"x y\":6,\"%20\":7,"
			      "\"q?r\":8}"),
			 0);
	assert_json("/a/b~1c", "1");
	assert_json("/a/~0", "2");
	assert_json("/a/~", "2"); /* not an escape: itself */
	assert_json("/a/~01", "3");
	assert_json("//a///d//0/0/", "5");
	assert_json("/x y", "6");
	assert_json("/%20", "7");
	assert_json("/q?r", "8");
	assert_string_equal(get("", MMDS_FORMAT_JSON), get("////", MMDS_FORMAT_JSON));
	for (const char *const *path = (const char *const[]){ "a", "/a/d/1", "/a/d/00", "/a/d/-", "/a/d/+0", "/a/d/0x0",
							      "/a/d/99999999999999999999", "/a/d/0/0/0", "/A", "/a/b/c",
							      "/a/~2", "/ a", "/a\xff", NULL };
	     *path; path++)
		if (get(*path, MMDS_FORMAT_JSON))
			fail_msg("something at %s", *path);
}

static void nothing_put_yet(void **state)
{
	(void)state;
	assert_json("/", "null");
	assert_imds("/", "unsupported");
	assert_null(get("/key", MMDS_FORMAT_JSON));
	assert_int_equal(with(mmds_store_patch, "{\"a\":1}"), -ENOENT);
	assert_non_null(strstr(err.message, "not initialized"));
	/* null is something. */
	assert_int_equal(with(mmds_store_put, "null"), 0);
	assert_int_equal(with(mmds_store_patch, "{\"a\":1}"), 0);
	assert_json("", "{\"a\":1}");
}

/* The examples of RFC 7396, appendix A. */
static void merge_patches(void **state)
{
	static const char *const cases[][3] = {
		{ "{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
		{ "{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}" },
		{ "{\"a\":\"b\"}", "{\"a\":null}", "{}" },
		{ "{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}" },
		{ "{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
		{ "{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}" },
		{ "{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}" },
		{ "{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}" },
		{ "[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]" },
		{ "{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]" },
		{ "{\"a\":\"foo\"}", "null", "null" },
		{ "{\"a\":\"foo\"}", "\"bar\"", "\"bar\"" },
		{ "{\"e\":null}", "{\"a\":1}", "{\"a\":1,\"e\":null}" },
		{ "[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}" },
		{ "{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(with(mmds_store_put, cases[i][0]), 0);
		assert_int_equal(with(mmds_store_patch, cases[i][1]), 0);
		assert_json("", cases[i][2]);
	}
}

static void limit_is_in_bytes_of_compact_json(void **state)
{
	char text[128] = "{ \"a\" : \"";

	(void)state;
	mmds_store_free(&store);
	mmds_store_init(&store, 40);
	memset(text + 9, 'x', 33);
	strcpy(text + 41, "\" }"); /* 40 bytes without the blanks */
	assert_int_equal(with(mmds_store_put, text), 0);
	assert_int_equal(strlen(get("", MMDS_FORMAT_JSON)), 40);
	memmove(text + 42, text + 41, 4);
	text[41] = 'x';
	assert_int_equal(with(mmds_store_put, text), -EFBIG);
	assert_non_null(strstr(err.message, "41 bytes"));
	assert_non_null(strstr(err.message, "at most 40"));
	assert_non_null(strstr(err.message, "--mmds-size-limit"));
	assert_int_equal(with(mmds_store_patch, "{\"b\":1}"), -EFBIG);
	/* As it was before. */
	assert_int_equal(strlen(get("", MMDS_FORMAT_JSON)), 40);
	assert_null(get("/b", MMDS_FORMAT_JSON));
	assert_int_equal(with(mmds_store_patch, "{\"a\":null,\"b\":1}"), 0);
	assert_json("", "{\"b\":1}");
}

static void fractions_stay_as_they_were_given(void **state)
{
	(void)state;
	assert_int_equal(with(mmds_store_put, "[0.1,12.12,1e300,-2.5e-7,100.0]"), 0);
	assert_json("", "[0.1,12.12,1e300,-2.5e-7,100.0]");
	/* 17 digits are needed, so all get them: none changes its value. */
	assert_int_equal(with(mmds_store_put, "[0.30000000000000004]"), 0);
	assert_json("", "[0.30000000000000004]");
	assert_int_equal(with(mmds_store_patch, "[0.5]"), 0);
	assert_json("", "[0.5]");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(values_in_both_formats, start, end),
		cmocka_unit_test_setup_teardown(paths_are_json_pointers, start, end),
		cmocka_unit_test_setup_teardown(nothing_put_yet, start, end),
		cmocka_unit_test_setup_teardown(merge_patches, start, end),
		cmocka_unit_test_setup_teardown(limit_is_in_bytes_of_compact_json, start, end),
		cmocka_unit_test_setup_teardown(fractions_stay_as_they_were_given, start, end),
	};

	return cmocka_run_group_tests_name("mmds_store", tests, NULL, NULL);
}
