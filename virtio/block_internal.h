/* block_internal.h: what only tests may choose about a drive. */
#ifndef MAYFLY_VIRTIO_BLOCK_INTERNAL_H
#define MAYFLY_VIRTIO_BLOCK_INTERNAL_H

#include "block.h"
#include "block_io.h"

/* block_use_engine - instead of BLOCK_IO_AUTO; before block_prepare and the first activation. */
void block_use_engine(struct block *blk, enum block_io_engine engine);

#endif
