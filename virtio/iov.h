/* iov.h: a list of buffers as the stream of bytes that it is (virtio 1.2, 2.7.4.1). */
#ifndef MAYFLY_VIRTIO_IOV_H
#define MAYFLY_VIRTIO_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/* iov_read, iov_write - copy up to len bytes from or to offset of n buffers; the number of bytes that were there. */
size_t iov_read(const struct iovec *iov, unsigned int n, size_t offset, void *dst, size_t len);
size_t iov_write(const struct iovec *iov, unsigned int n, size_t offset, const void *src, size_t len);

/* iov_find - the buffer that holds byte `offset`, and which of its bytes that is; n and 0 when offset is their end. */
unsigned int iov_find(const struct iovec *iov, unsigned int n, size_t offset, size_t *within);

/*
 * iov_slice - set dst to the len bytes from offset of n buffers, or as many as there are; returns the entries used
 * dst has room for n entries.
 */
unsigned int iov_slice(struct iovec *dst, const struct iovec *iov, unsigned int n, size_t offset, size_t len);

#endif
