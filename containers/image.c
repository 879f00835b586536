/* image.c: an image as people name it, made into a disk: by mayfly-image, which is asked once. */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "drives.h"
#include "spawn.h"
#include "text.h"

#define MEMORY    "sources" /* the folder of what was answered before, below the data folder */
#define KEY_SIZE  20
#define NAME_SIZE 8192 /* of a source: any path, or a name */

/* A source, what it was, and the image that was made of it. */
struct answer {
	char key[KEY_SIZE];
	char stamp[160]; /* "": it cannot be told whether it is still the same */
	char image[PATH_MAX];
};

static void hash(char out[KEY_SIZE], const char *text)
{
	uint64_t sum = 0xcbf29ce484222325u; /* FNV-1a */

	for (; *text; text++)
		sum = (sum ^ (unsigned char)*text) * 0x100000001b3u;
	snprintf(out, KEY_SIZE, "%016" PRIx64, sum);
}

/*
 * What changes when a source does: of an archive the file, of an OCI layout its index. A folder of files has no such
 * thing, and a name in a registry is asked for again by --pull alone.
 */
static void stamp_source(struct answer *a, const char *source)
{
	char index[PATH_MAX];
	struct stat st;

	a->stamp[0] = '\0';
	if (stat(source, &st)) {
		if (!strchr("./", source[0]))
			snprintf(a->stamp, sizeof(a->stamp), MAYFLY_VERSION " name");
		return;
	}
	if (S_ISDIR(st.st_mode) &&
	    (snprintf(index, sizeof(index), "%s/index.json", source) >= PATH_MAX || stat(index, &st)))
		return;
	snprintf(a->stamp, sizeof(a->stamp),
		 MAYFLY_VERSION " %" PRIu64 ":%" PRIu64 " %" PRId64 " %" PRId64 ".%09ld %" PRId64 ".%09ld",
		 (uint64_t)st.st_dev, (uint64_t)st.st_ino, (int64_t)st.st_size, (int64_t)st.st_mtim.tv_sec,
		 st.st_mtim.tv_nsec, (int64_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

/* A path that means the same in every folder, or a name. */
static void full_name(char out[NAME_SIZE], const char *source)
{
	char real[PATH_MAX];

	snprintf(out, NAME_SIZE, "%s", realpath(source, real) ? real : source);
}

/* Three lines: the source, its stamp, the image. */
static bool recall(int folder, struct answer *a, const char *name)
{
	char text[3 * PATH_MAX + 256], *stamp, *image, *end;
	int fd = openat(folder, a->key, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t len;

	if (fd < 0)
		return false;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[len < 0 ? 0 : len] = '\0';
	stamp = strchr(text, '\n');
	image = stamp ? strchr(stamp + 1, '\n') : NULL;
	end = image ? strchr(image + 1, '\n') : NULL;
	if (!end || (size_t)(end - image) > sizeof(a->image))
		return false;
	*stamp++ = *image++ = *end = '\0';
	if (strcmp(text, name) != 0 || strcmp(stamp, a->stamp) != 0)
		return false;
	snprintf(a->image, sizeof(a->image), "%s", image);
	return true;
}

/* Whoever cannot remember asks again. */
static void remember(int folder, const struct answer *a, const char *name)
{
	char fresh[KEY_SIZE + 16];
	int fd;

	if (!a->stamp[0] || strchr(name, '\n'))
		return;
	snprintf(fresh, sizeof(fresh), "%s.%d", a->key, getpid());
	fd = openat(folder, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (dprintf(fd, "%s\n%s\n%s\n", name, a->stamp, a->image) < 0 || renameat(folder, fresh, folder, a->key))
		(void)unlinkat(folder, fresh, 0);
	close(fd);
}

/* Its standard error is ours: there it shows how far it is. The last thing it prints is the path. */
static int ask(const struct places *p, const char *source, struct answer *a, struct error *err)
{
	char program[PATH_MAX];
	const char *argv[] = { program, "get", source, NULL };
	struct spawn spawn = { .argv = argv, .in = -1, .err = STDERR_FILENO, .death_signal = SIGTERM };
	struct error no = { 0 };
	int out[2], status = -1;
	size_t have = 0;
	ssize_t n;
	pid_t pid;

	/* In the source tree it lies elsewhere. */
	if (places_file(p, "../rootfs/mayfly-image", "mayfly-image", "mayfly-image", program, &no) &&
	    places_file(p, "mayfly-image", "mayfly-image", "mayfly-image", program, err))
		return err->code;
	if (pipe2(out, O_CLOEXEC))
		return error_set(err, -errno, "mayfly-image: %s", strerror(errno));
	spawn.out = out[1];
	pid = spawn_start(&spawn, err);
	close(out[1]);
	while (pid > 0 && have < sizeof(a->image) - 1 &&
	       (n = read(out[0], a->image + have, sizeof(a->image) - 1 - have)) != 0)
		if (n > 0)
			have += (size_t)n;
	close(out[0]);
	if (pid < 0)
		return pid;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	a->image[have] = '\0';
	a->image[strcspn(a->image, "\n")] = '\0';
	if (status != 0 || a->image[0] != '/')
		return error_set(err, -EIO, "%s: no image (mayfly-image says why)", text_path_shown(source));
	return 0;
}

/* An image that is a disk already. -ENOENT: it is none. */
static int open_disk(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	bool writable;

	if (fd < 0)
		return -ENOENT;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && drives_is_disk(fd, &writable))
		return fd;
	close(fd);
	return -ENOENT;
}

int image_open(const struct places *p, const char *source, const char *pull, struct error *err)
{
	const bool always = pull && strcmp(pull, "always") == 0, never = pull && strcmp(pull, "never") == 0;
	char name[NAME_SIZE];
	struct answer a = { 0 };
	int fd = open_disk(source), folder, ret;

	if (fd >= 0)
		return fd;
	if (pull && !always && !never && strcmp(pull, "missing") != 0)
		return error_set(err, -EINVAL, "--pull: \"%.32s\" (needs missing, always or never)", pull);
	folder = places_data(p, MEMORY, err);
	if (folder < 0)
		return folder;
	full_name(name, source);
	hash(a.key, name);
	stamp_source(&a, name);
	if (!always && a.stamp[0] && recall(folder, &a, name))
		fd = open_disk(a.image);
	if (fd < 0 && never) {
		ret = error_set(err, -ENOENT, "%s: no image of it has been made yet (leave out --pull=never)",
				text_path_shown(source));
	} else if (fd < 0) {
		ret = ask(p, source, &a, err);
		if (!ret)
			fd = open_disk(a.image);
		if (!ret && fd < 0)
			ret = error_set(err, -EIO, "%s: neither EROFS nor ext4", text_path_shown(a.image));
		if (!ret)
			remember(folder, &a, name);
	} else {
		ret = 0;
	}
	close(folder);
	return ret ? ret : fd;
}
