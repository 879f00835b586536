/* container_log.h: what a container's command has printed, a line a record, for `logs`: written by its keeper. */
#ifndef MAYFLY_CONTAINERS_CONTAINER_LOG_H
#define MAYFLY_CONTAINERS_CONTAINER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "instance.h"

/*
 * The format is that of Kubernetes' container logs: "2026-11-21T03:51:00.123456789Z stdout F text", P in place of F
 * when the line goes on in the next record. When the file is full it becomes log.1, in the place of the one before.
 */
#define CONTAINER_LOG_MAX (4 << 20) /* bytes of each of the two files */

struct container_log {
	int dir, fd; /* fd -1: nothing is logged */
	uint64_t size;
};

/* container_log_open - begin the log of an instance. */
int container_log_open(struct container_log *log, const struct instance *instance, struct error *err);

/* container_log_write - what came on standard output (or error). A full disk loses lines, and stops nobody. */
void container_log_write(struct container_log *log, bool is_stderr, const char *data, size_t len);

/*
 * container_log_print - print the last lines (tail -1: all) to standard output and error, as they came
 * follow: go on until the instance has ended. Returns 0 or an error.
 */
int container_log_print(struct instance *instance, int64_t tail, bool follow, bool timestamps, struct error *err);

#endif
