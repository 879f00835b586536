/* block_request.h: one virtio-blk request from its descriptors to its status byte (virtio 1.2, 5.2.6). */
#ifndef MAYFLY_VIRTIO_BLOCK_REQUEST_H
#define MAYFLY_VIRTIO_BLOCK_REQUEST_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block_file.h"
#include "block_io.h"
#include "queue.h"

/* Segments kept inside the request. More than that go to a page of its own, so that small requests dirty little memory.
 */
#define BLOCK_REQUEST_INLINE_IOV 14

/* Bounds told to the driver and checked here: 1 GiB, so that one request cannot keep a disk busy for long. */
#define BLOCK_MAX_DISCARD_SECTORS (1u << 21)
/* Discard on the granularity of the host's page cache and file systems. */
#define BLOCK_DISCARD_ALIGNMENT 8u

/* What of a drive a request depends on. */
struct block_traits {
	const char *drive_id;
	uint64_t features; /* acknowledged by the driver */
	bool read_only;
	bool unsafe;  /* cache_type Unsafe: a flush is answered, not done */
	bool durable; /* writethrough: a write is on stable storage before it is answered */
};

struct block_request {
	struct block_io_op op;   /* first */
	struct block_file *file; /* a reference while started */
	struct block_request *next_free;
	uint32_t type; /* VIRTIO_BLK_T_* */
	uint16_t head; /* the chain to give back */
	uint8_t stage, retries;
	uint8_t *status;           /* in guest memory */
	uint64_t sector, data_len; /* data_len: bytes, of the part that carries this type's data */
	bool stray_data;           /* buffers of the wrong direction: the request cannot mean what it says */
	uint64_t in_len;           /* bytes of the device-writable part before the status byte */
	uint64_t written;          /* bytes of it filled so far, from its start */
	uint64_t pos, end;         /* bytes of the disk: what comes next, and where the request ends */
	uint64_t held_len;         /* with an overlay: bytes of op's last segment that are left out for now, ... */
	unsigned int held_iov;     /* ... and segments behind it */
	struct virtio_blk_discard_write_zeroes range; /* copied, host byte order */
	struct iovec inline_iov[BLOCK_REQUEST_INLINE_IOV];
};

/* Returned by check, start and advance when there is no status yet; others are VIRTIO_BLK_S_*. */
#define BLOCK_PENDING (-1)
#define BLOCK_WAITING (-2) /* not check: nothing to be queued, until block_overlay_woken returns the request */

/*
 * block_request_parse - read the header and range of chain, and find data and status; many_iov is used when there are
 * many segments Returns 0, or -EINVAL when it cannot be understood or answered: no whole header, no byte for the
 * status.
 */
int block_request_parse(struct block_request *req, const struct vq_chain *chain, struct iovec *many_iov);

/* block_request_check - may this be carried out? BLOCK_PENDING, or the status that refuses it. No side effects. */
int block_request_check(const struct block_request *req, const struct block_traits *traits,
			const struct block_file *file);

/* block_request_cost - bytes to ask of the bandwidth limiter. */
uint64_t block_request_cost(const struct block_request *req);

/*
 * block_request_start - begin a request that passed the check; block_request_advance - go on after req->op has
 * completed; block_request_resume - go on after a wait
 * Return BLOCK_PENDING with req->op to be queued, BLOCK_WAITING, or the final status. start takes a reference to file
 * in any case.
 */
int block_request_start(struct block_request *req, const struct block_traits *traits, struct block_file *file);
int block_request_advance(struct block_request *req, const struct block_traits *traits);
int block_request_resume(struct block_request *req, const struct block_traits *traits);

/* block_request_finish - write the status byte, drop the file; returns the length for the used ring (2.7.8.2). */
uint32_t block_request_finish(struct block_request *req, uint8_t status);

/* block_request_abandon - drop the file without touching guest memory: the driver has taken the queue away. */
void block_request_abandon(struct block_request *req);

#endif
