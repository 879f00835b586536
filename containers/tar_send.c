/* tar_send.c: files of the host made into the tar stream of a `put`. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rootfs/init/tar.h"
#include "tar_files.h"
#include "text.h"

#define DEPTH_MAX 256 /* of folders: each takes a descriptor */

struct packing {
	struct agent_client *client;
	struct error *err;
	struct tar_entry e;
	size_t len;
	char data[FRAME_MAX];
};

static int flush(struct packing *p)
{
	int ret = p->len ? agent_send(p->client, FRAME_DATA, p->data, p->len, p->err) : 0;

	p->len = 0;
	return ret;
}

/* fd -1: zeros. A file that became shorter meanwhile is filled up with them. */
static int put_bytes(struct packing *p, int fd, int64_t size)
{
	size_t room;
	ssize_t n;

	while (size > 0) {
		if (p->len == sizeof(p->data) && flush(p))
			return p->err->code;
		room = sizeof(p->data) - p->len;
		room = (int64_t)room < size ? room : (size_t)size;
		n = fd < 0 ? 0 : read(fd, p->data + p->len, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(p->err, -errno, "%s: %s", text_path_shown(p->e.name), strerror(errno));
		if (n == 0)
			memset(p->data + p->len, 0, room);
		p->len += n ? (size_t)n : room;
		size -= n ? n : (ssize_t)room;
	}
	return 0;
}

static int put_header(struct packing *p, const struct stat *st, char type)
{
	char header[2 * PATH_MAX + 8 * TAR_BLOCK];
	size_t len;

	p->e.type = type;
	p->e.mode = st->st_mode & 07777;
	p->e.uid = p->e.gid = 0;
	p->e.mtime = st->st_mtime > 0 ? st->st_mtime : 0;
	p->e.size = type == '0' ? st->st_size : 0;
	len = tar_format(&p->e, header, sizeof(header));
	if (len == 0)
		return error_set(p->err, -ENAMETOOLONG, "%s: the name is too long", text_path_shown(p->e.name));
	if (sizeof(p->data) - p->len < len && flush(p))
		return p->err->code;
	memcpy(p->data + p->len, header, len);
	p->len += len;
	return 0;
}

static int fail(struct packing *p)
{
	return error_set(p->err, -errno, "%s: %s", text_path_shown(p->e.name), strerror(errno));
}

static int put_file(struct packing *p, int folder, const char *name)
{
	int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), ret;
	struct stat st;

	if (fd < 0)
		return fail(p);
	ret = fstat(fd, &st) ? fail(p) : 0;
	if (!ret && S_ISREG(st.st_mode)) {
		ret = put_header(p, &st, '0');
		if (!ret)
			ret = put_bytes(p, fd, st.st_size);
		if (!ret)
			ret = put_bytes(p, -1, (TAR_BLOCK - st.st_size % TAR_BLOCK) % TAR_BLOCK);
	}
	close(fd);
	return ret;
}

static int put_link(struct packing *p, int folder, const char *name, const struct stat *st)
{
	ssize_t n = readlinkat(folder, name, p->e.link, sizeof(p->e.link) - 1);

	p->e.link[n > 0 ? n : 0] = '\0';
	return n < 0 ? fail(p) : put_header(p, st, '2');
}

static int put_entry(struct packing *p, int folder, const char *name, unsigned int depth);

static int put_folder(struct packing *p, int fd, unsigned int depth)
{
	const size_t len = strlen(p->e.name);
	DIR *stream = fdopendir(fd);
	struct dirent *entry;
	int ret = 0;

	if (!stream) {
		close(fd);
		return fail(p);
	}
	while (!ret && (entry = readdir(stream)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (len + strlen(entry->d_name) + 2 > sizeof(p->e.name)) {
			ret = error_set(p->err, -ENAMETOOLONG, "%s: the name is too long", text_path_shown(p->e.name));
		} else {
			memcpy(p->e.name + len, entry->d_name, strlen(entry->d_name) + 1);
			ret = put_entry(p, dirfd(stream), entry->d_name, depth);
		}
	}
	p->e.name[len] = '\0';
	closedir(stream);
	return ret;
}

static int put_entry(struct packing *p, int folder, const char *name, unsigned int depth)
{
	const size_t len = strlen(p->e.name);
	struct stat st;
	int fd;

	*p->e.link = '\0';
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW))
		return fail(p);
	if (S_ISREG(st.st_mode))
		return put_file(p, folder, name);
	if (S_ISLNK(st.st_mode))
		return put_link(p, folder, name, &st);
	if (!S_ISDIR(st.st_mode))
		return 0;
	if (depth == DEPTH_MAX)
		return error_set(p->err, -ELOOP, "%s: folders %d deep", text_path_shown(p->e.name), DEPTH_MAX);
	fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fail(p);
	/* With no name of its own only what is in it is sent. */
	if (len > 0) {
		memcpy(p->e.name + len, "/", 2);
		if (put_header(p, &st, '5')) {
			close(fd);
			return p->err->code;
		}
	}
	return put_folder(p, fd, depth + 1);
}

int tar_send(struct agent_client *client, int folder, const char *name, const char *as, struct error *err)
{
	struct packing *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return error_set(err, -ENOMEM, "no memory");
	p->client = client;
	p->err = err;
	snprintf(p->e.name, sizeof(p->e.name), "%s", as);
	ret = put_entry(p, folder, name, 0);
	if (!ret)
		ret = put_bytes(p, -1, (int64_t)2 * TAR_BLOCK);
	if (!ret)
		ret = flush(p);
	if (!ret)
		ret = agent_send(client, FRAME_DATA, NULL, 0, err);
	free(p);
	return ret;
}
