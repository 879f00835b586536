/* files.c: files opened without being fooled, new ones that appear whole or not at all, text fit to show. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "retry.h"
#include "text.h"

/* ---- sentences ---- */

const char *files_show(char shown[FILES_SHOWN], const char *path)
{
	char end[TEXT_PATH_ROOM];

	text_path(end, path);
	text_escape(shown, FILES_SHOWN, end, strlen(end));
	return shown;
}

int files_blame(struct error *err, const char *path)
{
	char shown[FILES_SHOWN], sentence[sizeof(err->message)];

	memcpy(sentence, err->message, sizeof(sentence));
	return error_set(err, err->code, "%s: %s", files_show(shown, path), sentence);
}

/* ---- files ---- */

int files_open(const char *path, int flags, struct stat *st, struct error *err)
{
	/* Somebody's FIFO in the place of the file must not stop us. */
	int fd = RETRY_INTERRUPTED(open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
	char shown[FILES_SHOWN];
	int ret;

	if (fd < 0 || fstat(fd, st)) {
		ret = -errno;
		if (fd >= 0)
			close(fd);
		return error_set(err, ret, "%s: %s", files_show(shown, path), strerror(-ret));
	}
	if (!S_ISREG(st->st_mode)) {
		close(fd);
		return error_set(err, -EINVAL, "%s: not a regular file", files_show(shown, path));
	}
	return fd;
}

int new_file_begin(struct new_file *file, const char *path, const struct stat *model, struct error *err)
{
	char shown[FILES_SHOWN];
	struct stat st;

	*file = (struct new_file){ .path = path, .fd = -1 };
	/* rename(2) would put the file in the place of a device, too. */
	if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return error_set(err, -EEXIST, "%s: exists, and is not a regular file", files_show(shown, path));
	if (asprintf(&file->temporary, "%s.XXXXXX", path) < 0) {
		file->temporary = NULL;
		return error_set(err, -ENOMEM, "no memory");
	}
	file->fd = mkostemp(file->temporary, O_CLOEXEC);
	if (file->fd >= 0 && fchmod(file->fd, model->st_mode & 0777) == 0)
		return 0;
	error_set(err, -errno, "%s: %s", files_show(shown, path), strerror(errno));
	if (file->fd < 0) {
		free(file->temporary);
		file->temporary = NULL;
	}
	new_file_drop(file);
	return err->code;
}

/* The name is on disk when its directory is. */
static int sync_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd, ret;

	if (!directory)
		return -ENOMEM;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(directory);
	if (fd < 0)
		return -errno;
	ret = fsync(fd) ? -errno : 0;
	close(fd);
	/* Some file systems have nothing to sync there. */
	return ret == -EINVAL ? 0 : ret;
}

int new_file_finish(struct new_file *file, struct error *err)
{
	const char *path = file->path;
	char shown[FILES_SHOWN];

	if (fsync(file->fd) || rename(file->temporary, path)) {
		error_set(err, -errno, "%s: %s", files_show(shown, path), strerror(errno));
		new_file_drop(file);
		return err->code;
	}
	free(file->temporary);
	file->temporary = NULL;
	new_file_drop(file);
	if (sync_directory(path))
		return error_set(err, -EIO,
				 "%s: there, but perhaps not after a power cut: its directory cannot be synced",
				 files_show(shown, path));
	return 0;
}

void new_file_drop(struct new_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	if (file->temporary)
		unlink(file->temporary);
	free(file->temporary);
	*file = (struct new_file){ .fd = -1 };
}

/* ---- signals ---- */

static volatile sig_atomic_t interrupted;

static void note(int number)
{
	(void)number;
	interrupted = 1;
}

void files_catch_signals(void)
{
	const struct sigaction action = { .sa_handler = note, .sa_flags = SA_RESTART };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

bool files_interrupted(void)
{
	return interrupted;
}

/* ---- text ---- */

size_t put_escaped(const char *text, size_t len, size_t width, bool show)
{
	static char escaped[4 * 4096 + 4]; /* a path, each byte as \xNN */
	size_t shown = text_escape(escaped, sizeof(escaped), text, len), columns = 0, i;

	/* A character begins with every byte but 10xxxxxx. */
	for (i = 0; i < shown; i++)
		columns += (escaped[i] & 0xc0) != 0x80;
	if (show)
		printf("%s%*s", escaped, columns < width ? (int)(width - columns) : 0, "");
	return columns;
}

const char *hex_text(char *text, const uint8_t *bytes, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	return text;
}

int json_out(json_t *json, struct error *err)
{
	int ret = json ? json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) : -1;

	json_decref(json);
	if (ret)
		return error_set(err, -ENOMEM, "no memory for the answer, or nobody takes it");
	putchar('\n');
	return 0;
}
