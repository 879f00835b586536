/* oci_cgroup.h: the cgroup that an engine names for a container: made, limited, joined and removed; versions 1 and 2.
 */
#ifndef MAYFLY_CONTAINERS_OCI_CGROUP_H
#define MAYFLY_CONTAINERS_OCI_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "error.h"
#include "oci_spec.h"

/* What the machine needs besides the guest's memory: monitor, keeper, and page cache of its disks to work with. */
#define OCI_CGROUP_OVERHEAD (48ll << 20)

/*
 * oci_cgroup_path - the path below the hierarchy's top for what config.json says
 * "/a/b" as it is; "slice:prefix:name" as systemd would lay it out; NULL: /mayfly-oci/ID. -EINVAL: it has .. in it.
 */
int oci_cgroup_path(const char *wanted, const char *id, char out[PATH_MAX], struct error *err);

/*
 * oci_cgroup_join - make the cgroup, set its limits, and move this process there, before it has threads or children
 * One that is there already, as an engine may have made it, has to be empty: -EBUSY. *made says whether it was not. A
 * controller that the host has not for cgroups matters only when there is a limit for it.
 */
int oci_cgroup_join(const char *path, const struct oci_resources *resources, bool *made, struct error *err);

/* oci_cgroup_enter - move a process to a cgroup that is there, with all that descend from it; as far as possible. */
void oci_cgroup_enter(const char *path, pid_t pid);

/* oci_cgroup_current - the cgroup that this process is in; "/" when the host cannot say. */
void oci_cgroup_current(char out[PATH_MAX]);

/* oci_cgroup_limit - set limits of a cgroup that is there. */
int oci_cgroup_limit(const char *path, const struct oci_resources *resources, struct error *err);

/* oci_cgroup_remove - remove it, not what is above it. What still runs in it is ended only when it was made by us. */
void oci_cgroup_remove(const char *path, bool made);

/* oci_cgroup_pids - call visit with each process that is in it. */
void oci_cgroup_pids(const char *path, void (*visit)(pid_t pid, void *arg), void *arg);

/* oci_cgroup_read - a file of it, for version 1 of that controller; at most size - 1 bytes. -1: there is none. */
ssize_t oci_cgroup_read(const char *path, const char *controller, const char *file, char *out, size_t size);

#endif
