/* forks.h: PUT /fork, and what is wanted of one copy. */
#ifndef MAYFLY_FORKS_H
#define MAYFLY_FORKS_H

#include <jansson.h>
#include <limits.h>

#include "error.h"

/* One copy. */
struct fork_wish {
	char id[65];
	char api_sock[108]; /* what sun_path holds, with the final NUL; empty: it has no API */
	json_t *load;       /* as the body of PUT /snapshot/load; of the object that was parsed */
};

/* fork_wish_parse - from an element of "copies"; json is changed. 0, or -EINVAL with a sentence. */
int fork_wish_parse(json_t *json, struct fork_wish *out, struct error *err);

#endif
