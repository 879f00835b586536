/* net_stream.c: frames over a stream socket as passt and QEMU send them: a 32-bit big-endian length, then the frame. */
#include "net_backend.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "iov.h"
#include "lazy_memory.h"
#include "log.h"
#include "unix_socket.h"

#define PREFIX sizeof(uint32_t)
/* A whole frame, or many small ones: one system call takes what is there. */
#define RX_SIZE (PREFIX + NET_FRAME_MAX)

struct net_stream {
	struct net_backend be;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* empty: inherited, cannot be connected again */
	size_t rx_start, rx_end;                                /* bytes of rx not yet given on */
	size_t tx_start, tx_end;                                /* bytes of tx not yet sent: the rest of one frame */
	struct iovec iov[VIRTQUEUE_MAX_SIZE + 3];
	/* Last: pages that stay untouched cost nothing. */
	uint8_t tx[PREFIX + NET_FRAME_MAX];
	uint8_t rx[RX_SIZE];
};

static struct net_stream *to_stream(struct net_backend *be)
{
	return (struct net_stream *)be;
}

/* After any error but "not now", where the next frame starts is anybody's guess. */
static int stream_errno(void)
{
	if (errno == EAGAIN || errno == EINTR)
		return -EAGAIN;
	return errno == ENOMEM || errno == ENOBUFS ? -errno : -ENODEV;
}

/* Length of the frame at rx_start; 0: not wholly there yet; -ENODEV: nothing that a frame can have. */
static ssize_t frame_length(const struct net_stream *s)
{
	uint32_t len;

	if (s->rx_end - s->rx_start < PREFIX)
		return 0;
	memcpy(&len, s->rx + s->rx_start, PREFIX);
	len = be32toh(len);
	if (len < ETH_HLEN || len > NET_FRAME_MAX)
		return -ENODEV;
	return s->rx_end - s->rx_start - PREFIX < len ? 0 : (ssize_t)len;
}

static int receive(struct net_stream *s)
{
	ssize_t n;

	/* The rest of a frame moves to the front, so that the whole of it fits. */
	memmove(s->rx, s->rx + s->rx_start, s->rx_end - s->rx_start);
	s->rx_end -= s->rx_start;
	s->rx_start = 0;
	n = recv(s->be.event.fd, s->rx + s->rx_end, RX_SIZE - s->rx_end, MSG_DONTWAIT);
	if (n < 0)
		return stream_errno();
	if (n == 0)
		return -ENODEV;
	s->rx_end += (size_t)n;
	return 0;
}

static ssize_t stream_read(struct net_backend *be, const struct iovec *iov, unsigned int n)
{
	struct net_stream *s = to_stream(be);
	ssize_t len = frame_length(s);
	int ret;

	if (len == 0) {
		/* After a hang-up no event will tell of what is still to be read. */
		do {
			ret = receive(s);
			if (ret)
				return ret;
			len = frame_length(s);
		} while (len == 0 && be->hangup);
	}
	if (len < 0)
		log_warn_limited("network-interfaces[%s]: %s: sends a length that no frame has (needs %u to %u)",
				 be->id, be->name, ETH_HLEN, NET_FRAME_MAX);
	if (len <= 0)
		return len ? len : -EAGAIN;
	(void)iov_write(iov, n, 0, s->rx + s->rx_start + PREFIX, (size_t)len);
	s->rx_start += PREFIX + (size_t)len;
	/* A bad length that follows counts, too: reading is how it is found out. */
	be->more = frame_length(s) != 0;
	return len;
}

static int stream_flush(struct net_backend *be)
{
	struct net_stream *s = to_stream(be);
	ssize_t n;

	while (s->tx_start < s->tx_end) {
		n = send(be->event.fd, s->tx + s->tx_start, s->tx_end - s->tx_start, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return stream_errno();
		s->tx_start += (size_t)n;
	}
	be->unsent = false;
	return 0;
}

static int stream_write(struct net_backend *be, const struct iovec *iov, unsigned int n, size_t len)
{
	struct net_stream *s = to_stream(be);
	uint32_t prefix = htobe32((uint32_t)len);
	struct msghdr msg = { .msg_iov = s->iov, .msg_iovlen = n + 1 };
	size_t total = PREFIX + len;
	ssize_t sent;

	if (be->unsent)
		return -EAGAIN;
	s->iov[0] = (struct iovec){ .iov_base = &prefix, .iov_len = PREFIX };
	memcpy(s->iov + 1, iov, n * sizeof(*iov));
	sent = sendmsg(be->event.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return stream_errno();
	if ((size_t)sent == total)
		return 0;
	/* The guest gets its buffers back; the other side has to get the rest, or it would lose track of the frames. */
	s->tx_start = 0;
	s->tx_end = iov_read(s->iov, n + 1, (size_t)sent, s->tx, total - (size_t)sent);
	be->unsent = true;
	return 0;
}

static void stream_lost(struct net_backend *be)
{
	struct net_stream *s = to_stream(be);

	s->rx_start = s->rx_end = s->tx_start = s->tx_end = 0;
	close(be->event.fd);
	be->event.fd = -1;
}

static int stream_retry(struct net_backend *be)
{
	int fd = unix_socket_connect(to_stream(be)->path);

	if (fd < 0)
		return fd;
	be->event.fd = fd;
	return 0;
}

static void stream_free(struct net_backend *be)
{
	if (be->event.fd >= 0)
		close(be->event.fd);
	munmap(be, sizeof(struct net_stream));
}

static const struct net_backend_ops stream_ops = {
	.read = stream_read,
	.write = stream_write,
	.flush = stream_flush,
	.lost = stream_lost,
	.retry = stream_retry,
	.free = stream_free,
};

static const struct net_backend_ops inherited_ops = {
	.read = stream_read,
	.write = stream_write,
	.flush = stream_flush,
	.lost = stream_lost,
	.free = stream_free,
};

static struct net_stream *stream_new(int fd, const struct net_backend_ops *ops)
{
	struct net_stream *s = lazy_alloc(sizeof(*s));

	if (!s)
		return NULL;
	s->be.ops = ops;
	s->be.event.fd = fd;
	return s;
}

int net_stream_adopt(struct net_backend **out, int fd, struct error *err, const char *where)
{
	struct net_stream *s = stream_new(fd, &inherited_ops);

	if (!s)
		return error_set(err, -ENOMEM, "%s: no memory", where);
	*out = &s->be;
	return 0;
}

int net_stream_connect(struct net_backend **out, const char *path, struct error *err, const char *where)
{
	int fd = unix_socket_connect(path);
	struct net_stream *s;

	if (fd < 0)
		return error_set(err, fd, "%s: %s (needs passt, or another server of its protocol, to listen there)",
				 where, strerror(-fd));
	s = stream_new(fd, &stream_ops);
	if (!s) {
		close(fd);
		return error_set(err, -ENOMEM, "%s: no memory", where);
	}
	memcpy(s->path, path, strnlen(path, sizeof(s->path) - 1));
	*out = &s->be;
	return 0;
}
