/* block.h: virtio-blk (virtio 1.2, 5.2) over a file or block device. */
#ifndef MAYFLY_VIRTIO_BLOCK_H
#define MAYFLY_VIRTIO_BLOCK_H

#include "config.h"
#include "device.h"

/*
 * Both values of io_engine do the same here: I/O goes through io_uring, or through one worker thread where the host
 * denies io_uring. "Sync" would let a slow disk stall the network, the API and
 * a pause.
 */
struct block;

/*
 * block_create - open the drive's file and make a device for it; nothing but the file is touched until the driver
 * activates it The returned device (block_device()) is bound by a transport; block_destroy waits for what is in flight,
 * then frees. Loop thread. Errors name the field: "drives[ID].path_on_host: /x: Is a directory (needs a regular file or
 * block device)".
 */
int block_create(struct block **out, const struct drive_config *cfg, const struct guest_memory *gm,
		 struct event_loop *loop, struct error *err);
void block_destroy(struct block *blk);
struct virtio_device *block_device(struct block *blk);

/* block_finish - the end of the process: wait until an overlay's file has all that was answered. Loop thread. */
void block_finish(struct block *blk);

/* block_fd - the descriptor of the file it has now (of an overlay: its base); stays the drive's. */
int block_fd(const struct block *blk);

/*
 * block_prepare - make its ring or its worker thread now: a running microVM's seccomp filters allow neither
 * Activation does it otherwise. Loop thread. 0 or -errno with a sentence.
 */
int block_prepare(struct block *blk, struct error *err);

/*
 * block_replace - PATCH /drives: swap the backing file (path may be NULL: keep it, just look at its size again) and
 * tell the driver with a config interrupt. Requests in flight finish on the old file. Loop thread. -EBUSY for a drive
 * with an overlay.
 */
int block_replace(struct block *blk, const char *path, struct error *err);
/* block_set_rate - new limits, live. Loop thread. */
void block_set_rate(struct block *blk, const struct rate_limiter_config *cfg);

/*
 * block_save_overlay - what was answered is all in the overlay's file from now on, though not synced; nothing to do for
 * other drives
 * block_clone_overlay - the same, and make the empty file `to` (the caller's, open for writing) what the overlay is
 * now: shared where the file system can, else copied; only for a drive that has one For a drive that is drained. Loop
 * thread. 0 or -errno with a sentence; what `to` holds then is not to be used.
 */
int block_save_overlay(struct block *blk, struct error *err);
int block_clone_overlay(struct block *blk, int to, struct error *err);

/* block_drain - true when nothing is in flight; else drained(opaque) is called once it is, and no new request starts
 * until block_resume. */
bool block_drain(struct block *blk, void (*drained)(void *opaque), void *opaque);
void block_resume(struct block *blk);

/*
 * STATE_BLOCK, by slot. A file that is smaller than it was is refused; one that is larger is, once block_resume is
 * called, a change of capacity as any other.
 */
struct block_state {
	uint64_t sectors; /* of 512 bytes */
	struct rate_limiter_state limiter;
	uint8_t read_only;
	uint8_t writeback; /* the driver's choice of cache mode (5.2.5.2) */
	uint8_t zero[6];
};

#endif
