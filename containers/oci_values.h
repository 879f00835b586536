/* oci_values.h: values of the JSON that engines write, each checked for its type and range. */
#ifndef MAYFLY_CONTAINERS_OCI_VALUES_H
#define MAYFLY_CONTAINERS_OCI_VALUES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "error.h"

#define OCI_CONFIG_MAX (4 << 20) /* bytes; engines write about 20 kB */
#define OCI_SHOWN      100       /* bytes of a value in a sentence */

/* oci_read_json - a file of at most OCI_CONFIG_MAX bytes ("-": standard input) that is one JSON object. NULL: failed.
 */
json_t *oci_read_json(const char *path, struct error *err);

/* oci_show - text escaped for a sentence. oci_shown needs no buffer; what it returns lives as long as the block. */
const char *oci_show(char shown[OCI_SHOWN], const char *text);
#define oci_shown(text) oci_show((char[OCI_SHOWN]){ 0 }, text)

/* oci_needs - the sentence "where.key: needs to be what". -EINVAL. */
int oci_needs(struct error *err, const char *where, const char *key, const char *what);

/*
 * oci_get_... - the value of that key, which stays the JSON's; where names `from` in sentences. 0 or -EINVAL.
 * One that is not there, or for numbers, lists and objects null, is NULL or false; of a number, *out stays as it is.
 */
int oci_get_text(json_t *from, const char *where, const char *key, const char **out, struct error *err);
int oci_get_flag(json_t *from, const char *where, const char *key, bool *out, struct error *err);
int oci_get_number(json_t *from, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
		   struct error *err);
int oci_get_object(json_t *from, const char *where, const char *key, json_t **out, struct error *err);

/* An array of texts, NULL for an empty one, too; an object of texts. */
int oci_get_list(json_t *from, const char *where, const char *key, json_t **out, struct error *err);
int oci_get_texts(json_t *from, const char *where, const char *key, json_t **out, struct error *err);

/* oci_as_integer - a whole number, also from a file that was read with all numbers as reals (oci_read_json). */
bool oci_as_integer(const json_t *value, int64_t *out);

#endif
