/* cgroup.c: the cgroups of one jail, version 1 or 2. */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <mntent.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "place.h"
#include "text.h"

#define GONE_MS 1000 /* until killed processes have left a cgroup */

static int fail(struct error *err, int code, const char *path, const char *file, const char *why)
{
	return error_set(err, code, "cgroup: %s/%s: %s", text_path_shown(path), file, why);
}

/* ---- files ---- */

static int write_file(int dir, const char *file, const char *value)
{
	size_t len = strlen(value);
	int fd = openat(dir, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC), code = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, len) != (ssize_t)len)
		code = errno ? -errno : -EIO;
	close(fd);
	return code;
}

/* The first line of a file; "" when it cannot be read. */
static const char *read_line(int dir, const char *file, char *line, size_t size)
{
	int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, line, size - 1);

	if (fd >= 0)
		close(fd);
	line[len < 0 ? 0 : len] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return line;
}

/* A word among words with blanks or commas between them. */
static bool has_word(const char *words, const char *word)
{
	size_t len = strlen(word), here;

	for (; *words; words += here + (words[here] != '\0')) {
		here = strcspn(words, " ,");
		if (here == len && memcmp(words, word, len) == 0)
			return true;
	}
	return false;
}

/* ---- hierarchies ---- */

static bool is_hierarchy(int fd, unsigned int version)
{
	struct statfs fs;

	return fd >= 0 && fstatfs(fd, &fs) == 0 &&
	       (unsigned long)fs.f_type == (version == 2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC);
}

static int open_if_hierarchy(const char *path, unsigned int version)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || is_hierarchy(fd, version))
		return fd;
	close(fd);
	return -1;
}

/* Wherever else it may be mounted. Last, because the kernel takes its time over a long list of mounts. */
static int search_mounts(unsigned int version, const char *controller)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent *m;
	int fd = -1;

	while (mounts && fd < 0 && (m = getmntent(mounts)))
		if (version == 2 ? strcmp(m->mnt_type, "cgroup2") == 0
				 : strcmp(m->mnt_type, "cgroup") == 0 && has_word(m->mnt_opts, controller))
			fd = open_if_hierarchy(m->mnt_dir, version);
	if (mounts)
		endmntent(mounts);
	return fd;
}

/* Where distributions mount them. */
static int open_hierarchy(unsigned int version, const char *controller)
{
	char path[64];
	int fd;

	if (version == 2) {
		fd = open_if_hierarchy("/sys/fs/cgroup", 2);
		if (fd < 0)
			fd = open_if_hierarchy("/sys/fs/cgroup/unified", 2);
	} else {
		snprintf(path, sizeof(path), "/sys/fs/cgroup/%s", controller);
		fd = open_if_hierarchy(path, 1);
	}
	return fd < 0 ? search_mounts(version, controller) : fd;
}

/* ---- what to write ---- */

static int add(struct cgroups *cgroups, struct error *err, const char *file, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int add(struct cgroups *cgroups, struct error *err, const char *file, const char *format, ...)
{
	struct cgroup_setting *setting = &cgroups->settings[cgroups->nr_settings];
	va_list ap;
	int len;

	va_start(ap, format);
	len = cgroups->nr_settings < CGROUP_SETTINGS_MAX ? vasprintf(&setting->value, format, ap) : -1;
	va_end(ap);
	if (len < 0)
		return error_set(err, -ENOMEM, "cgroup: %s: too many settings", file);
	setting->file = file;
	cgroups->nr_settings++;
	return 0;
}

/* The disk that path is on, or is, as MAJOR:MINOR; a partition has no limits of its own. */
static int find_disk(const char *path, char disk[32], struct error *err)
{
	char sys[64];
	struct stat st;
	dev_t dev;
	int fd;

	if (stat(path, &st))
		return error_set(err, -ENOTBLK, "--io-max: %s: %s", text_path_shown(path), strerror(errno));
	dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	snprintf(sys, sizeof(sys), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	fd = open(sys, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_set(err, -ENOTBLK, "--io-max: %s: on no disk (needs a disk, or a path on one)",
				 text_path_shown(path));
	if (faccessat(fd, "partition", F_OK, 0) == 0) {
		close(fd);
		snprintf(sys, sizeof(sys), "/sys/dev/block/%u:%u/..", major(dev), minor(dev));
		fd = open(sys, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	read_line(fd, "dev", disk, 32);
	if (fd >= 0)
		close(fd);
	return 0;
}

static int add_io(struct cgroups *cgroups, const struct io_limit *io, struct error *err)
{
	static const char *const v1[IO_KINDS] = { "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
						  "blkio.throttle.read_iops_device",
						  "blkio.throttle.write_iops_device" };
	char disk[32] = "", line[128];
	int ret = find_disk(io->path, disk, err);
	unsigned int i;
	size_t len;

	len = (size_t)snprintf(line, sizeof(line), "%s", disk);
	for (i = 0; i < IO_KINDS && !ret; i++) {
		if (!io->most[i])
			continue;
		if (cgroups->version == 1)
			ret = add(cgroups, err, v1[i], "%s %" PRIu64, disk, io->most[i]);
		else
			len += (size_t)snprintf(line + len, sizeof(line) - len, " %s=%" PRIu64, io_names[i],
						io->most[i]);
	}
	return ret || cgroups->version == 1 ? ret : add(cgroups, err, "io.max", "%s", line);
}

static int add_all(struct cgroups *cgroups, const struct options *o, struct error *err)
{
	const bool v2 = cgroups->version == 2;
	unsigned int i;
	int ret = 0;

	if (o->memory_max != NO_LIMIT)
		ret = add(cgroups, err, v2 ? "memory.max" : "memory.limit_in_bytes", "%" PRIu64, o->memory_max);
	if (!ret && o->cpu_max != NO_LIMIT && v2)
		ret = add(cgroups, err, "cpu.max", "%" PRIu64 " %u", o->cpu_max, CPU_PERIOD_US);
	if (!ret && o->cpu_max != NO_LIMIT && !v2)
		ret = add(cgroups, err, "cpu.cfs_period_us", "%u", CPU_PERIOD_US);
	if (!ret && o->cpu_max != NO_LIMIT && !v2)
		ret = add(cgroups, err, "cpu.cfs_quota_us", "%" PRIu64, o->cpu_max);
	for (i = 0; i < o->nr_io && !ret; i++)
		ret = add_io(cgroups, &o->io[i], err);
	/* Last, so that an exact word wins over an easy one. */
	for (i = 0; i < o->nr_settings && !ret; i++)
		ret = add(cgroups, err, o->settings[i].file, "%s", o->settings[i].value);
	return ret;
}

/* ---- one cgroup ---- */

/* Version 1: a new cpuset has no CPUs and no memory nodes, and takes no process until it has. */
static void inherit_cpuset(int parent, int dir)
{
	static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
	char line[4096];
	unsigned int i;

	for (i = 0; i < 2; i++)
		if (!*read_line(dir, files[i], line, sizeof(line)) && *read_line(parent, files[i], line, sizeof(line)))
			(void)write_file(dir, files[i], line);
}

static void controller_of(const char *file, char controller[CONTROLLER_LEN])
{
	snprintf(controller, CONTROLLER_LEN, "%.*s", (int)strcspn(file, "."), file);
}

/* Version 2: a controller works in a cgroup once every one above it passes it on. */
static int pass_on(struct cgroups *cgroups, int dir, const char *path, struct error *err)
{
	char controller[CONTROLLER_LEN], line[512], word[CONTROLLER_LEN + 1];
	unsigned int i;
	int ret;

	for (i = 0; i < cgroups->nr_settings; i++) {
		controller_of(cgroups->settings[i].file, controller);
		if (has_word(read_line(dir, "cgroup.subtree_control", line, sizeof(line)), controller))
			continue;
		if (!has_word(read_line(dir, "cgroup.controllers", line, sizeof(line)), controller))
			return fail(err, -ENOENT, path, controller, "this controller is not available in version 2");
		snprintf(word, sizeof(word), "+%s", controller);
		ret = write_file(dir, "cgroup.subtree_control", word);
		if (ret)
			return fail(err, ret, path, word,
				    ret == -EBUSY ? "processes run in this cgroup (needs another --parent-cgroup)"
						  : strerror(-ret));
	}
	return 0;
}

/* Goes down from the top of the hierarchy to PARENT/ID and makes what is missing. */
static int make_path(struct cgroups *cgroups, struct cgroup *g, struct error *err)
{
	char path[PATH_MAX], *name = path, *slash, line[32];
	bool made = false;
	int ret = 0;

	snprintf(path, sizeof(path), "%s", cgroups->path);
	for (g->dir = g->top; name && !ret; name = slash ? slash + 1 : NULL) {
		slash = strchr(name, '/');
		if (slash)
			*slash = '\0';
		if (g->parent >= 0 && g->parent != g->top)
			close(g->parent);
		g->parent = g->dir;
		if (cgroups->version == 2)
			ret = pass_on(cgroups, g->parent, path, err);
		if (ret)
			break;
		made = mkdirat(g->parent, name, 0755) == 0;
		g->dir = made || errno == EEXIST ? place_openat(g->parent, name, O_RDONLY | O_DIRECTORY) : -1;
		if (g->dir < 0)
			return fail(err, -errno, path, "", strerror(errno));
		if (strcmp(g->controller, "cpuset") == 0)
			inherit_cpuset(g->parent, g->dir);
		if (slash)
			*slash = '/';
	}
	if (ret)
		return ret;
	/* Those further up stay: others may be using them. */
	if (made && made_add(cgroups->made, g->parent, strrchr(path, '/') + 1, true))
		return fail(err, -ENOMEM, path, "", strerror(ENOMEM));
	if (!made && *read_line(g->dir, "cgroup.procs", line, sizeof(line)))
		return fail(err, -EBUSY, path, "cgroup.procs", "a process runs in it (needs another --id)");
	return 0;
}

static int open_join(struct cgroup *g, const char *file, const char *path, struct error *err)
{
	g->join = openat(g->dir, file, O_WRONLY | O_CLOEXEC);
	return g->join < 0 ? fail(err, -errno, path, file, strerror(errno)) : 0;
}

/* The cgroup for a controller, made when it is first asked for. */
static struct cgroup *group_for(struct cgroups *cgroups, const char *controller, struct error *err)
{
	const char *wanted = cgroups->version == 2 ? "" : controller;
	struct cgroup *g = cgroups->group;

	for (; g < cgroups->group + cgroups->count; g++)
		if (strcmp(g->controller, wanted) == 0)
			return g;
	if (cgroups->count == CGROUPS_MAX) {
		error_set(err, -ENOSPC, "cgroup: %s: too many controllers", controller);
		return NULL;
	}
	*g = (struct cgroup){
		.top = open_hierarchy(cgroups->version, controller), .dir = -1, .parent = -1, .join = -1
	};
	snprintf(g->controller, sizeof(g->controller), "%s", wanted);
	if (g->top < 0) {
		error_set(err, -ENOENT,
			  "cgroup: %s: the host has no such hierarchy of version %u (see --cgroup-version)", controller,
			  cgroups->version);
		return NULL;
	}
	cgroups->count++;
	/* A thread that moves itself alone waits for none of the kernel's global locks; version 1 has a file for it. */
	return make_path(cgroups, g, err) ||
			       open_join(g, cgroups->version == 2 ? "cgroup.procs" : "tasks", cgroups->path, err)
		       ? NULL
		       : g;
}

/* Firecracker's meaning of --cgroup-version 2 without --cgroup: join the parent as it is, if there is one. */
static int join_parent(struct cgroups *cgroups, const char *parent, struct error *err)
{
	struct cgroup *g = cgroups->group;

	*g = (struct cgroup){ .top = open_hierarchy(2, ""), .dir = -1, .parent = -1, .join = -1, .lent = true };
	if (g->top < 0)
		return error_set(err, -ENOENT, "cgroup: the host has no hierarchy of version 2 (see --cgroup-version)");
	g->dir = place_openat(g->top, parent, O_RDONLY | O_DIRECTORY);
	if (g->dir < 0)
		return 0;
	cgroups->count = 1;
	return open_join(g, "cgroup.procs", parent, err);
}

/* ---- all of them ---- */

int cgroups_create(struct cgroups *cgroups, const struct options *o, const char *program, struct error *err)
{
	const char *parent = o->parent_cgroup ? o->parent_cgroup : program;
	char controller[CONTROLLER_LEN];
	unsigned int i;
	int fd, ret;

	cgroups->version = o->cgroup_version;
	if (!cgroups->version) {
		fd = open_if_hierarchy("/sys/fs/cgroup", 2);
		cgroups->version = fd < 0 ? 1 : 2;
		if (fd >= 0)
			close(fd);
	}
	if (snprintf(cgroups->path, sizeof(cgroups->path), "%s/%s", parent, o->id) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "--parent-cgroup: too long");
	ret = add_all(cgroups, o, err);
	if (!ret && !cgroups->nr_settings && o->cgroup_version == 2)
		return join_parent(cgroups, parent, err);
	for (i = 0; i < cgroups->nr_settings && !ret; i++) {
		const struct cgroup_setting *setting = &cgroups->settings[i];
		const struct cgroup *g;

		controller_of(setting->file, controller);
		g = group_for(cgroups, controller, err);
		if (!g)
			return err->code;
		ret = write_file(g->dir, setting->file, setting->value);
		if (ret)
			fail(err, ret, cgroups->path, setting->file, strerror(-ret));
	}
	return ret;
}

int cgroups_clone_fd(const struct cgroups *cgroups)
{
	return cgroups->version == 2 && cgroups->count ? cgroups->group[0].dir : -1;
}

int cgroups_join(const struct cgroups *cgroups, bool cloned, struct error *err)
{
	unsigned int i;

	if (cloned && cgroups_clone_fd(cgroups) >= 0)
		return 0;
	for (i = 0; i < cgroups->count; i++)
		if (write(cgroups->group[i].join, "0", 1) != 1)
			return fail(err, -errno, cgroups->path, cgroups->group[i].controller, strerror(errno));
	return 0;
}

void cgroups_leave(const struct cgroups *cgroups)
{
	unsigned int i;

	for (i = 0; i < cgroups->count; i++)
		(void)write_file(cgroups->group[i].top, cgroups->version == 2 ? "cgroup.procs" : "tasks", "0");
}

/* Processes that the program left behind; version 1 has no such switch. */
static void end_processes(const struct cgroup *g)
{
	int events = openat(g->dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	struct pollfd poll_events = { .fd = events, .events = POLLPRI };
	char text[128];
	ssize_t len;

	if (events >= 0 && write_file(g->dir, "cgroup.kill", "1") == 0) {
		do {
			len = pread(events, text, sizeof(text) - 1, 0);
			text[len < 0 ? 0 : len] = '\0';
		} while (strstr(text, "populated 1") && poll(&poll_events, 1, GONE_MS) > 0);
	}
	if (events >= 0)
		close(events);
}

int cgroups_remove(const struct cgroups *cgroups, struct error *err)
{
	const char *id = strrchr(cgroups->path, '/') + 1;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < cgroups->count; i++) {
		const struct cgroup *g = &cgroups->group[i];

		if (g->lent)
			continue;
		end_processes(g);
		if (unlinkat(g->parent, id, AT_REMOVEDIR))
			ret = fail(err, -errno, cgroups->path, g->controller, strerror(errno));
	}
	return ret;
}
