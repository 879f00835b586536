/* net_dgram.c: one frame per message of an inherited datagram or seqpacket socket, without any header. */
#include "net_backend.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Gone are those who hung up; a datagram's other errors concern one message. */
static int socket_errno(void)
{
	switch (errno) {
	case EPIPE:
	case ECONNRESET:
	case ENOTCONN:
	case EBADF:
		return -ENODEV;
	case EINTR:
	case EWOULDBLOCK:
		return -EAGAIN;
	default:
		return -errno;
	}
}

static ssize_t dgram_read(struct net_backend *be, const struct iovec *iov, unsigned int n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n };
	ssize_t ret = recvmsg(be->event.fd, &msg, MSG_DONTWAIT | MSG_TRUNC);

	/* An empty message looks like the end; after a hang-up it is the end. */
	if (ret == 0 && be->hangup)
		return -ENODEV;
	return ret < 0 ? socket_errno() : ret;
}

static int dgram_write(struct net_backend *be, const struct iovec *iov, unsigned int n, size_t len)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n };

	(void)len;
	return sendmsg(be->event.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? socket_errno() : 0;
}

static int dgram_retry(struct net_backend *be)
{
	struct pollfd p = { .fd = be->event.fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLRDHUP | POLLNVAL) ? -ENODEV : 0;
}

static void dgram_free(struct net_backend *be)
{
	close(be->event.fd);
	free(be);
}

static const struct net_backend_ops dgram_ops = {
	.read = dgram_read,
	.write = dgram_write,
	.retry = dgram_retry,
	.free = dgram_free,
};

/* A seqpacket connection that ended cannot be made again from here. */
static const struct net_backend_ops seqpacket_ops = {
	.read = dgram_read,
	.write = dgram_write,
	.free = dgram_free,
};

int net_dgram_adopt(struct net_backend **out, int fd, int type, struct error *err, const char *where)
{
	struct net_backend *be = calloc(1, sizeof(*be));

	if (!be)
		return error_set(err, -ENOMEM, "%s: no memory", where);
	be->ops = type == SOCK_DGRAM ? &dgram_ops : &seqpacket_ops;
	be->event.fd = fd;
	*out = be;
	return 0;
}
