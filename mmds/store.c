/* store.c: the metadata document: its limit, merge patches, JSON pointers and the two output formats. */
#include "store.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Decimal digits: this many survive the way through a double, the other many tell any two doubles apart. */
#define MIN_PRECISION 15u
#define MAX_PRECISION 17u

void mmds_store_init(struct mmds_store *store, size_t limit)
{
	*store = (struct mmds_store){ .limit = limit, .precision = MIN_PRECISION };
}

void mmds_store_free(struct mmds_store *store)
{
	json_decref(store->data);
	store->data = NULL;
}

static unsigned int digits_of(double real)
{
	unsigned int digits = MIN_PRECISION;
	char text[64];

	for (; digits < MAX_PRECISION; digits++) {
		snprintf(text, sizeof(text), "%.*g", (int)digits, real);
		if (strtod(text, NULL) == real)
			break;
	}
	return digits;
}

/*
 * The digits that all numbers with a fraction need to be read back as they are: with fewer some change, with more
 * 12.12 is printed as 12.119999999999999. Nesting is bounded by whoever parsed the document.
 */
static unsigned int precision_of(json_t *value)
{
	unsigned int most = MIN_PRECISION, digits;
	const char *key;
	json_t *child;
	size_t i;

	if (json_is_real(value))
		return digits_of(json_real_value(value));
	json_object_foreach(value, key, child)
	{
		digits = precision_of(child);
		most = digits > most ? digits : most;
	}
	json_array_foreach(value, i, child)
	{
		digits = precision_of(child);
		most = digits > most ? digits : most;
	}
	return most;
}

static int dump(const json_t *value, unsigned int precision, json_dump_callback_t sink, void *opaque)
{
	const size_t flags = JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(precision);

	return json_dump_callback(value, sink, opaque, flags);
}

static int count_bytes(const char *bytes, size_t len, void *total)
{
	(void)bytes;
	*(size_t *)total += len;
	return 0;
}

static int add_bytes(const char *bytes, size_t len, void *out)
{
	buffer_add(out, bytes, len);
	return 0;
}

/* Takes the caller's reference to data, whatever comes of it. */
static int replace(struct mmds_store *store, json_t *data, struct error *err)
{
	unsigned int precision;
	size_t size = 0;

	if (!data)
		return error_set(err, -ENOMEM, "mmds: no memory for the data");
	precision = precision_of(data);
	if (dump(data, precision, count_bytes, &size)) {
		json_decref(data);
		return error_set(err, -ENOMEM, "mmds: no memory to measure the data");
	}
	if (size > store->limit) {
		json_decref(data);
		return error_set(
			err, -EFBIG,
			"mmds: the data would be %zu bytes of compact JSON, at most %zu fit (--mmds-size-limit)", size,
			store->limit);
	}
	json_decref(store->data);
	store->data = data;
	store->precision = precision;
	return 0;
}

int mmds_store_put(struct mmds_store *store, json_t *data, struct error *err)
{
	return replace(store, json_incref(data), err);
}

/* RFC 7396, 2: a new value; what the patch leaves alone is shared with the old one. NULL: no memory. */
static json_t *merged(json_t *target, json_t *patch)
{
	const char *key;
	json_t *result, *value, *child;

	if (!json_is_object(patch))
		return json_incref(patch);
	result = json_is_object(target) ? json_copy(target) : json_object();
	if (!result)
		return NULL;
	json_object_foreach(patch, key, value)
	{
		if (json_is_null(value)) {
			json_object_del(result, key);
			continue;
		}
		child = merged(json_object_get(result, key), value);
		if (!child || json_object_set_new(result, key, child)) {
			json_decref(result);
			return NULL;
		}
	}
	return result;
}

int mmds_store_patch(struct mmds_store *store, json_t *patch, struct error *err)
{
	if (!store->data)
		return error_set(err, -ENOENT, "The MMDS data store is not initialized: PUT /mmds first");
	return replace(store, merged(store->data, patch), err);
}

/* RFC 6901, 4: "~1" is '/', "~0" is '~'. Returns the length of dst, which is as large as src. */
static size_t unescape(char *dst, const char *src, size_t len)
{
	size_t at, n = 0;

	for (at = 0; at < len; at++) {
		if (src[at] == '~' && at + 1 < len && (src[at + 1] == '0' || src[at + 1] == '1'))
			dst[n++] = src[++at] == '0' ? '~' : '/';
		else
			dst[n++] = src[at];
	}
	return n;
}

/* RFC 6901, 4: "0", or digits without a leading zero. SIZE_MAX, which no list has, when it is neither. */
static size_t list_index(const char *text, size_t len)
{
	size_t at, index = 0;

	if (len == 0 || len > 9 || (text[0] == '0' && len > 1))
		return SIZE_MAX;
	for (at = 0; at < len; at++) {
		if (text[at] < '0' || text[at] > '9')
			return SIZE_MAX;
		index = index * 10 + (size_t)(text[at] - '0');
	}
	return index;
}

static json_t *member(json_t *value, const char *name, size_t len)
{
	char *key;
	json_t *found;

	if (json_is_array(value))
		return json_array_get(value, list_index(name, len));
	if (!memchr(name, '~', len))
		return json_object_getn(value, name, len);
	key = malloc(len);
	if (!key)
		return NULL;
	found = json_object_getn(value, key, unescape(key, name, len));
	free(key);
	return found;
}

/* Borrowed, or NULL. */
static json_t *find(json_t *value, const char *path, size_t len)
{
	const char *end = path + len, *slash;

	if (len && *path != '/')
		return NULL;
	while (value) {
		while (path < end && *path == '/')
			path++;
		if (path == end)
			return value;
		slash = memchr(path, '/', (size_t)(end - path));
		if (!slash)
			slash = end;
		value = member(value, path, (size_t)(slash - path));
		path = slash;
	}
	return NULL;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void list_keys(json_t *object, struct buffer *out)
{
	size_t count = json_object_size(object), n = 0, i;
	const char **names, *key;
	json_t *value;

	if (count == 0)
		return;
	names = malloc(count * sizeof(*names));
	if (!names) {
		out->failed = true;
		return;
	}
	json_object_foreach(object, key, value) names[n++] = key;
	qsort(names, n, sizeof(*names), compare_names);
	for (i = 0; i < n; i++) {
		if (i)
			buffer_add_text(out, "\n");
		buffer_add_text(out, names[i]);
		if (json_is_object(json_object_get(object, names[i])))
			buffer_add_text(out, "/");
	}
	free(names);
}

int mmds_store_get(const struct mmds_store *store, const char *path, size_t len, enum mmds_format format,
		   struct buffer *out)
{
	json_t *value = find(store->data ? store->data : json_null(), path, len);

	if (!value)
		return -ENOENT;
	if (format == MMDS_FORMAT_JSON) {
		if (dump(value, store->precision, add_bytes, out))
			out->failed = true;
		return 0;
	}
	if (json_is_object(value))
		list_keys(value, out);
	else if (json_is_string(value))
		buffer_add(out, json_string_value(value), json_string_length(value));
	else
		return -ENOTSUP;
	return 0;
}
