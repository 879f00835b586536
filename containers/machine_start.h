/* machine_start.h: a container's machine: its configuration, and the jail that Mayfly is started in. */
#ifndef MAYFLY_CONTAINERS_MACHINE_START_H
#define MAYFLY_CONTAINERS_MACHINE_START_H

#include <stdbool.h>
#include <stdint.h>

#include "drives.h"
#include "error.h"
#include "instance.h"
#include "network.h"
#include "places.h"

struct machine_config {
	uint64_t cpus, memory; /* bytes */
	const char *kernel;    /* NULL: Mayfly's own, by the number of CPUs */
	const char *hostname;
	const char *const *kernel_args; /* further ones, as they are; ended by NULL */
	struct drives *drives;
	struct network *network;
	int api; /* a listening Unix stream socket for the microVM's REST API; 0: it has none */
};

struct machine {
	struct process jailer;
	int listener; /* where the guest's agent calls, once */
	int console;  /* what the guest's kernel says */
	int errors;   /* what jailer and monitor say */
};

/*
 * machine_start - write the configuration into the instance's folder and start mayfly-jailer, as a child of ours that
 * ends when we do. Drives and network are open, and are the jail's as well from then on.
 * Returns 0 or an error; what was opened by then is closed by machine_close.
 */
int machine_start(const struct places *places, const struct instance *instance, const struct machine_config *config,
		  struct machine *out, struct error *err);

void machine_close(struct machine *machine);

/* machine_boot_args - the kernel's command line: ours, network and mounts, in dst. -E2BIG: longer than a kernel takes.
 */
int machine_boot_args(const struct machine_config *config, char *dst, size_t size, struct error *err);

#endif
