/* container_log.c: what a container's command has printed, a line a record, for `logs`. */
#include "container_log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define BEFORE     INSTANCE_LOG ".1"
#define HEAD_ROOM  64 /* of a record, up to its text */
#define TIME_LEN   30 /* with the Z */
#define READ_SIZE  65536
#define RECORD_MAX (FRAME_MAX + HEAD_ROOM + 1)
#define FRAME_MAX  65536
#define LOOK_MS    1000 /* how often a follower makes sure that there is somebody to wait for */

int container_log_open(struct container_log *log, const struct instance *i, struct error *err)
{
	*log = (struct container_log){ .dir = i->dir };
	log->fd = openat(i->dir, INSTANCE_LOG, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	return log->fd < 0
		       ? error_set(err, -errno, "%s/" INSTANCE_LOG ": %s", text_path_shown(i->path), strerror(errno))
		       : 0;
}

static void start_again(struct container_log *log)
{
	int fd;

	if (renameat(log->dir, INSTANCE_LOG, log->dir, BEFORE))
		return;
	fd = openat(log->dir, INSTANCE_LOG, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	close(log->fd);
	log->fd = fd;
	log->size = 0;
}

void container_log_write(struct container_log *log, bool is_stderr, const char *data, size_t len)
{
	char head[HEAD_ROOM], newline = '\n';
	struct timespec now;
	const char *end;
	size_t part, n;
	ssize_t wrote;

	if (log->fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	for (; len > 0; data += part, len -= part) {
		end = memchr(data, '\n', len);
		part = end ? (size_t)(end - data) + 1 : len;
		n = text_time(head, sizeof(head), &now);
		n += (size_t)snprintf(head + n, sizeof(head) - n, "Z %s %c ", is_stderr ? "stderr" : "stdout",
				      end ? 'F' : 'P');
		wrote = writev(log->fd,
			       (struct iovec[]){ { head, n },
						 { (void *)(uintptr_t)data, part - (end ? 1 : 0) },
						 { &newline, 1 } },
			       3);
		log->size += wrote > 0 ? (uint64_t)wrote : 0;
		if (log->size >= CONTAINER_LOG_MAX)
			start_again(log);
	}
}

/* ---- reading ---- */

struct reader {
	char *bytes; /* of records that are not whole yet */
	size_t len;
	bool timestamps, counting; /* counting: nothing is printed */
	int64_t lines;             /* that were counted */
	int64_t skip;              /* lines that are not printed */
};

static void print_all(int fd, const char *data, size_t len)
{
	ssize_t n;

	for (; len > 0; data += n, len -= (size_t)n) {
		n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			n = 0;
		if (n < 0)
			exit(0); /* nobody reads any more */
	}
}

/* One record without its newline. What is no record was not written by us, and is passed over. */
static void print_record(struct reader *r, char *line, size_t len)
{
	const size_t tag = TIME_LEN + 1, text = tag + sizeof("stdout F ") - 1;
	int fd = STDOUT_FILENO;
	bool whole;

	if (len < text)
		return;
	whole = line[text - 2] == 'F';
	if (r->counting || r->skip > 0) {
		r->lines += whole;
		r->skip -= !r->counting && whole;
		return;
	}
	if (memcmp(line + tag, "stderr", 6) == 0)
		fd = STDERR_FILENO;
	if (r->timestamps)
		print_all(fd, line, tag);
	line[len] = '\n';
	print_all(fd, line + text, len - text + whole);
}

/* Prints whole records; the rest is kept for the next time. */
static void print_some(struct reader *r)
{
	char *line = r->bytes, *end;
	size_t left = r->len;

	while ((end = memchr(line, '\n', left)) != NULL) {
		print_record(r, line, (size_t)(end - line));
		left -= (size_t)(end - line) + 1;
		line = end + 1;
	}
	memmove(r->bytes, line, left);
	r->len = left < RECORD_MAX ? left : 0;
}

/* To the end of the file as it is now. Returns 0 or a negative errno. */
static int print_file(struct reader *r, int fd)
{
	ssize_t n;

	while ((n = read(fd, r->bytes + r->len, READ_SIZE)) > 0) {
		r->len += (size_t)n;
		print_some(r);
	}
	return n < 0 ? -errno : 0;
}

static int open_log(const struct instance *i, const char *name)
{
	return openat(i->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

/* Whether the file was put away meanwhile: then the next one is opened in its place. */
static bool reopen(const struct instance *i, int *fd)
{
	struct stat old, now;
	int next;

	if (fstat(*fd, &old) || fstatat(i->dir, INSTANCE_LOG, &now, AT_SYMLINK_NOFOLLOW) || old.st_ino == now.st_ino)
		return false;
	next = open_log(i, INSTANCE_LOG);
	if (next < 0)
		return false;
	close(*fd);
	*fd = next;
	return true;
}

static bool has_ended(struct instance *i)
{
	json_t *status = NULL;
	enum instance_state state = INSTANCE_DEAD;

	if (instance_load(i, &status, NULL) == 0)
		state = instance_state(i, status);
	json_decref(status);
	return state == INSTANCE_EXITED || state == INSTANCE_DEAD;
}

static int follow_file(struct reader *r, struct instance *i, int fd)
{
	char path[48], events[4096];
	struct pollfd poll_fd = { .fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), .events = POLLIN };
	bool ended;
	int ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", i->dir);
	if (poll_fd.fd < 0 || inotify_add_watch(poll_fd.fd, path, IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_DELETE) < 0)
		ret = -errno;
	else
		do {
			ended = has_ended(i);
			do {
				ret = print_file(r, fd);
			} while (!ret && reopen(i, &fd));
			if (!ended && !ret && poll(&poll_fd, 1, LOOK_MS) > 0)
				while (read(poll_fd.fd, events, sizeof(events)) > 0)
					;
		} while (!ended && !ret);
	if (poll_fd.fd >= 0)
		close(poll_fd.fd);
	close(fd);
	return ret;
}

/* How many lines there are before those that are wanted. */
static int skip_lines(struct reader *r, int before, int fd, int64_t tail)
{
	int ret = 0;

	r->counting = true;
	if (before >= 0)
		ret = print_file(r, before);
	if (!ret)
		ret = print_file(r, fd);
	r->counting = false;
	r->skip = r->lines > tail ? r->lines - tail : 0;
	r->len = 0;
	if (before >= 0)
		(void)lseek(before, 0, SEEK_SET);
	(void)lseek(fd, 0, SEEK_SET);
	return ret;
}

int container_log_print(struct instance *i, int64_t tail, bool follow, bool timestamps, struct error *err)
{
	struct reader r = { .bytes = malloc(RECORD_MAX + READ_SIZE), .timestamps = timestamps };
	int before = open_log(i, BEFORE), fd = open_log(i, INSTANCE_LOG), ret = 0;

	if (!r.bytes || fd < 0) {
		ret = error_set(err, -ENOENT, "%s: has no log (it was started with --rm and without -d)", i->id);
	} else {
		if (tail >= 0)
			ret = skip_lines(&r, before, fd, tail);
		if (!ret && before >= 0)
			ret = print_file(&r, before);
		if (!ret && follow) {
			ret = follow_file(&r, i, fd);
			fd = -1;
		} else if (!ret) {
			ret = print_file(&r, fd);
		}
		if (ret)
			error_set(err, ret, "%s/" INSTANCE_LOG ": %s", text_path_shown(i->path), strerror(-ret));
	}
	if (before >= 0)
		close(before);
	if (fd >= 0)
		close(fd);
	free(r.bytes);
	return ret;
}
