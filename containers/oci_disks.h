/* oci_disks.h: what of config.json becomes disks of the machine, and what files go into it before its command runs. */
#ifndef MAYFLY_CONTAINERS_OCI_DISKS_H
#define MAYFLY_CONTAINERS_OCI_DISKS_H

#include "agent_client.h"
#include "drives.h"
#include "error.h"
#include "oci_spec.h"
#include "places.h"

#define OCI_FILE_MAX (1 << 20) /* bytes of a bind-mounted file */

/* Annotations of ours. */
#define OCI_ANNOTATION_SCRATCH "org.mayfly.scratch" /* a size, or tmpfs */
#define OCI_ANNOTATION_FOLDERS "org.mayfly.folders" /* copy: writable folders are copied in, and not back */
#define OCI_ANNOTATION_CPUS    "org.mayfly.cpus"
#define OCI_ANNOTATION_MEMORY  "org.mayfly.memory" /* of a container without a limit */

/* What `org.mayfly.scratch` is without the annotation. */
#define OCI_SCRATCH_SIZE "8G"

/*
 * oci_disks_check - refuse mounts that a microVM cannot have, each with the mount's name and what would do
 * Before anything is made. Looks at the host's files.
 */
int oci_disks_check(const struct oci_spec *spec, struct error *err);

/*
 * oci_disks_open - the container's root as a read-only image, its writable layer, and read-only folders
 * The writable layer is a file in the bundle (in its work/ where containerd has one, since the bundle itself is in
 * memory there), and is used again when the bundle is. The other files have no name.
 */
int oci_disks_open(const struct oci_spec *spec, const char *bundle, const struct places *places, struct drives *out,
		   struct error *err);

/* oci_files_put - copy files that config.json binds into the guest, and folders where the annotation says so, by
 * connections of their own. */
int oci_files_put(const struct oci_spec *spec, const struct instance *instance, struct error *err);

/*
 * oci_command_check - look for the command in the container's root, as execvp would
 * Engines tell "not found" from "cannot be run" by the sentence, and only of create. What the guest alone knows
 * (mounts) is left to it.
 */
int oci_command_check(const struct oci_spec *spec, struct error *err);

#endif
