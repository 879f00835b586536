/* write_all.c: a write to a file that is whole, or has failed. */
#include "write_all.h"

#include <errno.h>
#include <unistd.h>

#include "retry.h"

int write_all(int fd, const void *data, size_t len, off_t offset)
{
	size_t done = 0;
	ssize_t n;

	for (; done < len; done += (size_t)n) {
		n = RETRY_INTERRUPTED(pwrite(fd, (const char *)data + done, len - done, offset + (off_t)done));
		if (n <= 0)
			return n ? -errno : -EIO;
	}
	return 0;
}
