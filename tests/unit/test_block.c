/* test_block.c: virtio-blk requests that a driver may send, and what they do to the file. */
#include "block_fixture.h"

#include <errno.h>

#include "block_request.h"

#define ZONE_SECTORS 128u

static void test_config(void **state)
{
	struct fixture *f = *state;
	struct virtio_blk_config cfg;
	uint8_t beyond[8];

	f->dev->ops->read_config(f->dev, 0, &cfg, sizeof(cfg));
	assert_int_equal(cfg.capacity, DISK_SIZE / 512);
	assert_int_equal(cfg.seg_max, 254);
	assert_int_equal(cfg.blk_size, 512);
	assert_int_equal(cfg.physical_block_exp, 3);
	assert_int_equal(cfg.wce, 1);
	assert_int_equal(cfg.max_discard_seg, 1);
	assert_int_equal(cfg.max_write_zeroes_seg, 1);
	assert_true(cfg.max_discard_sectors > 0 && cfg.max_write_zeroes_sectors > 0);
	memset(beyond, 1, sizeof(beyond));
	f->dev->ops->read_config(f->dev, sizeof(cfg) - 4, beyond, sizeof(beyond));
	assert_true(all_bytes(beyond, sizeof(beyond), 0));
	memset(beyond, 1, sizeof(beyond));
	f->dev->ops->read_config(f->dev, UINT64_MAX - 3, beyond, sizeof(beyond));
	assert_true(all_bytes(beyond, sizeof(beyond), 0));
}

static bool has(struct fixture *f, unsigned int bit)
{
	return f->dev->ops->features(f->dev) & 1ull << bit;
}

static void test_features(void **state)
{
	struct fixture *f = *state;

	assert_true(has(f, VIRTIO_BLK_F_FLUSH) && has(f, VIRTIO_BLK_F_CONFIG_WCE) && has(f, VIRTIO_BLK_F_SEG_MAX));
	assert_true(has(f, VIRTIO_BLK_F_DISCARD) && has(f, VIRTIO_BLK_F_WRITE_ZEROES) && has(f, VIRTIO_BLK_F_TOPOLOGY));
	assert_false(has(f, VIRTIO_BLK_F_RO));
	f->cfg.cache_type = CACHE_UNSAFE;
	fixture_reopen(f);
	assert_false(has(f, VIRTIO_BLK_F_FLUSH) || has(f, VIRTIO_BLK_F_CONFIG_WCE));
	f->cfg.is_read_only = true;
	fixture_reopen(f);
	assert_true(has(f, VIRTIO_BLK_F_RO));
	assert_false(has(f, VIRTIO_BLK_F_DISCARD) || has(f, VIRTIO_BLK_F_WRITE_ZEROES));
}

static void test_write_then_read(void **state)
{
	struct fixture *f = *state;
	uint8_t host[8192];

	memset(slot_data(f, 0), 0x5A, sizeof(host));
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 3, sizeof(host)), VIRTIO_BLK_S_OK);
	assert_int_equal(last_used_len(f), 1);
	host_read(f, 3 * 512, host, sizeof(host));
	assert_true(all_bytes(host, sizeof(host), 0x5A));
	memset(slot_data(f, 0), 0, sizeof(host));
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 3, sizeof(host)), VIRTIO_BLK_S_OK);
	assert_int_equal(last_used_len(f), sizeof(host) + 1);
	assert_true(all_bytes(slot_data(f, 0), sizeof(host), 0x5A));
	assert_int_equal(f->interrupts, 1); /* used_event stayed 0: only the first one was wanted */
	assert_int_equal(f->broken, 0);
}

/* The last sectors are reachable, and an empty transfer is none. */
static void test_edges(void **state)
{
	struct fixture *f = *state;

	memset(slot_data(f, 0), 7, 1024);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, DISK_SIZE / 512 - 2, 1024), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 0), VIRTIO_BLK_S_OK);
}

static void test_get_id(void **state)
{
	struct fixture *f = *state;

	memset(slot_data(f, 0), 0xFF, 64);
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, VIRTIO_BLK_ID_BYTES), VIRTIO_BLK_S_OK);
	assert_memory_equal(slot_data(f, 0), "rootfs\0\0\0\0\0\0\0\0\0\0\0\0\0\0", VIRTIO_BLK_ID_BYTES);
	assert_int_equal(last_used_len(f), VIRTIO_BLK_ID_BYTES + 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, 64), VIRTIO_BLK_S_OK);
	assert_int_equal(last_used_len(f), VIRTIO_BLK_ID_BYTES);
	assert_int_equal(slot_data(f, 0)[VIRTIO_BLK_ID_BYTES], 0xFF);
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, 19), VIRTIO_BLK_S_IOERR);
}

static void test_flush(void **state)
{
	struct fixture *f = *state;
	uint64_t before = metrics.block_flush_count;

	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(metrics.block_flush_count, before + 1);
	f->cfg.cache_type = CACHE_UNSAFE;
	fixture_reopen(f);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
}

/* Writethrough: by the driver's choice, or because it cannot flush. */
static void test_cache_mode(void **state)
{
	static const uint8_t off = 0, two = 2;
	struct fixture *f = *state;
	const uint64_t wce = offsetof(struct virtio_blk_config, wce);
	uint8_t now;

	f->dev->ops->write_config(f->dev, wce, &two, 1);
	f->dev->ops->write_config(f->dev, 0, &off, 1);
	f->dev->ops->read_config(f->dev, wce, &now, 1);
	assert_int_equal(now, 1);
	f->dev->ops->write_config(f->dev, wce, &off, 1);
	f->dev->ops->read_config(f->dev, wce, &now, 1);
	assert_int_equal(now, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_true(reset_device(f));
	f->dev->ops->read_config(f->dev, wce, &now, 1);
	assert_int_equal(now, 1);
	activate(f, 1ull << VIRTIO_BLK_F_CONFIG_WCE);
	f->dev->ops->read_config(f->dev, wce, &now, 1);
	assert_int_equal(now, 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
}

static uint8_t range_request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t count, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = sector, .num_sectors = count, .flags = flags };

	memcpy(slot_data(f, 0), &range, sizeof(range));
	return request(f, type, 0, sizeof(range));
}

static void fill_disk(struct fixture *f, uint8_t value)
{
	static uint8_t block[65536];
	int fd = open(f->cfg.path_on_host, O_WRONLY | O_CLOEXEC);
	unsigned int i;

	memset(block, value, sizeof(block));
	assert_true(fd >= 0);
	for (i = 0; i < DISK_SIZE / sizeof(block); i++)
		assert_int_equal(pwrite(fd, block, sizeof(block), (off_t)(i * sizeof(block))), sizeof(block));
	close(fd);
}

static void expect_zeroed(struct fixture *f, uint64_t first, uint64_t count)
{
	static uint8_t disk[DISK_SIZE];

	host_read(f, 0, disk, sizeof(disk));
	assert_true(all_bytes(disk, first * 512, 0xEE));
	assert_true(all_bytes(disk + first * 512, count * 512, 0));
	assert_true(all_bytes(disk + (first + count) * 512, sizeof(disk) - (first + count) * 512, 0xEE));
}

static void check_zeroing(struct fixture *f)
{
	struct stat before, after;

	fill_disk(f, 0xEE);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 5000, 0), VIRTIO_BLK_S_OK);
	expect_zeroed(f, 1, 5000);
	stat(f->cfg.path_on_host, &before);
	fill_disk(f, 0xEE);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 4096, 4096, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
			 VIRTIO_BLK_S_OK);
	expect_zeroed(f, 4096, 4096);
	fill_disk(f, 0xEE);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 0, 8192, 0), VIRTIO_BLK_S_OK);
	expect_zeroed(f, 0, 8192);
	stat(f->cfg.path_on_host, &after);
	assert_true(before.st_blocks > after.st_blocks + 4000);
	assert_int_equal(after.st_size, DISK_SIZE);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_DISCARD, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, 0), VIRTIO_BLK_S_OK);
}

static void test_discard_and_zeroes(void **state)
{
	check_zeroing(*state);
}

/* Writethrough: each range is followed by a sync. */
static void test_zeroes_durable(void **state)
{
	struct fixture *f = *state;

	assert_true(reset_device(f));
	activate(f, 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
	check_zeroing(f);
}

/* tmpfs has no FALLOC_FL_ZERO_RANGE, so zeros are written, also twice as many as go into one operation. */
static void zeroes_by_writing(void **state, enum block_io_engine engine)
{
	struct fixture *f;

	assert_int_equal(fixture_setup_in(state, engine, "/dev/shm"), 0);
	f = *state;
	check_zeroing(f);
	fill_disk(f, 0xEE);
	assert_int_equal(range_request(f, VIRTIO_BLK_T_WRITE_ZEROES, 3, DISK_SIZE / 512 - 5, 0), VIRTIO_BLK_S_OK);
	expect_zeroed(f, 3, DISK_SIZE / 512 - 5);
	fixture_teardown(state);
}

static void test_zeroes_by_writing(void **state)
{
	zeroes_by_writing(state, BLOCK_IO_URING);
	zeroes_by_writing(state, BLOCK_IO_THREAD);
}

/* 5.2.6 with 2.7.4.1: the driver may cut header, data and status into descriptors as it likes. */
static void offer_cut(struct fixture *f, uint32_t type, uint64_t sector, uint32_t data_len, uint32_t piece)
{
	struct vring_desc *t = guest(&f->gm, VRING_TABLE_GPA);
	bool in = type == VIRTIO_BLK_T_IN;
	uint32_t out_len = 16 + (in ? 0 : data_len), in_len = 1 + (in ? data_len : 0), n = 0, at, len;

	/* The header directly before the data, and the status directly behind it. */
	slot_header(f, 0, type, sector);
	memcpy(slot_data(f, 0) - 16, guest(&f->gm, SLOT_GPA(0)), 16);
	for (at = 0; at < out_len; at += len, n++) {
		len = out_len - at < piece ? out_len - at : piece;
		t[n] = (struct vring_desc){ SLOT_GPA(0) + DATA_OFF - 16 + at, len, VRING_DESC_F_NEXT,
					    (uint16_t)(n + 1) };
	}
	slot_data(f, 0)[data_len] = NO_STATUS;
	for (at = 0; at < in_len; at += len, n++) {
		len = in_len - at < piece ? in_len - at : piece;
		t[n] = (struct vring_desc){ SLOT_GPA(0) + DATA_OFF + (in ? 0 : data_len) + at, len,
					    VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, (uint16_t)(n + 1) };
	}
	t[n - 1].flags &= (uint16_t)~VRING_DESC_F_NEXT;
	driver_desc(&f->ring, 0, VRING_TABLE_GPA, n * 16, VRING_DESC_F_INDIRECT, 0);
	driver_offer(&f->ring, 0);
	kick(f);
	wait_used(f, f->ring.avail_idx);
	assert_int_equal(slot_data(f, 0)[data_len], VIRTIO_BLK_S_OK);
}

static void test_any_layout(void **state)
{
	static const uint32_t pieces[] = { 8, 9, 13, 16, 17, 100, 511, 512, 513, 5000 };
	struct fixture *f = *state;
	unsigned int i, k;

	for (i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		for (k = 0; k < 1536; k++)
			slot_data(f, 0)[k] = (uint8_t)(k * 7 + i);
		offer_cut(f, VIRTIO_BLK_T_OUT, 10, 1536, pieces[i]);
		memset(slot_data(f, 0), 0, 1536);
		offer_cut(f, VIRTIO_BLK_T_IN, 10, 1536, pieces[i]);
		for (k = 0; k < 1536; k++)
			assert_int_equal(slot_data(f, 0)[k], (uint8_t)(k * 7 + i));
		assert_int_equal(last_used_len(f), 1537);
	}
}

/* Random traffic, many requests at a time, against a copy of the disk; no two in flight touch the same zone. */
struct verify {
	uint8_t *model;
	uint64_t rng;
	uint32_t type[NR_SLOTS], len[NR_SLOTS];
	uint64_t sector[NR_SLOTS];
};

static uint32_t rnd(struct verify *v, uint32_t below)
{
	v->rng ^= v->rng << 13;
	v->rng ^= v->rng >> 7;
	v->rng ^= v->rng << 17;
	return (uint32_t)(v->rng >> 16) % below;
}

static void verify_offer(struct fixture *f, struct verify *v, unsigned int slot)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,   VIRTIO_BLK_T_OUT,          VIRTIO_BLK_T_OUT,
					  VIRTIO_BLK_T_IN,   VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD,
					  VIRTIO_BLK_T_FLUSH };
	uint32_t first = rnd(v, ZONE_SECTORS), count = 1 + rnd(v, ZONE_SECTORS - first), i;
	struct virtio_blk_discard_write_zeroes range;
	uint64_t sector = slot * ZONE_SECTORS + first;

	v->type[slot] = types[rnd(v, 7)];
	v->sector[slot] = sector;
	v->len[slot] = count * 512;
	switch (v->type[slot]) {
	case VIRTIO_BLK_T_OUT:
		for (i = 0; i < v->len[slot]; i += 8)
			memset(slot_data(f, slot) + i, (int)rnd(v, 256), 8);
		memcpy(v->model + sector * 512, slot_data(f, slot), v->len[slot]);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
	case VIRTIO_BLK_T_DISCARD:
		range = (struct virtio_blk_discard_write_zeroes){ .sector = sector, .num_sectors = count };
		memcpy(slot_data(f, slot), &range, sizeof(range));
		memset(v->model + sector * 512, 0, v->len[slot]);
		offer(f, slot, v->type[slot], 0, sizeof(range));
		return;
	case VIRTIO_BLK_T_FLUSH:
		v->len[slot] = 0;
		break;
	}
	offer(f, slot, v->type[slot], sector, v->len[slot]);
}

static void verify_done(struct fixture *f, struct verify *v, unsigned int slot)
{
	assert_int_equal(slot_status(f, slot), VIRTIO_BLK_S_OK);
	if (v->type[slot] == VIRTIO_BLK_T_IN)
		assert_memory_equal(slot_data(f, slot), v->model + v->sector[slot] * 512, v->len[slot]);
}

static void test_random_verify(void **state)
{
	struct fixture *f = *state;
	struct verify v = { .model = calloc(1, DISK_SIZE), .rng = 0x9E3779B97F4A7C15ull };
	uint8_t *disk = malloc(DISK_SIZE);
	unsigned int round, i, n, seen = 0;

	assert_non_null(v.model);
	assert_non_null(disk);
	for (round = 0; round < 300; round++) {
		n = 1 + rnd(&v, NR_SLOTS);
		for (i = 0; i < n; i++) {
			verify_offer(f, &v, i);
			if (rnd(&v, 4) == 0)
				kick(f);
		}
		kick(f);
		wait_used(f, f->ring.avail_idx);
		for (i = 0; i < n; i++, seen++)
			verify_done(f, &v, f->ring.used->ring[seen % f->ring.size].id / 3);
	}
	host_read(f, 0, disk, DISK_SIZE);
	assert_memory_equal(disk, v.model, DISK_SIZE);
	assert_int_equal(f->broken, 0);
	free(disk);
	free(v.model);
}

/* An engine that moves as few bytes as it likes each time, and is told to try again now and then. */
static int64_t move_some(struct block_io_op *op, uint8_t *disk, struct verify *v)
{
	uint64_t left = 1 + rnd(v, 700), offset = op->offset, n;
	unsigned int i;

	if (rnd(v, 5) == 0)
		return rnd(v, 2) ? -EINTR : -EAGAIN;
	for (i = 0; i < op->nr_iov && left; i++, left -= n, offset += n) {
		n = op->iov[i].iov_len < left ? op->iov[i].iov_len : left;
		if (op->type == BLOCK_IO_READ)
			memcpy(op->iov[i].iov_base, disk + offset, n);
		else
			memcpy(disk + offset, op->iov[i].iov_base, n);
	}
	return (int64_t)(offset - op->offset);
}

static void run_short(struct fixture *f, struct verify *v, uint8_t *disk, uint32_t type, struct iovec *iov,
		      unsigned int nr)
{
	const struct block_traits traits = { .drive_id = "d", .features = ~0ull };
	struct block_file file = { .fd = -1, .refs = 1, .sectors = 64 };
	struct vq_chain chain = { .iov = iov, .nr_out = type == VIRTIO_BLK_T_IN ? 1 : nr - 1 };
	struct iovec many[VIRTQUEUE_MAX_SIZE];
	struct block_request req;
	unsigned int i, steps = 0;
	int status;

	chain.nr_in = nr - chain.nr_out;
	for (i = 0; i < nr; i++)
		*(i < chain.nr_out ? &chain.out_len : &chain.in_len) += iov[i].iov_len;
	slot_header(f, 0, type, 4);
	assert_int_equal(block_request_parse(&req, &chain, many), 0);
	assert_int_equal(block_request_check(&req, &traits, &file), BLOCK_PENDING);
	status = block_request_start(&req, &traits, &file);
	for (; status == BLOCK_PENDING; steps++) {
		req.op.result = move_some(&req.op, disk, v);
		status = block_request_advance(&req, &traits);
	}
	assert_int_equal(status, VIRTIO_BLK_S_OK);
	assert_true(steps > 5);
	assert_int_equal(block_request_finish(&req, (uint8_t)status), chain.in_len);
	assert_int_equal(file.refs, 1);
}

static void test_short_transfers(void **state)
{
	static uint8_t disk[64 * 512];
	struct fixture *f = *state;
	struct verify v = { .rng = 12345 };
	struct iovec iov[40];
	unsigned int round, i, nr;

	for (round = 0; round < 200; round++) {
		/* Header, pieces of 8192 bytes of data, status. */
		uint32_t at = 0, len;

		iov[0] = (struct iovec){ guest(&f->gm, SLOT_GPA(0)), 16 };
		for (nr = 1; at < 8192; nr++, at += len) {
			len = nr == 38 ? 8192 - at : 1 + rnd(&v, round % 2 ? 600 : 6000);
			len = len < 8192 - at ? len : 8192 - at;
			iov[nr] = (struct iovec){ slot_data(f, 0) + at, len };
		}
		iov[nr++] = (struct iovec){ guest(&f->gm, SLOT_GPA(0) + STATUS_OFF), 1 };
		for (i = 0; i < 8192; i++)
			slot_data(f, 0)[i] = (uint8_t)rnd(&v, 256);
		memset(disk, 0, sizeof(disk));
		run_short(f, &v, disk, VIRTIO_BLK_T_OUT, iov, nr);
		assert_memory_equal(disk + 4 * 512, slot_data(f, 0), 8192);
		memset(slot_data(f, 0), 0, 8192);
		run_short(f, &v, disk, VIRTIO_BLK_T_IN, iov, nr);
		assert_memory_equal(disk + 4 * 512, slot_data(f, 0), 8192);
		assert_true(all_bytes(disk, 4 * 512, 0) &&
			    all_bytes(disk + 4 * 512 + 8192, sizeof(disk) - 4 * 512 - 8192, 0));
	}
}

/* What is asked of the host, by cache mode: nothing of it can be seen in the file. */
static void test_durability_steps(void **state)
{
	static const struct {
		uint32_t type;
		bool durable, unsafe;
		int first, second; /* enum block_io_type, or -1 when the request is over */
	} cases[] = {
		{ VIRTIO_BLK_T_FLUSH, false, false, BLOCK_IO_SYNC, -1 },
		{ VIRTIO_BLK_T_FLUSH, true, false, BLOCK_IO_SYNC, -1 },
		{ VIRTIO_BLK_T_FLUSH, false, true, -1, -1 },
		{ VIRTIO_BLK_T_OUT, false, false, BLOCK_IO_WRITE, -1 },
		{ VIRTIO_BLK_T_OUT, true, false, BLOCK_IO_WRITE, -1 },
		{ VIRTIO_BLK_T_DISCARD, false, false, BLOCK_IO_ALLOCATE, -1 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, false, false, BLOCK_IO_ALLOCATE, -1 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, true, false, BLOCK_IO_ALLOCATE, BLOCK_IO_SYNC },
	};
	struct block_file file = { .fd = -1, .refs = 100, .sectors = 64 };
	struct iovec inl[2] = { { .iov_len = 32 }, { .iov_len = 1 } };
	struct vq_chain chain = { .iov = inl, .nr_out = 1, .nr_in = 1, .out_len = 32, .in_len = 1 };
	struct fixture *f = *state;
	struct block_request req;
	unsigned int i;

	inl[1].iov_base = guest(&f->gm, SLOT_GPA(0) + STATUS_OFF);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct block_traits traits = { "d", ~0ull, false, cases[i].unsafe, cases[i].durable };
		bool out = cases[i].type == VIRTIO_BLK_T_OUT;

		slot_header(f, 0, cases[i].type, 0);
		/* The range, or 512 bytes of data, directly behind the header. */
		memcpy((uint8_t *)guest(&f->gm, SLOT_GPA(0)) + 16, &(struct virtio_blk_discard_write_zeroes){ 0, 8, 0 },
		       16);
		inl[0] = (struct iovec){ guest(&f->gm, SLOT_GPA(0)), out ? 16 + 512 : 32 };
		chain.out_len = inl[0].iov_len;
		assert_int_equal(block_request_parse(&req, &chain, NULL), 0);
		assert_int_equal(block_request_check(&req, &traits, &file), BLOCK_PENDING);
		if (block_request_start(&req, &traits, &file) != BLOCK_PENDING) {
			assert_int_equal(cases[i].first, -1);
			continue;
		}
		assert_int_equal(req.op.type, cases[i].first);
		assert_int_equal(req.op.type == BLOCK_IO_WRITE && req.op.durable, out && cases[i].durable);
		req.op.result = out ? 512 : 0;
		if (cases[i].second >= 0) {
			assert_int_equal(block_request_advance(&req, &traits), BLOCK_PENDING);
			assert_int_equal(req.op.type, cases[i].second);
			req.op.result = 0;
		}
		assert_int_equal(block_request_advance(&req, &traits), VIRTIO_BLK_S_OK);
	}
}

/* With used_event moved along only every 16th buffer, so few interrupts come. */
static void test_interrupts_coalesced(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	*driver_used_event(&f->ring) = 15;
	for (i = 0; i < 32; i++)
		assert_int_equal(request(f, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(f->interrupts, 1);
	f->dev->queue[0].event_idx = false;
	f->ring.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(f->interrupts, 1);
	f->ring.avail->flags = 0;
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(f->interrupts, 2);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		BOTH_ENGINES(test_config),
		BOTH_ENGINES(test_features),
		BOTH_ENGINES(test_write_then_read),
		BOTH_ENGINES(test_edges),
		BOTH_ENGINES(test_get_id),
		BOTH_ENGINES(test_flush),
		BOTH_ENGINES(test_cache_mode),
		BOTH_ENGINES(test_discard_and_zeroes),
		BOTH_ENGINES(test_zeroes_durable),
		cmocka_unit_test(test_zeroes_by_writing),
		BOTH_ENGINES(test_any_layout),
		BOTH_ENGINES(test_random_verify),
		cmocka_unit_test_setup_teardown(test_short_transfers, setup_thread, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_durability_steps, setup_thread, fixture_teardown),
		BOTH_ENGINES(test_interrupts_coalesced),
	};

	return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
