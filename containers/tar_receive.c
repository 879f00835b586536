/* tar_receive.c: a tar stream that a guest sends made into files of the host; the guest is hostile. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rootfs/init/tar.h"
#include "tar_files.h"
#include "text.h"

#define ENTRY_COST  (16ll << 10) /* bytes that an entry counts at least, so that their number is bounded as well */
#define PADDING_MAX (1 << 20)    /* bytes behind the archive's end */

struct unpacking {
	struct tar_source *source;
	int root;
	uint64_t max, used; /* bytes that may be taken; that were */
	struct tar_left *left;
	struct error *err;
	struct tar_entry e;
	char records[TAR_MAX_RECORDS + 1];
};

/* ---- bytes ---- */

/* 1: there are bytes; 0: the stream has ended; an error. */
static int fill(struct unpacking *u)
{
	ssize_t n;

	if (u->source->len > 0)
		return 1;
	n = u->source->next(u->source, &u->source->bytes, u->err);
	u->source->len = n > 0 ? (size_t)n : 0;
	return n < 0 ? (int)n : n > 0;
}

static int write_all(int fd, const char *data, size_t len, struct error *err)
{
	ssize_t n;

	for (; len > 0; data += n, len -= (size_t)n) {
		n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			n = 0;
		if (n < 0)
			return error_set(err, -errno, "writing: %s", strerror(errno));
	}
	return 0;
}

/* Before anything of an entry of so many bytes is taken. */
static int charge(struct unpacking *u, int64_t size)
{
	const uint64_t cost = (uint64_t)(size > ENTRY_COST ? size : ENTRY_COST);

	if (cost > u->max - u->used)
		return error_set(u->err, -EFBIG, "the guest sends more than %llu MiB (needs a larger --max-size)",
				 (unsigned long long)(u->max >> 20));
	u->used += cost;
	return 0;
}

/* Exactly so many bytes, to memory, to a file, or (fd -1) nowhere. */
static int take(struct unpacking *u, int64_t size, char *to, int fd)
{
	struct tar_source *s = u->source;
	size_t part;
	int ret;

	for (; size > 0; size -= (int64_t)part, s->bytes += part, s->len -= part) {
		ret = fill(u);
		if (ret <= 0)
			return ret ? ret
				   : error_set(u->err, -EPROTO, "the guest's archive ends in the middle of an entry");
		part = (int64_t)s->len < size ? s->len : (size_t)size;
		if (to && s->bytes) {
			memcpy(to, s->bytes, part);
			to += part;
		} else if (fd >= 0 && write_all(fd, s->bytes, part, u->err)) {
			return u->err->code;
		}
	}
	return 0;
}

static int64_t padding(int64_t size)
{
	return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

/* ---- files ---- */

static void leave_out(struct unpacking *u, const char *why)
{
	char shown[56];

	if (u->left->count++ > 0)
		return;
	text_escape(shown, sizeof(shown), u->e.name, strlen(u->e.name));
	snprintf(u->left->first, sizeof(u->left->first), "%s: %s", shown, why);
}

/* No link is followed on the way, neither of the archive's nor any that was there before. */
static int open_below(int root, const char *path, int flags)
{
	struct open_how how = { .flags = (unsigned int)flags | O_CLOEXEC,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };

	return (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

/* The folder that an entry belongs into, made where the archive has not. *name is the entry's last part. */
static int open_parent(struct unpacking *u, char *path, const char **name)
{
	int folder = openat(u->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), next;
	char *slash;

	for (; folder >= 0 && (slash = strchr(path, '/')) != NULL; path = slash + 1) {
		*slash = '\0';
		if (!*path || strcmp(path, ".") == 0)
			continue;
		next = open_below(folder, path, O_RDONLY | O_DIRECTORY);
		if (next < 0 && errno == ENOENT && mkdirat(folder, path, 0755) == 0)
			next = open_below(folder, path, O_RDONLY | O_DIRECTORY);
		close(folder);
		folder = next;
	}
	*name = path;
	return folder;
}

static int make_file(struct unpacking *u, int folder, const char *name)
{
	struct timespec times[2] = { { .tv_sec = u->e.mtime }, { .tv_sec = u->e.mtime } };
	int fd, ret;

	if (unlinkat(folder, name, 0) && errno != ENOENT)
		return -1;
	fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, u->e.mode & 0777);
	if (fd < 0)
		return -1;
	ret = take(u, u->e.size, NULL, fd);
	u->e.size = ret ? u->e.size : 0; /* taken */
	(void)futimens(fd, times);
	close(fd);
	return ret;
}

static int make_folder(const struct unpacking *u, int folder, const char *name)
{
	struct stat st;

	if (mkdirat(folder, name, (u->e.mode & 0777) | 0700) == 0)
		return 0;
	/* One that is there is used as it is; a link to one is not, see open_below. */
	if (errno != EEXIST || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) || S_ISDIR(st.st_mode))
		return errno == EEXIST ? 0 : -1;
	errno = ENOTDIR;
	return -1;
}

bool tar_link_stays(const char *name, const char *target)
{
	size_t depth = 0, len;
	bool down = false;

	if (*target == '/' || !*target)
		return false;
	/* Folders on the way to the link: they are real ones, since none is followed. */
	for (; *name; name += len, name += strspn(name, "/")) {
		len = strcspn(name, "/");
		depth += name[len] == '/' && !(len == 1 && *name == '.');
	}
	/* Up first, then down: what goes up behind another link's end would go up from somewhere else. */
	for (; *target; target += len, target += strspn(target, "/")) {
		len = strcspn(target, "/");
		if (len == 2 && target[0] == '.' && target[1] == '.') {
			if (down || depth == 0)
				return false;
			depth--;
		} else if (!(len == 1 && *target == '.')) {
			down = true;
		}
	}
	return true;
}

static int make_link(struct unpacking *u, int folder, const char *name)
{
	if (!tar_link_stays(u->e.name, u->e.link)) {
		leave_out(u, "a link that leads out");
		return 0;
	}
	if (unlinkat(folder, name, 0) && errno != ENOENT)
		return -1;
	return symlinkat(u->e.link, folder, name);
}

static int make_entry(struct unpacking *u)
{
	char path[PATH_MAX], shown[96];
	size_t len = strlen(u->e.name);
	const char *name;
	int folder, ret;

	while (len > 1 && u->e.name[len - 1] == '/')
		u->e.name[--len] = '\0';
	if (strcmp(u->e.name, ".") == 0)
		return 0;
	text_escape(shown, sizeof(shown), u->e.name, len);
	if (!tar_name_ok(u->e.name))
		return error_set(u->err, -EPROTO, "%s: the guest's archive has a name that leads out", shown);
	memcpy(path, u->e.name, len + 1);
	folder = open_parent(u, path, &name);
	if (folder < 0 || !*name || strcmp(name, ".") == 0) {
		ret = -1;
		errno = folder < 0 ? errno : EINVAL;
	} else if (u->e.type == '0' || u->e.type == '7') {
		ret = make_file(u, folder, name);
	} else if (u->e.type == '5') {
		ret = make_folder(u, folder, name);
	} else if (u->e.type == '2') {
		ret = make_link(u, folder, name);
	} else {
		leave_out(u, u->e.type == '1' ? "a hard link" : "no file, folder or link");
		ret = 0;
	}
	if (ret && !u->err->code)
		error_set(u->err, -errno, "%s: %s", shown, errno == ELOOP ? "a link is in the way" : strerror(errno));
	if (folder >= 0)
		close(folder);
	return u->err->code;
}

/* ---- entries ---- */

static void forget(struct tar_entry *e)
{
	*e->name = *e->link = '\0';
	e->size = -1;
	e->uid = (uid_t)-1;
	e->gid = (gid_t)-1;
}

/* A pax header or a GNU long name: what it says is about the entry behind it. */
static int take_records(struct unpacking *u, const struct tar_header *h)
{
	static struct tar_entry own;
	static const char broken[] = "the guest's archive has a broken header, or a sparse file";

	forget(&own);
	if (tar_parse(h, &own) < 0 || own.size > TAR_MAX_RECORDS)
		return error_set(u->err, -EPROTO, broken);
	if (charge(u, own.size) || take(u, own.size, u->records, -1) || take(u, padding(own.size), NULL, -1))
		return u->err->code;
	u->records[own.size] = '\0';
	if (h->type != 'g' && !tar_records(h->type, u->records, (size_t)own.size, &u->e))
		return error_set(u->err, -EPROTO, broken);
	return 0;
}

/* Returns 1 at the archive's end. */
static int take_entry(struct unpacking *u)
{
	struct tar_header h = { 0 };
	int64_t behind;
	int ret = fill(u);

	if (ret <= 0)
		return ret ? ret : 1;
	if (take(u, sizeof(h), (char *)&h, -1))
		return u->err->code;
	if (h.type && strchr("xgLK", h.type))
		return take_records(u, &h);
	ret = tar_parse(&h, &u->e);
	if (ret < 0)
		return error_set(u->err, -EPROTO, "the guest sent something else than a tar archive");
	if (ret == 0)
		return 1;
	/* Only files have bytes behind them, whatever the header of something else says. */
	behind = padding(u->e.size);
	if (u->e.type != '0' && u->e.type != '7')
		u->e.size = behind = 0;
	if (charge(u, u->e.size) || make_entry(u))
		return u->err->code;
	ret = take(u, behind, NULL, -1);
	forget(&u->e);
	return ret;
}

int tar_unpack_from(struct tar_source *source, int root, uint64_t max, struct tar_left *left, struct error *err)
{
	size_t behind = 0;
	struct unpacking *u = malloc(sizeof(*u));
	int ret;

	if (!u)
		return error_set(err, -ENOMEM, "no memory");
	u->source = source;
	u->root = root;
	u->max = max;
	u->used = 0;
	u->left = left;
	u->err = err;
	*left = (struct tar_left){ 0 };
	forget(&u->e);
	do {
		ret = take_entry(u);
	} while (ret == 0);
	/* What follows the end is padding. */
	while (ret == 1 && fill(u) > 0) {
		behind += source->len;
		source->len = 0;
		if (behind > PADDING_MAX)
			ret = error_set(err, -EPROTO, "the guest's archive does not end");
	}
	free(u);
	return err->code;
}

static ssize_t next_frame(struct tar_source *source, const char **bytes, struct error *err)
{
	struct agent_client *client = source->arg;
	int ret;

	frame_next(&client->in);
	ret = agent_next(client, AGENT_PATIENCE_MS, err);
	if (ret < 0)
		return ret;
	if (client->in.type != FRAME_DATA)
		return error_set(err, -EPROTO, "the guest's agent sent a frame of type %u that does not belong here",
				 client->in.type);
	*bytes = frame_payload(&client->in);
	return (ssize_t)client->in.len;
}

int tar_receive(struct agent_client *client, int root, uint64_t max, struct tar_left *left, struct error *err)
{
	struct tar_source source = { .next = next_frame, .arg = client };

	return tar_unpack_from(&source, root, max, left, err);
}
