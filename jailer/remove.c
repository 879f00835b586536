/* remove.c: taking away a directory whose contents were made by someone hostile. */
#include "remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "text.h"

#define DEPTH_MAX 16 /* each level takes a descriptor */

struct removal {
	int top;
	const char *last, *path; /* the name that stays in top until the end; where top is */
	unsigned long moved;
	bool checked, may_move;
	int why; /* something is left */
};

/* Not what was mounted there: that is the host's. */
static int open_here(int dir, const char *name)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));

	/* Without root, a directory that its owner may not read. */
	if (fd < 0 && errno == EACCES && fchmodat(dir, name, 0700, AT_SYMLINK_NOFOLLOW) == 0)
		fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
	return fd;
}

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static int remove_one(int dir, const char *name)
{
	return unlinkat(dir, name, 0) && unlinkat(dir, name, AT_REMOVEDIR) ? -errno : 0;
}

/* As in /proc/self/mountinfo. */
static void escape(char *to, const char *path)
{
	for (; *path; path++)
		to += sprintf(to, strchr(" \t\n\\", *path) ? "\\%03o" : "%c", (unsigned char)*path);
	*to = '\0';
}

/* Whether something is mounted at path or below it: -EBUSY with the sentence, also when nobody can tell. */
static int check_mounts(const char *path, struct error *err)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	char escaped[4 * PATH_MAX], *line = NULL, *point, *rest;
	size_t room = 0, len;
	int field, ret = 0;

	if (!mounts)
		return error_set(err, -EBUSY, "--cleanup: /proc/self/mountinfo: %s", strerror(errno));
	escape(escaped, path);
	len = strlen(escaped);
	while (!ret && getline(&line, &room, mounts) > 0) {
		point = strtok_r(line, " ", &rest);
		for (field = 1; field < 5 && point; field++)
			point = strtok_r(NULL, " ", &rest);
		if (point && strncmp(point, escaped, len) == 0 && (point[len] == '/' || !point[len]))
			ret = error_set(err, -EBUSY,
					"--cleanup: %s: mounted by the host, and left (umount it, then remove %s)",
					text_path_shown(point), text_path_shown(path));
	}
	free(line);
	fclose(mounts);
	return ret;
}

/* Moves a directory up to top. Names that are taken there are passed over, each once. */
static int move_up(struct removal *r, int dir, const char *name)
{
	char fresh[32];

	/* The kernel would move what is mounted below it, too. */
	if (!r->checked)
		r->may_move = check_mounts(r->path, NULL) == 0;
	r->checked = true;
	if (!r->may_move)
		return -EBUSY;
	do {
		snprintf(fresh, sizeof(fresh), ".removed-%lu", r->moved++);
		if (renameat(dir, name, r->top, fresh) == 0)
			return 0;
		if (errno == EACCES && fchmodat(dir, name, 0700, AT_SYMLINK_NOFOLLOW) == 0 &&
		    renameat(dir, name, r->top, fresh) == 0)
			return 0;
	} while (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR);
	return -errno;
}

/* Removes what is in dir, which it closes, or moves it up to top. Returns whether anything went. */
static bool empty(struct removal *r, int dir, unsigned int depth)
{
	DIR *stream = fdopendir(dir);
	struct dirent *entry;
	bool progress = false;
	int child, ret;

	while (stream && (entry = readdir(stream)) != NULL) {
		const char *name = entry->d_name;

		if (is_dots(name) || (depth == 0 && strcmp(name, r->last) == 0))
			continue;
		ret = remove_one(dir, name);
		/* Without root, in a directory that its owner may not write to. */
		if (ret == -EACCES && fchmod(dir, 0700) == 0)
			ret = remove_one(dir, name);
		if (ret && depth == DEPTH_MAX) {
			ret = move_up(r, dir, name);
		} else if (ret && (child = open_here(dir, name)) >= 0) {
			progress |= empty(r, child, depth + 1);
			ret = remove_one(dir, name);
		}
		progress |= !ret;
		if (ret && !r->why)
			r->why = ret;
	}
	if (stream) {
		closedir(stream);
	} else {
		r->why = -errno;
		close(dir);
	}
	return progress;
}

int remove_tree(int parent, const char *name, const char *last, const char *path, struct error *err)
{
	struct removal r = { .top = open_here(parent, name), .last = last, .path = path };
	int ret;

	if (r.top < 0) {
		r.why = -errno;
	} else {
		do {
			r.why = 0;
		} while (empty(&r, openat(r.top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0));
		(void)unlinkat(r.top, last, 0);
		close(r.top);
		/* Someone may be using the place again. */
		if (!r.why && unlinkat(parent, name, AT_REMOVEDIR) && errno != ENOTEMPTY && errno != ENOENT)
			r.why = -errno;
	}
	if (!r.why)
		return 0;
	ret = check_mounts(path, err);
	return ret ? ret : error_set(err, r.why, "--cleanup: %s: %s", text_path_shown(path), strerror(-r.why));
}
