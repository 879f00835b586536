/* block.h: virtio-blk (virtio 1.2, 5.2) over a file or block device. */
#ifndef MAYFLY_VIRTIO_BLOCK_H
#define MAYFLY_VIRTIO_BLOCK_H

#include "config.h"
#include "device.h"

/*
 * Both values of io_engine do the same here: I/O goes through io_uring, set up when the driver activates the device, or
 * through one worker thread where the host denies io_uring. "Sync" would let a slow disk stall the network, the API and
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

/*
 * block_replace - PATCH /drives: swap the backing file (path may be NULL: keep it, just look at its size again) and
 * tell the driver with a config interrupt. Requests in flight finish on the old file. Loop thread.
 */
int block_replace(struct block *blk, const char *path, struct error *err);
/* block_set_rate - new limits, live. Loop thread. */
void block_set_rate(struct block *blk, const struct rate_limiter_config *cfg);

/* block_drain - true when nothing is in flight; else drained(opaque) is called once it is, and no new request starts
 * until block_resume. */
bool block_drain(struct block *blk, void (*drained)(void *opaque), void *opaque);
void block_resume(struct block *blk);

#endif
