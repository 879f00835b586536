/* retry.h: a system call that a signal interrupted is made again. */
#ifndef MAYFLY_RETRY_H
#define MAYFLY_RETRY_H

#include <errno.h>

/*
 * RETRY_INTERRUPTED - what `call` returns once it does not fail with EINTR
 * For calls that may sleep: an open or a write on NFS, FUSE or a FIFO, whoever sends us a signal meanwhile. Not for
 * close(2), which has closed the descriptor by then.
 */
#define RETRY_INTERRUPTED(call)                        \
	({                                             \
		__typeof__(call) result_;              \
		do                                     \
			result_ = (call);              \
		while (result_ < 0 && errno == EINTR); \
		result_;                               \
	})

#endif
