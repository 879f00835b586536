/* capabilities.h: what --cap-add and --cap-drop make of a container's capabilities. */
#ifndef MAYFLY_CONTAINERS_CAPABILITIES_H
#define MAYFLY_CONTAINERS_CAPABILITIES_H

#include "error.h"
#include "options.h"

#define CAPABILITIES_TEXT_MAX 1024

/*
 * capabilities_list - the names with commas between, podman's default set with those added and dropped
 * Names with or without CAP_, in any case; ALL for all of them.
 */
int capabilities_list(const struct words *add, const struct words *drop, char out[CAPABILITIES_TEXT_MAX],
		      struct error *err);

#endif
