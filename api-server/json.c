/* json.c: JSON values into C structs by table. */
#include "json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

#define QUOTE_SIZE 64 /* of a value shown in a sentence */

/* ---- sentences ---- */

static size_t format_where(char *dst, size_t size, const struct json_where *where)
{
	char shown[80];
	size_t at;
	int n;

	if (!where)
		return 0;
	at = format_where(dst, size, where->up);
	if (!where->name) {
		n = snprintf(dst + at, size - at, "[%zu]", where->index);
	} else {
		text_escape(shown, sizeof(shown), where->name, strlen(where->name));
		n = snprintf(dst + at, size - at, "%s%s", at ? "." : "", shown);
	}
	at += n > 0 ? (size_t)n : 0;
	return at < size ? at : size - 1;
}

int json_fail(struct error *err, const struct json_where *where, const char *fmt, ...)
{
	char place[128] = "", sentence[sizeof(err->message)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	if (!format_where(place, sizeof(place), where))
		return error_set(err, -EINVAL, "%s", sentence);
	return error_set(err, -EINVAL, "%s: %s", place, sentence);
}

static void quote(char dst[QUOTE_SIZE], const char *text, size_t len)
{
	size_t n;

	dst[0] = '"';
	n = text_escape(dst + 1, QUOTE_SIZE - 2, text, len);
	dst[1 + n] = '"';
	dst[2 + n] = '\0';
}

int json_fail_type(struct error *err, const struct json_where *where, const json_t *value, const char *needs)
{
	char shown[QUOTE_SIZE];

	switch (json_typeof(value)) {
	case JSON_STRING:
		quote(shown, json_string_value(value), json_string_length(value));
		return json_fail(err, where, "%s is a string (needs %s)", shown, needs);
	case JSON_INTEGER:
		return json_fail(err, where, "%" JSON_INTEGER_FORMAT " is a number (needs %s)",
				 json_integer_value(value), needs);
	case JSON_REAL:
		return json_fail(err, where, "%g is a number with a fraction or exponent (needs %s)",
				 json_real_value(value), needs);
	case JSON_TRUE:
	case JSON_FALSE:
		return json_fail(err, where, "%s is a boolean (needs %s)", json_is_true(value) ? "true" : "false",
				 needs);
	case JSON_ARRAY:
		return json_fail(err, where, "[...] is a list (needs %s)", needs);
	case JSON_OBJECT:
		return json_fail(err, where, "{...} is an object (needs %s)", needs);
	case JSON_NULL:
	default:
		return json_fail(err, where, "is null (needs %s)", needs);
	}
}

int json_fail_unknown(struct error *err, const struct json_where *where, const json_t *value, const char *needs)
{
	char shown[QUOTE_SIZE];

	quote(shown, json_string_value(value), json_string_length(value));
	return json_fail(err, where, "%s is not known (needs %s)", shown, needs);
}

/* "4194304 MiB (4 TiB)": people count in larger units than the API. */
static void format_amount(char *dst, size_t size, json_int_t n, const char *unit)
{
	const char *larger = NULL;
	json_int_t k = 0;

	if (unit && strcmp(unit, "MiB") == 0 && n >= 1024 && n % 1024 == 0) {
		const json_int_t tib = (json_int_t)1 << 20;

		k = n % tib ? n / 1024 : n / tib;
		larger = n % tib ? "GiB" : "TiB";
	}
	if (larger)
		snprintf(dst, size, "%" JSON_INTEGER_FORMAT " %s (%" JSON_INTEGER_FORMAT " %s)", n, unit, k, larger);
	else
		snprintf(dst, size, "%" JSON_INTEGER_FORMAT "%s%s", n, unit ? " " : "", unit ? unit : "");
}

static void format_choices(char *dst, size_t size, const struct json_choice *choices)
{
	size_t at = (size_t)snprintf(dst, size, "one of");

	for (; choices->name && at < size; choices++) {
		int n = snprintf(dst + at, size - at, " \"%s\"%s", choices->name, choices[1].name ? "," : "");

		at += n > 0 ? (size_t)n : 0;
	}
}

/* What a field accepts, in words. */
static void format_needs(char *dst, size_t size, const struct json_field *f)
{
	char max[64];

	switch (f->kind) {
	case JSON_FIELD_PATH:
		snprintf(dst, size, "a path of 1 to %zu bytes", f->size - 1);
		break;
	case JSON_FIELD_TEXT:
		snprintf(dst, size, "printable ASCII text of at most %zu bytes", f->size - 1);
		break;
	case JSON_FIELD_ID:
		snprintf(dst, size, "1 to %zu letters, digits or any of %s", f->size - 1, f->extra);
		break;
	case JSON_FIELD_BOOL:
		snprintf(dst, size, "true or false");
		break;
	case JSON_FIELD_UINT:
		format_amount(max, sizeof(max), (json_int_t)f->max, f->unit);
		snprintf(dst, size, "an integer from %llu to %s", (unsigned long long)f->min, max);
		break;
	case JSON_FIELD_CHOICE:
		format_choices(dst, size, f->choices);
		break;
	case JSON_FIELD_SUB:
		snprintf(dst, size, "%s", f->extra ? f->extra : "a value");
		break;
	case JSON_FIELD_REFUSED:
	default:
		snprintf(dst, size, "a value");
		break;
	}
}

/* ---- values ---- */

static bool is_letter_or_digit(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The byte of text that the field may not have, or -1. */
static int bad_byte(const struct json_field *f, const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++) {
		char c = text[i];
		bool ok = c != '\0';

		if (f->kind == JSON_FIELD_TEXT)
			ok = c >= ' ' && c <= '~';
		else if (f->kind == JSON_FIELD_ID)
			ok = c && (is_letter_or_digit(c) || strchr(f->extra, c));
		if (!ok)
			return (unsigned char)c;
	}
	return -1;
}

static int read_string(const json_t *value, const struct json_where *where, const struct json_field *f, char *dst,
		       const char *needs, struct error *err)
{
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);
	char shown[QUOTE_SIZE];
	int bad;

	if (len == 0 && f->kind != JSON_FIELD_TEXT)
		return json_fail(err, where, "is empty (needs %s%s)", needs, f->required ? "" : "; or leave it out");
	quote(shown, text, len);
	if (memchr(text, '\0', len))
		return json_fail(err, where, "%s has a NUL in it (needs %s)", shown, needs);
	bad = bad_byte(f, text, len);
	if (bad >= 0x20 && bad < 0x7f)
		return json_fail(err, where, "%s has a '%c' in it (needs %s)", shown, bad, needs);
	if (bad >= 0)
		return json_fail(err, where, "%s has byte 0x%02x in it (needs %s)", shown, (unsigned int)bad, needs);
	if (len >= f->size)
		return json_fail(err, where, "%s is %zu bytes long (needs %s)", shown, len, needs);
	memcpy(dst, text, len + 1);
	return 0;
}

static int read_uint(const json_t *value, const struct json_where *where, const struct json_field *f, void *dst,
		     const char *needs, struct error *err)
{
	json_int_t n = json_integer_value(value);
	uint32_t n32;
	uint64_t n64;

	if (n < 0 || (uint64_t)n < f->min || (uint64_t)n > f->max) {
		char shown[64];

		format_amount(shown, sizeof(shown), n, f->unit);
		return json_fail(err, where, "%s is out of range (needs %s)", shown, needs);
	}
	n64 = (uint64_t)n;
	n32 = (uint32_t)n64;
	if (f->size == sizeof(n32))
		memcpy(dst, &n32, sizeof(n32));
	else
		memcpy(dst, &n64, sizeof(n64));
	return 0;
}

static int read_choice(const json_t *value, const struct json_where *where, const struct json_field *f, void *dst,
		       const char *needs, struct error *err)
{
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);
	const struct json_choice *c;

	for (c = f->choices; c->name; c++) {
		if (strlen(c->name) == len && memcmp(c->name, text, len) == 0) {
			memcpy(dst, &c->value, sizeof(c->value));
			return 0;
		}
	}
	return json_fail_unknown(err, where, value, needs);
}

static bool has_right_type(const json_t *value, enum json_kind kind)
{
	switch (kind) {
	case JSON_FIELD_PATH:
	case JSON_FIELD_TEXT:
	case JSON_FIELD_ID:
	case JSON_FIELD_CHOICE:
		return json_is_string(value);
	case JSON_FIELD_BOOL:
		return json_is_boolean(value);
	case JSON_FIELD_UINT:
		return json_is_integer(value);
	case JSON_FIELD_SUB:
	case JSON_FIELD_REFUSED:
	default:
		return true;
	}
}

int json_read_value(const json_t *value, const struct json_where *where, const struct json_field *f, void *target,
		    struct error *err)
{
	char *dst = (char *)target + f->offset;
	char needs[160];

	format_needs(needs, sizeof(needs), f);
	if (!has_right_type(value, f->kind))
		return json_fail_type(err, where, value, needs);
	switch (f->kind) {
	case JSON_FIELD_PATH:
	case JSON_FIELD_TEXT:
	case JSON_FIELD_ID:
		return read_string(value, where, f, dst, needs, err);
	case JSON_FIELD_BOOL:
		*(bool *)dst = json_is_true(value);
		return 0;
	case JSON_FIELD_UINT:
		return read_uint(value, where, f, dst, needs, err);
	case JSON_FIELD_CHOICE:
		return read_choice(value, where, f, dst, needs, err);
	case JSON_FIELD_SUB:
		return f->parse(value, where, dst, err);
	case JSON_FIELD_REFUSED:
	default:
		if (f->empty_list && json_is_array(value) && json_array_size(value) == 0)
			return 0;
		return json_fail(err, where, "%s", f->refusal);
	}
}

/* ---- objects ---- */

static const struct json_field *find_field(const struct json_field *fields, size_t nr, const char *name)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (strcmp(fields[i].name, name) == 0)
			return &fields[i];
	return NULL;
}

static int fail_unknown_key(struct error *err, const struct json_where *where, const char *key,
			    const struct json_field *fields, size_t nr)
{
	char accepted[240], shown[QUOTE_SIZE];
	size_t at = 0, i;

	accepted[0] = '\0';
	for (i = 0; i < nr && at < sizeof(accepted); i++) {
		int n;

		if (fields[i].kind == JSON_FIELD_REFUSED)
			continue;
		n = snprintf(accepted + at, sizeof(accepted) - at, "%s%s", at ? ", " : "", fields[i].name);
		at += n > 0 ? (size_t)n : 0;
	}
	quote(shown, key, strlen(key));
	return json_fail(err, where, "unknown key %s (accepted: %s)", shown, accepted);
}

int json_read_object(const json_t *object, const struct json_where *where, const struct json_field *fields, size_t nr,
		     void *target, struct error *err)
{
	const char *key;
	json_t *value;
	size_t i;
	int ret;

	if (!json_is_object(object))
		return json_fail_type(err, where, object, "an object in braces");
	/* The iterator wants a non-const object but changes nothing. */
	json_object_foreach((json_t *)object, key, value) if (!find_field(fields, nr, key)) return fail_unknown_key(
		err, where, key, fields, nr);
	for (i = 0; i < nr; i++) {
		const struct json_field *f = &fields[i];
		struct json_where here = { .up = where, .name = f->name };

		value = json_object_get(object, f->name);
		if (f->required && !value) {
			char needs[160];

			format_needs(needs, sizeof(needs), f);
			return json_fail(err, &here, "is missing (needs %s)", needs);
		}
		if (!value || (json_is_null(value) && !f->required))
			continue;
		ret = json_read_value(value, &here, f, target, err);
		if (ret)
			return ret;
	}
	return 0;
}
