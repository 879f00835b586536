/* archive.c: tar archives out of and into the container's files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "tar.h"

#define MAX_DEPTH 256 /* of folders that are packed: each holds a descriptor */

/* ---- unpacking ---- */

/* The bytes of the DATA frames as one stream. */
struct source {
	struct connection *c;
	struct error *err;
	size_t used; /* of the frame in c->in */
	bool ended;
};

/* The next bytes, at most max of them; 0 at the end; an error is set. */
static ssize_t next_bytes(struct source *s, size_t max, const char **bytes)
{
	while (!s->ended && s->used == s->c->in.len) {
		if (conn_read(s->c) <= 0 || s->c->in.type != FRAME_DATA)
			return error_set(s->err, -EPROTO, "the data has no end");
		s->used = 0;
		s->ended = !s->c->in.len;
	}
	if (s->ended)
		return 0;
	max = max < s->c->in.len - s->used ? max : s->c->in.len - s->used;
	*bytes = frame_payload(&s->c->in) + s->used;
	s->used += max;
	return (ssize_t)max;
}

/* size bytes and the padding behind them: into memory or a descriptor. 0; 1 at the end of the archive, if it may end;
 * an error. */
static int take(struct source *s, int64_t size, char *to, int fd, bool may_end)
{
	int64_t padding = -size & (TAR_BLOCK - 1), done = 0;

	while (done < size + padding) {
		int64_t left = (done < size ? size : size + padding) - done;
		const char *bytes;
		ssize_t n = next_bytes(s, left > FRAME_MAX ? FRAME_MAX : (size_t)left, &bytes);
		int ret = 0;

		if (n < 0)
			return (int)n;
		if (!n)
			return may_end && !done
				       ? 1
				       : error_set(s->err, -EPROTO, "the archive ends in the middle of an entry");
		if (done < size && to)
			memcpy(to + done, bytes, (size_t)n);
		if (done < size && fd >= 0)
			ret = write_stream(fd, bytes, (size_t)n);
		if (ret)
			return error_set(s->err, ret, "writing: %s", strerror(-ret));
		done += n;
	}
	return 0;
}

/* The folder an entry belongs into, made if it is not there. */
static int entry_folder(int root, const char *path, const char **name)
{
	int folder = root_parent(root, path, name);
	char parent[PATH_MAX];

	if (folder >= 0 || errno != ENOENT)
		return folder;
	snprintf(parent, sizeof(parent), "%.*s", (int)(*name - path), path);
	root_make_folders(root, parent);
	return root_parent(root, path, name);
}

/* A folder may be there already, behind a symbolic link as well: then it gets the entry's owner and mode. */
static int make_folder(int root, int folder, const char *name, const struct tar_entry *e)
{
	int fd, ret;

	if (mkdirat(folder, name, 0700) && errno != EEXIST)
		return -1;
	fd = root_open(root, e->name, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return -1;
	ret = fchown(fd, e->uid, e->gid) || fchmod(fd, e->mode);
	close(fd);
	return ret;
}

static int make_link(int root, int folder, const char *name, const struct tar_entry *e)
{
	const char *target;
	int from = root_parent(root, e->link, &target), ret;

	if (from < 0)
		return -1;
	ret = linkat(from, target, folder, name, 0);
	close(from);
	return ret;
}

/* Returns -1 with errno, or what take() says. */
static int make_file(struct source *s, int folder, const char *name, const struct tar_entry *e)
{
	struct timespec times[2] = { { .tv_sec = e->mtime }, { .tv_sec = e->mtime } };
	int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), ret;

	if (fd < 0)
		return -1;
	ret = take(s, e->size, NULL, fd, false);
	if (!ret && (fchown(fd, e->uid, e->gid) || fchmod(fd, e->mode) || futimens(fd, times)))
		ret = -1;
	close(fd);
	return ret;
}

static int make_entry(struct source *s, int root, struct tar_entry *e)
{
	const char *name;
	int folder, ret = 0;

	e->name[strlen(e->name) - (e->type == '5' && e->name[strlen(e->name) - 1] == '/')] = '\0';
	if (!strcmp(e->name, "."))
		return 0; /* where it is unpacked: there already */
	if (!tar_name_ok(e->name) || (e->type == '1' && !tar_name_ok(e->link)))
		return error_set(s->err, -EINVAL,
				 "%.200s: a name or link of the archive is absolute or has a part \"..\"", e->name);
	folder = entry_folder(root, e->name, &name);
	if (folder >= 0 && e->type != '5' && unlinkat(folder, name, 0) && errno != ENOENT)
		ret = -1;
	else if (folder < 0)
		ret = -1;
	else if (e->type == '5')
		ret = make_folder(root, folder, name, e);
	else if (e->type == '0' || e->type == '7')
		ret = make_file(s, folder, name, e);
	else if (e->type == '1')
		ret = make_link(root, folder, name, e);
	else if (e->type == '2')
		ret = symlinkat(e->link, folder, name) || fchownat(folder, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW)
			      ? -1
			      : 0;
	else if (e->type == '6')
		ret = mkfifoat(folder, name, e->mode) || fchownat(folder, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW)
			      ? -1
			      : 0;
	else
		error_set(s->err, -EINVAL, "%.200s: entries of type %d (devices, sparse files, …) are not unpacked",
			  e->name, e->type);
	if (ret && !s->err->code)
		error_set(s->err, -errno, "%.200s: %s", e->name, strerror(errno));
	close(folder);
	return s->err->code;
}

static void forget(struct tar_entry *e)
{
	*e->name = *e->link = '\0';
	e->size = -1;
	e->uid = (uid_t)-1;
	e->gid = (gid_t)-1;
}

/* What comes in front of an entry: a long name, a pax header. */
static int take_records(struct source *s, const struct tar_header *h, struct tar_entry *e)
{
	static char records[TAR_MAX_RECORDS + TAR_BLOCK];
	static struct tar_entry own;

	forget(&own);
	if (tar_parse(h, &own) < 0 || own.size > TAR_MAX_RECORDS - 1)
		return error_set(s->err, -EINVAL,
				 "a long name or a pax header that is broken, or of more than %d bytes",
				 TAR_MAX_RECORDS - 1);
	if (take(s, own.size, records, -1, false))
		return s->err->code;
	records[own.size] = '\0';
	if (h->type != 'g' && !tar_records(h->type, records, (size_t)own.size, e))
		return error_set(s->err, -EINVAL,
				 "a long name or a pax header that is broken, or tells of a sparse file");
	return 0;
}

int tar_unpack(struct connection *c, int root, uid_t uid, gid_t gid, struct error *err)
{
	static struct tar_entry e;
	struct source s = { .c = c, .err = err };
	struct tar_header h;
	const char *rest;

	frame_next(&c->in);
	forget(&e);
	while (!err->code && !take(&s, sizeof(h), (char *)&h, -1, true)) {
		int found = 1;

		if (h.type && strchr("xgLK", h.type)) {
			take_records(&s, &h, &e);
			continue;
		}
		found = tar_parse(&h, &e);
		if (found < 0)
			error_set(err, -EINVAL, "not a tar archive, or a broken one");
		if (found <= 0)
			break;
		e.uid = uid == (uid_t)-1 ? e.uid : uid;
		e.gid = gid == (gid_t)-1 ? e.gid : gid;
		make_entry(&s, root, &e);
		forget(&e);
	}
	while (!err->code && next_bytes(&s, FRAME_MAX, &rest) > 0)
		;
	return err->code;
}

/* ---- packing ---- */

struct sink {
	struct connection *c;
	dev_t device; /* of the folder it began with: what is mounted below is left out */
	size_t len;
	char data[FRAME_MAX];
	struct tar_entry e;
};

static int flush(struct sink *k)
{
	int ret = k->len ? conn_send(k->c, FRAME_DATA, k->data, k->len) : 0;

	k->len = 0;
	return ret;
}

/* Bytes of a file (fd -1: zeros), exactly so many: a file that got shorter meanwhile is filled up. */
static int put_bytes(struct sink *k, int fd, int64_t size)
{
	while (size) {
		size_t room = sizeof(k->data) - k->len;
		ssize_t n;

		room = (int64_t)room < size ? room : (size_t)size;
		n = fd < 0 ? 0 : read(fd, k->data + k->len, room);
		if (n < 0)
			return -errno;
		if (!n)
			memset(k->data + k->len, 0, room);
		k->len += n ? (size_t)n : room;
		size -= n ? n : (ssize_t)room;
		if (k->len == sizeof(k->data) && flush(k))
			return -EPIPE;
	}
	return 0;
}

static int put_header(struct sink *k, const struct stat *st, char type)
{
	char header[2 * PATH_MAX + 8 * TAR_BLOCK];
	size_t len;

	k->e.type = type;
	k->e.mode = st->st_mode & 07777;
	k->e.uid = st->st_uid;
	k->e.gid = st->st_gid;
	k->e.mtime = st->st_mtime > 0 ? st->st_mtime : 0;
	k->e.size = type == '0' ? st->st_size : 0;
	len = tar_format(&k->e, header, sizeof(header));
	if (sizeof(k->data) - k->len < len && flush(k))
		return -EPIPE;
	memcpy(k->data + k->len, header, len);
	k->len += len;
	return len ? 0 : -ENAMETOOLONG;
}

static int put_regular(struct sink *k, int folder, const char *name)
{
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), ret = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
		ret = fd < 0 && errno != ENOENT ? -errno : 0; /* gone meanwhile, or something else now */
	else if (!(ret = put_header(k, &st, '0')) && !(ret = put_bytes(k, fd, st.st_size)))
		ret = put_bytes(k, -1, -st.st_size & (TAR_BLOCK - 1));
	close(fd);
	return ret;
}

static int put_entry(struct sink *k, int folder, const char *name, int depth);

/* What a folder holds. Takes over fd. */
static int put_folder(struct sink *k, int fd, int depth)
{
	size_t len = strlen(k->e.name);
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	int ret = dir ? 0 : -errno;

	while (!ret && (entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		ret = -ENAMETOOLONG;
		if (len + strlen(entry->d_name) + 2 < sizeof(k->e.name)) {
			strcpy(k->e.name + len, entry->d_name);
			ret = put_entry(k, dirfd(dir), entry->d_name, depth);
		}
	}
	k->e.name[len] = '\0';
	if (dir)
		closedir(dir);
	return ret;
}

static int put_entry(struct sink *k, int folder, const char *name, int depth)
{
	struct stat st;
	ssize_t n;
	int fd;

	*k->e.link = '\0';
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : -errno;
	if (S_ISREG(st.st_mode))
		return put_regular(k, folder, name);
	if (S_ISLNK(st.st_mode)) {
		n = readlinkat(folder, name, k->e.link, sizeof(k->e.link) - 1);
		k->e.link[n > 0 ? n : 0] = '\0';
		return put_header(k, &st, '2');
	}
	if (S_ISFIFO(st.st_mode))
		return put_header(k, &st, '6');
	if (!S_ISDIR(st.st_mode))
		return 0; /* sockets and devices make no sense elsewhere */
	strcat(k->e.name, "/");
	if (put_header(k, &st, '5') || depth == MAX_DEPTH)
		return -ELOOP;
	if (st.st_dev != k->device)
		return 0;
	fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? 0 : put_folder(k, fd, depth + 1);
}

int tar_pack(struct connection *c, int folder, const char *name)
{
	static struct sink k;
	struct stat st;
	int ret = 0;

	k.c = c;
	if (name) {
		snprintf(k.e.name, sizeof(k.e.name), "%s", name);
		ret = put_entry(&k, folder, name, 0);
	} else if (!fstat(folder, &st)) {
		k.device = st.st_dev;
		ret = put_folder(&k, dup(folder), 0);
	}
	if (!ret)
		ret = put_bytes(&k, -1, (int64_t)2 * TAR_BLOCK);
	return ret ? ret : flush(&k);
}
