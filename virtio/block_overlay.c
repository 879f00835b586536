/* block_overlay.c: the delta file of a drive: a header, a bitmap of the sectors it has, and those sectors. */
#include "block_overlay.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block_file.h"
#include "lazy_memory.h"
#include "text.h"
#include "write_all.h"

/* The sector is the least that a guest writes, so nothing has ever to be copied from the base. */
#define MAGIC         "mayflyOV"
#define VERSION       1u
#define BITMAP_OFFSET 4096u
#define CHUNK         4096u /* bytes of the bitmap that are written at once */
#define CHUNK_SECTORS (CHUNK * 8ul)
#define CHUNK_WORDS   (CHUNK / sizeof(uint64_t))
#define DATA_ALIGN    (1u << 20) /* what is aligned on the disk is so in the file */
#define CROWDED       256u       /* chunks: 1 MiB to copy, the most that a commit keeps the event loop with */

/* The bitmap in memory is that of the file. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bits are in another order");

struct header {
	char magic[8];
	__le32 version, sector_size;
	__le64 disk_size, data_offset; /* bytes */
};

enum phase { SYNC_DATA, WRITE_BITMAP, SYNC_BITMAP };

struct block_overlay {
	int fd;
	bool sync; /* the guest can flush, so that power cuts count */
	uint64_t disk_size, data_offset, nr_chunks;
	void *memory; /* of the four below */
	size_t memory_size;
	uint64_t *present; /* a bit for each sector: the delta has it */
	uint64_t *image;   /* the chunks that are being written, as they were when that began, one after the other */
	uint64_t *dirty;   /* a bit for each chunk: the file's is older */
	uint64_t *writing; /* the same, for those in image */
	unsigned int nr_dirty;
	enum phase phase;
	uint64_t next, nr_written; /* chunk to be written next; chunks of image that were */
	struct iovec iov;
	const struct block_io_op *committer;
	struct block_io_op *waiting, **waiting_tail;
};

/* ---- bits ---- */

static bool bit(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> i % 64 & 1;
}

/* How many bits, up to n, are as the first is. */
static uint64_t alike(const uint64_t *bits, uint64_t first, uint64_t n)
{
	const uint64_t same = bit(bits, first) ? ~0ull : 0, end = first + n;
	uint64_t i = first, other;

	while (i < end) {
		other = (bits[i / 64] ^ same) >> i % 64;
		if (other) {
			i += (unsigned int)__builtin_ctzll(other);
			break;
		}
		i += 64 - i % 64;
	}
	return (i < end ? i : end) - first;
}

static bool any(const uint64_t *bits, uint64_t first, uint64_t n)
{
	return bit(bits, first) || alike(bits, first, n) < n;
}

static void set(uint64_t *bits, uint64_t first, uint64_t n)
{
	uint64_t i, in;

	for (i = first; n; i += in, n -= in) {
		in = 64 - i % 64 < n ? 64 - i % 64 : n;
		bits[i / 64] |= ~0ull >> (64 - in) << i % 64;
	}
}

/* The first set bit from i, and how many follow; false: there is none. */
static bool next_run(const uint64_t *bits, uint64_t end, uint64_t *i, uint64_t *n)
{
	if (*i < end && !bit(bits, *i))
		*i += alike(bits, *i, end - *i);
	if (*i >= end)
		return false;
	*n = alike(bits, *i, end - *i);
	return true;
}

/* ---- where things are, and become ---- */

void block_overlay_delta(const struct block_overlay *ov, struct block_io_op *op, uint64_t pos)
{
	op->fd = ov->fd;
	op->offset = ov->data_offset + pos;
}

uint64_t block_overlay_find(const struct block_overlay *ov, struct block_io_op *op, uint64_t pos, uint64_t len)
{
	if (bit(ov->present, pos / BLOCK_SECTOR_SIZE))
		block_overlay_delta(ov, op, pos);
	return alike(ov->present, pos / BLOCK_SECTOR_SIZE, len / BLOCK_SECTOR_SIZE) * BLOCK_SECTOR_SIZE;
}

bool block_overlay_add(struct block_overlay *ov, uint64_t pos, uint64_t len, bool durable)
{
	const uint64_t first = pos / BLOCK_SECTOR_SIZE, n = len / BLOCK_SECTOR_SIZE;
	const uint64_t chunk = first / CHUNK_SECTORS, nr = (first + n - 1) / CHUNK_SECTORS - chunk + 1;
	uint64_t i;

	if (!bit(ov->present, first) || alike(ov->present, first, n) < n) {
		set(ov->present, first, n);
		for (i = chunk; i < chunk + nr; i++)
			ov->nr_dirty += !bit(ov->dirty, i);
		set(ov->dirty, chunk, nr);
	}
	/* Whoever was first to add them may not have committed yet. */
	return (!ov->sync || durable || ov->nr_dirty > CROWDED) &&
	       (any(ov->dirty, chunk, nr) || any(ov->writing, chunk, nr));
}

/* ---- commit ---- */

static enum overlay_step end_commit(struct block_overlay *ov, enum overlay_step step)
{
	memset(ov->writing, 0, (ov->nr_chunks + 63) / 64 * sizeof(uint64_t));
	ov->committer = NULL;
	return step;
}

static enum overlay_step sync_step(struct block_overlay *ov, struct block_io_op *op, enum phase phase)
{
	ov->phase = phase;
	op->type = BLOCK_IO_SYNC;
	return OVERLAY_RUN;
}

static enum overlay_step write_step(struct block_overlay *ov, struct block_io_op *op)
{
	uint64_t run;

	if (!next_run(ov->writing, ov->nr_chunks, &ov->next, &run))
		return ov->sync ? sync_step(ov, op, SYNC_BITMAP) : end_commit(ov, OVERLAY_DONE);
	ov->phase = WRITE_BITMAP;
	ov->iov = (struct iovec){ ov->image + ov->nr_written * CHUNK_WORDS, run * CHUNK };
	op->type = BLOCK_IO_WRITE;
	op->durable = false;
	op->iov = &ov->iov;
	op->nr_iov = 1;
	op->offset = BITMAP_OFFSET + ov->next * CHUNK;
	return OVERLAY_RUN;
}

/* Bits that are set while data is synced are not written now: their own data may not be safe yet. */
static enum overlay_step begin_commit(struct block_overlay *ov, struct block_io_op *op)
{
	uint64_t *done = ov->writing, chunk = 0, nr = 0, run;

	ov->committer = op;
	op->fd = ov->fd;
	for (; next_run(ov->dirty, ov->nr_chunks, &chunk, &run); chunk += run, nr += run)
		memcpy(ov->image + nr * CHUNK_WORDS, ov->present + chunk * CHUNK_WORDS, run * CHUNK);
	ov->writing = ov->dirty;
	ov->dirty = done;
	ov->nr_dirty = 0;
	ov->next = 0;
	ov->nr_written = 0;
	if (ov->sync)
		return sync_step(ov, op, nr ? SYNC_DATA : SYNC_BITMAP);
	return write_step(ov, op);
}

enum overlay_step block_overlay_commit(struct block_overlay *ov, struct block_io_op *op)
{
	uint64_t n;

	if (!ov->committer)
		return begin_commit(ov, op);
	if (ov->committer != op) {
		op->next = NULL;
		*ov->waiting_tail = op;
		ov->waiting_tail = &op->next;
		return OVERLAY_WAIT;
	}
	if (ov->phase == SYNC_BITMAP)
		return end_commit(ov, OVERLAY_DONE);
	if (ov->phase == WRITE_BITMAP) {
		n = (uint64_t)op->result / CHUNK;
		if (!n)
			return OVERLAY_FAILED;
		ov->next += n;
		ov->nr_written += n;
	}
	return write_step(ov, op);
}

struct block_io_op *block_overlay_woken(struct block_overlay *ov)
{
	struct block_io_op *op = ov->committer ? NULL : ov->waiting;

	if (op) {
		ov->waiting = op->next;
		if (!op->next)
			ov->waiting_tail = &ov->waiting;
	}
	return op;
}

void block_overlay_give_up(struct block_overlay *ov, const struct block_io_op *op)
{
	uint64_t chunk = 0, run;

	if (ov->committer != op)
		return;
	for (; next_run(ov->writing, ov->nr_chunks, &chunk, &run); chunk += run) {
		set(ov->dirty, chunk, run);
		ov->nr_dirty +=
			(unsigned int)run; /* those that were dirty count twice: it is only to tell many from few */
	}
	end_commit(ov, OVERLAY_FAILED);
}

/* ---- the file ---- */

/* A commit without an engine. */
int block_overlay_save(struct block_overlay *ov)
{
	uint64_t chunk = 0, run;
	int ret = 0;

	if (!any(ov->dirty, 0, ov->nr_chunks))
		return 0;
	if (ov->sync && fdatasync(ov->fd))
		return -errno;
	for (; !ret && next_run(ov->dirty, ov->nr_chunks, &chunk, &run); chunk += run)
		ret = write_all(ov->fd, ov->present + chunk * CHUNK_WORDS, run * CHUNK,
				(off_t)(BITMAP_OFFSET + chunk * CHUNK));
	if (!ret)
		memset(ov->dirty, 0, (ov->nr_chunks + 63) / 64 * sizeof(uint64_t));
	ov->nr_dirty = 0;
	return ret;
}

static int copy_data(int from, int to, uint64_t size)
{
	off_t at = 0, end;
	ssize_t n;

	if (ftruncate(to, (off_t)size))
		return -errno;
	while ((at = lseek(from, at, SEEK_DATA)) >= 0) {
		end = lseek(from, at, SEEK_HOLE);
		if (end < 0 || lseek(to, at, SEEK_SET) < 0)
			return -errno;
		while (at < end) {
			n = sendfile(to, from, &at, (size_t)(end - at));
			if (n <= 0)
				return n ? -errno : -EIO;
		}
	}
	return errno == ENXIO ? 0 : -errno;
}

int block_overlay_clone(struct block_overlay *ov, int to)
{
	int ret = block_overlay_save(ov);

	if (ret || ioctl(to, FICLONE, ov->fd) == 0)
		return ret;
	return copy_data(ov->fd, to, ov->data_offset + ov->disk_size);
}

static int refuse(struct error *err, int code, const struct drive_config *cfg, const char *sentence)
{
	return error_set(err, code, "drives[%s].overlay_path: %s: %s", cfg->drive_id,
			 text_path_shown(cfg->overlay_path), sentence);
}

static int failed(struct error *err, const struct drive_config *cfg)
{
	return refuse(err, -errno, cfg, strerror(errno));
}

/* Open it, or make it, and keep everybody else away from it (from writing, if it is only to be read). */
static int claim(struct block_overlay *ov, const struct drive_config *cfg, struct error *err)
{
	const struct block_place place = { cfg->drive_id, "overlay_path", cfg->overlay_path, "file", false };
	const int flags = cfg->is_read_only ? O_RDONLY : O_RDWR;

	ov->fd = block_place_open(&place, flags, err);
	if (ov->fd == -ENOENT && !cfg->is_read_only)
		ov->fd = block_place_open(&place, flags | O_CREAT | O_EXCL, err);
	if (ov->fd < 0)
		return ov->fd;
	if (flock(ov->fd, (cfg->is_read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return failed(err, cfg);
	return refuse(err, -EBUSY, cfg,
		      "is another drive's, here or in another process (each needs an overlay of its own)");
}

/* Is it the delta of such a disk? An empty file, or one whose making was interrupted, becomes one. */
static int check_header(struct block_overlay *ov, const struct drive_config *cfg, struct error *err)
{
	const struct header own = { MAGIC, htole32(VERSION), htole32(BLOCK_SECTOR_SIZE), htole64(ov->disk_size),
				    htole64(ov->data_offset) };
	const uint64_t whole = ov->data_offset + ov->disk_size;
	struct header h = own;
	struct stat st;
	int ret;

	if (fstat(ov->fd, &st))
		return failed(err, cfg);
	ret = st.st_size || cfg->is_read_only ? 0 : write_all(ov->fd, &own, sizeof(own), 0);
	if (ret)
		return refuse(err, ret, cfg, strerror(-ret));
	if (pread(ov->fd, &h, sizeof(h), 0) != sizeof(h) || memcmp(h.magic, own.magic, sizeof(h.magic)) != 0)
		return refuse(err, -EINVAL, cfg, "is no overlay (needs one, or the name of a new file)");
	if (h.version != own.version)
		return refuse(err, -EINVAL, cfg, "is an overlay of another version of Mayfly");
	if (memcmp(&h, &own, sizeof(h)) != 0)
		return error_set(
			err, -EINVAL,
			"drives[%s].overlay_path: %s: is for a disk of %llu bytes, and that of path_on_host has %llu "
			"(needs the base that it was made for)",
			cfg->drive_id, text_path_shown(cfg->overlay_path), (unsigned long long)le64toh(h.disk_size),
			(unsigned long long)ov->disk_size);
	if (st.st_size <= (off_t)sizeof(own) && !cfg->is_read_only)
		return ftruncate(ov->fd, (off_t)whole) ? failed(err, cfg) : 0;
	return (uint64_t)st.st_size == whole
		       ? 0
		       : refuse(err, -EINVAL, cfg, "is not as long as it was made (it is damaged)");
}

/* Only what is not zero takes memory. */
static int load_bitmap(struct block_overlay *ov)
{
	const off_t end = BITMAP_OFFSET + (off_t)(ov->nr_chunks * CHUNK);
	uint64_t chunk[CHUNK_WORDS];
	off_t at = BITMAP_OFFSET, data;
	ssize_t n;

	for (; at < end; at += CHUNK) {
		data = lseek(ov->fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0;
		if (data > at)
			at = data - data % CHUNK;
		if (at >= end)
			return 0;
		n = pread(ov->fd, chunk, CHUNK, at);
		if (n != CHUNK)
			return n < 0 ? -errno : -EIO;
		if (any(chunk, 0, CHUNK_SECTORS))
			memcpy(ov->present + (uint64_t)(at - BITMAP_OFFSET) / sizeof(uint64_t), chunk, CHUNK);
	}
	return 0;
}

static int make_memory(struct block_overlay *ov)
{
	const uint64_t map = (ov->nr_chunks + 63) / 64;

	ov->memory_size = ov->nr_chunks * CHUNK * 2 + map * 2 * sizeof(uint64_t);
	ov->memory = lazy_alloc(ov->memory_size);
	if (!ov->memory)
		return -ENOMEM;
	ov->present = ov->memory;
	ov->image = ov->present + ov->nr_chunks * CHUNK_WORDS;
	ov->dirty = ov->image + ov->nr_chunks * CHUNK_WORDS;
	ov->writing = ov->dirty + map;
	return 0;
}

void block_overlay_close(struct block_overlay *ov)
{
	if (ov->memory)
		munmap(ov->memory, ov->memory_size);
	if (ov->fd >= 0)
		close(ov->fd);
	free(ov);
}

int block_overlay_open(struct block_overlay **out, const struct drive_config *cfg, uint64_t base_sectors,
		       struct error *err)
{
	struct block_overlay *ov;
	int ret;

	if (!base_sectors)
		return error_set(
			err, -EINVAL,
			"drives[%s].path_on_host: %s: is empty (with overlay_path, it needs a sector at least)",
			cfg->drive_id, text_path_shown(cfg->path_on_host));
	ov = calloc(1, sizeof(*ov));
	if (!ov)
		return error_set(err, -ENOMEM, "drives[%s]: no memory", cfg->drive_id);
	ov->sync = cfg->cache_type != CACHE_UNSAFE;
	ov->disk_size = base_sectors * BLOCK_SECTOR_SIZE;
	ov->nr_chunks = (base_sectors - 1) / CHUNK_SECTORS + 1;
	ov->data_offset = (BITMAP_OFFSET + ov->nr_chunks * CHUNK + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
	ov->waiting_tail = &ov->waiting;
	ret = claim(ov, cfg, err);
	if (!ret)
		ret = check_header(ov, cfg, err);
	if (!ret) {
		ret = make_memory(ov);
		if (!ret)
			ret = load_bitmap(ov);
		if (ret)
			refuse(err, ret, cfg, strerror(-ret));
	}
	if (ret)
		block_overlay_close(ov);
	else
		*out = ov;
	return ret;
}
