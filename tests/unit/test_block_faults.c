/* test_block_faults.c: virtio-blk when the driver, the file or the moment is wrong. */
#include "block_fixture.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SECTORS (DISK_SIZE / 512)
#define OK      VIRTIO_BLK_S_OK
#define IOERR   VIRTIO_BLK_S_IOERR
#define UNSUPP  VIRTIO_BLK_S_UNSUPP

/* Requests that are well-formed, and refused. */
static void test_refused(void **state)
{
	static const struct {
		const char *name;
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		uint8_t expected;
	} cases[] = {
		{ "read of 1 byte", VIRTIO_BLK_T_IN, 0, 1, IOERR },
		{ "read of 511 bytes", VIRTIO_BLK_T_IN, 0, 511, IOERR },
		{ "write of 513 bytes", VIRTIO_BLK_T_OUT, 0, 513, IOERR },
		{ "read at the end", VIRTIO_BLK_T_IN, SECTORS, 512, IOERR },
		{ "read across the end", VIRTIO_BLK_T_IN, SECTORS - 1, 1024, IOERR },
		{ "write across the end", VIRTIO_BLK_T_OUT, SECTORS - 1, 1024, IOERR },
		{ "nothing beyond the end", VIRTIO_BLK_T_IN, SECTORS + 1, 0, IOERR },
		{ "sector whose byte offset wraps", VIRTIO_BLK_T_IN, 1ull << 55, 512, IOERR },
		{ "sector whose byte offset wraps to 0", VIRTIO_BLK_T_OUT, 1ull << 55, 512, IOERR },
		{ "sector 2^64 - 1", VIRTIO_BLK_T_IN, UINT64_MAX, 512, IOERR },
		{ "sector 2^64 - 1, write", VIRTIO_BLK_T_OUT, UINT64_MAX, 1024, IOERR },
		{ "id into no buffer", VIRTIO_BLK_T_GET_ID, 0, 0, IOERR },
		{ "discard without a range", VIRTIO_BLK_T_DISCARD, 0, 0, IOERR },
		{ "discard with half a range", VIRTIO_BLK_T_DISCARD, 0, 8, IOERR },
		{ "discard with two ranges", VIRTIO_BLK_T_DISCARD, 0, 32, IOERR },
		{ "zeroes with two ranges", VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, IOERR },
		{ "secure erase", VIRTIO_BLK_T_SECURE_ERASE, 0, 16, UNSUPP },
		{ "SCSI", VIRTIO_BLK_T_SCSI_CMD, 0, 512, UNSUPP },
		{ "type 3", 3, 0, 512, UNSUPP },
		{ "type 2^32 - 1", UINT32_MAX, 0, 512, UNSUPP },
	};
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (request(f, cases[i].type, cases[i].sector, cases[i].len) != cases[i].expected)
			fail_msg("%s: status %u, not %u", cases[i].name, slot_status(f, 0), cases[i].expected);
	}
	assert_int_equal(f->broken, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
}

static void test_refused_ranges(void **state)
{
	static const struct {
		uint32_t type;
		struct virtio_blk_discard_write_zeroes range;
		uint8_t expected;
	} cases[] = {
		{ VIRTIO_BLK_T_DISCARD, { SECTORS, 1, 0 }, IOERR },
		{ VIRTIO_BLK_T_DISCARD, { SECTORS - 1, 2, 0 }, IOERR },
		{ VIRTIO_BLK_T_DISCARD, { UINT64_MAX, 1, 0 }, IOERR },
		{ VIRTIO_BLK_T_DISCARD, { 1ull << 55, 8, 0 }, IOERR },
		{ VIRTIO_BLK_T_DISCARD, { 0, UINT32_MAX, 0 }, IOERR },
		{ VIRTIO_BLK_T_DISCARD, { 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP }, UNSUPP },
		{ VIRTIO_BLK_T_DISCARD, { 0, 8, 1u << 31 }, UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, { 0, 8, 2 }, UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, { SECTORS - 1, 2, 1 }, IOERR },
		{ VIRTIO_BLK_T_WRITE_ZEROES, { 0, UINT32_MAX, 0 }, IOERR },
	};
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(slot_data(f, 0), &cases[i].range, 16);
		if (request(f, cases[i].type, 0, 16) != cases[i].expected)
			fail_msg("case %u: status %u, not %u", i, slot_status(f, 0), cases[i].expected);
	}
	/* Not acknowledged: not there. */
	assert_true(reset_device(f));
	activate(f, 1ull << VIRTIO_BLK_F_FLUSH);
	memcpy(slot_data(f, 0), &(struct virtio_blk_discard_write_zeroes){ 0, 8, 0 }, 16);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 16), UNSUPP);
	assert_int_equal(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), UNSUPP);
}

static void test_read_only(void **state)
{
	struct fixture *f = *state;

	f->cfg.is_read_only = true;
	fixture_reopen(f);
	memcpy(slot_data(f, 0), &(struct virtio_blk_discard_write_zeroes){ 0, 8, 0 }, 16);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 16), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), OK);
}

/* Requests that cannot be answered: the device asks to be reset, and works afterwards. */
static void test_broken_then_reset(void **state)
{
	static const struct {
		const char *name;
		uint32_t out_len, in_len;
		uint16_t last_flags;
	} cases[] = {
		{ "no status", 16, 0, 0 },           { "no header", 0, 1, 0 },
		{ "header of 15 bytes", 15, 1, 0 },  { "header of 1 byte", 1, 1, 0 },
		{ "data but no status", 528, 0, 0 }, { "chain that loops", 16, 1, VRING_DESC_F_NEXT },
	};
	struct fixture *f = *state;
	unsigned int i, interrupts;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		slot_header(f, 0, VIRTIO_BLK_T_IN, 0);
		driver_desc(&f->ring, 0, SLOT_GPA(0), cases[i].out_len, cases[i].in_len ? VRING_DESC_F_NEXT : 0, 1);
		driver_desc(&f->ring, 1, SLOT_GPA(0) + STATUS_OFF, cases[i].in_len,
			    (uint16_t)(VRING_DESC_F_WRITE | cases[i].last_flags), 1);
		driver_offer(&f->ring, cases[i].out_len ? 0 : 1);
		interrupts = f->interrupts;
		kick(f);
		if (f->broken != i + 1 || f->dev->active)
			fail_msg("%s: the device goes on", cases[i].name);
		assert_int_equal(f->interrupts, interrupts);
		assert_int_equal(driver_used_idx(&f->ring), 0);
		assert_true(reset_device(f));
		activate(f, ~0ull);
		assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
		assert_true(reset_device(f));
		activate(f, ~0ull);
	}
}

static bool reset_was_done(struct fixture *f)
{
	return f->resets_done;
}

/* Requests before the bad one are in flight when the device breaks; their answers must not appear any more. */
static void test_broken_while_in_flight(void **state)
{
	struct fixture *f = *state;

	offer(f, 0, VIRTIO_BLK_T_FLUSH, 0, 0);
	offer(f, 1, VIRTIO_BLK_T_FLUSH, 0, 0);
	driver_offer(&f->ring, 9999);
	kick(f);
	assert_int_equal(f->broken, 1);
	if (!reset_device(f))
		serve_until(f, reset_was_done);
	assert_int_equal(driver_used_idx(&f->ring), 0);
	activate(f, ~0ull);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
}

/* The same buffer offered over and over, more often than there are requests. */
static void test_more_than_the_queue_holds(void **state)
{
	struct fixture *f = *state;
	unsigned int i, k;

	for (k = 0; k < 4; k++) {
		for (i = 0; i < VIRTQUEUE_MAX_SIZE; i++)
			offer(f, 0, VIRTIO_BLK_T_OUT, 0, 4096);
		kick(f);
		while (f->dev->queue[0].next_avail != f->ring.avail_idx)
			wait_used(f, (uint16_t)(driver_used_idx(&f->ring) + 1));
	}
	wait_used(f, 4 * VIRTQUEUE_MAX_SIZE);
	assert_int_equal(f->broken, 0);
	assert_int_equal(slot_status(f, 0), OK);
}

static void test_file_cut_short(void **state)
{
	struct fixture *f = *state;
	uint64_t errors = metrics.block_io_errors;

	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS - 8, 4096), OK);
	assert_int_equal(truncate(f->cfg.path_on_host, 10240), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, SECTORS - 8, 4096), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 16, 4096), IOERR); /* 2048 bytes, then nothing */
	assert_int_equal(last_used_len(f), 2048);
	assert_int_equal(metrics.block_io_errors, errors + 2);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 4096), OK);
	assert_int_equal(truncate(f->cfg.path_on_host, DISK_SIZE), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, SECTORS - 8, 4096), OK);
	assert_int_equal(f->broken, 0);
}

/* The limit cuts one write in two: the first half goes through, the second does not. */
static void test_file_size_limit(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, low;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = (struct rlimit){ .rlim_cur = 1 << 20, .rlim_max = old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 2048 - 8, 8192), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 4096, 4096), IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 4096), OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), OK);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 4096, 4096), OK);
}

/* A real, small, full file system; then a discard makes room again. */
static void full_file_system(void **state, enum block_io_engine engine)
{
	char dir[] = "/tmp/mayfly-full-XXXXXX";
	struct virtio_blk_discard_write_zeroes all = { 0, SECTORS, 0 };
	unsigned int i, written = 0, failed = 0;
	struct fixture *f;

	assert_non_null(mkdtemp(dir));
	if (mount("none", dir, "tmpfs", 0, "size=1m"))
		fail_msg("a tmpfs of 1 MiB: %s (needs root or user namespaces)", strerror(errno));
	assert_int_equal(fixture_setup_in(state, engine, dir), 0);
	f = *state;
	for (i = 0; i < DISK_SIZE / 65536; i++) {
		uint8_t status = request(f, VIRTIO_BLK_T_OUT, i * 128, 65536);

		written += status == OK;
		failed += status == IOERR;
	}
	assert_in_range(written, 12, 16);
	assert_int_equal(written + failed, DISK_SIZE / 65536);
	memcpy(slot_data(f, 0), &all, sizeof(all));
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, sizeof(all)), OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8192, 65536), OK);
	assert_int_equal(f->broken, 0);
	fixture_teardown(state);
	umount(dir);
	rmdir(dir);
}

static void test_full_file_system(void **state)
{
	full_file_system(state, BLOCK_IO_URING);
	full_file_system(state, BLOCK_IO_THREAD);
}

static void offer_reads(struct fixture *f, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++)
		offer(f, i, VIRTIO_BLK_T_IN, i, 512);
	kick(f);
}

static void test_throttled(void **state)
{
	static const struct rate_limiter_config slow = { .ops = { .size = 2, .refill_time = 100 } }, unlimited;
	struct fixture *f = *state;
	uint64_t start, waits = metrics.block_rate_limiter_throttled_events;

	f->cfg.rate_limiter = slow;
	fixture_reopen(f);
	start = event_loop_now_ns();
	offer_reads(f, 6);
	wait_used(f, 6);
	assert_in_range(event_loop_now_ns() - start, 190000000, 2000000000);
	assert_true(metrics.block_rate_limiter_throttled_events >= waits + 2);
	/* What waits, waits in the ring: a pause finds nothing taken and nothing lost. */
	offer_reads(f, 6);
	if (!block_drain(f->blk, NULL, NULL))
		wait_used(f, f->dev->queue[0].next_avail);
	assert_int_equal(f->dev->queue[0].next_avail, driver_used_idx(&f->ring));
	assert_true(driver_used_idx(&f->ring) < 12);
	block_resume(f->blk);
	/* New limits count at once. */
	block_set_rate(f->blk, &unlimited);
	start = event_loop_now_ns();
	wait_used(f, 12);
	assert_true(event_loop_now_ns() - start < 90000000);
	/* And a reset forgets what was waiting. */
	block_set_rate(f->blk, &slow);
	offer_reads(f, 6);
	if (!reset_device(f))
		serve_until(f, reset_was_done);
	assert_null(f->loop.timers);
	assert_true(driver_used_idx(&f->ring) < 18);
}

static void test_reset_in_flight(void **state)
{
	struct fixture *f = *state;
	unsigned int round, waited = 0;
	uint16_t used;

	for (round = 0; round < 20; round++) {
		f->resets_done = 0;
		offer(f, 0, VIRTIO_BLK_T_OUT, 0, 65536);
		offer(f, 1, VIRTIO_BLK_T_FLUSH, 0, 0);
		kick(f);
		used = driver_used_idx(&f->ring);
		if (!reset_device(f)) {
			waited++;
			serve_until(f, reset_was_done);
		}
		assert_int_equal(driver_used_idx(&f->ring), used);
		activate(f, ~0ull);
		assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
		reset_device(f);
		activate(f, ~0ull);
	}
	assert_true(waited > 0);
}

static void count_drained(void *opaque)
{
	struct fixture *f = opaque;

	f->drained++;
}

static bool was_drained(struct fixture *f)
{
	return f->drained;
}

static void test_drain(void **state)
{
	struct fixture *f = *state;
	unsigned int round;

	for (round = 0; round < 20; round++) {
		uint16_t before = f->ring.avail_idx;

		f->drained = 0;
		offer(f, 0, VIRTIO_BLK_T_OUT, 0, 65536);
		offer(f, 1, VIRTIO_BLK_T_FLUSH, 0, 0);
		kick(f);
		if (!block_drain(f->blk, count_drained, f))
			serve_until(f, was_drained);
		assert_int_equal(driver_used_idx(&f->ring), (uint16_t)(before + 2));
		/* Asleep: nothing is taken until it is resumed. */
		offer(f, 2, VIRTIO_BLK_T_IN, 0, 512);
		kick(f);
		assert_int_equal(f->dev->queue[0].next_avail, (uint16_t)(before + 2));
		block_resume(f->blk);
		wait_used(f, (uint16_t)(before + 3));
		assert_true(f->drained <= 1);
	}
}

static void test_destroy_in_flight(void **state)
{
	struct fixture *f = *state;
	unsigned int round, i;

	for (round = 0; round < 10; round++) {
		for (i = 0; i < 16; i++)
			offer(f, i, i % 2 ? VIRTIO_BLK_T_FLUSH : VIRTIO_BLK_T_OUT, i * 128, i % 2 ? 0 : 65536);
		kick(f);
		fixture_reopen(f);
	}
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
}

static void test_replace(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	struct virtio_blk_config cfg;
	char other[64];
	uint8_t first[512];

	make_file(other, sizeof(other), "/tmp", 4 << 20);
	memset(slot_data(f, 0), 0x11, 65536);
	offer(f, 0, VIRTIO_BLK_T_OUT, 0, 65536);
	kick(f);
	assert_int_equal(block_replace(f->blk, other, &err), 0);
	assert_int_equal(f->config_changes, 1);
	wait_used(f, 1);
	host_read(f, 0, first, sizeof(first)); /* in flight: the old file */
	assert_true(all_bytes(first, sizeof(first), 0x11));
	f->dev->ops->read_config(f->dev, 0, &cfg, sizeof(cfg));
	assert_int_equal(cfg.capacity, (4 << 20) / 512);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), OK);
	assert_true(all_bytes(slot_data(f, 0), 512, 0));
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8192, 512), IOERR);
	/* The same file, larger. */
	assert_int_equal(truncate(other, 6 << 20), 0);
	assert_int_equal(block_replace(f->blk, NULL, &err), 0);
	assert_int_equal(f->config_changes, 2);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8192, 512), OK);
	/* A bad file leaves the good one in place. */
	assert_int_equal(block_replace(f->blk, "/nonexistent/disk", &err), -ENOENT);
	assert_int_equal(f->config_changes, 2);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8192, 512), OK);
	/* And one that has vanished is still open. */
	unlink(other);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8192, 512), OK);
}

static void expect_refused(struct fixture *f, const char *path, bool read_only, int code, const char *says)
{
	struct drive_config cfg = f->cfg;
	struct error err = { 0 };
	struct block *blk;

	snprintf(cfg.path_on_host, sizeof(cfg.path_on_host), "%s", path);
	cfg.is_read_only = read_only;
	assert_int_equal(block_create(&blk, &cfg, &f->gm, &f->loop, &err), code);
	if (strncmp(err.message, "drives[rootfs].path_on_host: ", 29) || !strstr(err.message, says) ||
	    !strstr(err.message, path))
		fail_msg("%s: %s", path, err.message);
}

static void test_open_errors(void **state)
{
	struct fixture *f = *state;
	char fifo[] = "/tmp/mayfly-test-fifo", elf[] = "/proc/self/exe";
	unsigned int ro;

	unlink(fifo);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	for (ro = 0; ro < 2; ro++) {
		expect_refused(f, "/nonexistent/disk", ro, -ENOENT, "needs an existing file or block device");
		expect_refused(f, "/dev/null/disk", ro, -ENOTDIR, "needs an existing file or block device");
		expect_refused(f, "/tmp", ro, -EISDIR, "Is a directory (needs a regular file or block device)");
		expect_refused(f, "/dev/null", ro, -EINVAL,
			       "Is a character device (needs a regular file or block device)");
		expect_refused(f, fifo, ro, -EINVAL, "Is a FIFO (needs a regular file or block device)");
	}
	expect_refused(f, elf, false, -ETXTBSY, "is_read_only: true");
	unlink(fifo);
}

/* A whole sector is the least a guest can see; the rest of the file is left alone. */
static void test_odd_sizes(void **state)
{
	static const struct {
		off_t size;
		uint64_t sectors;
	} cases[] = { { 0, 0 }, { 511, 0 }, { 512, 1 }, { 1000, 1 }, { 1024, 2 } };
	struct fixture *f = *state;
	struct virtio_blk_config cfg;
	unsigned int i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(truncate(f->cfg.path_on_host, cases[i].size), 0);
		fixture_reopen(f);
		f->dev->ops->read_config(f->dev, 0, &cfg, sizeof(cfg));
		assert_int_equal(cfg.capacity, cases[i].sectors);
		assert_int_equal(request(f, VIRTIO_BLK_T_OUT, cases[i].sectors, 512), IOERR);
		assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512), cases[i].sectors ? OK : IOERR);
	}
}

/* In a child, because the filter that denies io_uring cannot be taken off again. */
static int child_without_uring(void **state)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = 4, .filter = code };
	struct fixture *f;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return 2;
	if (fixture_setup_in(state, BLOCK_IO_AUTO, "/tmp"))
		return 3;
	f = *state;
	memset(slot_data(f, 0), 0x77, 512);
	if (request(f, VIRTIO_BLK_T_OUT, 5, 512) != OK || request(f, VIRTIO_BLK_T_FLUSH, 0, 0) != OK)
		return 4;
	memset(slot_data(f, 0), 0, 512);
	if (request(f, VIRTIO_BLK_T_IN, 5, 512) != OK || !all_bytes(slot_data(f, 0), 512, 0x77))
		return 5;
	fixture_teardown(state);
	return 0;
}

static void test_uring_denied(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(child_without_uring(state));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		BOTH_ENGINES(test_refused),
		BOTH_ENGINES(test_refused_ranges),
		BOTH_ENGINES(test_read_only),
		BOTH_ENGINES(test_broken_then_reset),
		BOTH_ENGINES(test_broken_while_in_flight),
		BOTH_ENGINES(test_more_than_the_queue_holds),
		BOTH_ENGINES(test_file_cut_short),
		BOTH_ENGINES(test_file_size_limit),
		cmocka_unit_test(test_full_file_system),
		BOTH_ENGINES(test_throttled),
		BOTH_ENGINES(test_reset_in_flight),
		BOTH_ENGINES(test_drain),
		BOTH_ENGINES(test_destroy_in_flight),
		BOTH_ENGINES(test_replace),
		BOTH_ENGINES(test_open_errors),
		BOTH_ENGINES(test_odd_sizes),
		cmocka_unit_test(test_uring_denied),
	};

	/* The mount of test_full_file_system is for this process alone. */
	if (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0)
		mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	return cmocka_run_group_tests_name("block_faults", tests, NULL, NULL);
}
