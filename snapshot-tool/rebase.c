/* rebase.c: writes the pages of a diff over the memory it was taken from. */
#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "files.h"
#include "memory.h"
#include "retry.h"
#include "write_all.h"

#define CHUNK         (1u << 20)
#define SHOW_PROGRESS (64ull << 20) /* bytes: less is done before anyone has looked */

/* Copying from one memory file into another. */
struct copy {
	const struct memory *from;
	int to;
	bool show;
	uint64_t done, all; /* bytes of data */
	uint8_t *chunk;
};

static bool is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* ---- pages ---- */

static int put_run(const struct copy *c, const uint8_t *run, size_t len, uint64_t offset, bool zero)
{
	/* Where no holes can be made, zeros are as good. */
	if (zero && fallocate(c->to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0)
		return 0;
	return write_all(c->to, run, len, (off_t)offset);
}

/* Pages of zeros, and the others, each run of them at once. */
static int put_chunk(const struct copy *c, size_t len, uint64_t offset)
{
	size_t start = 0, at = 0, n;
	bool zero = false, before = false;
	int ret = 0;

	for (; at < len && !ret; at += n) {
		n = len - at < MEMORY_PAGE ? len - at : MEMORY_PAGE;
		zero = is_zero(c->chunk + at, n);
		if (at > start && zero != before) {
			ret = put_run(c, c->chunk + start, at - start, offset + start, before);
			start = at;
		}
		before = zero;
	}
	return ret ? ret : put_run(c, c->chunk + start, len - start, offset + start, before);
}

static void show_progress(struct copy *c, uint64_t more)
{
	const uint64_t percent = c->all / 100, before = c->done;

	c->done += more;
	if (!c->show)
		return;
	if (c->done / percent != before / percent)
		fprintf(stderr, "\r%3llu %% of %llu MiB", (unsigned long long)(c->done / percent),
			(unsigned long long)(c->all >> 20));
	if (c->done >= c->all)
		fputs("\r\033[K", stderr);
}

static int put_run_of_pages(struct copy *c, uint64_t from, uint64_t to)
{
	int ret = 0;

	while (from < to && !ret) {
		const size_t want = to - from < CHUNK ? (size_t)(to - from) : CHUNK;
		const ssize_t n = RETRY_INTERRUPTED(pread(c->from->fd, c->chunk, want, (off_t)from));

		if (files_interrupted())
			return -EINTR;
		if (n < 0)
			return -errno;
		if ((size_t)n != want)
			return -EIO; /* it got shorter meanwhile */
		ret = put_chunk(c, want, from);
		show_progress(c, want);
		from += want;
	}
	return ret;
}

static int put_pages(struct copy *c)
{
	uint64_t at = 0, from = 0, to = 0;
	int ret;

	c->all = 0;
	c->done = 0;
	while ((ret = memory_run(c->from, &at, &from, &to)) > 0)
		c->all += to - from;
	c->show = c->all >= SHOW_PROGRESS && isatty(STDERR_FILENO);
	at = 0;
	while (!ret) {
		ret = memory_run(c->from, &at, &from, &to);
		if (ret <= 0)
			break;
		ret = put_run_of_pages(c, from, to);
	}
	return ret;
}

/* ---- which diff, which base ---- */

static const char *id_text(char text[2 * STATE_ID_SIZE + 1], const uint8_t id[STATE_ID_SIZE])
{
	return hex_text(text, id, STATE_ID_SIZE);
}

static int check_ids(const struct memory *base, const struct memory *diff, bool force, struct error *err)
{
	char one[2 * STATE_ID_SIZE + 1], other[2 * STATE_ID_SIZE + 1];

	if (diff->trailer.kind != MEMORY_DIFF)
		return error_set(err, -EINVAL, "the memory file is no diff (needs the base first, then the diff)");
	if (diff->trailer.size != base->trailer.size)
		return error_set(err, -EINVAL, "the diff is for %llu bytes of RAM, the base has %llu",
				 (unsigned long long)diff->trailer.size, (unsigned long long)base->trailer.size);
	if (base->half_way && memcmp(base->diff, diff->trailer.id, STATE_ID_SIZE) != 0)
		return error_set(err, -EINVAL,
				 "the base is half way through a rebase of another diff (needs that one first, id %s)",
				 id_text(one, base->diff));
	if (base->half_way || force || memcmp(diff->trailer.base, base->trailer.id, STATE_ID_SIZE) == 0)
		return 0;
	if (memcmp(diff->trailer.id, base->trailer.id, STATE_ID_SIZE) == 0)
		return error_set(err, -EINVAL, "the base has this diff in it already");
	return error_set(err, -EINVAL,
			 "the diff is for another base, of id %s, this one has %s (--force if you know better)",
			 id_text(one, diff->trailer.base), id_text(other, base->trailer.id));
}

/* ---- the result ---- */

/* A diff put over another has the pages of both. */
static int write_bitmap(const struct copy *c, const struct memory *base, const struct memory *diff,
			struct memory_trailer *result)
{
	uint64_t i;

	if (!base->bitmap)
		return 0;
	for (i = 0; i < memory_bitmap_size(result->size); i++)
		base->bitmap[i] |= diff->bitmap[i];
	return memory_set_bitmap(c->to, base->bitmap, result);
}

/* Pages into `to`, which has the base's by now; there is no trailer in it until all is on disk. */
static int write_diff(struct copy *c, const struct memory *base, const struct memory *diff)
{
	struct memory_trailer result = base->trailer;
	int ret = base->half_way ? 0 : memory_set_mark(c->to, &base->trailer, diff->trailer.id);

	memcpy(result.id, diff->trailer.id, sizeof(result.id));
	c->from = diff;
	if (!ret)
		ret = put_pages(c);
	if (!ret)
		ret = write_bitmap(c, base, diff, &result);
	if (!ret && fsync(c->to))
		ret = -errno;
	if (ret)
		return ret;
	ret = memory_set_trailer(c->to, &result);
	/* It may be on disk or not: let it be made again. */
	if (ret)
		(void)memory_set_mark(c->to, &base->trailer, diff->trailer.id);
	return ret;
}

static int rebase_in_place(struct copy *c, const struct memory *base, const struct memory *diff, struct error *err)
{
	char shown[FILES_SHOWN];
	int ret;

	c->to = base->fd;
	ret = write_diff(c, base, diff);
	if (ret)
		return error_set(err, ret,
				 "%s: %s (half written: not to be loaded; the same command again finishes it)",
				 files_show(shown, base->path), strerror(-ret));
	return 0;
}

static int copy_base(struct copy *c, const struct memory *base)
{
	if (ioctl(c->to, FICLONE, base->fd) == 0)
		return 0;
	c->from = base;
	return put_pages(c);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int rebase_into(struct copy *c, const struct memory *base, const struct memory *diff, const char *path,
		       struct error *err)
{
	char shown[FILES_SHOWN];
	struct new_file out;
	int ret = new_file_begin(&out, path, &base->stat, err);

	if (ret)
		return ret;
	c->to = out.fd;
	ret = copy_base(c, base);
	if (!ret)
		ret = write_diff(c, base, diff);
	if (!ret)
		return new_file_finish(&out, err);
	new_file_drop(&out);
	return error_set(err, ret, "%s: %s", files_show(shown, path), strerror(-ret));
}

static int check_output(const struct memory *base, const struct memory *diff, const char *path, struct error *err)
{
	char shown[FILES_SHOWN];
	struct stat st;

	if (stat(path, &st) == 0 && (same_file(&st, &base->stat) || same_file(&st, &diff->stat)))
		return error_set(err, -EINVAL, "%s: is one of the two files (leave out -o to write into the base)",
				 files_show(shown, path));
	return 0;
}

static int rebase(const struct memory *base, const struct memory *diff, const struct options *o, struct error *err)
{
	struct copy c = { .chunk = malloc(CHUNK) };
	int ret;

	if (!c.chunk)
		return error_set(err, -ENOMEM, "no memory");
	ret = o->output ? rebase_into(&c, base, diff, o->output, err) : rebase_in_place(&c, base, diff, err);
	free(c.chunk);
	return ret;
}

int command_rebase(const struct options *o, struct error *err)
{
	struct memory base = { .fd = -1 }, diff = { .fd = -1 };
	char shown[FILES_SHOWN], id[2 * STATE_ID_SIZE + 1];
	int ret;

	files_catch_signals();
	ret = memory_open(&base, o->file[0], o->output ? O_RDONLY : O_RDWR, err);
	if (!ret)
		ret = memory_open(&diff, o->file[1], O_RDONLY, err);
	if (!ret)
		ret = memory_whole(&diff, err);
	if (!ret) {
		ret = check_ids(&base, &diff, o->force, err);
		if (ret)
			files_blame(err, diff.path);
	}
	if (!ret && o->output)
		ret = check_output(&base, &diff, o->output, err);
	if (!ret)
		ret = memory_lock(&base, !o->output, err);
	if (!ret)
		ret = memory_lock(&diff, false, err);
	if (!ret)
		ret = rebase(&base, &diff, o, err);
	if (!ret)
		printf("%s: %s of id %s\n", files_show(shown, o->output ? o->output : o->file[0]),
		       base.trailer.kind == MEMORY_FULL ? "memory" : "diff", id_text(id, diff.trailer.id));
	memory_close(&diff);
	memory_close(&base);
	return ret;
}
