/* diff.c: in what two state files differ. */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "diff.h"
#include "files.h"
#include "json.h"
#include "records.h"
#include "state_file.h"
#include "text.h"

#define WHERE_ROOM 512

json_t *diff_add(json_t *list, const char *record, const char *where, json_t *a, json_t *b)
{
	char shown[4 * WHERE_ROOM];
	json_t *entry;

	/* A key of somebody's may have been cut in the middle of a character. */
	text_escape(shown, sizeof(shown), where, strlen(where));
	entry = json_pack("{s:s, s:s, s:o*, s:o*}", "record", record, "where", shown, "a", a, "b", b);
	(void)json_array_append_new(list, entry);
	return entry;
}

/* ---- JSON ---- */

static void compare_json(json_t *list, const char *record, const char *where, json_t *a, json_t *b);

static void compare_objects(json_t *list, const char *record, const char *where, json_t *a, json_t *b)
{
	char deeper[WHERE_ROOM];
	const char *key;
	json_t *value;

	json_object_foreach(a, key, value)
	{
		snprintf(deeper, sizeof(deeper), "%s%s%s", where, *where ? "." : "", key);
		compare_json(list, record, deeper, value, json_object_get(b, key));
	}
	json_object_foreach(b, key, value)
	{
		if (json_object_get(a, key))
			continue;
		snprintf(deeper, sizeof(deeper), "%s%s%s", where, *where ? "." : "", key);
		compare_json(list, record, deeper, NULL, value);
	}
}

static void compare_lists(json_t *list, const char *record, const char *where, json_t *a, json_t *b)
{
	const size_t in_a = json_array_size(a), in_b = json_array_size(b);
	char deeper[WHERE_ROOM];
	size_t i;

	for (i = 0; i < in_a || i < in_b; i++) {
		snprintf(deeper, sizeof(deeper), "%s[%zu]", where, i);
		compare_json(list, record, deeper, json_array_get(a, i), json_array_get(b, i));
	}
}

/* One of them may be NULL. Nested no deeper than the parser lets it be. */
static void compare_json(json_t *list, const char *record, const char *where, json_t *a, json_t *b)
{
	if (a == b || json_equal(a, b))
		return;
	if (json_is_object(a) && json_is_object(b))
		compare_objects(list, record, where, a, b);
	else if (json_is_array(a) && json_is_array(b))
		compare_lists(list, record, where, a, b);
	else
		diff_add(list, record, where, json_incref(a), json_incref(b));
}

/* The reader has seen that it is JSON. */
static json_t *parse(const struct state_record *r)
{
	json_t *json = NULL;

	return json_parse((const char *)(r + 1), r->size, "", &json, NULL) ? NULL : json;
}

static void compare_texts(json_t *list, const char *record, const struct state_record *a, const struct state_record *b)
{
	json_t *in_a = parse(a), *in_b = parse(b);

	compare_json(list, record, "", in_a, in_b);
	json_decref(in_a);
	json_decref(in_b);
}

/* ---- struct state_info ---- */

static void compare_text(json_t *list, const char *record, const char *where, const char *a, const char *b)
{
	char in_a[256], in_b[256];

	text_escape(in_a, sizeof(in_a), a, strlen(a));
	text_escape(in_b, sizeof(in_b), b, strlen(b));
	if (strcmp(a, b) != 0)
		diff_add(list, record, where, json_string(in_a), json_string(in_b));
}

static void compare_number(json_t *list, const char *record, const char *where, uint64_t a, uint64_t b)
{
	if (a != b)
		diff_add(list, record, where, json_integer((json_int_t)a), json_integer((json_int_t)b));
}

static const char *moment(char text[32], uint64_t ns)
{
	const struct timespec at = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	(void)text_put(text, text_time(text, 32, &at), 32, "Z");
	return text;
}

static void compare_info(json_t *list, const char *record, const struct state_info *a, const struct state_info *b)
{
	char in_a[2 * STATE_ID_SIZE + 1], in_b[2 * STATE_ID_SIZE + 1], when_a[32], when_b[32];

	compare_text(list, record, "memory_id", hex_text(in_a, a->memory_id, STATE_ID_SIZE),
		     hex_text(in_b, b->memory_id, STATE_ID_SIZE));
	compare_number(list, record, "memory_size", a->memory_size, b->memory_size);
	compare_text(list, record, "created", moment(when_a, a->created_ns), moment(when_b, b->created_ns));
	compare_text(list, record, "version", a->version, b->version);
	compare_text(list, record, "cpu", a->cpu, b->cpu);
	compare_number(list, record, "vcpus", a->nr_vcpus, b->nr_vcpus);
	compare_number(list, record, "transports", a->nr_transports, b->nr_transports);
}

/* ---- records ---- */

static void compare_bytes(json_t *list, const char *record, const struct state_record *a, const struct state_record *b)
{
	const uint8_t *in_a = (const void *)(a + 1), *in_b = (const void *)(b + 1);
	const size_t common = a->size < b->size ? a->size : b->size;
	const size_t longest = a->size < b->size ? b->size : a->size;
	size_t i, first = longest, differ = longest - common;
	json_t *entry;

	for (i = common; i--;)
		if (in_a[i] != in_b[i]) {
			differ++;
			first = i;
		}
	if (first == longest && differ)
		first = common;
	if (!differ)
		return;
	entry = diff_add(list, record, "", NULL, NULL);
	(void)json_object_set_new(entry, "bytes", json_integer((json_int_t)differ));
	(void)json_object_set_new(entry, "offset", json_integer((json_int_t)first));
}

static void compare_record(json_t *list, const struct state_file *a, const struct state_file *b,
			   const struct state_record *in_a, const struct state_record *in_b)
{
	const size_t before = json_array_size(list);
	char record[RECORD_NAME_ROOM];

	record_name(record, in_a->tag, in_a->index);
	if (in_a->size == in_b->size && memcmp(in_a + 1, in_b + 1, in_a->size) == 0)
		return;
	switch (in_a->tag) {
	case STATE_INFO:
		compare_info(list, record, &a->info, &b->info);
		break;
	case STATE_CONFIG:
	case STATE_METADATA:
		compare_texts(list, record, in_a, in_b);
		break;
	case STATE_CPUID:
		diff_cpuid(list, record, in_a + 1, in_a->size, in_b + 1, in_b->size);
		break;
	case STATE_MSRS:
		diff_msrs(list, record, in_a + 1, in_a->size, in_b + 1, in_b->size);
		break;
	default:
		break;
	}
	/* Contents that nobody here can read, or another way to write the same. */
	if (json_array_size(list) == before)
		compare_bytes(list, record, in_a, in_b);
}

static void only_in(json_t *list, const char *which, const struct state_record *r)
{
	char name[RECORD_NAME_ROOM], what[64];

	snprintf(what, sizeof(what), "%u bytes (%s)", r->size, record_what(r->tag, r->index));
	diff_add(list, record_name(name, r->tag, r->index), "", *which == 'a' ? json_string(what) : NULL,
		 *which == 'b' ? json_string(what) : NULL);
}

static json_t *compare(const struct state_file *a, const struct state_file *b)
{
	json_t *list = json_array();
	const struct state_record *record, *other;
	struct state_reader r = a->first;
	const void *payload;

	while (state_next(&r, &record, &payload)) {
		other = state_file_find(b, record->tag, record->index);
		if (other)
			compare_record(list, a, b, record, other);
		else
			only_in(list, "a", record);
	}
	r = b->first;
	while (state_next(&r, &record, &payload))
		if (!state_file_find(a, record->tag, record->index))
			only_in(list, "b", record);
	return list;
}

/* ---- the answer ---- */

static void print_value(const json_t *value)
{
	char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	if (!value)
		printf("(nothing)");
	else if (json_is_string(value))
		put_escaped(json_string_value(value), json_string_length(value), 0, true);
	else if (text)
		put_escaped(text, strlen(text), 0, true);
	free(text);
}

static void print_bits(const json_t *entry)
{
	const json_t *bits = json_object_get(entry, "bits"), *names = json_object_get(entry, "names");
	size_t i;

	if (!bits)
		return;
	printf(" (bit%s", json_array_size(bits) == 1 ? "" : "s");
	for (i = 0; i < json_array_size(bits); i++) {
		const char *name = json_string_value(json_array_get(names, i));

		printf("%s %" JSON_INTEGER_FORMAT "%s%s", i ? "," : "", json_integer_value(json_array_get(bits, i)),
		       name ? " " : "", name ? name : "");
	}
	putchar(')');
}

static void print_difference(const json_t *entry)
{
	const char *where = json_string_value(json_object_get(entry, "where"));
	const json_t *bytes = json_object_get(entry, "bytes");

	printf("%-8s", json_string_value(json_object_get(entry, "record")));
	if (where && *where) {
		putchar(' ');
		put_escaped(where, strlen(where), 0, true);
	}
	if (bytes) {
		printf(" differs in %" JSON_INTEGER_FORMAT " bytes from offset %" JSON_INTEGER_FORMAT "\n",
		       json_integer_value(bytes), json_integer_value(json_object_get(entry, "offset")));
		return;
	}
	printf(": ");
	print_value(json_object_get(entry, "a"));
	printf(" -> ");
	print_value(json_object_get(entry, "b"));
	print_bits(entry);
	putchar('\n');
}

static int answer(json_t *list, bool json, struct error *err)
{
	const int different = json_array_size(list) != 0;
	int ret = different;
	size_t i;

	if (json) {
		ret = json_out(json_pack("{s:b, s:O}", "same", !different, "differences", list), err);
		return ret ? ret : different;
	}
	for (i = 0; i < json_array_size(list); i++)
		print_difference(json_array_get(list, i));
	return ret;
}

int command_diff(const struct options *o, struct error *err)
{
	struct state_file a, b = { 0 };
	json_t *list = NULL;
	int ret = state_file_read(&a, o->file[0], err);

	if (!ret)
		ret = state_file_read(&b, o->file[1], err);
	if (!ret) {
		list = compare(&a, &b);
		ret = answer(list, o->json, err);
	}
	json_decref(list);
	state_file_free(&b);
	state_file_free(&a);
	return ret;
}
