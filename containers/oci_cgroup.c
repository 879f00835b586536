/* oci_cgroup.c: the cgroup that an engine names for a container, in both versions. */
#include "oci_cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define TOP          "/sys/fs/cgroup"
#define VALUE        96
#define REMOVE_TRIES 200 /* of 10 ms: a killed process leaves its cgroup when it is gone */
#define LEAVE_TRIES  20  /* the same where nothing is killed */

/* Hierarchies of version 1 that count or limit something of a machine; others are left to whoever made them. */
static const char *const controllers[] = { "memory", "cpu",     "cpuacct", "pids",    "cpuset",
					   "blkio",  "freezer", "devices", "net_cls", "perf_event" };

#define NR_CONTROLLERS (sizeof(controllers) / sizeof(controllers[0]))

static bool is_v2(void)
{
	struct statfs fs;

	return statfs(TOP, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* ---- where it is ---- */

/* "machine-a.slice" lies in "machine.slice". */
static size_t put_slice(char out[PATH_MAX], const char *slice, size_t len)
{
	size_t at = 0, i;

	if (len == 7 && memcmp(slice, "-.slice", 7) == 0)
		return 0;
	for (i = 0; i + 6 < len; i++)
		if (slice[i] == '-')
			at += (size_t)snprintf(out + at, PATH_MAX - at, "/%.*s.slice", (int)i, slice);
	return at + (size_t)snprintf(out + at, PATH_MAX - at, "/%.*s", (int)len, slice);
}

int oci_cgroup_path(const char *wanted, const char *id, char out[PATH_MAX], struct error *err)
{
	const char *prefix = wanted ? strchr(wanted, ':') : NULL, *name = prefix ? strchr(prefix + 1, ':') : NULL, *at;
	size_t len;

	if (wanted && strlen(wanted) > PATH_MAX / 8)
		return error_set(err, -ENAMETOOLONG, "linux.cgroupsPath: longer than %d bytes", PATH_MAX / 8);
	if (!wanted || !*wanted) {
		snprintf(out, PATH_MAX, "/mayfly-oci/%s", id);
	} else if (name) {
		len = prefix > wanted ? put_slice(out, wanted, (size_t)(prefix - wanted))
				      : put_slice(out, "system.slice", 12);
		snprintf(out + len, PATH_MAX - len, "/%.*s%s%s.scope", (int)(name - prefix - 1), prefix + 1,
			 name > prefix + 1 ? "-" : "", name + 1);
	} else {
		snprintf(out, PATH_MAX, "%s%s", *wanted == '/' ? "" : "/", wanted);
	}
	for (at = out; (at = strstr(at, "/..")) != NULL; at += 3)
		if (at[3] == '/' || !at[3])
			return error_set(err, -EINVAL, "linux.cgroupsPath: has .. in it");
	return strspn(out, "/") == strlen(out) ? error_set(err, -EINVAL, "linux.cgroupsPath: needs to name a cgroup")
					       : 0;
}

/* In version 2 the same for all. NULL: the host has no such hierarchy. */
static const char *place(char out[PATH_MAX], const char *controller, const char *path)
{
	char top[64];
	struct stat st;

	snprintf(top, sizeof(top), TOP "%s%s", is_v2() ? "" : "/", is_v2() ? "" : controller);
	if (stat(top, &st) || snprintf(out, PATH_MAX, "%s%s", top, path) >= PATH_MAX)
		return NULL;
	return out;
}

static int write_file(const char *folder, const char *file, const char *value)
{
	char path[PATH_MAX + 64];
	ssize_t n;
	int fd, why;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, value, strlen(value));
	why = errno;
	close(fd);
	return n < 0 ? -why : 0;
}

/* ---- limits ---- */

static int set(const char *path, const char *controller, const char *file, const char *value, struct error *err)
{
	char folder[PATH_MAX];
	int ret = place(folder, controller, path) ? write_file(folder, file, value) : -ENOENT;

	if (ret)
		return error_set(err, ret, "cgroup: %s/%s: cannot be set to %s: %s%s", text_path_shown(path), file,
				 value, strerror(-ret),
				 ret == -ENOENT ? " (the host has no such controller here)" : "");
	return 0;
}

static int limit_memory(const char *path, const struct oci_resources *r, struct error *err)
{
	const bool v2 = is_v2();
	char value[VALUE];

	if (r->memory < 0)
		return 0;
	snprintf(value, sizeof(value), "%lld", (long long)r->memory + OCI_CGROUP_OVERHEAD);
	return set(path, "memory", v2 ? "memory.max" : "memory.limit_in_bytes", value, err);
}

static int limit_cpu(const char *path, const struct oci_resources *r, struct error *err)
{
	const bool v2 = is_v2();
	char value[VALUE];
	int ret = 0;

	if (r->cpu_shares >= 2) {
		snprintf(value, sizeof(value), "%lld",
			 (long long)(v2 ? 1 + (r->cpu_shares - 2) * 9999 / 262142 : r->cpu_shares));
		ret = set(path, "cpu", v2 ? "cpu.weight" : "cpu.shares", value, err);
	}
	if (ret || r->cpu_quota < 0)
		return ret;
	if (v2) {
		snprintf(value, sizeof(value), "%lld %lld", (long long)r->cpu_quota, (long long)r->cpu_period);
		return set(path, "cpu", "cpu.max", value, err);
	}
	snprintf(value, sizeof(value), "%lld", (long long)r->cpu_period);
	ret = set(path, "cpu", "cpu.cfs_period_us", value, err);
	snprintf(value, sizeof(value), "%lld", (long long)r->cpu_quota);
	return ret ? ret : set(path, "cpu", "cpu.cfs_quota_us", value, err);
}

int oci_cgroup_limit(const char *path, const struct oci_resources *r, struct error *err)
{
	int ret = limit_memory(path, r, err);

	if (!ret)
		ret = limit_cpu(path, r, err);
	if (!ret && r->cpus && *r->cpus)
		ret = set(path, "cpuset", "cpuset.cpus", r->cpus, err);
	if (!ret && r->mems && *r->mems)
		ret = set(path, "cpuset", "cpuset.mems", r->mems, err);
	return ret;
}

/* ---- making and joining ---- */

/* In version 1 a cpuset that was just made is empty, and takes nobody. */
static void inherit_cpuset(const char *folder)
{
	static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
	char path[PATH_MAX + 64], value[1024];
	unsigned int i;
	ssize_t n;
	int fd;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/../%s", folder, files[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? -1 : read(fd, value, sizeof(value) - 1);
		if (fd >= 0)
			close(fd);
		value[n > 0 ? n : 0] = '\0';
		if (n > 0)
			(void)write_file(folder, files[i], value);
	}
}

/* Each PID of a list that the kernel gives. */
static void each_pid(const char *name, int delimiter, void (*visit)(pid_t pid, void *arg), void *arg)
{
	FILE *file = fopen(name, "re");
	char *word = NULL;
	size_t room = 0;
	long pid;

	while (file && getdelim(&word, &room, delimiter, file) > 0) {
		pid = strtol(word, NULL, 10);
		/* 0 is of a namespace that we do not see. */
		if (pid > 0)
			visit((pid_t)pid, arg);
	}
	free(word);
	if (file)
		fclose(file);
}

static void each_in(const char *folder, void (*visit)(pid_t pid, void *arg), void *arg)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	each_pid(path, '\n', visit, arg);
}

static void note(pid_t pid, void *arg)
{
	(void)pid;
	*(bool *)arg = true;
}

/* That processes or cgroups are in it, which must not end with the container. */
static bool is_used(const char *folder)
{
	bool used = false;
	struct stat st;

	each_in(folder, note, &used);
	return used || (stat(folder, &st) == 0 && st.st_nlink > 2);
}

/* Each folder on the way, with its controllers handed on to the next. Returns 1 when it made the last, 0: it was there.
 */
static int make_folders(char folder[PATH_MAX], size_t top, const char *controller, struct error *err)
{
	const bool v2 = is_v2();
	char *slash = folder + top, word[16];
	bool made = false;
	unsigned int i;

	while (slash) {
		for (i = 0; v2 && i < NR_CONTROLLERS; i++) {
			snprintf(word, sizeof(word), "+%s", controllers[i]);
			*slash = '\0';
			(void)write_file(folder, "cgroup.subtree_control", word);
			*slash = '/';
		}
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = '\0';
		made = mkdir(folder, 0755) == 0;
		if (!made && errno != EEXIST)
			return error_set(err, -errno, "cgroup: %s: %s", text_path_shown(folder), strerror(errno));
		if (!v2 && strcmp(controller, "cpuset") == 0)
			inherit_cpuset(folder);
		if (slash)
			*slash = '/';
	}
	if (!made && is_used(folder))
		return error_set(err, -EBUSY, "linux.cgroupsPath: %s: in use (needs to be the container's own)",
				 text_path_shown(folder));
	return made;
}

static int join(const char *controller, const char *path, pid_t process, struct error *err)
{
	char folder[PATH_MAX], pid[16];
	int ret;

	if (!place(folder, controller, path))
		return 0;
	snprintf(pid, sizeof(pid), "%d", process);
	ret = write_file(folder, "cgroup.procs", pid);
	return ret ? error_set(err, ret, "cgroup: %s: cannot be joined: %s", text_path_shown(folder), strerror(-ret))
		   : 0;
}

int oci_cgroup_join(const char *path, const struct oci_resources *resources, bool *made, struct error *err)
{
	const unsigned int nr = is_v2() ? 1 : NR_CONTROLLERS;
	char folder[PATH_MAX];
	unsigned int i;
	int ret = 0;

	*made = false;
	for (i = 0; ret >= 0 && i < nr; i++)
		if (place(folder, controllers[i], path)) {
			ret = make_folders(folder, strlen(folder) - strlen(path), controllers[i], err);
			*made |= ret > 0;
		}
	if (ret >= 0)
		ret = oci_cgroup_limit(path, resources, err);
	for (i = 0; !ret && i < nr; i++)
		ret = join(controllers[i], path, getpid(), err);
	return ret;
}

static void enter(pid_t pid, void *path)
{
	oci_cgroup_enter(path, pid);
}

/* Parents first: what they start later begins where they are. */
void oci_cgroup_enter(const char *path, pid_t pid)
{
	const unsigned int nr = is_v2() ? 1 : NR_CONTROLLERS;
	char name[64];
	unsigned int i;

	for (i = 0; i < nr; i++)
		(void)join(controllers[i], path, pid, NULL);
	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", pid, pid);
	each_pid(name, ' ', enter, (void *)(uintptr_t)path);
}

void oci_cgroup_current(char out[PATH_MAX])
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX + 64], *path;

	snprintf(out, PATH_MAX, "/");
	while (file && fgets(line, sizeof(line), file)) {
		path = strchr(line, ':');
		path = path ? strchr(path + 1, ':') : NULL;
		/* Version 2 has one line; of version 1 that of the devices is what matters to us. */
		if (!path || (strncmp(line, "0::", 3) != 0 && !strstr(line, ":devices:")))
			continue;
		path[strcspn(path, "\n")] = '\0';
		snprintf(out, PATH_MAX, "%s", path + 1);
		if (!is_v2())
			break;
	}
	if (file)
		fclose(file);
}

/* ---- reading and the end ---- */

ssize_t oci_cgroup_read(const char *path, const char *controller, const char *file, char *out, size_t size)
{
	char folder[PATH_MAX], name[PATH_MAX + 64];
	ssize_t n;
	int fd;

	out[0] = '\0';
	if (!place(folder, controller, path))
		return -1;
	snprintf(name, sizeof(name), "%s/%s", folder, file);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, out, size - 1);
	if (fd >= 0)
		close(fd);
	out[n > 0 ? n : 0] = '\0';
	return n;
}

void oci_cgroup_pids(const char *path, void (*visit)(pid_t pid, void *arg), void *arg)
{
	char folder[PATH_MAX];

	if (place(folder, "pids", path))
		each_in(folder, visit, arg);
}

static void kill_one(pid_t pid, void *arg)
{
	(void)arg;
	if (pid > 1 && pid != getpid())
		(void)kill(pid, SIGKILL);
}

static void kill_all(const char *folder)
{
	if (write_file(folder, "cgroup.kill", "1"))
		each_in(folder, kill_one, NULL);
}

void oci_cgroup_remove(const char *path, bool made)
{
	const unsigned int nr = is_v2() ? 1 : NR_CONTROLLERS;
	const struct timespec moment = { .tv_nsec = 10000000 };
	char folder[PATH_MAX];
	unsigned int i, tries;

	for (i = 0; i < nr; i++) {
		if (!place(folder, controllers[i], path))
			continue;
		for (tries = 0; rmdir(folder) && errno == EBUSY && tries < (made ? REMOVE_TRIES : LEAVE_TRIES);
		     tries++) {
			/* What has just ended takes a moment to leave; what goes on is ended. */
			if (made && tries % 50 == 10)
				kill_all(folder);
			(void)nanosleep(&moment, NULL);
		}
	}
}
