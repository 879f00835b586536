/* test_overlay_power.c: power cuts at any moment of an overlay's commits, on a host that keeps what it likes of what
 * was not synced. */
#include "unit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block_overlay.h"

/* 64 sectors on either side of the place where the bitmap's second chunk begins. */
#define FIRST      (32768u - 64)
#define NR         128u
#define SECTORS    65536u
#define FILE_SIZE  ((1u << 20) + SECTORS * 512u)
#define MAX_CACHED 4096u
#define NR_ACTORS  6u

/* What a host has written to its cache and may have written to its disk. */
struct cached {
	uint64_t offset;
	uint8_t data[512];
};

/* One who writes or flushes, in steps that mix with those of others. */
struct actor {
	struct block_io_op op; /* first */
	enum { IDLE, WRITING, SYNCING, COMMITTING, WAITING } doing;
	unsigned int first, n;
	uint32_t version;
	bool flush, durable;
	unsigned int nr_covered; /* by a sync that runs */
	uint32_t answered[NR];   /* what a flush is about */
};

struct world {
	char path[64], disk[80]; /* what the process writes to, and what is left of it after a power cut */
	int fd, disk_fd;
	struct drive_config cfg;
	struct block_overlay *ov;
	struct cached *cached;
	unsigned int nr_cached;
	struct actor actor[NR_ACTORS];
	uint32_t version, now[NR], flushed[NR];
	bool busy[NR];
	unsigned int seed, nr_flushes, nr_kept, nr_lost;
};

static unsigned int dice(struct world *w, unsigned int sides)
{
	w->seed = w->seed * 1664525u + 1013904223u;
	return (unsigned int)((uint64_t)(w->seed >> 8) * sides >> 24);
}

static void start(struct world *w)
{
	struct error err = { 0 };

	if (block_overlay_open(&w->ov, &w->cfg, SECTORS, &err))
		fail_msg("%s", err.message);
}

/* ---- the host ---- */

static void host_write(struct world *w, uint64_t offset, const void *data, size_t len)
{
	size_t i;

	assert_int_equal(pwrite(w->fd, data, len, (off_t)offset), (ssize_t)len);
	for (i = 0; i < len; i += 512) {
		assert_true(w->nr_cached < MAX_CACHED);
		w->cached[w->nr_cached].offset = offset + i;
		memcpy(w->cached[w->nr_cached++].data, (const uint8_t *)data + i, 512);
	}
}

static void to_disk(struct world *w, const struct cached *c)
{
	assert_int_equal(pwrite(w->disk_fd, c->data, 512, (off_t)c->offset), 512);
}

/* A sync ends: the first n are safe. */
static void host_synced(struct world *w, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		to_disk(w, &w->cached[i]);
	w->nr_cached -= n;
	memmove(w->cached, w->cached + n, w->nr_cached * sizeof(w->cached[0]));
	for (i = 0; i < NR_ACTORS; i++)
		w->actor[i].nr_covered -= n < w->actor[i].nr_covered ? n : w->actor[i].nr_covered;
}

/* ---- actors ---- */

static void answer(struct world *w, struct actor *a)
{
	unsigned int i;

	for (i = 0; i < a->n; i++) {
		w->busy[a->first + i] = false;
		w->now[a->first + i] = a->version;
		if (a->durable)
			w->flushed[a->first + i] = a->version;
	}
	for (i = 0; a->flush && i < NR; i++) {
		if (w->flushed[i] < a->answered[i])
			w->flushed[i] = a->answered[i];
	}
	w->nr_flushes += a->flush;
	a->doing = IDLE;
	a->n = 0;
}

static void commit(struct world *w, struct actor *a)
{
	switch (block_overlay_commit(w->ov, &a->op)) {
	case OVERLAY_RUN:
		a->doing = COMMITTING;
		a->nr_covered = a->op.type == BLOCK_IO_SYNC ? w->nr_cached : 0;
		break;
	case OVERLAY_WAIT:
		a->doing = WAITING;
		break;
	case OVERLAY_DONE:
		answer(w, a);
		break;
	case OVERLAY_FAILED:
		fail();
	}
}

/* As complete_write does in block_request.c. */
static void complete(struct world *w, struct actor *a)
{
	if (block_overlay_add(w->ov, (uint64_t)(FIRST + a->first) * 512, a->n * 512u, a->durable))
		commit(w, a);
	else
		answer(w, a);
}

static void begin(struct world *w, struct actor *a)
{
	a->flush = dice(w, 3) == 0;
	a->durable = !a->flush && dice(w, 4) == 0;
	a->version = ++w->version;
	if (a->flush) {
		memcpy(a->answered, w->now, sizeof(w->now));
		commit(w, a);
		return;
	}
	a->first = dice(w, NR);
	for (a->n = 0; a->n < 1 + dice(w, 12) && a->first + a->n < NR && !w->busy[a->first + a->n]; a->n++)
		w->busy[a->first + a->n] = true;
	if (a->n)
		a->doing = WRITING;
}

static void write_data(struct world *w, struct actor *a)
{
	struct block_io_op at;
	uint64_t sector[64];
	unsigned int i;

	for (i = 0; i < a->n; i++) {
		sector[0] = (uint64_t)(a->first + i) << 32 | a->version;
		memset(sector + 1, (int)a->version, sizeof(sector) - 8);
		block_overlay_delta(w->ov, &at, (uint64_t)(FIRST + a->first + i) * 512);
		host_write(w, at.offset, sector, 512);
	}
	if (a->durable) { /* RWF_DSYNC */
		a->doing = SYNCING;
		a->nr_covered = w->nr_cached;
		return;
	}
	complete(w, a);
}

static void go_on(struct world *w, struct actor *a)
{
	unsigned int i;
	struct actor *woken;

	switch (a->doing) {
	case IDLE:
		begin(w, a);
		break;
	case WRITING:
		write_data(w, a);
		break;
	case SYNCING:
		host_synced(w, a->nr_covered);
		complete(w, a);
		break;
	case COMMITTING:
		if (a->op.type == BLOCK_IO_SYNC) {
			host_synced(w, a->nr_covered);
		} else {
			host_write(w, a->op.offset, a->op.iov->iov_base, a->op.iov->iov_len);
			a->op.result = (int64_t)a->op.iov->iov_len;
		}
		commit(w, a);
		for (i = 0; i < NR_ACTORS && (woken = (struct actor *)block_overlay_woken(w->ov)); i++) {
			if (woken->flush)
				commit(w, woken);
			else
				complete(w, woken);
		}
		break;
	case WAITING:
		break;
	}
}

/* ---- the cut ---- */

static uint32_t read_version(struct world *w, unsigned int i)
{
	struct block_io_op op = { .fd = -1 };
	uint64_t sector[64];
	unsigned int k;

	block_overlay_find(w->ov, &op, (uint64_t)(FIRST + i) * 512, 512);
	if (op.fd < 0)
		return 0; /* the base's */
	assert_int_equal(pread(op.fd, sector, 512, (off_t)op.offset), 512);
	if (sector[0] >> 32 != i)
		fail_msg("sector %u: the bitmap promises what is not there", i);
	for (k = 8; k < 512; k++)
		assert_int_equal(((uint8_t *)sector)[k], (uint8_t)sector[0]);
	return (uint32_t)sector[0];
}

static void power_cut(struct world *w)
{
	unsigned int i;
	struct stat st;

	for (i = 0; i < w->nr_cached; i++) {
		if (dice(w, 2)) {
			to_disk(w, &w->cached[i]);
			w->nr_kept++;
		} else {
			w->nr_lost++;
		}
	}
	w->nr_cached = 0;
	memset(w->actor, 0, sizeof(w->actor));
	memset(w->busy, 0, sizeof(w->busy));
	/* What the process would write at its end goes to a file that nobody looks at any more. */
	block_overlay_close(w->ov);
	close(w->fd);
	unlink(w->path);
	assert_int_equal(rename(w->disk, w->path), 0);
	w->fd = w->disk_fd;
	start(w);
	for (i = 0; i < NR; i++) {
		w->now[i] = read_version(w, i);
		if (w->now[i] < w->flushed[i])
			fail_msg("sector %u: write %u was flushed, %u is there", i, w->flushed[i], w->now[i]);
		w->flushed[i] = w->now[i];
	}
	/* The next life's disk starts as a copy. */
	w->disk_fd = open(w->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(w->disk_fd >= 0 && fstat(w->fd, &st) == 0 && st.st_size == FILE_SIZE);
	assert_int_equal(block_overlay_clone(w->ov, w->disk_fd), 0);
}

static void test_power_cuts(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned int life, step, steps;

	(void)state;
	assert_non_null(w);
	w->cached = calloc(MAX_CACHED, sizeof(*w->cached));
	w->seed = 1;
	strcpy(w->path, "/dev/shm/mayfly-power-XXXXXX");
	w->fd = mkstemp(w->path);
	snprintf(w->disk, sizeof(w->disk), "%s.disk", w->path);
	w->disk_fd = open(w->disk, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(w->cached && w->fd >= 0 && w->disk_fd >= 0);
	strcpy(w->cfg.drive_id, "rootfs");
	strcpy(w->cfg.overlay_path, w->path);
	w->cfg.cache_type = CACHE_WRITEBACK;
	start(w);
	assert_int_equal(block_overlay_clone(w->ov, w->disk_fd), 0);
	for (life = 0; life < 1500; life++) {
		if (life % 8 == 0) { /* few bits are new in an old delta */
			block_overlay_close(w->ov);
			memset(w->flushed, 0, sizeof(w->flushed));
			memset(w->now, 0, sizeof(w->now));
			assert_int_equal(ftruncate(w->fd, 32), 0);
			assert_int_equal(ftruncate(w->disk_fd, 0), 0);
			start(w);
			assert_int_equal(block_overlay_clone(w->ov, w->disk_fd), 0);
		}
		steps = 1 + dice(w, 120);
		for (step = 0; step < steps; step++)
			go_on(w, &w->actor[dice(w, NR_ACTORS)]);
		power_cut(w);
	}
	assert_true(w->nr_flushes > 500 && w->nr_kept > 5000 && w->nr_lost > 5000);
	block_overlay_close(w->ov);
	close(w->fd);
	close(w->disk_fd);
	unlink(w->path);
	unlink(w->disk);
	free(w->cached);
	free(w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(test_power_cuts) };

	return cmocka_run_group_tests_name("overlay_power", tests, NULL, NULL);
}
