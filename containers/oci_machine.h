/* oci_machine.h: the machine that a container's limits, network and settings ask for. */
#ifndef MAYFLY_CONTAINERS_OCI_MACHINE_H
#define MAYFLY_CONTAINERS_OCI_MACHINE_H

#include "error.h"
#include "machine_start.h"
#include "oci_network.h"
#include "oci_spec.h"

#define OCI_KERNEL_ARGS 40

/* Everything that a struct machine_config points to. Zeroed, then used in place: it must not move. */
struct oci_machine {
	struct machine_config config;
	struct oci_network_config card;
	struct network network;
	struct drives drives;
	char hostname[64];
	const char *args[OCI_KERNEL_ARGS + 1];
	unsigned int nr_args;
	char text[8192]; /* of args */
	size_t text_len;
};

/*
 * oci_machine_size - guest memory and CPUs for config.json: limits, or annotations where there are none
 * Returns 0, or -EINVAL for an annotation that says something else.
 */
int oci_machine_size(const struct oci_spec *spec, uint64_t *memory, uint64_t *cpus, struct error *err);

/* oci_machine_plan - fill out for spec; the network that this process is in is opened, drives are the caller's. 0 or an
 * error. */
int oci_machine_plan(const struct oci_spec *spec, const char *id, struct oci_machine *out, struct error *err);

#endif
