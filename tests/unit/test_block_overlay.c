/* test_block_overlay.c: a drive with an overlay against a model of its sectors, over restarts, kills and host errors.
 */
#include "block_fixture.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "block_io.h"

#define OK    VIRTIO_BLK_S_OK
#define IOERR VIRTIO_BLK_S_IOERR

/* Two chunks of the bitmap and a bit: what is read and written lies where they begin and end. */
#define SECTORS     (2 * 32768u + 1003u)
#define WINDOW      1003u
#define NR_WINDOWS  3u
#define MODELLED    (NR_WINDOWS * WINDOW)
#define BASE        0u         /* version of a sector: as in the base, */
#define ZEROED      UINT32_MAX /* all zeros; others are numbers of writes */
#define MAX_AT_ONCE 7u
#define REQUEST_MAX 200u /* sectors */
#define DELTA_DATA  (1u << 20)

struct world {
	char base[PATH_MAX], delta[PATH_MAX];
	unsigned int nr_deltas;
	uint32_t now[MODELLED], flushed[MODELLED];
	bool zeroed[MODELLED]; /* since the last flush */
	uint32_t version;      /* of the last write */
	unsigned int seed;
};

static unsigned int dice(struct world *w, unsigned int sides)
{
	w->seed = w->seed * 1664525u + 1013904223u;
	return (unsigned int)((uint64_t)(w->seed >> 8) * sides >> 24);
}

/* Number i of what is modelled, as a sector of the disk. */
static uint64_t sector_of(unsigned int i)
{
	static const uint64_t start[NR_WINDOWS] = { 0, 32768 - WINDOW / 2, SECTORS - WINDOW };

	return start[i / WINDOW] + i % WINDOW;
}

static void make_sector(uint64_t *words, uint64_t sector, uint32_t version)
{
	unsigned int i;

	words[0] = sector << 32 | version;
	for (i = 1; i < 64; i++)
		words[i] = words[i - 1] * 6364136223846793005ull + i;
	if (version == ZEROED)
		memset(words, 0, 512);
}

static uint32_t version_of(const uint8_t *data, uint64_t sector)
{
	uint64_t expected[64], first;
	uint32_t version;

	memcpy(&first, data, 8);
	version = all_bytes(data, 512, 0) ? ZEROED : (uint32_t)first;
	make_sector(expected, sector, version);
	if (memcmp(expected, data, 512) != 0)
		fail_msg("sector %llu is torn or of another place", (unsigned long long)sector);
	return version;
}

static void make_base(const char *path)
{
	static uint64_t base[SECTORS][64];
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	uint64_t i;

	assert_true(fd >= 0);
	for (i = 0; i < SECTORS && !base[SECTORS - 1][1]; i++)
		make_sector(base[i], i, BASE);
	assert_int_equal(write(fd, base, sizeof(base)), sizeof(base));
	close(fd);
}

static struct world *begin(struct fixture *f, enum cache_type cache, unsigned int seed)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->seed = seed;
	snprintf(w->base, sizeof(w->base), "%s", f->cfg.path_on_host);
	snprintf(w->delta, sizeof(w->delta), "%.4000s.delta", w->base);
	make_base(w->base);
	memcpy(f->cfg.overlay_path, w->delta, sizeof(f->cfg.overlay_path));
	f->cfg.cache_type = cache;
	fixture_reopen(f);
	assert_int_equal(fcntl(block_fd(f->blk), F_GETFL) & O_ACCMODE, O_RDONLY); /* also by no mistake of ours */
	return w;
}

static void end(struct fixture *f, struct world *w)
{
	uint8_t *base = malloc(SECTORS * 512u);
	uint64_t i;

	assert_non_null(base);
	host_read(f, 0, base, SECTORS * 512u);
	for (i = 0; i < SECTORS; i++)
		assert_int_equal(version_of(base + i * 512, i), BASE);
	unlink(w->delta);
	free(base);
	free(w);
}

/* ---- requests ---- */

struct job {
	uint32_t type;
	unsigned int first, n;
};

static void offer_job(struct fixture *f, struct world *w, unsigned int slot, const struct job *job)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = sector_of(job->first), .num_sectors = job->n };
	uint64_t words[64];
	unsigned int i;

	switch (job->type) {
	case VIRTIO_BLK_T_OUT:
		w->version++;
		for (i = 0; i < job->n; i++) {
			make_sector(words, sector_of(job->first + i), w->version);
			memcpy(slot_data(f, slot) + i * 512, words, 512);
			w->now[job->first + i] = w->version;
		}
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		range.flags = dice(w, 2);
		__attribute__((fallthrough));
	case VIRTIO_BLK_T_DISCARD:
		memcpy(slot_data(f, slot), &range, sizeof(range));
		for (i = 0; i < job->n; i++) {
			w->now[job->first + i] = ZEROED;
			w->zeroed[job->first + i] = true;
		}
		offer(f, slot, job->type, 0, sizeof(range));
		return;
	default:
		break;
	}
	offer(f, slot, job->type, sector_of(job->first), job->n * 512);
}

static void check_job(struct fixture *f, const struct world *w, unsigned int slot, const struct job *job)
{
	unsigned int i;

	assert_int_equal(slot_status(f, slot), OK);
	for (i = 0; job->type == VIRTIO_BLK_T_IN && i < job->n; i++)
		assert_int_equal(version_of(slot_data(f, slot) + i * 512, sector_of(job->first + i)),
				 w->now[job->first + i]);
}

/* Some requests at once, each in a part of a window of its own. */
static void some_requests(struct fixture *f, struct world *w)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,          VIRTIO_BLK_T_IN,  VIRTIO_BLK_T_OUT,
					  VIRTIO_BLK_T_OUT,         VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD,
					  VIRTIO_BLK_T_WRITE_ZEROES };
	const unsigned int window = dice(w, NR_WINDOWS), n = 1 + dice(w, MAX_AT_ONCE), part = WINDOW / n;
	struct job job[MAX_AT_ONCE];
	unsigned int i, max, offset;

	for (i = 0; i < n; i++) {
		offset = dice(w, part);
		max = part - offset < REQUEST_MAX ? part - offset : REQUEST_MAX;
		job[i] = (struct job){ types[dice(w, 7)], window * WINDOW + i * part + offset, 1 + dice(w, max) };
		offer_job(f, w, i, &job[i]);
	}
	kick(f);
	wait_used(f, f->ring.avail_idx);
	for (i = 0; i < n; i++)
		check_job(f, w, i, &job[i]);
}

static void flush(struct fixture *f, struct world *w)
{
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), OK);
	memcpy(w->flushed, w->now, sizeof(w->now));
	memset(w->zeroed, 0, sizeof(w->zeroed));
}

/* What is read must be what the model says, or, where things were lost, a write since the last flush or what was
 * flushed. */
static void look_at_all(struct fixture *f, struct world *w, bool losses)
{
	unsigned int i, k, n;
	uint32_t version;

	for (i = 0; i < MODELLED; i += n) {
		n = WINDOW - i % WINDOW < REQUEST_MAX ? WINDOW - i % WINDOW : REQUEST_MAX;
		assert_int_equal(request(f, VIRTIO_BLK_T_IN, sector_of(i), n * 512), OK);
		for (k = i; k < i + n; k++) {
			version = version_of(slot_data(f, 0) + (k - i) * 512, sector_of(k));
			if (losses && (version == w->flushed[k] || (version == ZEROED && w->zeroed[k]) ||
				       (version != ZEROED && version > w->flushed[k])))
				w->now[k] = version;
			assert_int_equal(version, w->now[k]);
		}
	}
	memcpy(w->flushed, w->now, sizeof(w->now));
}

static void copy_file(const char *from, const char *to)
{
	static const uint8_t zeros[65536];
	uint8_t data[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	ssize_t n;
	off_t at;

	assert_true(in >= 0 && out >= 0 && fstat(in, &st) == 0 && ftruncate(out, st.st_size) == 0);
	for (at = 0; (n = pread(in, data, sizeof(data), at)) > 0; at += n) {
		if (memcmp(data, zeros, (size_t)n) != 0)
			assert_int_equal(pwrite(out, data, (size_t)n, at), n);
	}
	close(in);
	close(out);
}

/* Go on with the file as it is at this moment, as after a SIGKILL: what the process knows besides is lost. */
static void kill_it(struct fixture *f, struct world *w)
{
	char next[PATH_MAX];

	snprintf(next, sizeof(next), "%.4000s.delta%u", w->base, ++w->nr_deltas);
	copy_file(w->delta, next);
	unlink(w->delta);
	memcpy(w->delta, next, sizeof(next));
	memcpy(f->cfg.overlay_path, next, sizeof(next));
	fixture_reopen(f);
}

static void against_model(void **state, enum cache_type cache, uint64_t features)
{
	struct fixture *f = *state;
	struct world *w = begin(f, cache, 5);
	unsigned int i;

	if (features != ~0ull) {
		assert_true(reset_device(f));
		activate(f, features);
	}
	for (i = 0; i < 250; i++) {
		some_requests(f, w);
		if (cache == CACHE_WRITEBACK && features == ~0ull && dice(w, 8) == 0)
			flush(f, w);
		if (dice(w, 20))
			continue;
		if (dice(w, 2)) {
			kill_it(f, w);
			look_at_all(f, w, cache == CACHE_WRITEBACK && features == ~0ull);
		} else {
			fixture_reopen(f);
			look_at_all(f, w, false);
		}
		if (features != ~0ull) {
			assert_true(reset_device(f));
			activate(f, features);
		}
	}
	look_at_all(f, w, false);
	end(f, w);
}

static void test_model_writeback(void **state)
{
	against_model(state, CACHE_WRITEBACK, ~0ull);
}

/* The guest cannot flush; so all that was answered survives a kill. */
static void test_model_unsafe(void **state)
{
	against_model(state, CACHE_UNSAFE, ~0ull);
}

/* A driver that does not flush though it could: every write is durable. */
static void test_model_writethrough(void **state)
{
	against_model(state, CACHE_WRITEBACK, 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
}

/* ---- commits ---- */

/* More writes and flushes than there can be commits at once: each is answered, and finds what it asks for done. */
static void test_many_at_once(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	unsigned int round, i;
	struct job job;

	for (round = 0; round < 20; round++) {
		for (i = 0; i < NR_SLOTS; i++) {
			job = (struct job){ i % 3 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_FLUSH, round * 100 + i,
					    i % 3 != 0 };
			offer_job(f, w, i, &job);
		}
		kick(f);
		wait_used(f, f->ring.avail_idx);
		for (i = 0; i < NR_SLOTS; i++)
			assert_int_equal(slot_status(f, i), OK);
	}
	flush(f, w);
	kill_it(f, w);
	look_at_all(f, w, false);
	end(f, w);
}

static bool reset_was_done(struct fixture *f)
{
	return f->resets_done;
}

/* A reset finds commits running and waiting; the next driver's flush does all of it. */
static void test_reset_while_committing(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	unsigned int round, i, waited = 0;
	struct job job;

	for (round = 0; round < 30; round++) {
		f->resets_done = 0;
		for (i = 0; i < 8; i++) {
			job = (struct job){ VIRTIO_BLK_T_OUT, round * 20 + i, 1 };
			offer_job(f, w, i, &job);
		}
		kick(f);
		wait_used(f, f->ring.avail_idx);
		for (i = 0; i < 8; i++)
			offer(f, i, VIRTIO_BLK_T_FLUSH, 0, 0);
		kick(f);
		if (!reset_device(f)) {
			waited++;
			serve_until(f, reset_was_done);
		}
		activate(f, ~0ull);
	}
	assert_true(waited > 0);
	flush(f, w);
	kill_it(f, w);
	look_at_all(f, w, false);
	end(f, w);
}

/* ---- discard ---- */

static void test_discard(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	struct virtio_blk_discard_write_zeroes most = { 1, 40000, 0 };
	struct stat before, after;
	unsigned int i;

	memset(slot_data(f, 0), 7, 65536);
	for (i = 0; i < 64; i++)
		assert_int_equal(request(f, VIRTIO_BLK_T_OUT, i * 128, 65536), OK);
	assert_int_equal(stat(w->delta, &before), 0);
	memcpy(slot_data(f, 0), &most, sizeof(most));
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, sizeof(most)), OK);
	assert_int_equal(stat(w->delta, &after), 0);
	assert_true(after.st_blocks + 8000 < before.st_blocks);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 1024), OK);
	assert_true(all_bytes(slot_data(f, 0), 512, 7) && all_bytes(slot_data(f, 0) + 512, 512, 0));
	/* Also what was never written, up to the last sector of it. */
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 40000, 1024), OK);
	assert_true(all_bytes(slot_data(f, 0), 512, 0));
	assert_int_equal(version_of(slot_data(f, 0) + 512, 40001), BASE);
	end(f, w);
}

/* ---- read-only, clone, replace ---- */

static void test_read_only(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	struct fixture other = { .cfg = f->cfg };
	struct error err = { 0 };
	struct job job = { VIRTIO_BLK_T_OUT, 3, 5 };

	offer_job(f, w, 0, &job);
	kick(f);
	wait_used(f, 1);
	/* While somebody may write, nobody reads. */
	other.cfg.is_read_only = true;
	assert_int_equal(block_create(&other.blk, &other.cfg, &f->gm, &f->loop, &err), -EBUSY);
	f->cfg.is_read_only = true;
	chmod(w->delta, 0400);
	chmod(w->base, 0400);
	fixture_reopen(f);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), OK);
	look_at_all(f, w, false);
	/* Two that read are fine, and nobody writes meanwhile. */
	assert_int_equal(block_create(&other.blk, &other.cfg, &f->gm, &f->loop, &err), 0);
	block_destroy(other.blk);
	chmod(w->delta, 0600);
	other.cfg.is_read_only = false;
	assert_int_equal(block_create(&other.blk, &other.cfg, &f->gm, &f->loop, &err), -EBUSY);
	end(f, w);
}

static void test_replace_is_refused(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	struct error err = { 0 };

	assert_int_equal(block_replace(f->blk, w->base, &err), -EBUSY);
	assert_non_null(strstr(err.message, "drives[rootfs].path_on_host: "));
	assert_int_equal(block_replace(f->blk, NULL, &err), -EBUSY);
	assert_int_equal(f->config_changes, 0);
	look_at_all(f, w, false);
	end(f, w);
}

/* A clone has all that was answered, and what either writes afterwards is its own. */
static void clone_in(struct fixture *f, const char *dir)
{
	struct world *w = begin(f, CACHE_WRITEBACK, 9), *copy = malloc(sizeof(*w));
	struct stat st;
	struct error err = { 0 };
	unsigned int i;
	int to;

	assert_non_null(copy);
	for (i = 0; i < 50; i++)
		some_requests(f, w);
	*copy = *w;
	snprintf(copy->delta, sizeof(copy->delta), "%s/mayfly-clone-%d", dir, getpid());
	to = open(copy->delta, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(to >= 0);
	assert_true(block_drain(f->blk, NULL, NULL));
	assert_int_equal(block_clone_overlay(f->blk, to, &err), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_true(st.st_blocks * 512 < 8 << 20); /* 34 MB long */
	close(to);
	block_resume(f->blk);
	for (i = 0; i < 50; i++)
		some_requests(f, w);
	look_at_all(f, w, false);
	memcpy(f->cfg.overlay_path, copy->delta, sizeof(copy->delta));
	fixture_reopen(f);
	look_at_all(f, copy, false);
	unlink(copy->delta);
	free(copy);
	end(f, w);
}

static void test_clone(void **state)
{
	clone_in(*state, "/tmp");
}

static void test_clone_to_another_file_system(void **state)
{
	clone_in(*state, "/tmp");
}

/* What a snapshot of memory needs besides: no word of the bitmap is only in this process. */
static void test_save(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 3);
	struct error err = { 0 };
	unsigned int i;

	for (i = 0; i < 20; i++)
		some_requests(f, w);
	assert_true(block_drain(f->blk, NULL, NULL));
	assert_int_equal(block_save_overlay(f->blk, &err), 0);
	block_resume(f->blk);
	kill_it(f, w);
	look_at_all(f, w, false);
	end(f, w);
}

/* ---- files that are no overlay ---- */

static void put(const char *path, const void *data, size_t len, off_t at)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, at), (ssize_t)len);
	close(fd);
}

static void expect_refused(struct fixture *f, const char *path, int code, const char *says)
{
	struct drive_config cfg = f->cfg;
	struct error err = { 0 };
	struct block *blk;

	snprintf(cfg.overlay_path, sizeof(cfg.overlay_path), "%s", path);
	if (block_create(&blk, &cfg, &f->gm, &f->loop, &err) != code)
		fail_msg("%s: %d %s", says, err.code, err.message);
	if (strncmp(err.message, "drives[rootfs].overlay_path: ", 29) || !strstr(err.message, says) ||
	    !strstr(err.message, path))
		fail_msg("%s: %s", path, err.message);
}

static void test_kinds_of_file(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	const char *fifo = "/tmp/mayfly-test-overlay-fifo", *link = "/tmp/mayfly-test-overlay-link";

	unlink(fifo);
	unlink(link);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	assert_int_equal(symlink("/tmp/mayfly-test-nowhere", link), 0);
	expect_refused(f, "/tmp", -EISDIR, "Is a directory (needs a regular file)");
	expect_refused(f, fifo, -EINVAL, "Is a FIFO (needs a regular file)");
	expect_refused(f, "/dev/null", -EINVAL, "Is a character device (needs a regular file)");
	expect_refused(f, "/nonexistent/delta", -ENOENT, "needs an existing folder");
	expect_refused(f, link, -EEXIST, "File exists"); /* nothing is made at a place that somebody else chose */
	assert_int_equal(access("/tmp/mayfly-test-nowhere", F_OK), -1);
	expect_refused(f, w->base, -EINVAL, "is no overlay");
	expect_refused(f, w->delta, -EBUSY, "each needs an overlay of its own");
	f->cfg.is_read_only = true;
	expect_refused(f, "/tmp/mayfly-test-nowhere", -ENOENT, "needs an existing file");
	unlink(fifo);
	unlink(link);
	f->cfg.is_read_only = false;
	end(f, w);
}

static void test_damaged_files(void **state)
{
	static const uint8_t version = 2, other_size = 1;
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	char bad[PATH_MAX + 8];
	const off_t whole = DELTA_DATA + SECTORS * 512ll;
	struct stat st;

	assert_int_equal(stat(w->delta, &st), 0);
	assert_int_equal(st.st_size, whole);
	assert_int_equal(st.st_mode & 07777, 0600);
	snprintf(bad, sizeof(bad), "%s.bad", w->delta);
	copy_file(w->delta, bad);
	assert_int_equal(truncate(bad, whole - 1), 0);
	expect_refused(f, bad, -EINVAL, "is not as long as it was made");
	assert_int_equal(truncate(bad, 5000), 0);
	expect_refused(f, bad, -EINVAL, "is not as long as it was made");
	assert_int_equal(truncate(bad, whole + 1), 0);
	expect_refused(f, bad, -EINVAL, "is not as long as it was made");
	assert_int_equal(truncate(bad, 17), 0);
	expect_refused(f, bad, -EINVAL, "is no overlay");
	copy_file(w->delta, bad);
	put(bad, &version, 1, 8);
	expect_refused(f, bad, -EINVAL, "another version");
	copy_file(w->delta, bad);
	put(bad, &other_size, 1, 17);
	expect_refused(f, bad, -EINVAL, "is for a disk of 34013440 bytes");
	copy_file(w->delta, bad);
	put(bad, "M", 1, 0);
	expect_refused(f, bad, -EINVAL, "is no overlay");
	/* Bits for sectors that the disk does not have are nobody's. */
	copy_file(w->delta, bad);
	put(bad, "\xff\xff\xff\xff", 4, 4096 + 3 * 4096 - 4);
	memcpy(f->cfg.overlay_path, bad, PATH_MAX);
	fixture_reopen(f);
	look_at_all(f, w, false);
	unlink(bad);
	end(f, w);
}

/* Interrupted at any point, the making of a delta goes on with the next start. */
static void test_half_made(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_WRITEBACK, 1);
	char bad[PATH_MAX];
	struct stat st;

	snprintf(bad, sizeof(bad), "%.4000s.half", w->base);
	put(bad, "", 0, 0);
	memcpy(f->cfg.overlay_path, bad, PATH_MAX);
	fixture_reopen(f);
	assert_int_equal(truncate(bad, 0), 0);
	copy_file(w->delta, bad);
	assert_int_equal(truncate(bad, 32), 0);
	fixture_reopen(f);
	look_at_all(f, w, false);
	assert_int_equal(stat(bad, &st), 0);
	assert_int_equal(st.st_size, DELTA_DATA + SECTORS * 512ll);
	unlink(bad);
	end(f, w);
}

static void test_empty_base(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	struct block *blk;

	assert_int_equal(truncate(f->cfg.path_on_host, 511), 0);
	snprintf(f->cfg.overlay_path, sizeof(f->cfg.overlay_path), "%.4000s.delta", f->cfg.path_on_host);
	assert_int_equal(block_create(&blk, &f->cfg, &f->gm, &f->loop, &err), -EINVAL);
	assert_non_null(strstr(err.message, "is empty"));
	assert_int_equal(access(f->cfg.overlay_path, F_OK), -1);
}

/* ---- the host lets the guest down ---- */

/* The delta cannot grow: those who need room are told, all else is as it was, and after a discard there is room again.
 */
static void full_file_system(struct fixture *f, enum cache_type cache)
{
	char dir[] = "/tmp/mayfly-full-XXXXXX";
	struct virtio_blk_discard_write_zeroes most = { 0, 32768, 0 };
	struct world *w = begin(f, CACHE_UNSAFE, 2);
	unsigned int i, k, written = 0, failed = 0;
	struct job job;

	unlink(w->delta);
	assert_non_null(mkdtemp(dir));
	if (mount("none", dir, "tmpfs", 0, "size=300k"))
		fail_msg("a tmpfs: %s (needs root or user namespaces)", strerror(errno));
	snprintf(w->delta, sizeof(w->delta), "%s/delta", dir);
	memcpy(f->cfg.overlay_path, w->delta, sizeof(w->delta));
	f->cfg.cache_type = cache;
	fixture_reopen(f);
	for (i = 0; i + 8 <= MODELLED && failed < 40; i += 8) {
		job = (struct job){ VIRTIO_BLK_T_OUT, i, i % WINDOW + 8 > WINDOW ? 1 : 8 };
		offer_job(f, w, 0, &job);
		kick(f);
		wait_used(f, f->ring.avail_idx);
		written += slot_status(f, 0) == OK;
		if (slot_status(f, 0) == OK)
			continue;
		assert_int_equal(slot_status(f, 0), IOERR);
		failed++;
		/* A part of it may have been written; in another life, none of what was answered is lost. */
		for (k = 0; k < job.n; k++) {
			assert_int_equal(request(f, VIRTIO_BLK_T_IN, sector_of(i + k), 512), OK);
			w->now[i + k] = version_of(slot_data(f, 0), sector_of(i + k));
		}
	}
	assert_in_range(written, 40, 75);
	look_at_all(f, w, false);
	memcpy(slot_data(f, 0), &most, sizeof(most));
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, sizeof(most)), OK);
	for (i = 0; i < MODELLED; i++)
		w->now[i] = sector_of(i) < 32768 ? ZEROED : w->now[i];
	job = (struct job){ VIRTIO_BLK_T_OUT, 0, 8 };
	offer_job(f, w, 0, &job);
	kick(f);
	wait_used(f, f->ring.avail_idx);
	assert_int_equal(slot_status(f, 0), OK);
	if (cache == CACHE_WRITEBACK)
		flush(f, w);
	fixture_reopen(f);
	look_at_all(f, w, false);
	memset(f->cfg.overlay_path, 0, sizeof(f->cfg.overlay_path));
	fixture_reopen(f);
	umount(dir);
	rmdir(dir);
	end(f, w);
}

static void test_full_file_system(void **state)
{
	full_file_system(*state, CACHE_UNSAFE);
	full_file_system(*state, CACHE_WRITEBACK);
}

static void test_delta_cut_short(void **state)
{
	struct fixture *f = *state;
	struct world *w = begin(f, CACHE_UNSAFE, 1);
	struct job job = { VIRTIO_BLK_T_OUT, 2 * WINDOW, 8 };

	offer_job(f, w, 0, &job);
	kick(f);
	wait_used(f, 1);
	assert_int_equal(truncate(w->delta, DELTA_DATA + 4096), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, sector_of(2 * WINDOW), 512), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, sector_of(WINDOW), 512), OK); /* the base's */
	assert_int_equal(truncate(w->base, 4096), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, sector_of(WINDOW), 512), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), OK);
	assert_int_equal(f->broken, 0);
	make_base(w->base);
	end(f, w);
}

/* In memory, where no sync takes long, and where a range cannot be zeroed without writing. */
static int setup_uring_shm(void **state)
{
	return fixture_setup_in(state, BLOCK_IO_URING, "/dev/shm");
}

static int setup_thread_shm(void **state)
{
	return fixture_setup_in(state, BLOCK_IO_THREAD, "/dev/shm");
}

#define ON(where, test)                                                                           \
	{ #test " (io_uring, " #where ")", test, setup_uring_##where, fixture_teardown, NULL },   \
	{                                                                                         \
#test " (thread, " #where ")", test, setup_thread_##where, fixture_teardown, NULL \
	}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		BOTH_ENGINES(test_model_unsafe),
		BOTH_ENGINES(test_discard),
		ON(shm, test_model_writeback),
		ON(shm, test_model_unsafe),
		ON(shm, test_model_writethrough),
		ON(shm, test_many_at_once),
		BOTH_ENGINES(test_reset_while_committing),
		BOTH_ENGINES(test_clone),
		ON(shm, test_read_only),
		ON(shm, test_replace_is_refused),
		ON(shm, test_clone_to_another_file_system),
		ON(shm, test_save),
		ON(shm, test_kinds_of_file),
		ON(shm, test_damaged_files),
		ON(shm, test_half_made),
		ON(shm, test_empty_base),
		ON(shm, test_full_file_system),
		ON(shm, test_delta_cut_short),
	};

	/* The mounts of test_full_file_system are for this process alone. */
	if (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0)
		mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	return cmocka_run_group_tests_name("block_overlay", tests, NULL, NULL);
}
