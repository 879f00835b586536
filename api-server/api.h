/* api.h: the REST API of one microVM (openapi.yaml is its contract). */
#ifndef MAYFLY_API_H
#define MAYFLY_API_H

#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "error.h"
#include "machine.h"
#include "timeline.h"

/* The Firecracker whose API fields are all known here: clients decide by it what they may send. */
#define FIRECRACKER_VERSION "1.16.0"

struct api;

struct api_options {
	const char *id;
	const char *sock_path; /* made, and removed at the end; NULL: listen_fd is used */
	const char *sock_name; /* what named it, for sentences: "--api-sock" */
	int listen_fd;
	int ready_fd;    /* gets one byte once requests are answered, and is closed; -1: none */
	int fork_fd;     /* the process that makes copies (fork_server.h); -1: none */
	size_t body_max; /* bytes */
	/* From a jailer, µs: when it started (CLOCK_MONOTONIC, 0: not told), CPU time then, and its own. */
	uint64_t start_time_us, start_time_cpu_us, parent_cpu_time_us;
};

/*
 * api_create - answer requests on the machine's loop from now on
 * cfg is what requests change until the machine is started, and what it is started with. Loop thread. 0 or -errno with
 * a sentence.
 */
int api_create(struct api **out, struct machine *machine, struct config *cfg, const struct timeline *timeline,
	       const struct api_options *options, struct error *err);

/* api_load_metadata - what the metadata service starts with, from a file of JSON. 0 or -errno with a sentence. */
int api_load_metadata(struct machine *machine, const struct config *cfg, const char *path, struct error *err);

/* api_finish - tell whoever listens to events how it ended, and remove the socket. api may be NULL. */
void api_finish(struct api *api, int exit_code);

#endif
