/* files.c: files below the container's root, and the operations put and get. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int root_open(int root, const char *path, int flags, mode_t mode)
{
	struct open_how how = { .flags = (unsigned int)flags | O_CLOEXEC,
				.mode = mode,
				.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	long fd = -1;

	if (!(flags & O_PATH))
		how.flags |= O_NOCTTY | O_NONBLOCK;
	/* The kernel gives up, for now, when somebody renames folders at the same moment. */
	for (int tries = 0; tries < 100 && fd < 0 && (!tries || errno == EAGAIN); tries++)
		fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
	return (int)fd;
}

int root_parent(int root, const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];

	*name = slash ? slash + 1 : path;
	if (!**name || !strcmp(*name, ".") || !strcmp(*name, "..") || strlen(path) >= sizeof(folder)) {
		errno = EINVAL;
		return -1;
	}
	snprintf(folder, sizeof(folder), "./%.*s", (int)(*name - path), path);
	return root_open(root, folder, O_PATH | O_DIRECTORY, 0);
}

int root_make_folders(int root, const char *path)
{
	char part[PATH_MAX];
	int ret = strlen(path) < sizeof(part) ? 0 : -ENAMETOOLONG;

	/* Each step from the root: a link on the way may lead anywhere below it. */
	for (const char *end = path; !ret && *end;) {
		const char *name;
		int folder;

		end += strspn(end, "/");
		end += strcspn(end, "/");
		snprintf(part, sizeof(part), "%.*s", (int)(end - path), path);
		folder = root_open(root, part, O_PATH | O_DIRECTORY, 0);
		close(folder);
		if (folder >= 0)
			continue;
		folder = root_parent(root, part, &name);
		if (folder < 0 || (mkdirat(folder, name, 0755) && errno != EEXIST))
			ret = -errno;
		close(folder);
	}
	return ret;
}

char *root_read(int root, const char *path, size_t max, size_t *len)
{
	int fd = root_open(root, path, O_RDONLY, 0);
	struct stat st;
	char *text = NULL;
	ssize_t n = 0;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (size_t)st.st_size > max)
		errno = EFBIG;
	else
		text = malloc((size_t)st.st_size + 1);
	for (size_t at = 0; text && (n = read(fd, text + at, (size_t)st.st_size - at)) >= 0; at += (size_t)n) {
		if (n)
			continue;
		text[at] = '\0';
		if (len)
			*len = at;
		break;
	}
	if (n < 0) {
		free(text);
		text = NULL;
	}
	close(fd);
	return text;
}

int write_stream(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		data = (const char *)data + (n > 0 ? n : 0);
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

void write_setting(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	write_stream(fd, text, strlen(text));
	close(fd);
}

size_t read_setting(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, size - 1);

	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

int new_file_open(struct new_file *file, int root, const char *path)
{
	unsigned int number;
	struct stat st;

	file->folder = root_parent(root, path, &file->name);
	if (file->folder < 0)
		return -errno;
	if (!fstatat(file->folder, file->name, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode)) {
		close(file->folder);
		return -EISDIR;
	}
	getrandom(&number, sizeof(number), GRND_NONBLOCK);
	snprintf(file->temporary, sizeof(file->temporary), ".mayfly-%08x", number);
	file->fd = openat(file->folder, file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (file->fd >= 0)
		return 0;
	number = (unsigned int)errno;
	close(file->folder);
	return -(int)number;
}

static int new_file_end(struct new_file *file, bool keep)
{
	int ret = close(file->fd);

	if (keep && !ret)
		ret = renameat(file->folder, file->temporary, file->folder, file->name);
	if (ret)
		ret = -errno;
	if (!keep || ret)
		unlinkat(file->folder, file->temporary, 0);
	close(file->folder);
	return ret;
}

int new_file_commit(struct new_file *file)
{
	return new_file_end(file, true);
}

void new_file_drop(struct new_file *file)
{
	new_file_end(file, false);
}

int root_write(int root, const char *path, const char *text)
{
	struct new_file file;
	int ret = new_file_open(&file, root, path);

	if (ret)
		return ret;
	ret = write_stream(file.fd, text, strlen(text));
	if (!ret && fchmod(file.fd, 0644))
		ret = -errno;
	if (!ret)
		return new_file_commit(&file);
	new_file_drop(&file);
	return ret;
}

/* DATA up to the empty frame, into a descriptor. */
static int receive(struct connection *c, int fd, struct error *err)
{
	int ret;

	while ((ret = conn_read(c)) > 0 && c->in.type == FRAME_DATA) {
		if (!c->in.len)
			return 0;
		ret = write_stream(fd, frame_payload(&c->in), c->in.len);
		if (ret)
			return error_set(err, ret, "writing: %s", strerror(-ret));
	}
	return error_set(err, -EPROTO, ret > 0 ? "a frame that is not data" : "the data has no end");
}

static int put_file(struct agent *agent, struct connection *c, const char *path, const struct fields *request,
		    struct error *err)
{
	const char *mode_text = field_get(request, "mode");
	int64_t uid = 0, gid = 0;
	struct new_file file;
	char *end = "";
	unsigned long mode = mode_text ? strtoul(mode_text, &end, 8) : 0644;
	int ret;

	if (*end || mode > 07777 || (mode_text && !*mode_text))
		return bad_field(err, request, "mode", "octal, up to 7777");
	if (number_field(request, "uid", 0, UINT32_MAX - 1, &uid, err) ||
	    number_field(request, "gid", 0, UINT32_MAX - 1, &gid, err))
		return err->code;
	ret = new_file_open(&file, agent->root, path);
	if (ret)
		return error_set(err, ret, "path=%.200s: %s", path, strerror(-ret));
	ret = receive(c, file.fd, err);
	if (!ret && fchown(file.fd, (uid_t)uid, (gid_t)gid))
		ret = error_set(err, -errno, "owner %lld:%lld: %s", (long long)uid, (long long)gid, strerror(errno));
	if (!ret)
		fchmod(file.fd, (mode_t)mode);
	if (ret) {
		new_file_drop(&file);
		return ret;
	}
	ret = new_file_commit(&file);
	return ret ? error_set(err, ret, "path=%.200s: %s", path, strerror(-ret)) : 0;
}

OPERATION(op_put)
{
	const char *path = field_get(request, "path");
	int64_t tar = 0, uid = -1, gid = -1;
	int folder, ret;

	if (!path || !*path)
		return bad_field(err, request, "path", "a name in the container");
	if (number_field(request, "tar", 0, 1, &tar, err))
		return err->code;
	if (!tar)
		return put_file(agent, c, path, request, err);
	if (number_field(request, "uid", 0, UINT32_MAX - 1, &uid, err) ||
	    number_field(request, "gid", 0, UINT32_MAX - 1, &gid, err))
		return err->code;
	folder = root_open(agent->root, path, O_PATH | O_DIRECTORY, 0);
	if (folder < 0)
		return error_set(err, -errno, "path=%.200s: %s", path, strerror(errno));
	ret = tar_unpack(c, folder, (uid_t)uid, (gid_t)gid, err);
	close(folder);
	return ret;
}

static int send_file(struct connection *c, int fd)
{
	static char data[FRAME_MAX];
	ssize_t n;
	int ret = 0;

	while (!ret && (n = read(fd, data, sizeof(data))) > 0)
		ret = conn_send(c, FRAME_DATA, data, (size_t)n);
	return ret ? ret : n < 0 ? -errno : 0;
}

static void describe(struct field_buffer *reply, const struct stat *st)
{
	char mode[8];

	snprintf(mode, sizeof(mode), "%04o", st->st_mode & 07777);
	field_add(reply, "mode", mode);
	field_add_number(reply, "size", st->st_size);
	field_add_number(reply, "uid", st->st_uid);
	field_add_number(reply, "gid", st->st_gid);
	field_add_number(reply, "mtime", st->st_mtime);
	field_add(reply, "type", S_ISDIR(st->st_mode) ? "directory" : S_ISREG(st->st_mode) ? "file" : "other");
}

OPERATION(op_get)
{
	const char *path = field_get(request, "path"), *name = NULL;
	struct stat st;
	int64_t tar = 0;
	int fd, ret;

	if (!path || !*path)
		return bad_field(err, request, "path", "a name in the container");
	if (number_field(request, "tar", 0, 1, &tar, err))
		return err->code;
	/* Without tar only a regular file, so that nothing makes us wait; with tar a link itself, too. */
	fd = root_open(agent->root, path, O_PATH | (tar ? O_NOFOLLOW : 0), 0);
	if (fd < 0 || fstat(fd, &st))
		return error_set(err, -errno, "path=%.200s: %s", path, strerror(errno));
	close(fd);
	if (!tar && !S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "path=%.200s: not a regular file (tar=1 takes folders and links)", path);
	if (tar && !S_ISDIR(st.st_mode))
		fd = root_parent(agent->root, path, &name);
	else
		fd = root_open(agent->root, path, O_RDONLY, 0);
	if (fd < 0)
		return error_set(err, -errno, "path=%.200s: %s", path, strerror(errno));
	describe(reply, &st);
	ret = reply_send(c, reply, NULL);
	if (!ret)
		ret = tar ? tar_pack(c, fd, name) : send_file(c, fd);
	close(fd);
	if (!ret)
		conn_send(c, FRAME_DATA, NULL, 0);
	return 1;
}
