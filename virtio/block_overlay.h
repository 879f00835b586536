/* block_overlay.h: copy-on-write: sectors that were ever written are in a delta file, all others in a base that is only
 * read. */
#ifndef MAYFLY_VIRTIO_BLOCK_OVERLAY_H
#define MAYFLY_VIRTIO_BLOCK_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "block_io.h"
#include "config.h"
#include "error.h"

/* One drive's delta. Loop thread, all of this. Positions and lengths are bytes of the disk, in whole sectors. */
struct block_overlay;

/*
 * block_overlay_open - continue the delta at cfg->overlay_path, or make one (not for a read-only drive); lock it
 * base_sectors is the size of the base, and of the disk. 0, or a negative errno with a sentence. block_overlay_close
 * saves nothing.
 */
int block_overlay_open(struct block_overlay **out, const struct drive_config *cfg, uint64_t base_sectors,
		       struct error *err);
void block_overlay_close(struct block_overlay *ov);

/* block_overlay_delta - aim op at this place in the delta. */
void block_overlay_delta(const struct block_overlay *ov, struct block_io_op *op, uint64_t pos);

/* block_overlay_find - aim op at the delta if it has the sector at pos; returns how many bytes, up to len, are alike.
 */
uint64_t block_overlay_find(const struct block_overlay *ov, struct block_io_op *op, uint64_t pos, uint64_t len);

/*
 * block_overlay_add - the delta has these bytes now: what reads them finds them there
 * True when the request has to commit before it is answered: it must be durable, or there is no flush to do it later.
 */
bool block_overlay_add(struct block_overlay *ov, uint64_t pos, uint64_t len, bool durable);

/*
 * block_overlay_commit - write the bitmap, one op after the other: data first, so that it never promises what is lost
 * RUN: carry op out, then call again with its result, which is no error. DONE: all that was added before the first call
 * is found by whoever opens the file next (after a power cut, too, but for cache_type Unsafe). WAIT: another commit is
 * running; block_overlay_woken returns op when it is over. FAILED: the host wrote less than it was asked to.
 */
enum overlay_step { OVERLAY_RUN, OVERLAY_DONE, OVERLAY_WAIT, OVERLAY_FAILED };
enum overlay_step block_overlay_commit(struct block_overlay *ov, struct block_io_op *op);
struct block_io_op *block_overlay_woken(struct block_overlay *ov);

/* block_overlay_give_up - if op was committing, that has failed; the next commit does it again. */
void block_overlay_give_up(struct block_overlay *ov, const struct block_io_op *op);

/*
 * block_overlay_save - write what the file lacks of its bitmap; with nothing in flight
 * block_overlay_clone - the same, and make the empty file `to` the same delta: its data is shared where the file system
 * can, else what is no hole is copied. Not synced; `to` is not whole until this returns 0.
 * Both 0 or a negative errno.
 */
int block_overlay_save(struct block_overlay *ov);
int block_overlay_clone(struct block_overlay *ov, int to);

#endif
