/* net_backend.c: which backend a name means, and what all of them share: watching, losing the link, coming back. */
#include "net_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inherited.h"
#include "log.h"
#include "metrics.h"

#define BACKOFF_MIN_NS 100000000ull
#define BACKOFF_MAX_NS 5000000000ull
/* Frames a TAP may have queued (its default is 500, 1000 where someone meant well). */
#define STALE_MAX 1024u

static void unwatch(struct net_backend *be)
{
	if (be->watched)
		event_loop_remove(be->loop, &be->event);
	be->watched = 0;
}

static void schedule_retry(struct net_backend *be)
{
	event_loop_arm(be->loop, &be->retry, event_loop_now_ns() + be->backoff_ns);
	be->backoff_ns = be->backoff_ns * 2 < BACKOFF_MAX_NS ? be->backoff_ns * 2 : BACKOFF_MAX_NS;
}

/* Out of the epoll set at once: what is gone is ready for ever. */
static void lost(struct net_backend *be)
{
	if (!be->up)
		return;
	be->up = false;
	unwatch(be);
	be->more = be->unsent = be->hangup = false;
	if (be->ops->lost)
		be->ops->lost(be);
	log_warn_limited("network-interfaces[%s]: %s: the other side is gone; %s", be->id, be->name,
			 be->ops->retry ? "frames are dropped until it is back" : "frames are dropped from now on");
	if (be->ops->retry)
		schedule_retry(be);
}

/* The link is as it was, and so is what is half sent or half read: only the host has nothing left to serve it with. */
static void starved(struct net_backend *be, int ret)
{
	be->up = false;
	be->starved = true;
	unwatch(be);
	log_warn_limited("network-interfaces[%s]: %s: %s; trying again", be->id, be->name, strerror(-ret));
	schedule_retry(be);
}

static void on_retry(struct event_timer *timer)
{
	struct net_backend *be = timer->opaque;

	if (!be->starved && be->ops->retry(be)) {
		schedule_retry(be);
		return;
	}
	be->starved = false;
	be->up = true;
	if (be->ops->set_offload && be->ops->set_offload(be, be->offload))
		log_warn_limited("network-interfaces[%s]: %s: is back without its offloads", be->id, be->name);
	log_warn_limited("network-interfaces[%s]: %s: is back", be->id, be->name);
	be->client.ready(be->client.opaque, true, true);
}

static void on_event(struct event_fd *ev, uint32_t events)
{
	struct net_backend *be = ev->opaque;
	bool reading = be->watched & EPOLLIN;
	int ret;

	be->hangup = events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP);
	/* A hang-up is reported whether asked for or not. Who does not read would never see the end. */
	if (be->hangup && !reading) {
		lost(be);
		be->client.ready(be->client.opaque, false, true);
		return;
	}
	if (events & EPOLLOUT && be->unsent) {
		ret = be->ops->flush(be);
		if (ret == -ENODEV)
			lost(be);
	}
	be->client.ready(be->client.opaque, be->hangup || events & EPOLLIN, events & EPOLLOUT && !be->unsent);
}

void net_backend_watch(struct net_backend *be, uint32_t events)
{
	int ret;

	if (!be->up)
		return;
	if (be->unsent)
		events |= EPOLLOUT;
	if (events & EPOLLIN)
		events |= EPOLLRDHUP;
	if (events == be->watched)
		return;
	unwatch(be);
	if (!events)
		return;
	ret = event_loop_add(be->loop, &be->event, events);
	if (ret) {
		metrics_inc(net_event_fails);
		starved(be, ret);
		return;
	}
	be->watched = events;
}

ssize_t net_backend_read(struct net_backend *be, const struct iovec *iov, unsigned int n)
{
	ssize_t ret;

	if (!be->up)
		return -ENODEV;
	ret = be->ops->read(be, iov, n);
	if (ret >= 0) {
		be->backoff_ns = BACKOFF_MIN_NS;
	} else if (ret != -EAGAIN || be->hangup) {
		metrics_inc(net_tap_read_fails);
		if ((ret == -ENOMEM || ret == -ENOBUFS) && !be->hangup)
			starved(be, (int)ret);
		else
			lost(be);
		/* An error that stays would be an event without end; one that passes costs the first retry's wait. */
		ret = -ENODEV;
	}
	return ret;
}

int net_backend_write(struct net_backend *be, const struct iovec *iov, unsigned int n, size_t len)
{
	int ret;

	if (!be->up)
		return -ENODEV;
	ret = be->ops->write(be, iov, n, len);
	if (ret == -ENODEV)
		lost(be);
	return ret;
}

int net_backend_set_offload(struct net_backend *be, unsigned int flags)
{
	char byte;
	const struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	unsigned int i;
	int ret;

	if (flags == be->offload)
		return 0;
	be->offload = flags;
	if (!be->up)
		return 0; /* on_retry sets it */
	ret = be->ops->set_offload(be, flags);
	/* What is queued may have been left unsegmented or without checksum for a driver that could take it. The rest
	 * of each frame is discarded by reading its start. */
	for (i = 0; i < STALE_MAX && !ret; i++) {
		if (be->ops->read(be, &iov, 1) < 0)
			break;
	}
	return ret;
}

static int adopt_socket(struct net_backend **out, int fd, struct error *err, const char *where)
{
	int type = 0, listening = 0;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return error_set(err, -EINVAL, "%s: neither a TAP nor a socket (needs one of these)", where);
	len = sizeof(listening);
	(void)getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len);
	if (listening)
		return error_set(err, -EINVAL, "%s: a listening socket (needs a connected one)", where);
	len = 0;
	if (getpeername(fd, NULL, &len) && errno == ENOTCONN)
		return error_set(err, -ENOTCONN, "%s: %s (needs a connected socket)", where, strerror(ENOTCONN));
	if (type == SOCK_STREAM)
		return net_stream_adopt(out, fd, err, where);
	if (type == SOCK_DGRAM || type == SOCK_SEQPACKET)
		return net_dgram_adopt(out, fd, type, err, where);
	return error_set(err, -EINVAL, "%s: a socket of type %d (needs SOCK_STREAM, SOCK_SEQPACKET or SOCK_DGRAM)",
			 where, type);
}

static int adopt(struct net_backend **out, const char *name, struct error *err, const char *where)
{
	struct ifreq ifr;
	int fd = inherited_open(name, where, err), ret;

	if (fd < 0)
		return fd;
	memset(&ifr, 0, sizeof(ifr));
	/* Only TAPs know this; one whose interface was deleted meanwhile answers EBADFD. */
	if (ioctl(fd, TUNGETIFF, &ifr) == 0 || errno == EBADFD)
		ret = net_tap_adopt(out, fd, err, where);
	else
		ret = adopt_socket(out, fd, err, where);
	if (ret)
		close(fd);
	return ret;
}

int net_backend_open(struct net_backend **out, const struct net_config *cfg, struct event_loop *loop,
		     const struct net_backend_client *client, struct error *err)
{
	const char *name = cfg->host_dev_name;
	struct net_backend *be = NULL;
	char where[sizeof(cfg->iface_id) + sizeof(cfg->host_dev_name) + 48];
	int ret;

	snprintf(where, sizeof(where), "network-interfaces[%s].host_dev_name: %s", cfg->iface_id, name);
	if (strncmp(name, "unix:", 5) == 0)
		ret = net_stream_connect(&be, name + 5, err, where);
	else if (inherited_is_name(name))
		ret = adopt(&be, name, err, where);
	else
		ret = net_tap_open(&be, name, err, where);
	if (!be)
		return ret;
	memcpy(be->name, name, sizeof(be->name));
	memcpy(be->id, cfg->iface_id, sizeof(be->id));
	be->client = *client;
	be->loop = loop;
	be->event.ready = on_event;
	be->event.opaque = be;
	be->retry = (struct event_timer){ .expired = on_retry, .opaque = be };
	be->backoff_ns = BACKOFF_MIN_NS;
	be->up = true;
	*out = be;
	return ret;
}

void net_backend_close(struct net_backend *be)
{
	if (!be)
		return;
	unwatch(be);
	event_loop_disarm(be->loop, &be->retry);
	be->ops->free(be);
}
