/* mounts.h: the container's root and what is mounted in it. */
#ifndef MAYFLY_MOUNTS_H
#define MAYFLY_MOUNTS_H

#include "error.h"
#include "frames.h"

/*
 * mounts_enter_root - put a writable layer over the image on the first disk, make that the root, mount /proc and the
 * rest /dev must be a devtmpfs. args: the fields scratch, tmpfs_size and mount. Returns 0, or a negative errno with err
 * set.
 */
int mounts_enter_root(const struct fields *args, struct error *err);

/* mounts_settle - write everything to the disks and leave their file systems clean, for a machine that goes away. */
void mounts_settle(void);

#endif
