/* oci_spec.h: what an engine wants: config.json of a bundle and the process of an exec, read, checked and made ours. */
#ifndef MAYFLY_CONTAINERS_OCI_SPEC_H
#define MAYFLY_CONTAINERS_OCI_SPEC_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "error.h"

#define OCI_VERSION     "1.0.2"
#define OCI_CONFIG      "config.json"
#define OCI_MOUNTS      128
#define OCI_GROUPS      64
#define OCI_UNLIMITED   (-1)
#define OCI_UMASK_UNSET (-1)

/* A process: that of the container, or one of an exec. Strings and lists belong to the JSON it was read from. */
struct oci_process {
	json_t *args, *env, *rlimits; /* arrays that were checked; env and rlimits may be NULL */
	const char *cwd;
	uint32_t uid, gid;
	uint32_t groups[OCI_GROUPS];
	unsigned int nr_groups;
	int umask;                                /* OCI_UMASK_UNSET: not given */
	json_t *bounding, *ambient, *inheritable; /* arrays of names, NULL: none */
	bool terminal, no_new_privs, has_oom_score;
	int oom_score_adj;
	unsigned int rows, cols; /* 0: not given */
};

enum oci_mount_kind {
	MOUNT_OF_GUEST, /* the guest has its own there */
	MOUNT_BIND,     /* a file or directory of the host */
};

struct oci_mount {
	enum oci_mount_kind kind;
	const char *destination, *source;
	bool read_only;
};

/* OCI_UNLIMITED or NULL where the engine set no limit. */
struct oci_resources {
	int64_t memory;     /* bytes */
	int64_t cpu_quota;  /* µs in each period */
	int64_t cpu_period; /* µs */
	int64_t cpu_shares; /* 2 to 262144 */
	int64_t pids;
	const char *cpus, *mems; /* of the cpuset */
};

struct oci_spec {
	json_t *json; /* what all strings belong to */
	struct oci_process process;
	bool has_process;
	char root[PATH_MAX]; /* absolute */
	bool root_read_only;
	const char *hostname; /* NULL: not given */
	struct oci_mount mounts[OCI_MOUNTS];
	unsigned int nr_mounts;
	struct oci_resources resources;
	const char *cgroup;  /* NULL: not given */
	const char *netns;   /* the namespace that the engine has made; NULL: an empty one */
	json_t *sysctl;      /* an object of strings, or NULL */
	json_t *annotations; /* an object of strings, or NULL */
	json_t *hooks;       /* an object of lists that were checked, or NULL */
	bool sandbox;        /* what keeps a pod together: nothing runs in it */
	const char *pod;     /* id of the sandbox that keeps its pod together; NULL: in none */
};

/*
 * oci_spec_read - read config.json of a bundle
 * The engine is trusted to say what it wants, the file is not: every value is checked for type and range, and what a
 * microVM cannot do is refused with the field's name. Returns 0 or a negative errno; oci_spec_free afterwards.
 */
int oci_spec_read(const char *bundle, struct oci_spec *out, struct error *err);

/* oci_spec_parse - the same for JSON that the caller has read; takes the reference. root.path is below bundle. */
int oci_spec_parse(json_t *json, const char *bundle, struct oci_spec *out, struct error *err);

/* oci_spec_join - take over what the state of a pod's sandbox says of host name and sysctls, where spec does not. */
void oci_spec_join(struct oci_spec *spec, json_t *sandbox);

void oci_spec_free(struct oci_spec *spec);

/* oci_process_parse - the process that json is; where names it in sentences. */
int oci_process_parse(json_t *json, const char *where, struct oci_process *out, struct error *err);

/* oci_resources_parse - linux.resources, or the file of an update. */
int oci_resources_parse(json_t *json, struct oci_resources *out, struct error *err);

/* oci_annotation - its value, or NULL. */
const char *oci_annotation(const struct oci_spec *spec, const char *name);

#endif
