/* test_mmds_state.c: the metadata is the same in the other microVM, and no state file brings in what PUT would not. */
#include "state_fixture.h"

#include <stdlib.h>

#include "mmds/mmds.h"

static struct mmds *old, *new;
static struct saved saved;

static int start(void **state)
{
	struct error err;

	(void)state;
	return mmds_create(&old, 200, &err) || mmds_create(&new, 200, &err) ? -1 : 0;
}

static int end(void **state)
{
	(void)state;
	mmds_destroy(old);
	mmds_destroy(new);
	state_free(&saved.w);
	return 0;
}

static void put(struct mmds *mmds, const char *text)
{
	json_t *data = json_loads(text, JSON_ALLOW_NUL, NULL);
	struct error err;

	assert_non_null(data);
	assert_int_equal(mmds_store_put(&mmds->store, data, &err), 0);
	json_decref(data);
}

static void assert_document(const struct mmds *mmds, const char *text)
{
	struct buffer out = { 0 };

	assert_int_equal(mmds_store_get(&mmds->store, "", 0, MMDS_FORMAT_JSON, &out), 0);
	assert_int_equal(out.len, strlen(text));
	assert_memory_equal(out.data, text, out.len);
	free(out.data);
}

static void data_goes_on(void **state)
{
	static const char text[] =
		"{\"a\":{\"b\":[1,-2.5,12.12,0.1234567890123456,\"\\u0000x\\u00e9/~\",null,true]},\"\":{}}";
	struct buffer before = { 0 };

	(void)state;
	put(old, text);
	put(new, "{\"here\":\"before\"}");
	(void)mmds_store_get(&old->store, "", 0, MMDS_FORMAT_JSON, &before);
	buffer_add(&before, "", 1);
	mmds_save(old, saved_begin(&saved));
	saved_end(&saved);
	assert_int_equal(mmds_restore(new, &saved.r, &saved.err), 0);
	assert_int_equal(state_end(&saved.r, &saved.err), 0);
	assert_document(new, before.data);
	free(before.data);
	assert_true(json_equal(old->store.data, new->store.data));
}

/* Not put yet is not null: a PATCH is refused in both. */
static void nothing_stays_nothing(void **state)
{
	json_t *patch = json_object();

	(void)state;
	mmds_save(old, saved_begin(&saved));
	saved_end(&saved);
	assert_int_equal(mmds_restore(new, &saved.r, &saved.err), 0);
	assert_int_equal(mmds_store_patch(&new->store, patch, &saved.err), -ENOENT);
	json_decref(patch);
}

static int restore_text(const char *text, size_t len)
{
	state_free(&saved.w);
	state_put(saved_begin(&saved), STATE_METADATA, 0, text, len);
	saved_end(&saved);
	return mmds_restore(new, &saved.r, &saved.err);
}

static void what_put_refuses_is_refused(void **state)
{
	static char deep[400], large[300];
	int ret;

	(void)state;
	put(new, "{\"here\":\"before\"}");
	assert_refused(&saved, restore_text("{\"a\":1,\"a\":2}", 13), "a key is given twice");
	assert_refused(&saved, restore_text("{\"a\":", 5), "the state file's metadata:1:5");
	assert_refused(&saved, restore_text("{\"a\":\"\xff\"}", 9), "UTF-8");
	assert_refused(&saved, restore_text("[1]", 3), "MMDS 0: the metadata is no JSON object");
	assert_refused(&saved, restore_text("null", 4), "no JSON object");
	assert_refused(&saved, restore_text("\0\0\0", 3), "the state file's metadata");
	memset(deep, '[', sizeof(deep));
	assert_refused(&saved, restore_text(deep, sizeof(deep)), "the state file's metadata");
	memset(large, 'x', sizeof(large));
	memcpy(large, "{\"a\":\"", 6);
	memcpy(large + sizeof(large) - 2, "\"}", 2);
	ret = restore_text(large, sizeof(large));
	assert_int_equal(ret, -EFBIG);
	assert_non_null(strstr(saved.err.message, "--mmds-size-limit"));
	assert_document(new, "{\"here\":\"before\"}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(data_goes_on, start, end),
		cmocka_unit_test_setup_teardown(nothing_stays_nothing, start, end),
		cmocka_unit_test_setup_teardown(what_put_refuses_is_refused, start, end),
	};

	return cmocka_run_group_tests_name("mmds state", tests, NULL, NULL);
}
