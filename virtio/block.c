/* block.c: virtio-blk (virtio 1.2, 5.2): the device between its queue, its rate limiter and its file. */
#include "block.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "block_file.h"
#include "block_internal.h"
#include "block_io.h"
#include "block_overlay.h"
#include "block_request.h"
#include "lazy_memory.h"
#include "log.h"
#include "metrics.h"
#include "snapshot/state.h"

#define QUEUE_SIZE VIRTQUEUE_MAX_SIZE
/* Chains taken between two submissions: large enough to batch, small enough that the first one is answered soon. */
#define BATCH 32u
/* Chains taken before other users of the event loop get their turn. */
#define TURN 256u
/* How long to watch for the next request, and how many chances to do so are let pass, at most, after vain attempts. */
#define LINGER_NS       8000u
#define LINGER_LOOKS    1024u /* never more often, even if the clock stood still */
#define LINGER_SKIP_MAX 255u

/* One per queue entry, in memory that costs nothing until a request reaches that deep. */
struct request_area {
	struct block_request request[QUEUE_SIZE];
	struct iovec iov[QUEUE_SIZE][VIRTQUEUE_MAX_SIZE] __attribute__((aligned(4096)));
};

struct block {
	struct virtio_device dev; /* first: ops get this and cast */
	char drive_id[CONFIG_ID_LEN];
	bool read_only;
	bool unsafe;
	_Atomic uint64_t capacity; /* sectors; read by vCPU threads in read_config */
	_Atomic bool writeback;    /* config.wce; written by vCPU threads in write_config */
	struct block_file *file;
	enum block_io_engine engine;
	struct block_io *io;

	struct request_area *area;
	unsigned int linger_skip; /* chances to let pass before lingering again; and after the next vain attempt */
	unsigned int linger_skip_next;
	uint64_t turn_bytes;        /* to and from the host in this turn */
	struct block_request *free; /* last freed first: few requests in flight dirty few pages */
	unsigned int nr_fresh;      /* requests of the area that were ever used */
	unsigned int in_flight;     /* started, not finished */

	struct rate_limiter limiter;
	struct event_timer timer; /* the limiter's, or the next turn */
	bool throttled;
	bool draining;
	bool resetting;
	bool closing;
	bool pushed; /* since the driver was last asked whether it wants an interrupt */
	bool grown;  /* since the snapshot was taken, which the driver is still to be told */
	void (*drained)(void *opaque);
	void *drained_opaque;
	struct iovec scratch[VIRTQUEUE_MAX_SIZE];
};

static struct block *to_block(const struct virtio_device *dev)
{
	return (struct block *)(uintptr_t)dev;
}

static bool acked(const struct block *blk, unsigned int feature)
{
	return blk->dev.features & 1ull << feature;
}

static uint64_t block_features(const struct virtio_device *dev)
{
	const struct block *blk = to_block(dev);
	uint64_t f = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY;

	if (blk->read_only)
		f |= 1ull << VIRTIO_BLK_F_RO;
	else
		f |= 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	/* Without FLUSH the driver takes every write for durable: that it is not is what Unsafe means. */
	if (!blk->unsafe)
		f |= 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;
	return f;
}

static void block_read_config(const struct virtio_device *dev, uint64_t offset, void *buf, size_t len)
{
	struct block *blk = to_block(dev);
	struct virtio_blk_config cfg = {
		.capacity = htole64(atomic_load(&blk->capacity)),
		.seg_max = htole32(QUEUE_SIZE - 2), /* a descriptor each for header and status */
		.blk_size = htole32(BLOCK_SECTOR_SIZE),
		/* Pages of the host's page cache: smaller or unaligned writes make it read first. */
		.physical_block_exp = 3,
		.min_io_size = htole16(8),
		.wce = atomic_load(&blk->writeback),
		.max_discard_sectors = htole32(BLOCK_MAX_DISCARD_SECTORS),
		.max_discard_seg = htole32(1),
		.discard_sector_alignment = htole32(BLOCK_DISCARD_ALIGNMENT),
		.max_write_zeroes_sectors = htole32(BLOCK_MAX_DISCARD_SECTORS),
		.max_write_zeroes_seg = htole32(1),
		.write_zeroes_may_unmap = 1,
	};

	memset(buf, 0, len);
	if (offset >= sizeof(cfg))
		return;
	if (len > sizeof(cfg) - offset)
		len = sizeof(cfg) - (size_t)offset;
	memcpy(buf, (const uint8_t *)&cfg + offset, len);
}

/* The cache mode is the only thing a driver may set (5.2.5.2). */
static void block_write_config(struct virtio_device *dev, uint64_t offset, const void *buf, size_t len)
{
	struct block *blk = to_block(dev);
	uint8_t value;

	if (offset != offsetof(struct virtio_blk_config, wce) || len != 1 || !acked(blk, VIRTIO_BLK_F_CONFIG_WCE)) {
		metrics_inc(block_cfg_fails);
		return;
	}
	memcpy(&value, buf, 1);
	if (value <= 1)
		atomic_store(&blk->writeback, value == 1);
}

static struct block_traits traits_of(const struct block *blk)
{
	struct block_traits t = {
		.drive_id = blk->drive_id,
		.features = blk->dev.features,
		.read_only = blk->read_only,
		.unsafe = blk->unsafe,
		/* A driver without FLUSH has no means to ask for durability, so every write must be (5.2.6.2). */
		.durable = !blk->unsafe && !(atomic_load(&blk->writeback) && acked(blk, VIRTIO_BLK_F_FLUSH)),
	};

	return t;
}

static struct block_request *request_alloc(struct block *blk)
{
	struct block_request *req = blk->free;

	if (req)
		blk->free = req->next_free;
	else if (blk->nr_fresh < QUEUE_SIZE)
		req = &blk->area->request[blk->nr_fresh++];
	return req;
}

static void request_free(struct block *blk, struct block_request *req)
{
	req->next_free = blk->free;
	blk->free = req;
}

/* Answer a request, unless the driver has broken the queue or taken it away meanwhile. */
static void answer(struct block *blk, struct block_request *req, int status)
{
	uint32_t len;
	int ret;

	if (blk->dev.active && !blk->resetting && !blk->closing) {
		len = block_request_finish(req, (uint8_t)status);
		ret = vq_push(&blk->dev.queue[0], req->head, len);
		blk->pushed = true;
		if (ret)
			virtio_device_broken(&blk->dev, 0, vq_why(ret));
	} else {
		block_request_abandon(req);
	}
	request_free(blk, req);
}

/* What a request that was started says to do next. */
static void proceed(struct block *blk, struct block_request *req, int status)
{
	if (status == BLOCK_WAITING)
		return;
	/* With nobody left to answer to, what is half done stays half done. */
	if (status == BLOCK_PENDING && !blk->resetting && !blk->closing) {
		block_io_queue(blk->io, &req->op);
		return;
	}
	blk->in_flight--;
	answer(blk, req, status);
}

static void op_done(void *opaque, struct block_io_op *op)
{
	struct block_request *req = (struct block_request *)op;
	struct block *blk = opaque;
	struct block_traits traits = traits_of(blk);

	proceed(blk, req, block_request_advance(req, &traits));
	if (!blk->file->overlay)
		return;
	while ((req = (struct block_request *)block_overlay_woken(blk->file->overlay)))
		proceed(blk, req, block_request_resume(req, &traits));
}

/* True when the request may start now; else the timer is set for when it may. */
static bool within_rate(struct block *blk, const struct block_request *req, int verdict)
{
	uint64_t cost, now, wait;

	if (!rate_limiter_active(&blk->limiter))
		return true;
	cost = verdict == BLOCK_PENDING ? block_request_cost(req) : 0;
	now = event_loop_now_ns();
	wait = rate_limiter_take(&blk->limiter, cost, now);
	if (!wait)
		return true;
	metrics_inc(block_rate_limiter_throttled_events);
	blk->throttled = true;
	event_loop_arm(blk->dev.loop, &blk->timer, now + wait);
	return false;
}

static void start(struct block *blk, struct block_request *req, const struct block_traits *traits, int verdict)
{
	int status = verdict;

	if (verdict == BLOCK_PENDING)
		status = block_request_start(req, traits, blk->file);
	else
		metrics_inc(block_invalid_reqs_count);
	if (status < 0) {
		blk->in_flight++;
		blk->turn_bytes += req->data_len;
		proceed(blk, req, status);
	} else {
		answer(blk, req, status);
	}
}

enum taken { TAKEN, RING_EMPTY, MUST_WAIT };

/* Take one chain and start what it asks for. */
static enum taken take(struct block *blk, const struct block_traits *traits)
{
	struct vq_chain chain = { .iov = blk->scratch, .iov_max = VIRTQUEUE_MAX_SIZE };
	struct virtqueue *vq = &blk->dev.queue[0];
	struct block_request *req = request_alloc(blk);
	int ret, verdict;

	/* Only a driver that offers buffers it has not got back can use up the requests; completions let it go on. */
	if (!req)
		return MUST_WAIT;
	ret = vq_pop(vq, &chain);
	if (ret > 0)
		ret = block_request_parse(req, &chain, blk->area->iov[req - blk->area->request]) ? -EINVAL : 1;
	if (ret <= 0) {
		request_free(blk, req);
		if (!ret)
			return RING_EMPTY;
		metrics_inc(block_invalid_reqs_count);
		virtio_device_broken(&blk->dev, 0,
				     ret == -EINVAL ? "request without header or status byte" : vq_why(ret));
		return MUST_WAIT;
	}
	verdict = block_request_check(req, traits, blk->file);
	if (!within_rate(blk, req, verdict)) {
		/* Back into the ring: nothing is held while waiting, so a pause or snapshot finds it where the driver
		 * put it. */
		vq_unpop(vq);
		request_free(blk, req);
		return MUST_WAIT;
	}
	start(blk, req, traits, verdict);
	return TAKEN;
}

static bool may_take(const struct block *blk)
{
	return blk->dev.active && blk->dev.queue[0].ready && !blk->throttled && !blk->draining && !blk->resetting &&
	       !blk->closing;
}

/* Tell those who wait for the last request to finish. */
static void settle(struct block *blk)
{
	void (*drained)(void *) = blk->drained;

	if (blk->in_flight)
		return;
	blk->drained = NULL;
	if (blk->resetting) {
		blk->resetting = false;
		virtio_device_reset_done(&blk->dev);
	}
	if (drained)
		drained(blk->drained_opaque);
}

/* Only a batch that starts with an empty ring finds it so and asks for kicks: those before it are served first. */
static enum taken take_batch(struct block *blk, const struct block_traits *traits)
{
	enum taken t = TAKEN;
	unsigned int i;

	for (i = 0; i < BATCH && t == TAKEN && blk->turn_bytes < VIRTIO_TURN_BYTES; i++) {
		if (i && !vq_waiting(&blk->dev.queue[0]))
			break;
		t = may_take(blk) ? take(blk, traits) : MUST_WAIT;
	}
	return t;
}

/*
 * Whoever reads one block after the other is back within microseconds, and ringing costs an exit and a wake-up: so
 * watch the ring for about as long as those take. Where that is in vain, do it ever more rarely.
 */
static void linger(struct block *blk)
{
	const struct virtqueue *vq = &blk->dev.queue[0];
	unsigned int looks;
	uint64_t end;

	if (vq_waiting(vq))
		return;
	if (blk->linger_skip) {
		blk->linger_skip--;
		return;
	}
	end = event_loop_now_ns() + LINGER_NS;
	for (looks = 0; looks < LINGER_LOOKS && !vq_waiting(vq) && event_loop_now_ns() < end; looks++)
		;
	if (vq_waiting(vq))
		blk->linger_skip_next = 0;
	else if (blk->linger_skip_next < LINGER_SKIP_MAX)
		blk->linger_skip_next = 2 * blk->linger_skip_next + 1;
	blk->linger_skip = blk->linger_skip_next;
}

/* Serve the ring until it is empty or this device's turn is over. */
static void run(struct block *blk)
{
	struct block_traits traits = traits_of(blk);
	enum taken t = TAKEN;
	unsigned int n;

	blk->turn_bytes = 0;
	for (n = 0; t == TAKEN && n < TURN && blk->turn_bytes < VIRTIO_TURN_BYTES; n += BATCH) {
		t = take_batch(blk, &traits);
		if (blk->io)
			block_io_kick(blk->io);
		if (blk->pushed && blk->dev.active) {
			blk->pushed = false;
			virtio_device_interrupt(&blk->dev, 0);
		}
		/* Out of requests, but some came back during the kick. */
		if (t == MUST_WAIT && may_take(blk) && blk->free)
			t = TAKEN;
		if (t == TAKEN && may_take(blk) && !blk->in_flight)
			linger(blk);
	}
	if (t == TAKEN && may_take(blk))
		event_loop_arm(blk->dev.loop, &blk->timer, event_loop_now_ns() + 1);
	settle(blk);
}

static void timer_expired(struct event_timer *timer)
{
	struct block *blk = timer->opaque;

	blk->throttled = false;
	run(blk);
}

static void reaped(void *opaque)
{
	run(opaque);
}

int block_prepare(struct block *blk, struct error *err)
{
	const struct block_io_client client = { .done = op_done, .reaped = reaped, .opaque = blk };

	return blk->io ? 0 : block_io_create(&blk->io, blk->engine, blk->dev.loop, &client, err);
}

static int block_activate(struct virtio_device *dev)
{
	struct block *blk = to_block(dev);
	struct error err = { 0 };
	int ret = 0;

	/* 5.2.5.2: writeback starts as 1, and as 0 for a driver that cannot flush. */
	if (!acked(blk, VIRTIO_BLK_F_FLUSH))
		atomic_store(&blk->writeback, false);
	if (!blk->area) {
		blk->area = lazy_alloc(sizeof(*blk->area));
		if (!blk->area)
			ret = error_set(&err, -ENOMEM, "no memory for requests");
	}
	if (!ret)
		ret = block_prepare(blk, &err);
	if (ret) {
		metrics_inc(block_activate_fails);
		log_error_limited("drives[%s]: %s", blk->drive_id, err.message);
	}
	return ret;
}

static void block_notify(struct virtio_device *dev, unsigned int queue)
{
	(void)queue;
	metrics_inc(block_queue_event_count);
	run(to_block(dev));
}

static void cancel_timer(struct block *blk)
{
	event_loop_disarm(blk->dev.loop, &blk->timer);
	blk->throttled = false;
}

static bool block_reset(struct virtio_device *dev)
{
	struct block *blk = to_block(dev);

	cancel_timer(blk);
	blk->pushed = false;
	atomic_store(&blk->writeback, !blk->unsafe);
	/* File I/O cannot be taken back once it runs: the driver's reset is complete when the last of it is. */
	blk->resetting = blk->in_flight != 0;
	return !blk->resetting;
}

_Static_assert(sizeof(struct block_state) == 8 + sizeof(struct rate_limiter_state) + 8, "no holes");

static void block_save(const struct virtio_device *dev, struct state_writer *w, uint32_t slot)
{
	struct block *blk = to_block(dev);
	struct block_state state = {
		.sectors = atomic_load(&blk->capacity),
		.read_only = blk->read_only,
		.writeback = atomic_load(&blk->writeback),
	};

	rate_limiter_save(&blk->limiter, &state.limiter, event_loop_now_ns());
	state_put(w, STATE_BLOCK, slot, &state, sizeof(state));
}

static int block_restore(struct virtio_device *dev, struct state_reader *r, uint32_t slot, struct error *err)
{
	struct block *blk = to_block(dev);
	uint64_t sectors = blk->file->sectors;
	struct block_state state;
	int ret = state_get(r, STATE_BLOCK, slot, &state, sizeof(state), sizeof(state), err);

	if (ret)
		return ret;
	if (state.read_only > 1 || state.writeback > 1)
		return state_bad(err, STATE_BLOCK, slot, "a flag is neither on nor off");
	if (state.read_only != blk->read_only)
		return error_set(err, -EINVAL,
				 "drives[%s].is_read_only: needs to be %s, as when the snapshot was taken",
				 blk->drive_id, state.read_only ? "true" : "false");
	if (state.sectors > sectors)
		return error_set(
			err, -EINVAL,
			"drives[%s].path_on_host: the file has %llu sectors of 512 bytes (needs the %llu that it "
			"had when the snapshot was taken: data of the guest would be missing)",
			blk->drive_id, (unsigned long long)sectors, (unsigned long long)state.sectors);
	blk->grown = state.sectors < sectors;
	if (blk->grown)
		log_info("drives[%s]: the file has grown from %llu to %llu sectors since the snapshot was taken; the "
			 "guest will be told",
			 blk->drive_id, (unsigned long long)state.sectors, (unsigned long long)sectors);
	atomic_store(&blk->writeback, state.writeback);
	rate_limiter_restore(&blk->limiter, &state.limiter, event_loop_now_ns());
	return 0;
}

static const struct virtio_device_ops block_ops = {
	.type = VIRTIO_ID_BLOCK,
	.nr_queues = 1,
	.queue_max_size = QUEUE_SIZE,
	.features = block_features,
	.read_config = block_read_config,
	.write_config = block_write_config,
	.activate = block_activate,
	.notify = block_notify,
	.reset = block_reset,
	.save = block_save,
	.restore = block_restore,
};

static int open_files(struct block *blk, const struct drive_config *cfg, struct error *err)
{
	const bool overlay = cfg->overlay_path[0];
	int ret = block_file_open(&blk->file, cfg->drive_id, cfg->path_on_host, cfg->is_read_only || overlay, err);

	if (ret || !overlay)
		return ret;
	ret = block_overlay_open(&blk->file->overlay, cfg, blk->file->sectors, err);
	if (ret)
		block_file_put(blk->file);
	return ret;
}

int block_create(struct block **out, const struct drive_config *cfg, const struct guest_memory *gm,
		 struct event_loop *loop, struct error *err)
{
	struct block *blk = calloc(1, sizeof(*blk));
	int ret;

	if (!blk)
		return error_set(err, -ENOMEM, "drives[%s]: no memory", cfg->drive_id);
	ret = open_files(blk, cfg, err);
	if (ret) {
		free(blk);
		return ret;
	}
	memcpy(blk->drive_id, cfg->drive_id, sizeof(blk->drive_id));
	blk->read_only = cfg->is_read_only;
	blk->unsafe = cfg->cache_type == CACHE_UNSAFE;
	atomic_init(&blk->writeback, !blk->unsafe);
	atomic_init(&blk->capacity, blk->file->sectors);
	rate_limiter_init(&blk->limiter, &cfg->rate_limiter, event_loop_now_ns());
	blk->timer.expired = timer_expired;
	blk->timer.opaque = blk;
	blk->dev.ops = &block_ops;
	blk->dev.id = blk->drive_id;
	blk->dev.gm = gm;
	blk->dev.loop = loop;
	blk->dev.queue[0].gm = gm;
	blk->dev.queue[0].max_size = QUEUE_SIZE;
	*out = blk;
	return 0;
}

void block_finish(struct block *blk)
{
	struct error err = { 0 };

	if (!blk->file->overlay)
		return;
	blk->closing = true;
	if (blk->io)
		block_io_drain(blk->io);
	if (block_save_overlay(blk, &err))
		log_error("%s; what the guest wrote since its last flush is lost", err.message);
}

void block_destroy(struct block *blk)
{
	if (!blk)
		return;
	block_finish(blk);
	blk->closing = true;
	cancel_timer(blk);
	if (blk->io)
		block_io_destroy(blk->io);
	block_file_put(blk->file);
	if (blk->area)
		munmap(blk->area, sizeof(*blk->area));
	free(blk);
}

struct virtio_device *block_device(struct block *blk)
{
	return &blk->dev;
}

int block_fd(const struct block *blk)
{
	return blk->file->fd;
}

void block_use_engine(struct block *blk, enum block_io_engine engine)
{
	blk->engine = engine;
}

int block_save_overlay(struct block *blk, struct error *err)
{
	int ret = blk->file->overlay ? block_overlay_save(blk->file->overlay) : 0;

	return ret ? error_set(err, ret, "drives[%s].overlay_path: %s", blk->drive_id, strerror(-ret)) : 0;
}

int block_clone_overlay(struct block *blk, int to, struct error *err)
{
	int ret = block_overlay_clone(blk->file->overlay, to);

	return ret ? error_set(err, ret, "drives[%s].overlay_path: copying it: %s", blk->drive_id, strerror(-ret)) : 0;
}

int block_replace(struct block *blk, const char *path, struct error *err)
{
	struct block_file *file;
	int ret;

	if (blk->file->overlay)
		return error_set(
			err, -EBUSY,
			"drives[%s].path_on_host: the drive's overlay is for the base it has (needs another drive, "
			"or a new start)",
			blk->drive_id);
	if (path)
		ret = block_file_open(&file, blk->drive_id, path, blk->read_only, err);
	else
		ret = block_file_measure(blk->file, blk->drive_id, err);
	if (ret)
		return ret;
	if (path) {
		/* Requests in flight have references of their own. */
		block_file_put(blk->file);
		blk->file = file;
	}
	atomic_store(&blk->capacity, blk->file->sectors);
	virtio_device_config_changed(&blk->dev);
	return 0;
}

void block_set_rate(struct block *blk, const struct rate_limiter_config *cfg)
{
	rate_limiter_change(&blk->limiter, cfg, event_loop_now_ns());
	cancel_timer(blk);
	if (blk->dev.active)
		run(blk);
}

bool block_drain(struct block *blk, void (*drained)(void *opaque), void *opaque)
{
	blk->draining = true;
	if (!blk->in_flight)
		return true;
	blk->drained = drained;
	blk->drained_opaque = opaque;
	return false;
}

void block_resume(struct block *blk)
{
	blk->draining = false;
	blk->drained = NULL;
	if (blk->grown)
		virtio_device_config_changed(&blk->dev);
	blk->grown = false;
	if (blk->dev.active)
		run(blk);
}
