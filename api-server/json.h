/* json.h: JSON from outside into C structs by table, every refusal a sentence that names the field. */
#ifndef MAYFLY_JSON_H
#define MAYFLY_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define JSON_MAX_DEPTH 64 /* objects and lists within each other; ours need 5, metadata is as deep as users like */

/* Where in the document a value stands, for sentences: drives[1].rate_limiter.ops. Lives on the callers' stacks. */
struct json_where {
	const struct json_where *up; /* NULL: the outermost */
	const char *name;            /* NULL: an element of the list `up`, number `index` */
	size_t index;
};

/*
 * json_parse - read a whole document of len bytes
 * Refused with "source:line:column: sentence": bad syntax, a key given twice, anything after the end, nesting past
 * JSON_MAX_DEPTH, text that is not UTF-8. *out is the caller's to json_decref. Returns 0, -EINVAL or -ENOMEM. Any
 * thread.
 */
int json_parse(const char *text, size_t len, const char *source, json_t **out, struct error *err);

/* json_parse_file - the same for a file (or pipe) of at most max_len bytes; -EFBIG beyond, -errno when it cannot be
 * read. */
int json_parse_file(const char *path, size_t max_len, json_t **out, struct error *err);

enum json_kind {
	JSON_FIELD_PATH,    /* char[size]: 1 to size - 1 bytes without NUL */
	JSON_FIELD_TEXT,    /* char[size]: printable ASCII, 0 to size - 1 bytes */
	JSON_FIELD_ID,      /* char[size]: 1 to size - 1 of letters, digits and the characters in `extra` */
	JSON_FIELD_BOOL,    /* bool */
	JSON_FIELD_UINT,    /* an unsigned integer of `size` bytes (4 or 8), min to max */
	JSON_FIELD_CHOICE,  /* enum (int-sized): one of `choices` */
	JSON_FIELD_SUB,     /* anything: parse() decides */
	JSON_FIELD_REFUSED, /* nothing, null (and [] with empty_list) is fine, any other value is answered with
			       `refusal` */
};

struct json_choice {
	const char *name; /* NULL ends the list */
	int value;
};

/* How the value of a SUB field is read; dst is target + offset. */
typedef int json_sub_fn(const json_t *value, const struct json_where *where, void *dst, struct error *err);

struct json_field {
	const char *name;
	enum json_kind kind;
	bool required;
	bool empty_list;     /* for REFUSED */
	size_t offset, size; /* in the target struct, bytes */
	uint64_t min, max;   /* for UINT; max at most INT64_MAX */
	const char *unit;    /* for UINT, "MiB" or NULL */
	const char *extra;   /* for ID: more characters; for SUB: what it needs, in words, or NULL */
	const struct json_choice *choices;
	json_sub_fn *parse;
	const char *refusal;
};

#define JSON_AT(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)

/*
 * json_read_object - fill target from an object by its table of nr fields
 * A key that is not in the table is refused with the list of those that are; null is as good as absent; what is absent
 * leaves target as it was. On error target is partly written. Returns 0 or -EINVAL (or what a parse function returns).
 */
int json_read_object(const json_t *object, const struct json_where *where, const struct json_field *fields, size_t nr,
		     void *target, struct error *err);

/* json_read_value - one value by its field, at target + offset: what json_read_object does for each. */
int json_read_value(const json_t *value, const struct json_where *where, const struct json_field *field, void *target,
		    struct error *err);

/* json_fail - error_set(-EINVAL) with the place in front: "drives[1].drive_id: sentence". */
int json_fail(struct error *err, const struct json_where *where, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* json_fail_type - "place: "two" is a string (needs an object)". */
int json_fail_type(struct error *err, const struct json_where *where, const json_t *value, const char *needs);

/* json_fail_unknown - the same for a string that is none of the names: "place: "loud" is not known (needs one of …)".
 */
int json_fail_unknown(struct error *err, const struct json_where *where, const json_t *value, const char *needs);

#endif
