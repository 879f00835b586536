/* oci_hooks.h: programs of the host that config.json has called at the steps of a container's life. */
#ifndef MAYFLY_CONTAINERS_OCI_HOOKS_H
#define MAYFLY_CONTAINERS_OCI_HOOKS_H

#include "error.h"
#include "oci_options.h"
#include "oci_state.h"

/*
 * oci_hooks_create - call prestart and createRuntime, for the container's keeper, while it is "creating"
 * They run in the network namespace `outside` (a descriptor), and the pid that they are told, which is ours, is in
 * the container's. Returns 0, or an error when one of them failed: then there is no container. OCI runtime
 * specification 1.0.2, "Lifecycle", 3 to 4.
 */
int oci_hooks_create(struct oci_container *container, int outside, struct error *err);

/* oci_hooks_poststart, oci_hooks_poststop - what fails there is reported, and changes nothing. */
void oci_hooks_poststart(const struct oci_options *options, struct oci_container *container, int pid);
void oci_hooks_poststop(const struct oci_options *options, struct oci_container *container);

#endif
