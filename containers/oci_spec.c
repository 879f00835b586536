/* oci_spec.c: config.json of a bundle and the process of an exec, read, checked and made ours. */
#include "oci_spec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci_values.h"

#define LIMIT_MAX (1ll << 62) /* of a limit that is one; room for sums */

/* ---- a process ---- */

static int parse_user(json_t *user, const char *where, struct oci_process *out, struct error *err)
{
	json_t *groups = json_object_get(user, "additionalGids"), *entry;
	int64_t uid = 0, gid = 0, mask = OCI_UMASK_UNSET;
	int ret = oci_get_number(user, where, "uid", 0, UINT32_MAX - 1, &uid, err);
	size_t i;

	if (!ret)
		ret = oci_get_number(user, where, "gid", 0, UINT32_MAX - 1, &gid, err);
	if (!ret)
		ret = oci_get_number(user, where, "umask", 0, 0777, &mask, err);
	if (ret)
		return ret;
	out->uid = (uint32_t)uid;
	out->gid = (uint32_t)gid;
	out->umask = (int)mask;
	json_array_foreach(groups, i, entry)
	{
		int64_t n;

		if (!oci_as_integer(entry, &n) || n < 0 || n > UINT32_MAX - 1 || out->nr_groups == OCI_GROUPS)
			return oci_needs(err, where, "user.additionalGids", "a list of at most 64 group numbers");
		out->groups[out->nr_groups++] = (uint32_t)n;
	}
	return 0;
}

static int parse_rlimits(json_t *list, const char *where, struct error *err)
{
	json_t *entry, *soft, *hard;
	const char *type;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		type = json_string_value(json_object_get(entry, "type"));
		soft = json_object_get(entry, "soft");
		hard = json_object_get(entry, "hard");
		if (!type || strspn(type, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != strlen(type) || !json_is_number(soft) ||
		    !json_is_number(hard) || json_number_value(soft) < 0 ||
		    json_number_value(soft) > json_number_value(hard))
			return oci_needs(err, where, "rlimits",
					 "a list of type, soft and hard, as in RLIMIT_NOFILE, 1024, 4096");
	}
	return !list || json_is_null(list) || json_is_array(list) ? 0 : oci_needs(err, where, "rlimits", "a list");
}

static int parse_console(json_t *json, const char *where, struct oci_process *out, struct error *err)
{
	int64_t rows = 0, cols = 0;
	json_t *size;
	int ret = oci_get_object(json, where, "consoleSize", &size, err);

	if (!ret)
		ret = oci_get_number(size, where, "height", 0, UINT16_MAX, &rows, err);
	if (!ret)
		ret = oci_get_number(size, where, "width", 0, UINT16_MAX, &cols, err);
	out->rows = (unsigned int)rows;
	out->cols = (unsigned int)cols;
	return ret;
}

static int parse_lists(json_t *json, const char *where, struct oci_process *out, struct error *err)
{
	json_t *capabilities, *entry;
	size_t i;
	int ret = oci_get_list(json, where, "args", &out->args, err);

	if (!ret)
		ret = oci_get_list(json, where, "env", &out->env, err);
	if (!ret)
		ret = oci_get_object(json, where, "capabilities", &capabilities, err);
	if (!ret)
		ret = oci_get_list(capabilities, where, "bounding", &out->bounding, err);
	if (!ret)
		ret = oci_get_list(capabilities, where, "ambient", &out->ambient, err);
	if (!ret)
		ret = oci_get_list(capabilities, where, "inheritable", &out->inheritable, err);
	if (ret)
		return ret;
	if (!out->args || !*json_string_value(json_array_get(out->args, 0)))
		return oci_needs(err, where, "args", "a command");
	json_array_foreach(out->env, i, entry) if (!strchr(json_string_value(entry), '=')) return error_set(
		err, -EINVAL, "%s.env: \"%s\" (needs NAME=VALUE)", where, oci_shown(json_string_value(entry)));
	return 0;
}

int oci_process_parse(json_t *json, const char *where, struct oci_process *out, struct error *err)
{
	int64_t oom_score = 0;
	json_t *user;
	int ret;

	*out = (struct oci_process){ .umask = OCI_UMASK_UNSET };
	if (!json_is_object(json))
		return error_set(err, -EINVAL, "%s: needs to be an object", where);
	ret = parse_lists(json, where, out, err);
	if (!ret)
		ret = oci_get_object(json, where, "user", &user, err);
	if (!ret)
		ret = parse_user(user, where, out, err);
	if (!ret)
		ret = parse_console(json, where, out, err);
	if (!ret)
		ret = oci_get_text(json, where, "cwd", &out->cwd, err);
	if (!ret)
		ret = oci_get_flag(json, where, "terminal", &out->terminal, err);
	if (!ret)
		ret = oci_get_flag(json, where, "noNewPrivileges", &out->no_new_privs, err);
	if (!ret)
		ret = oci_get_number(json, where, "oomScoreAdj", -1000, 1000, &oom_score, err);
	if (!ret)
		ret = parse_rlimits(json_object_get(json, "rlimits"), where, err);
	if (ret)
		return ret;
	out->has_oom_score = json_is_number(json_object_get(json, "oomScoreAdj"));
	out->oom_score_adj = (int)oom_score;
	out->rlimits = json_object_get(json, "rlimits");
	if (!out->cwd || out->cwd[0] != '/')
		return oci_needs(err, where, "cwd", "an absolute path");
	return 0;
}

/* ---- mounts ---- */

static bool has_option(json_t *options, const char *name)
{
	json_t *entry;
	size_t i;

	json_array_foreach(options, i, entry) if (strcmp(json_string_value(entry), name) == 0) return true;
	return false;
}

/* No .. on the way: what is copied into the guest goes where config.json says. */
static bool is_plain_path(const char *path)
{
	size_t len;

	if (*path != '/')
		return false;
	for (path++; *path; path += len + (path[len] == '/')) {
		len = strcspn(path, "/");
		if (len == 2 && path[0] == '.' && path[1] == '.')
			return false;
	}
	return true;
}

static int parse_mount(json_t *json, struct oci_mount *out, struct error *err)
{
	static const char *const of_guest[] = { "proc",   "sysfs",   "devpts", "mqueue",
						"cgroup", "cgroup2", "tmpfs",  "devtmpfs" };
	static const char where[] = "mounts[]";
	const char *type;
	json_t *options;
	unsigned int i;
	int ret = oci_get_text(json, where, "destination", &out->destination, err);

	if (!ret)
		ret = oci_get_text(json, where, "source", &out->source, err);
	if (!ret)
		ret = oci_get_text(json, where, "type", &type, err);
	if (!ret)
		ret = oci_get_list(json, where, "options", &options, err);
	if (ret)
		return ret;
	if (!out->destination || !is_plain_path(out->destination))
		return oci_needs(err, where, "destination", "an absolute path without ..");
	out->read_only = has_option(options, "ro");
	if (has_option(options, "bind") || has_option(options, "rbind") || (type && strcmp(type, "bind") == 0)) {
		out->kind = MOUNT_BIND;
		return out->source && *out->source ? 0 : oci_needs(err, where, "source", "a path of the host");
	}
	for (i = 0; type && i < sizeof(of_guest) / sizeof(of_guest[0]); i++)
		if (strcmp(type, of_guest[i]) == 0)
			return 0;
	return error_set(err, -ENOTSUP,
			 "mounts: %s: a microVM cannot mount the type \"%s\" (can: bind, and what the guest has "
			 "of its own: proc, sysfs, devpts, mqueue, cgroup, tmpfs)",
			 oci_shown(out->destination), type ? oci_shown(type) : "");
}

static int parse_mounts(json_t *list, struct oci_spec *out, struct error *err)
{
	json_t *entry;
	size_t i;
	int ret = 0;

	if (list && !json_is_null(list) && !json_is_array(list))
		return error_set(err, -EINVAL, "mounts: needs to be a list");
	if (json_array_size(list) > OCI_MOUNTS)
		return error_set(err, -E2BIG, "mounts: %zu of them (needs %d at most)", json_array_size(list),
				 OCI_MOUNTS);
	json_array_foreach(list, i, entry)
	{
		if (!json_is_object(entry))
			return error_set(err, -EINVAL, "mounts: needs to be a list of objects");
		ret = parse_mount(entry, &out->mounts[out->nr_mounts++], err);
		if (ret)
			break;
	}
	return ret;
}

/* ---- linux ---- */

/* 0 means "as it is" to engines, and what the kernel shows where there is no limit, rounded or not, that there is none.
 */
static void set_unlimited(int64_t *limit)
{
	if (*limit == 0 || *limit > LIMIT_MAX)
		*limit = OCI_UNLIMITED;
}

int oci_resources_parse(json_t *json, struct oci_resources *out, struct error *err)
{
	static const char where[] = "linux.resources";
	json_t *memory, *cpu, *pids;
	int ret = oci_get_object(json, where, "memory", &memory, err);

	*out = (struct oci_resources){
		.memory = OCI_UNLIMITED, .cpu_quota = OCI_UNLIMITED, .cpu_shares = OCI_UNLIMITED, .pids = OCI_UNLIMITED
	};
	if (!ret)
		ret = oci_get_object(json, where, "cpu", &cpu, err);
	if (!ret)
		ret = oci_get_object(json, where, "pids", &pids, err);
	if (!ret)
		ret = oci_get_number(memory, "linux.resources.memory", "limit", -1, INT64_MAX, &out->memory, err);
	if (!ret)
		ret = oci_get_number(cpu, "linux.resources.cpu", "quota", -1, INT64_MAX, &out->cpu_quota, err);
	if (!ret)
		ret = oci_get_number(cpu, "linux.resources.cpu", "period", 0, 1000000, &out->cpu_period, err);
	if (!ret)
		ret = oci_get_number(cpu, "linux.resources.cpu", "shares", 0, 1 << 18, &out->cpu_shares, err);
	if (!ret)
		ret = oci_get_number(pids, "linux.resources.pids", "limit", -1, INT64_MAX, &out->pids, err);
	if (!ret)
		ret = oci_get_text(cpu, "linux.resources.cpu", "cpus", &out->cpus, err);
	if (!ret)
		ret = oci_get_text(cpu, "linux.resources.cpu", "mems", &out->mems, err);
	set_unlimited(&out->memory);
	set_unlimited(&out->cpu_quota);
	set_unlimited(&out->pids);
	if (out->cpu_period == 0)
		out->cpu_period = 100000;
	return ret;
}

static int parse_namespaces(json_t *list, struct oci_spec *out, struct error *err)
{
	bool network = false, pid = false;
	const char *type, *path;
	json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		type = json_string_value(json_object_get(entry, "type"));
		path = json_string_value(json_object_get(entry, "path"));
		if (!type)
			return error_set(err, -EINVAL, "linux.namespaces: needs to be a list of objects with a type");
		if (strcmp(type, "network") == 0) {
			network = true;
			out->netns = path && *path ? path : NULL;
		} else if (strcmp(type, "pid") == 0) {
			pid = !path || !*path;
		}
	}
	if (!network)
		return error_set(err, -ENOTSUP,
				 "linux.namespaces: a microVM has a network of its own, never the host's (needs "
				 "to be without --network=host and hostNetwork)");
	/* A pod's sandbox has no processes. */
	if (!pid && !out->sandbox)
		return error_set(err, -ENOTSUP,
				 "linux.namespaces: a microVM has processes of its own, never the host's or those "
				 "of another container (needs to be without --pid=host, --pid=container:…, hostPID and "
				 "shareProcessNamespace)");
	return 0;
}

/* Devices that every guest has; /dev/NAME. */
static bool guest_has_device(const char *path)
{
	static const char *const names[] = { "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx" };
	unsigned int i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strncmp(path, "/dev/", 5) == 0 && strcmp(path + 5, names[i]) == 0)
			return true;
	return false;
}

/*
 * Engines name files by which a container could reach into the host's kernel. The guest's kernel is the container's
 * own, but a file that somebody wants hidden or protected has to be.
 */
static int check_paths(json_t *os, const char *key, struct error *err)
{
	json_t *list, *entry;
	const char *path;
	size_t i;
	int ret = oci_get_list(os, "linux", key, &list, err);

	json_array_foreach(list, i, entry)
	{
		path = json_string_value(entry);
		if (!is_plain_path(path) || (strncmp(path, "/proc/", 6) != 0 && strncmp(path, "/sys/", 5) != 0))
			return error_set(err, -ENOTSUP,
					 "linux.%s: %s: not supported (needs to be below /proc or /sys, which are the "
					 "guest's own)",
					 key, oci_shown(path));
	}
	return ret;
}

static int parse_linux(json_t *os, struct oci_spec *out, struct error *err)
{
	json_t *resources, *devices = json_object_get(os, "devices"), *entry;
	const char *path;
	size_t i;
	int ret = oci_get_object(os, "linux", "resources", &resources, err);

	if (!ret)
		ret = oci_resources_parse(resources, &out->resources, err);
	if (!ret)
		ret = oci_get_text(os, "linux", "cgroupsPath", &out->cgroup, err);
	if (!ret)
		ret = oci_get_texts(os, "linux", "sysctl", &out->sysctl, err);
	if (!ret)
		ret = parse_namespaces(json_object_get(os, "namespaces"), out, err);
	if (!ret)
		ret = check_paths(os, "maskedPaths", err);
	if (!ret)
		ret = check_paths(os, "readonlyPaths", err);
	if (ret)
		return ret;
	if (json_array_size(json_object_get(os, "uidMappings")))
		return error_set(err, -ENOTSUP,
				 "linux.uidMappings: the guest's users are not the host's already (needs to be "
				 "without --userns)");
	json_array_foreach(devices, i, entry)
	{
		path = json_string_value(json_object_get(entry, "path"));
		if (!path || !guest_has_device(path))
			return error_set(err, -ENOTSUP,
					 "linux.devices: %s: no device of the host can be had in a microVM (needs to "
					 "be without --device and --privileged)",
					 path ? oci_shown(path) : "");
	}
	return 0;
}

/* ---- the whole ---- */

const char *oci_annotation(const struct oci_spec *spec, const char *name)
{
	return json_string_value(json_object_get(spec->annotations, name));
}

/* In containerd's word, or in CRI-O's, which is podman's, too. */
static const char *either_annotation(const struct oci_spec *spec, const char *containerd, const char *crio)
{
	const char *value = oci_annotation(spec, containerd);

	return value ? value : oci_annotation(spec, crio);
}

/* The container that only holds a pod's namespaces: podman's is known by its program alone. */
static bool is_sandbox(const struct oci_spec *spec)
{
	const char *program = json_string_value(json_array_get(spec->process.args, 0));
	const char *type =
		either_annotation(spec, "io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType");

	if (type)
		return strcmp(type, "sandbox") == 0;
	return program && (strcmp(program, "/pause") == 0 ||
			   (strcmp(program, "/catatonit") == 0 && json_array_size(spec->process.args) == 2));
}

static int parse_root(json_t *json, const char *bundle, struct oci_spec *out, struct error *err)
{
	const char *path;
	json_t *root;
	int len, ret = oci_get_object(json, OCI_CONFIG, "root", &root, err);

	if (!ret)
		ret = oci_get_text(root, "root", "path", &path, err);
	if (!ret)
		ret = oci_get_flag(root, "root", "readonly", &out->root_read_only, err);
	if (ret)
		return ret;
	if (!path || !*path)
		return oci_needs(err, "root", "path", "a path");
	len = *path == '/' ? snprintf(out->root, PATH_MAX, "%s", path)
			   : snprintf(out->root, PATH_MAX, "%s/%s", bundle, path);
	return len < PATH_MAX ? 0 : error_set(err, -ENAMETOOLONG, "root.path: too long");
}

static int parse_hook(json_t *hook, const char *when, struct error *err)
{
	int64_t seconds = 1;
	const char *path;
	char where[64];
	json_t *list;
	int ret;

	snprintf(where, sizeof(where), "hooks.%s", when);
	ret = oci_get_text(hook, where, "path", &path, err);
	if (!ret && (!path || *path != '/'))
		ret = oci_needs(err, where, "path", "an absolute path");
	if (!ret)
		ret = oci_get_list(hook, where, "args", &list, err);
	if (!ret)
		ret = oci_get_list(hook, where, "env", &list, err);
	return ret ? ret : oci_get_number(hook, where, "timeout", 1, INT32_MAX, &seconds, err);
}

static int get_hooks(json_t *hooks, const char *when, json_t **out, struct error *err)
{
	*out = json_object_get(hooks, when);
	return !*out || json_is_null(*out) || json_is_array(*out) ? 0 : oci_needs(err, "hooks", when, "a list");
}

/* Programs of the host that are called at some steps. Within the container there are no programs of the host. */
static int parse_hooks(json_t *json, struct oci_spec *out, struct error *err)
{
	static const char *const outside[] = { "prestart", "createRuntime", "poststart", "poststop" };
	static const char *const inside[] = { "createContainer", "startContainer" };
	int ret = oci_get_object(json, OCI_CONFIG, "hooks", &out->hooks, err);
	json_t *list, *hook;
	size_t i, at;

	for (i = 0; !ret && i < sizeof(inside) / sizeof(inside[0]); i++) {
		ret = get_hooks(out->hooks, inside[i], &list, err);
		if (json_array_size(list))
			ret = error_set(err, -ENOTSUP,
					"hooks.%s: a microVM has nothing of the host that it could run within (needs "
					"createRuntime, poststart or poststop)",
					inside[i]);
	}
	for (i = 0; !ret && i < sizeof(outside) / sizeof(outside[0]); i++) {
		ret = get_hooks(out->hooks, outside[i], &list, err);
		json_array_foreach(list, at, hook) if ((ret = parse_hook(hook, outside[i], err))) break;
	}
	return ret;
}

static int parse_all(json_t *json, const char *bundle, struct oci_spec *out, struct error *err)
{
	const char *version;
	json_t *os;
	int ret = oci_get_text(json, OCI_CONFIG, "ociVersion", &version, err);

	if (!ret && (!version || strncmp(version, "1.", 2) != 0))
		ret = error_set(err, -ENOTSUP, "ociVersion: \"%s\" (needs 1.x)", version ? oci_shown(version) : "");
	if (!ret)
		ret = parse_root(json, bundle, out, err);
	if (!ret)
		ret = oci_get_texts(json, OCI_CONFIG, "annotations", &out->annotations, err);
	if (!ret && json_object_get(json, "process")) {
		out->has_process = true;
		ret = oci_process_parse(json_object_get(json, "process"), "process", &out->process, err);
	}
	if (!ret)
		ret = oci_get_text(json, OCI_CONFIG, "hostname", &out->hostname, err);
	if (!ret)
		ret = parse_mounts(json_object_get(json, "mounts"), out, err);
	if (!ret)
		ret = parse_hooks(json, out, err);
	if (!ret)
		ret = oci_get_object(json, OCI_CONFIG, "linux", &os, err);
	if (ret)
		return ret;
	out->sandbox = is_sandbox(out);
	if (!out->sandbox)
		out->pod = either_annotation(out, "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID");
	return parse_linux(os, out, err);
}

int oci_spec_parse(json_t *json, const char *bundle, struct oci_spec *out, struct error *err)
{
	int ret;

	*out = (struct oci_spec){ .json = json };
	ret = parse_all(json, bundle, out, err);
	if (ret)
		oci_spec_free(out);
	return ret;
}

int oci_spec_read(const char *bundle, struct oci_spec *out, struct error *err)
{
	char path[PATH_MAX];
	json_t *json;

	if (snprintf(path, sizeof(path), "%s/" OCI_CONFIG, bundle) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "--bundle: the path is too long");
	json = oci_read_json(path, err);
	return json ? oci_spec_parse(json, bundle, out, err) : err->code;
}

void oci_spec_join(struct oci_spec *spec, json_t *sandbox)
{
	json_t *hostname = json_object_get(sandbox, "hostname");

	if (!spec->hostname || !*spec->hostname) {
		json_object_set(spec->json, "hostname", hostname);
		spec->hostname = json_string_value(hostname);
	}
	if (!spec->sysctl) {
		spec->sysctl = json_object();
		json_object_set_new(json_object_get(spec->json, "linux"), "sysctl", spec->sysctl);
	}
	json_object_update_missing(spec->sysctl, json_object_get(sandbox, "sysctl"));
}

void oci_spec_free(struct oci_spec *spec)
{
	json_decref(spec->json);
	*spec = (struct oci_spec){ 0 };
}
