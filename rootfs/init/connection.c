/* connection.c: frames to and from the host, blocking: each connection has a process of its own. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define LINGER_MS 5000 /* since the host's last word */

int64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int conn_read(struct connection *c)
{
	int ret = 0;

	frame_next(&c->in);
	while (!ret) {
		ssize_t n = read(c->fd, frame_space(&c->in), frame_wanted(&c->in));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : c->in.have ? -EPIPE : 0;
		ret = frame_got(&c->in, (size_t)n);
	}
	return ret;
}

int conn_send(struct connection *c, enum frame_type type, const void *data, size_t len)
{
	uint8_t header[FRAME_HEADER];
	struct iovec iov[2] = { { header, sizeof(header) }, { (void *)data, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	frame_header(header, type, len);
	while (iov[0].iov_len + iov[1].iov_len) {
		ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < 2 && n > 0; i++) {
			size_t part = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;

			iov[i].iov_base = (char *)iov[i].iov_base + part;
			iov[i].iov_len -= part;
			n -= (ssize_t)part;
		}
	}
	return 0;
}

void conn_close(struct connection *c)
{
	int64_t deadline = milliseconds() + LINGER_MS, left;
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	char rest[4096];

	/*
	 * A socket that is closed with bytes unread may take back what was sent: let the host speak to its end. One
	 * that cannot take our last words yet says something now and then.
	 */
	shutdown(c->fd, SHUT_WR);
	while ((left = deadline - milliseconds()) > 0 && poll(&p, 1, (int)left) > 0 &&
	       read(c->fd, rest, sizeof(rest)) > 0)
		deadline = milliseconds() + LINGER_MS;
	close(c->fd);
	c->fd = -1;
}
