/* place.c: paths that others may try to bend, opened once and checked on the way. */
#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "text.h"

#define MAX_LINKS 40 /* as in the kernel */

/* How far the walk has come. */
struct walk {
	struct place *place;
	char rest[PATH_MAX];
	unsigned int links;
	enum place_trust trust;
	const char *option;
	const char *path; /* as given */
};

bool place_is_ours(const struct stat *st)
{
	return st->st_uid == 0 || st->st_uid == geteuid();
}

int place_openat(int dir, const char *path, int flags)
{
	struct open_how how = {
		.flags = (unsigned int)(flags | O_CLOEXEC | O_NOFOLLOW),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

static int fail(const struct walk *w, struct error *err, int code, const char *why)
{
	return error_set(err, code, "%s: %s: %s", w->option, text_path_shown(w->path), why);
}

void place_close(struct place *place)
{
	if (place->parent >= 0)
		close(place->parent);
	if (place->fd >= 0)
		close(place->fd);
	place->parent = place->fd = -1;
}

/* The walk goes on in fd, which it owns from now on. */
static int step_to(struct walk *w, int fd, struct error *err)
{
	struct stat *st = &w->place->st;

	if (w->place->parent >= 0)
		close(w->place->parent);
	w->place->parent = w->place->fd;
	w->place->fd = fd;
	if (fd < 0 || fstat(fd, st))
		return fail(w, err, -errno, strerror(errno));
	if (w->trust == PLACE_NAMED || !S_ISDIR(st->st_mode))
		return 0;
	if (!place_is_ours(st))
		return fail(w, err, -EPERM,
			    "a directory on the way belongs to someone else (needs to be root's or yours)");
	if ((st->st_mode & (S_IWGRP | S_IWOTH)) && (!(st->st_mode & S_ISVTX) || !w->rest[strspn(w->rest, "/")]))
		return fail(w, err, -EPERM, "others can write to a directory on the way (needs chmod go-w)");
	return 0;
}

/* fd is a symbolic link: its words come before the rest. */
static int follow(struct walk *w, int fd, const struct stat *st, struct error *err)
{
	char target[PATH_MAX], rest[PATH_MAX];
	ssize_t len;

	if (!place_is_ours(st))
		return fail(w, err, -EPERM,
			    "a symbolic link on the way belongs to someone else (needs to be root's or yours)");
	if (++w->links > MAX_LINKS)
		return fail(w, err, -ELOOP, strerror(ELOOP));
	len = readlinkat(fd, "", target, sizeof(target) - 1);
	if (len < 0)
		return fail(w, err, -errno, strerror(errno));
	target[len] = '\0';
	memcpy(rest, w->rest, sizeof(rest));
	if ((size_t)snprintf(w->rest, sizeof(w->rest), "%s/%s", target, rest) >= sizeof(w->rest))
		return fail(w, err, -ENAMETOOLONG, strerror(ENAMETOOLONG));
	return target[0] == '/' ? step_to(w, open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), err) : 0;
}

static int component(struct walk *w, struct error *err)
{
	size_t skip = strspn(w->rest, "/"), len = strcspn(w->rest + skip, "/");
	struct place *place = w->place;
	struct stat st;
	int fd, ret;

	if (len > NAME_MAX)
		return fail(w, err, -ENAMETOOLONG, strerror(ENAMETOOLONG));
	memcpy(place->name, w->rest + skip, len);
	place->name[len] = '\0';
	memmove(w->rest, w->rest + skip + len, strlen(w->rest + skip + len) + 1);
	fd = openat(place->fd, place->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st)) {
		ret = fail(w, err, -errno, strerror(errno));
	} else if (S_ISLNK(st.st_mode)) {
		ret = follow(w, fd, &st, err);
	} else {
		return step_to(w, fd, err);
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

int place_open(struct place *place, const char *option, const char *path, enum place_trust trust, struct error *err)
{
	struct walk w = { .place = place, .trust = trust, .option = option, .path = path };
	char here[PATH_MAX] = "";
	int ret;

	*place = (struct place){ .parent = -1, .fd = -1, .name = "/" };
	/* From the root even then, so that every directory is looked at. */
	if (path[0] != '/' && !getcwd(here, sizeof(here)))
		return fail(&w, err, -errno, strerror(errno));
	if ((size_t)snprintf(w.rest, sizeof(w.rest), "%s/%s", here, path) >= sizeof(w.rest))
		return fail(&w, err, -ENAMETOOLONG, strerror(ENAMETOOLONG));
	ret = step_to(&w, open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), err);
	while (!ret && w.rest[strspn(w.rest, "/")])
		ret = component(&w, err);
	if (ret)
		place_close(place);
	return ret;
}
