/* store.h: the metadata itself: one JSON document, replaced and patched by the API, read by path by the guest. */
#ifndef MAYFLY_MMDS_STORE_H
#define MAYFLY_MMDS_STORE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"
#include "error.h"

#define MMDS_DEFAULT_SIZE_LIMIT 51200u /* bytes of compact JSON; --mmds-size-limit */

enum mmds_format {
	MMDS_FORMAT_JSON, /* compact, keys sorted */
	MMDS_FORMAT_IMDS, /* EC2's: an object is a line per key, '/' behind those that are objects; a string is itself
			   */
};

struct mmds_store {
	json_t *data;           /* NULL: nothing was put yet, which reads as null */
	size_t limit;           /* bytes of compact JSON */
	unsigned int precision; /* significant digits that every number with a fraction in data needs */
};

/* mmds_store_init - an empty store; mmds_store_free gives back what it holds. vmm thread, as everything here. */
void mmds_store_init(struct mmds_store *store, size_t limit);
void mmds_store_free(struct mmds_store *store);

/*
 * mmds_store_put - replace the document. Takes a reference of its own; nobody may change data afterwards.
 * 0, -EFBIG with a sentence when it is over the limit, or -ENOMEM; then the store is as before.
 */
int mmds_store_put(struct mmds_store *store, json_t *data, struct error *err);

/*
 * mmds_store_patch - apply a JSON merge patch (RFC 7396); references into patch are kept, so it may not be changed
 * 0, -ENOENT before the first mmds_store_put, -EFBIG when the result is over the limit, or -ENOMEM, each with a
 * sentence; then the store is as before.
 */
int mmds_store_patch(struct mmds_store *store, json_t *patch, struct error *err);

/*
 * mmds_store_get - append the value at path to out
 * path: JSON pointer (RFC 6901) as it stands in a request, not NUL-terminated; repeated slashes count as one, one at
 * the end is ignored, "" and "/" are the whole document. 0; -ENOENT: nothing there; -ENOTSUP: neither object nor
 * string, and IMDS has no form for anything else. A lack of memory shows in out->failed.
 */
int mmds_store_get(const struct mmds_store *store, const char *path, size_t len, enum mmds_format format,
		   struct buffer *out);

#endif
