/* block_request.c: understand one virtio-blk request and turn it into host I/O, step by step. */
#include "block_request.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "block_overlay.h"
#include "iov.h"
#include "log.h"
#include "metrics.h"

/* Source of zeros for hosts that cannot zero a range. Never written, so it stays the kernel's one shared page of zeros.
 */
#define ZEROES_SIZE 65536u
static uint8_t zeroes[ZEROES_SIZE];

#define MAX_RETRIES 8

enum stage { STAGE_TRANSFER, STAGE_ALLOCATE, STAGE_ZEROES, STAGE_SYNC, STAGE_COMMIT };

/* Drop the first n bytes of what op still has to move. */
static void iov_consume(struct block_io_op *op, uint64_t n)
{
	while (n && op->nr_iov && n >= op->iov->iov_len) {
		n -= op->iov->iov_len;
		op->iov++;
		op->nr_iov--;
	}
	if (n && op->nr_iov) {
		op->iov->iov_base = (uint8_t *)op->iov->iov_base + n;
		op->iov->iov_len -= n;
	}
}

/* Let op move len bytes only, fewer than it has; iov_release undoes it. */
static void iov_hold(struct block_request *req, uint64_t len)
{
	struct block_io_op *op = &req->op;
	unsigned int i;

	for (i = 0; len > op->iov[i].iov_len; i++)
		len -= op->iov[i].iov_len;
	req->held_iov = op->nr_iov - i - 1;
	req->held_len = op->iov[i].iov_len - len;
	op->nr_iov = i + 1;
	op->iov[i].iov_len = len;
}

static void iov_release(struct block_request *req)
{
	req->op.iov[req->op.nr_iov - 1].iov_len += req->held_len;
	req->op.nr_iov += req->held_iov;
	req->held_len = 0;
	req->held_iov = 0;
}

/*
 * Descriptors may cut a request anywhere (5.2.6 with 2.7.4.1), so both parts are streams of bytes: the readable one is
 * the header and then data, the writable one is data and then the status byte.
 */
int block_request_parse(struct block_request *req, const struct vq_chain *chain, struct iovec *many_iov)
{
	const struct iovec *in = chain->iov + chain->nr_out, *last;
	struct virtio_blk_outhdr hdr;
	bool writes_guest;

	if (chain->out_len < sizeof(hdr) || !chain->in_len)
		return -EINVAL;
	(void)iov_read(chain->iov, chain->nr_out, 0, &hdr, sizeof(hdr));
	last = in + chain->nr_in - 1;
	req->head = chain->head;
	req->pos = 0;
	req->held_len = 0;
	req->held_iov = 0;
	req->file = NULL;
	req->retries = 0;
	req->written = 0;
	req->type = le32toh(hdr.type);
	req->sector = le64toh(hdr.sector);
	req->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	req->in_len = chain->in_len - 1;

	writes_guest = req->type == VIRTIO_BLK_T_IN || req->type == VIRTIO_BLK_T_GET_ID;
	req->data_len = writes_guest ? req->in_len : chain->out_len - sizeof(hdr);
	req->stray_data = writes_guest ? chain->out_len > sizeof(hdr) : req->in_len > 0;
	req->op.iov = chain->nr_out + chain->nr_in <= BLOCK_REQUEST_INLINE_IOV ? req->inline_iov : many_iov;
	if (writes_guest)
		req->op.nr_iov = iov_slice(req->op.iov, in, chain->nr_in, 0, req->data_len);
	else
		req->op.nr_iov = iov_slice(req->op.iov, chain->iov, chain->nr_out, sizeof(hdr), req->data_len);
	if ((req->type == VIRTIO_BLK_T_DISCARD || req->type == VIRTIO_BLK_T_WRITE_ZEROES) &&
	    req->data_len == sizeof(req->range)) {
		(void)iov_read(chain->iov, chain->nr_out, sizeof(hdr), &req->range, sizeof(req->range));
		req->range.sector = le64toh(req->range.sector);
		req->range.num_sectors = le32toh(req->range.num_sectors);
		req->range.flags = le32toh(req->range.flags);
	}
	return 0;
}

static bool in_range(const struct block_file *file, uint64_t sector, uint64_t count)
{
	return sector <= file->sectors && count <= file->sectors - sector;
}

static int check_transfer(const struct block_request *req, const struct block_traits *traits,
			  const struct block_file *file)
{
	if ((req->type == VIRTIO_BLK_T_OUT && traits->read_only) || req->stray_data)
		return VIRTIO_BLK_S_IOERR;
	if (req->data_len % BLOCK_SECTOR_SIZE || !in_range(file, req->sector, req->data_len / BLOCK_SECTOR_SIZE))
		return VIRTIO_BLK_S_IOERR;
	return BLOCK_PENDING;
}

/* virtio 1.2, 5.2.6.2: unknown flags, and unmap with discard, are UNSUPP; the limits of the config are IOERR. */
static int check_range(const struct block_request *req, const struct block_traits *traits,
		       const struct block_file *file)
{
	bool discard = req->type == VIRTIO_BLK_T_DISCARD;
	unsigned int feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;

	if (traits->read_only)
		return VIRTIO_BLK_S_IOERR;
	if (!(traits->features & 1ull << feature))
		return VIRTIO_BLK_S_UNSUPP;
	/* max_discard_seg and max_write_zeroes_seg are 1. */
	if (req->data_len != sizeof(req->range))
		return VIRTIO_BLK_S_IOERR;
	if (req->range.flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	if (req->range.num_sectors > BLOCK_MAX_DISCARD_SECTORS ||
	    !in_range(file, req->range.sector, req->range.num_sectors))
		return VIRTIO_BLK_S_IOERR;
	return BLOCK_PENDING;
}

int block_request_check(const struct block_request *req, const struct block_traits *traits,
			const struct block_file *file)
{
	switch (req->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return check_transfer(req, traits, file);
	case VIRTIO_BLK_T_FLUSH:
		return BLOCK_PENDING;
	case VIRTIO_BLK_T_GET_ID:
		return req->data_len < VIRTIO_BLK_ID_BYTES ? VIRTIO_BLK_S_IOERR : BLOCK_PENDING;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return check_range(req, traits, file);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

uint64_t block_request_cost(const struct block_request *req)
{
	switch (req->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		return req->data_len;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		/* Whether the host notes it down or writes it all is not known before. */
		return (uint64_t)req->range.num_sectors * BLOCK_SECTOR_SIZE;
	default:
		return 0;
	}
}

/*
 * GET_ID is the first 20 bytes of drive_id (Firecracker puts the host's device and inode numbers there): a name the
 * guest can find its disk by, the same on every host and after a restore, and nothing about the host.
 */
static int answer_id(struct block_request *req, const struct block_traits *traits)
{
	size_t len = strnlen(traits->drive_id, VIRTIO_BLK_ID_BYTES), n, done = 0;
	char id[VIRTIO_BLK_ID_BYTES] = { 0 };
	unsigned int i;

	memcpy(id, traits->drive_id, len);
	for (i = 0; done < sizeof(id); i++, done += n) {
		n = req->op.iov[i].iov_len < sizeof(id) - done ? req->op.iov[i].iov_len : sizeof(id) - done;
		memcpy(req->op.iov[i].iov_base, id + done, n);
	}
	req->written = sizeof(id);
	return VIRTIO_BLK_S_OK;
}

/* Aim op at what lies at req->pos of the disk: with an overlay, reads go to whoever has it, all else to the delta. */
static void aim(struct block_request *req)
{
	const struct block_overlay *ov = req->file->overlay;
	uint64_t left = req->end - req->pos, n;

	req->op.fd = req->file->fd;
	req->op.offset = req->pos;
	if (!ov)
		return;
	if (req->type != VIRTIO_BLK_T_IN) {
		block_overlay_delta(ov, &req->op, req->pos);
		return;
	}
	n = block_overlay_find(ov, &req->op, req->pos, left);
	if (n < left)
		iov_hold(req, n);
}

static int start_transfer(struct block_request *req, const struct block_traits *traits)
{
	bool write = req->type == VIRTIO_BLK_T_OUT;

	if (write)
		metrics_inc(block_write_count);
	else
		metrics_inc(block_read_count);
	if (!req->data_len)
		return VIRTIO_BLK_S_OK;
	req->stage = STAGE_TRANSFER;
	req->op.type = write ? BLOCK_IO_WRITE : BLOCK_IO_READ;
	req->op.durable = write && traits->durable;
	req->pos = req->sector * BLOCK_SECTOR_SIZE;
	req->end = req->pos + req->data_len;
	aim(req);
	return BLOCK_PENDING;
}

static int start_sync(struct block_request *req)
{
	req->stage = STAGE_SYNC;
	req->op.type = BLOCK_IO_SYNC;
	return BLOCK_PENDING;
}

/* Write zeros up to req->end, a bounded piece at a time. */
static int start_zeroes(struct block_request *req)
{
	uint64_t left = req->end - req->pos, n;
	unsigned int i;

	req->stage = STAGE_ZEROES;
	req->op.type = BLOCK_IO_WRITE;
	req->op.durable = false;
	req->op.iov = req->inline_iov;
	for (i = 0; left && i < BLOCK_REQUEST_INLINE_IOV; i++) {
		n = left < ZEROES_SIZE ? left : ZEROES_SIZE;
		req->inline_iov[i] = (struct iovec){ .iov_base = zeroes, .iov_len = n };
		left -= n;
	}
	req->op.nr_iov = i;
	return BLOCK_PENDING;
}

static int start_range(struct block_request *req, const struct block_file *file)
{
	bool unmap = req->type == VIRTIO_BLK_T_DISCARD || (req->range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);

	if (req->type == VIRTIO_BLK_T_DISCARD)
		metrics_inc(block_discard_count);
	else
		metrics_inc(block_write_zeroes_count);
	if (!req->range.num_sectors)
		return VIRTIO_BLK_S_OK;
	req->pos = req->range.sector * BLOCK_SECTOR_SIZE;
	req->op.len = (uint64_t)req->range.num_sectors * BLOCK_SECTOR_SIZE;
	req->end = req->pos + req->op.len;
	aim(req);
	if (file->no_zero_range && req->type == VIRTIO_BLK_T_WRITE_ZEROES)
		return start_zeroes(req);
	req->stage = STAGE_ALLOCATE;
	req->op.type = BLOCK_IO_ALLOCATE;
	/* A punched hole reads as zeros. Without unmap the space must stay reserved (5.2.6). */
	req->op.mode = FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	return BLOCK_PENDING;
}

static int host_failed(const struct block_request *req, const struct block_traits *traits, int code)
{
	static const char *const names[] = {
		[BLOCK_IO_READ] = "reading",
		[BLOCK_IO_WRITE] = "writing",
		[BLOCK_IO_SYNC] = "flushing",
		[BLOCK_IO_ALLOCATE] = "discarding",
	};

	metrics_inc(block_io_errors);
	metrics_inc(block_execute_fails);
	log_warn_limited("drives[%s]: %s at byte %llu: %s; the guest sees an I/O error", traits->drive_id,
			 names[req->op.type], (unsigned long long)req->pos,
			 code ? strerror(-code) : "the file has become shorter");
	return VIRTIO_BLK_S_IOERR;
}

/* Write an overlay's bitmap, or go on with that. */
static int step_commit(struct block_request *req, const struct block_traits *traits)
{
	req->stage = STAGE_COMMIT;
	switch (block_overlay_commit(req->file->overlay, &req->op)) {
	case OVERLAY_RUN:
		return BLOCK_PENDING;
	case OVERLAY_WAIT:
		return BLOCK_WAITING;
	case OVERLAY_DONE:
		return VIRTIO_BLK_S_OK;
	default:
		return host_failed(req, traits, -ENOSPC);
	}
}

/* All bytes of a write, discard or write zeroes are in the file. */
static int complete_write(struct block_request *req, const struct block_traits *traits)
{
	const bool range = req->type != VIRTIO_BLK_T_OUT;
	const uint64_t pos = (range ? req->range.sector : req->sector) * BLOCK_SECTOR_SIZE;
	struct block_overlay *ov = req->file->overlay;

	if (ov && block_overlay_add(ov, pos, req->end - pos, traits->durable))
		return step_commit(req, traits);
	return range && traits->durable ? start_sync(req) : VIRTIO_BLK_S_OK;
}

int block_request_start(struct block_request *req, const struct block_traits *traits, struct block_file *file)
{
	req->file = block_file_get(file);
	req->op.fd = file->fd;
	switch (req->type) {
	case VIRTIO_BLK_T_GET_ID:
		return answer_id(req, traits);
	case VIRTIO_BLK_T_FLUSH:
		metrics_inc(block_flush_count);
		/*
		 * A flush covers the writes that were answered before it was sent (5.2.6.2); those are in the page
		 * cache by then, so fdatasync alone is enough and nothing in flight has to be waited for.
		 */
		if (traits->unsafe)
			return VIRTIO_BLK_S_OK;
		return file->overlay ? step_commit(req, traits) : start_sync(req);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return start_range(req, file);
	default:
		return start_transfer(req, traits);
	}
}

/* The file system, or the block device for this alignment, has no such operation. */
static bool not_offered(int64_t result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
}

static int advance_range(struct block_request *req, const struct block_traits *traits)
{
	if (req->stage == STAGE_ALLOCATE && not_offered(req->op.result)) {
		/* Discard is advice: where the host cannot free the space, the data just stays. */
		if (req->type == VIRTIO_BLK_T_DISCARD)
			return VIRTIO_BLK_S_OK;
		if (req->op.result != -EINVAL && (req->op.mode & FALLOC_FL_ZERO_RANGE))
			req->file->no_zero_range = true;
		return start_zeroes(req);
	}
	return complete_write(req, traits);
}

/* A transfer or zeroes: result bytes were moved. Shorter than asked for is no error until nothing moves at all. */
static int advance_bytes(struct block_request *req, const struct block_traits *traits)
{
	uint64_t n = (uint64_t)req->op.result;

	if (!n || n > req->end - req->pos)
		return host_failed(req, traits, n ? -EIO : 0);
	req->pos += n;
	req->op.offset += n;
	req->retries = 0;
	if (req->type == VIRTIO_BLK_T_IN) {
		req->written += n;
		metrics_add(block_read_bytes, n);
	} else {
		metrics_add(block_write_bytes, n);
	}
	if (req->pos == req->end)
		return req->type == VIRTIO_BLK_T_IN ? VIRTIO_BLK_S_OK : complete_write(req, traits);
	if (req->stage == STAGE_ZEROES)
		return start_zeroes(req);
	if (req->file->overlay)
		iov_release(req);
	iov_consume(&req->op, n);
	if (req->file->overlay)
		aim(req);
	return BLOCK_PENDING;
}

int block_request_advance(struct block_request *req, const struct block_traits *traits)
{
	int64_t result = req->op.result;

	if ((result == -EAGAIN || result == -EINTR) && req->retries++ < MAX_RETRIES)
		return BLOCK_PENDING;
	if (result < 0 && !(req->stage == STAGE_ALLOCATE && not_offered(result)))
		return host_failed(req, traits, (int)result);
	switch (req->stage) {
	case STAGE_ALLOCATE:
		return advance_range(req, traits);
	case STAGE_SYNC:
		return VIRTIO_BLK_S_OK;
	case STAGE_COMMIT:
		return step_commit(req, traits);
	default:
		return advance_bytes(req, traits);
	}
}

int block_request_resume(struct block_request *req, const struct block_traits *traits)
{
	return req->type == VIRTIO_BLK_T_FLUSH ? step_commit(req, traits) : complete_write(req, traits);
}

uint32_t block_request_finish(struct block_request *req, uint8_t status)
{
	/* The length counts bytes filled without a gap, so the status byte counts only behind data that is complete. */
	uint64_t len = req->written == req->in_len ? req->in_len + 1 : req->written;

	/* The push that follows releases it to the driver. */
	__atomic_store_n(req->status, status, __ATOMIC_RELAXED);
	block_request_abandon(req);
	return len > UINT32_MAX ? UINT32_MAX : (uint32_t)len;
}

void block_request_abandon(struct block_request *req)
{
	if (req->file && req->file->overlay)
		block_overlay_give_up(req->file->overlay, &req->op);
	if (req->file)
		block_file_put(req->file);
	req->file = NULL;
}
