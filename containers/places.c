/* places.c: where instances, data and Mayfly's own files are on this host. */
#include "places.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

#define INSTALLED "../lib/mayfly"

static int join(char *out, size_t size, const char *folder, const char *name, struct error *err)
{
	int len = snprintf(out, size, "%s/%s", folder, name);

	if (len < 0 || (size_t)len >= size)
		return error_set(err, -ENAMETOOLONG, "%s: the path is too long", text_path_shown(folder));
	return 0;
}

/* A folder of ours that nobody else can change; made where it is missing. */
static int open_own(const char *path, mode_t mode, mode_t forbidden, uid_t uid, struct error *err)
{
	struct stat st;
	int fd, ret;

	if (mkdir(path, mode) && errno != EEXIST)
		return error_set(err, -errno, "%s: %s", text_path_shown(path), strerror(errno));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st)) {
		ret = error_set(err, -errno, "%s: %s", text_path_shown(path), strerror(errno));
	} else if (st.st_uid != uid) {
		ret = error_set(err, -EPERM, "%s: belongs to uid %u (needs to be uid %u's own)", text_path_shown(path),
				st.st_uid, uid);
	} else if (st.st_mode & forbidden) {
		ret = error_set(err, -EPERM, "%s: others can get at it (needs `chmod %o`)", text_path_shown(path),
				mode);
	} else {
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

static int find_state(struct places *p, struct error *err)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	if (p->uid == 0)
		return join(p->state_path, PLACE_MAX, "/run", "mayfly", err);
	/* su keeps the variable of the user it was called by. */
	if (runtime && *runtime == '/' && stat(runtime, &st) == 0 && st.st_uid == p->uid)
		return join(p->state_path, PLACE_MAX, runtime, "mayfly", err);
	snprintf(p->state_path, sizeof(p->state_path), "/tmp/mayfly-%u", p->uid);
	return 0;
}

static int find_data(struct places *p, struct error *err)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");

	if (p->uid == 0)
		return join(p->data_path, PLACE_MAX, "/var/lib", "mayfly", err);
	if (data && *data == '/')
		return join(p->data_path, PLACE_MAX, data, "mayfly", err);
	if (!home || *home != '/')
		return error_set(err, -ENOENT, "HOME: not set (needs a folder of yours, for images)");
	return join(p->data_path, PLACE_MAX, home, ".local/share/mayfly", err);
}

int places_open(struct places *p, struct error *err)
{
	ssize_t len;
	int ret;

	p->uid = geteuid();
	p->gid = getegid();
	len = readlink("/proc/self/exe", p->programs, sizeof(p->programs) - 1);
	if (len <= 0 || len == sizeof(p->programs) - 1)
		return error_set(err, len <= 0 ? -errno : -ENAMETOOLONG, "/proc/self/exe: %s", strerror(errno));
	p->programs[len] = '\0';
	*strrchr(p->programs, '/') = '\0';
	ret = find_state(p, err);
	if (!ret)
		ret = find_data(p, err);
	if (ret)
		return ret;
	p->state = open_own(p->state_path, 0700, 0077, p->uid, err);
	return p->state < 0 ? p->state : 0;
}

int places_file(const struct places *p, const char *near, const char *installed, const char *what, char out[PATH_MAX],
		struct error *err)
{
	char below[NAME_MAX + sizeof(INSTALLED) + 1];
	int ret = join(out, PATH_MAX, p->programs, near, err);

	if (ret || access(out, F_OK) == 0)
		return ret;
	snprintf(below, sizeof(below), INSTALLED "/%s", installed);
	ret = join(out, PATH_MAX, p->programs, below, err);
	if (ret || access(out, F_OK) == 0)
		return ret;
	return error_set(err, -ENOENT, "%s: not there (needs %s/%s, or %s installed in PREFIX/lib/mayfly)", what,
			 text_path_shown(p->programs), near, installed);
}

/* mkdir -p of a path that HOME or XDG_DATA_HOME named. */
static void make_parents(const char *path)
{
	char part[PATH_MAX];
	char *slash;

	snprintf(part, sizeof(part), "%s", path);
	for (slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		(void)mkdir(part, 0700);
		*slash = '/';
	}
}

int places_data(const struct places *p, const char *name, struct error *err)
{
	char path[PATH_MAX];
	int fd, ret;

	make_parents(p->data_path);
	fd = open_own(p->data_path, 0755, 0022, p->uid, err);
	if (fd < 0)
		return fd;
	close(fd);
	ret = join(path, PATH_MAX, p->data_path, name, err);
	return ret ? ret : open_own(path, 0755, 0022, p->uid, err);
}
