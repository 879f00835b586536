/* iov.c: copies to, from and within a list of buffers. */
#include "iov.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

unsigned int iov_find(const struct iovec *iov, unsigned int n, size_t offset, size_t *within)
{
	unsigned int i;

	for (i = 0; i < n && offset >= iov[i].iov_len; i++)
		offset -= iov[i].iov_len;
	*within = i < n ? offset : 0;
	return i;
}

static size_t copy(const struct iovec *iov, unsigned int n, size_t offset, uint8_t *bytes, size_t len, bool to_iov)
{
	size_t done = 0, part, within;
	unsigned int i;

	for (i = iov_find(iov, n, offset, &within); i < n && done < len; i++, within = 0) {
		part = iov[i].iov_len - within;
		if (part > len - done)
			part = len - done;
		if (to_iov)
			memcpy((uint8_t *)iov[i].iov_base + within, bytes + done, part);
		else
			memcpy(bytes + done, (const uint8_t *)iov[i].iov_base + within, part);
		done += part;
	}
	return done;
}

size_t iov_read(const struct iovec *iov, unsigned int n, size_t offset, void *dst, size_t len)
{
	return copy(iov, n, offset, dst, len, false);
}

size_t iov_write(const struct iovec *iov, unsigned int n, size_t offset, const void *src, size_t len)
{
	return copy(iov, n, offset, (uint8_t *)(uintptr_t)src, len, true);
}

unsigned int iov_slice(struct iovec *dst, const struct iovec *iov, unsigned int n, size_t offset, size_t len)
{
	unsigned int i, used = 0;
	size_t within;

	for (i = iov_find(iov, n, offset, &within); i < n && len; i++, within = 0) {
		dst[used].iov_base = (uint8_t *)iov[i].iov_base + within;
		dst[used].iov_len = iov[i].iov_len - within < len ? iov[i].iov_len - within : len;
		len -= dst[used++].iov_len;
	}
	return used;
}
