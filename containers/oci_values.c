/* oci_values.c: values of the JSON that engines write, each checked for its type and range. */
#include "oci_values.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

const char *oci_show(char shown[OCI_SHOWN], const char *text)
{
	text_escape(shown, OCI_SHOWN, text, strlen(text));
	return shown;
}

int oci_needs(struct error *err, const char *where, const char *key, const char *what)
{
	return error_set(err, -EINVAL, "%s.%s: needs to be %s", where, key, what);
}

int oci_get_text(json_t *from, const char *where, const char *key, const char **out, struct error *err)
{
	json_t *value = json_object_get(from, key);

	*out = json_string_value(value);
	return !value || *out ? 0 : oci_needs(err, where, key, "text");
}

int oci_get_flag(json_t *from, const char *where, const char *key, bool *out, struct error *err)
{
	json_t *value = json_object_get(from, key);

	*out = json_is_true(value);
	return !value || json_is_boolean(value) ? 0 : oci_needs(err, where, key, "true or false");
}

#define EXACT_MAX 4611686018427387904.0  /* 2^62 */
#define LARGEST   18446744073709551616.0 /* 2^64 */

bool oci_as_integer(const json_t *value, int64_t *out)
{
	const double real = json_real_value(value);

	*out = json_integer_value(value);
	if (!json_is_real(value) || real < -EXACT_MAX || real > LARGEST)
		return json_is_integer(value);
	/* Engines have more than one way to write that there is no limit. */
	*out = real > EXACT_MAX ? INT64_MAX : (int64_t)real;
	return real > EXACT_MAX || (double)*out == real;
}

int oci_get_number(json_t *from, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
		   struct error *err)
{
	json_t *value = json_object_get(from, key);
	int64_t n;

	if (!value || json_is_null(value))
		return 0;
	if (!oci_as_integer(value, &n) || n < min || n > max)
		return error_set(err, -EINVAL, "%s.%s: needs to be a whole number from %lld to %lld", where, key,
				 (long long)min, (long long)max);
	*out = n;
	return 0;
}

int oci_get_list(json_t *from, const char *where, const char *key, json_t **out, struct error *err)
{
	json_t *list = json_object_get(from, key), *entry;
	size_t i;

	*out = NULL;
	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list))
		return oci_needs(err, where, key, "a list of texts");
	json_array_foreach(list, i, entry) if (!json_is_string(entry)) return oci_needs(err, where, key,
											"a list of texts");
	*out = json_array_size(list) ? list : NULL;
	return 0;
}

int oci_get_object(json_t *from, const char *where, const char *key, json_t **out, struct error *err)
{
	json_t *value = json_object_get(from, key);

	*out = json_is_object(value) ? value : NULL;
	return !value || json_is_null(value) || *out ? 0 : oci_needs(err, where, key, "an object");
}

int oci_get_texts(json_t *from, const char *where, const char *key, json_t **out, struct error *err)
{
	int ret = oci_get_object(from, where, key, out, err);
	const char *name;
	json_t *value;

	if (ret)
		return ret;
	json_object_foreach(*out, name, value) if (!json_is_string(value)) return oci_needs(err, where, key,
											    "an object of texts");
	return 0;
}

json_t *oci_read_json(const char *path, struct error *err)
{
	int fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
	char *text = malloc(OCI_CONFIG_MAX + 1);
	size_t len = 0;
	json_t *json = NULL;
	json_error_t why;
	ssize_t n = -1;

	while (fd >= 0 && text && (n = read(fd, text + len, OCI_CONFIG_MAX + 1 - len)) > 0)
		len += (size_t)n;
	if (fd < 0 || n < 0) {
		error_set(err, text ? -errno : -ENOMEM, "%s: %s", text_path_shown(path),
			  strerror(text ? errno : ENOMEM));
	} else if (len > OCI_CONFIG_MAX) {
		error_set(err, -EFBIG, "%s: longer than 4 MiB", text_path_shown(path));
	} else {
		json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
		/* "Unlimited" is 2^64 - 1 to engines, which is no integer to jansson. */
		if (!json && json_error_code(&why) == json_error_numeric_overflow)
			json = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &why);
		if (!json)
			error_set(err, -EINVAL, "%s: line %d: %s", text_path_shown(path), why.line,
				  oci_shown(why.text));
	}
	if (json && !json_is_object(json)) {
		error_set(err, -EINVAL, "%s: needs to be an object", text_path_shown(path));
		json_decref(json);
		json = NULL;
	}
	if (fd >= 0)
		close(fd);
	free(text);
	return json;
}
