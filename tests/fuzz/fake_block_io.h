/* fake_block_io.h: an I/O engine for targets, linked in the place of block_io_uring.c. */
#ifndef MAYFLY_FUZZ_FAKE_BLOCK_IO_H
#define MAYFLY_FUZZ_FAKE_BLOCK_IO_H

#include "block_io.h"

extern struct fake_block_io {
	struct block_io *io; /* the last one made; NULL: none */
	bool deferred;       /* operations wait for fake_block_io_finish */
	uint8_t fault;       /* for the next that completes: 0 none, 1-127 that many 128ths, from 128 on an error */
	uint8_t choice;      /* which of those that wait completes next */
	struct block_io_op *waiting[BLOCK_IO_MAX_IN_FLIGHT];
	unsigned int nr_waiting;
} fake_block_io;

/* fake_block_io_finish - let n operations complete in the loop's next turn. */
void fake_block_io_finish(uint64_t n);

#endif
