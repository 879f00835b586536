/* console_socket.c: a ring of the guest's last output, and clients that each read it at their own pace. */
#include "console_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lazy_memory.h"
#include "metrics.h"
#include "unix_socket.h"

#define TYPED_MAX 256 /* bytes of input a turn */

struct client {
	struct console_socket *cs;
	struct event_fd ev; /* fd -1: free */
	uint64_t at;        /* how much of all output it has been sent */
	bool full;          /* the guest takes no more input for now */
};

struct console_socket {
	struct event_loop *loop;
	struct unix_listener listener;
	size_t (*input)(void *opaque, const uint8_t *data, size_t n);
	void *opaque;
	uint8_t *ring;
	uint64_t total; /* bytes of output so far */
	struct client client[CONSOLE_SOCKET_CLIENTS];
	char path[]; /* to be removed */
};

static void watch(struct client *c, uint32_t events)
{
	event_loop_watch(c->cs->loop, &c->ev, events);
}

static void let_go(struct client *c)
{
	watch(c, 0);
	close(c->ev.fd);
	c->ev.fd = -1;
}

/* One that reads too slowly misses what has been overwritten meanwhile, and goes on with what is there. */
static void skip_lost(struct client *c)
{
	uint64_t kept = c->cs->total < CONSOLE_SOCKET_RING ? c->cs->total : CONSOLE_SOCKET_RING;

	if (c->cs->total - c->at <= kept)
		return;
	metrics_add(uart_missed_write_count, c->cs->total - kept - c->at);
	c->at = c->cs->total - kept;
}

/* Returns false once the client is gone. */
static bool catch_up(struct client *c)
{
	struct console_socket *cs = c->cs;

	skip_lost(c);
	while (c->at < cs->total) {
		size_t from = c->at % CONSOLE_SOCKET_RING, n = (size_t)(cs->total - c->at);
		ssize_t sent;

		n = n < CONSOLE_SOCKET_RING - from ? n : CONSOLE_SOCKET_RING - from;
		sent = send(c->ev.fd, cs->ring + from, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (sent < 0) {
			let_go(c);
			return false;
		}
		c->at += (uint64_t)sent;
	}
	return true;
}

static void settle(struct client *c)
{
	watch(c, (c->full ? EPOLLRDHUP : EPOLLIN) | (c->at < c->cs->total ? EPOLLOUT : 0u));
}

/* Peeks first: what the guest does not take stays with the sender. */
static bool take_input(struct client *c)
{
	uint8_t typed[TYPED_MAX];
	ssize_t n = recv(c->ev.fd, typed, sizeof(typed), MSG_PEEK | MSG_DONTWAIT);
	size_t taken;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0) {
		let_go(c);
		return false;
	}
	taken = c->cs->input(c->cs->opaque, typed, (size_t)n);
	c->full = taken < (size_t)n;
	if (taken)
		(void)!recv(c->ev.fd, typed, taken, MSG_DONTWAIT);
	return true;
}

static void on_client(struct event_fd *ev, uint32_t events)
{
	struct client *c = ev->opaque;

	if (c->full && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
		let_go(c);
		return;
	}
	if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !take_input(c))
		return;
	if (catch_up(c))
		settle(c);
}

static void add_client(void *opaque, int fd)
{
	struct console_socket *cs = opaque;
	struct client *c = cs->client;

	while (c < cs->client + CONSOLE_SOCKET_CLIENTS && c->ev.fd >= 0)
		c++;
	if (c == cs->client + CONSOLE_SOCKET_CLIENTS) {
		close(fd);
		return;
	}
	*c = (struct client){ .cs = cs, .ev = { .fd = fd, .ready = on_client, .opaque = c } };
	/* From the oldest output that is kept. */
	c->at = cs->total < CONSOLE_SOCKET_RING ? 0 : cs->total - CONSOLE_SOCKET_RING;
	if (catch_up(c))
		settle(c);
}

void console_socket_output(struct console_socket *cs, const uint8_t *data, size_t n)
{
	unsigned int i;

	while (n) {
		size_t at = cs->total % CONSOLE_SOCKET_RING;
		size_t part = n < CONSOLE_SOCKET_RING - at ? n : CONSOLE_SOCKET_RING - at;

		memcpy(cs->ring + at, data, part);
		cs->total += part;
		data += part;
		n -= part;
	}
	for (i = 0; i < CONSOLE_SOCKET_CLIENTS; i++) {
		if (cs->client[i].ev.fd >= 0 && catch_up(&cs->client[i]))
			settle(&cs->client[i]);
	}
}

void console_socket_wants_input(struct console_socket *cs)
{
	unsigned int i;

	for (i = 0; i < CONSOLE_SOCKET_CLIENTS; i++) {
		struct client *c = &cs->client[i];

		if (c->ev.fd < 0 || !c->full)
			continue;
		c->full = false;
		settle(c);
	}
}

int console_socket_create(struct console_socket **out, const char *path, struct event_loop *loop,
			  size_t (*input)(void *opaque, const uint8_t *data, size_t n), void *opaque, struct error *err)
{
	struct console_socket *cs = calloc(1, sizeof(*cs) + strlen(path) + 1);
	unsigned int i;
	int ret;

	if (!cs)
		return error_set(err, -ENOMEM, "serial.serial_socket_path: no memory");
	cs->loop = loop;
	cs->input = input;
	cs->opaque = opaque;
	for (i = 0; i < CONSOLE_SOCKET_CLIENTS; i++)
		cs->client[i].ev.fd = -1;
	cs->ring = lazy_alloc(CONSOLE_SOCKET_RING);
	if (!cs->ring) {
		free(cs);
		return error_set(err, -ENOMEM, "serial.serial_socket_path: no memory");
	}
	ret = unix_socket_listen(path, CONSOLE_SOCKET_CLIENTS, "serial.serial_socket_path", err);
	if (ret < 0)
		goto err_free;
	cs->listener = (struct unix_listener){ .accepted = add_client, .opaque = cs };
	memcpy(cs->path, path, strlen(path) + 1);
	ret = unix_listener_start(&cs->listener, loop, ret);
	if (!ret) {
		*out = cs;
		return 0;
	}
	error_set(err, ret, "serial.serial_socket_path: %s", strerror(-ret));
	close(cs->listener.ev.fd);
	unix_socket_remove(path, "serial.serial_socket_path");
err_free:
	munmap(cs->ring, CONSOLE_SOCKET_RING);
	free(cs);
	return ret;
}

void console_socket_destroy(struct console_socket *cs)
{
	unsigned int i;

	for (i = 0; i < CONSOLE_SOCKET_CLIENTS; i++) {
		if (cs->client[i].ev.fd >= 0 && catch_up(&cs->client[i]))
			let_go(&cs->client[i]);
	}
	unix_listener_stop(&cs->listener);
	close(cs->listener.ev.fd);
	unix_socket_remove(cs->path, "serial.serial_socket_path");
	munmap(cs->ring, CONSOLE_SOCKET_RING);
	free(cs);
}
