/* server.c: accepts clients, feeds their bytes to the HTTP reader, and sends what they are answered. */
#include "server.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "metrics.h"
#include "unix_socket.h"

#define READ_SIZE 4096          /* bytes a turn: what one client may keep the loop busy with */
#define LINGER_NS 1000000000ull /* how long a refused client may go on sending */
#define RETRY_NS  100000000ull  /* accept() has failed for want of descriptors or memory: look again */

struct client {
	struct server *server;
	struct client *older, *newer; /* by when it last said something */
	struct event_fd ev;
	uint64_t deadline_ns; /* 0: none */
	struct http_reader reader;
	char *unread; /* came together with a request that is not answered yet */
	size_t nr_unread;
	char *out; /* waits for the client to read */
	size_t out_at, out_len;
	bool answering; /* the handler has the request */
	bool closing;   /* no further request is read; close once `out` is empty */
	bool refused;   /* … but first read what it is still sending, or it would not get to see why */
	bool lingering; /* that is what happens now */
	bool in_turn;   /* on_client is at work on it */
	bool gone;      /* closed; the memory stays until nobody has a pin on it */
	unsigned int pins;
	bool streaming;
	void (*stream_gone)(void *opaque);
	void *stream_opaque;
};

struct server {
	struct event_loop *loop;
	struct unix_listener listener;
	struct event_timer timeout;
	server_handler *handler;
	void *opaque;
	size_t body_max;
	struct client *oldest, *newest;
	unsigned int nr_clients;
	char buffer[READ_SIZE];
};

/* ---- the list, ordered by last activity ---- */

static void list_add(struct server *s, struct client *c)
{
	c->older = s->newest;
	c->newer = NULL;
	*(s->newest ? &s->newest->newer : &s->oldest) = c;
	s->newest = c;
}

static void list_remove(struct server *s, struct client *c)
{
	*(c->older ? &c->older->newer : &s->oldest) = c->newer;
	*(c->newer ? &c->newer->older : &s->newest) = c->older;
}

/* ---- one client ---- */

static void watch(struct client *c, uint32_t events)
{
	event_loop_watch(c->server->loop, &c->ev, events);
}

/* Whoever still has work to do on a client holds a pin, since any send may find that it is gone. */
static void unpin(struct client *c)
{
	if (--c->pins || !c->gone)
		return;
	http_reader_free(&c->reader);
	free(c->unread);
	free(c->out);
	free(c);
}

/* The caller holds a pin. */
static void close_client(struct client *c)
{
	struct server *s = c->server;

	if (c->gone)
		return;
	watch(c, 0);
	close(c->ev.fd);
	list_remove(s, c);
	s->nr_clients--;
	c->gone = true;
	if (c->streaming)
		c->stream_gone(c->stream_opaque);
}

static void set_deadline(struct client *c, uint64_t deadline_ns)
{
	struct server *s = c->server;

	c->deadline_ns = deadline_ns;
	if (deadline_ns && (!s->timeout.armed || deadline_ns < s->timeout.deadline_ns))
		event_loop_arm(s->loop, &s->timeout, deadline_ns);
}

static bool waiting_to_send(const struct client *c)
{
	return c->out_at < c->out_len;
}

static void keep(struct client *c, const char *data, size_t len)
{
	char *more;

	if (!len || c->gone)
		return;
	/* What was sent goes first, or a stream that is never quite caught up with would grow without end. */
	if (c->out_at)
		memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
	c->out_len -= c->out_at;
	c->out_at = 0;
	more = realloc(c->out, c->out_len + len);
	if (!more) {
		close_client(c);
		return;
	}
	c->out = more;
	memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
}

/*
 * Sends as much as the client takes now; the rest is kept. One call for all parts of an answer: a client that waits for
 * it on another CPU would otherwise be woken for the head alone.
 */
static void send_parts(struct client *c, const struct iovec *part, unsigned int n)
{
	const struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)part, .msg_iovlen = n };
	ssize_t sent = 0;
	unsigned int i;

	if (c->gone)
		return;
	if (!waiting_to_send(c)) {
		sent = sendmsg(c->ev.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno != EAGAIN && errno != EINTR) {
			close_client(c);
			return;
		}
		sent = sent < 0 ? 0 : sent;
	}
	for (i = 0; i < n; i++) {
		size_t skip = (size_t)sent < part[i].iov_len ? (size_t)sent : part[i].iov_len;

		sent -= (ssize_t)skip;
		keep(c, (const char *)part[i].iov_base + skip, part[i].iov_len - skip);
	}
}

static struct iovec text_part(const char *text, size_t len)
{
	return (struct iovec){ .iov_base = (void *)(uintptr_t)text, .iov_len = len };
}

static void send_bytes(struct client *c, const char *data, size_t len)
{
	const struct iovec part = text_part(data, len);

	send_parts(c, &part, 1);
}

static void flush(struct client *c)
{
	ssize_t n = send(c->ev.fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		close_client(c);
		return;
	}
	c->out_at += (size_t)n;
	if (waiting_to_send(c))
		return;
	free(c->out);
	c->out = NULL;
	c->out_at = c->out_len = 0;
	c->deadline_ns = 0;
}

static void refuse(struct client *c)
{
	char body[160], head[HTTP_ANSWER_HEAD_MAX];
	int n = snprintf(body, sizeof(body), "{\"fault_message\":\"%s\"}", c->reader.fail_why);
	size_t len = http_head(head, c->reader.fail_status, "application/json", (size_t)n, false);

	metrics_inc(api_server_bad_requests);
	c->closing = c->refused = true;
	send_parts(c, (struct iovec[]){ text_part(head, len), text_part(body, (size_t)n) }, 2);
}

/* Keeps what came behind a request until it is answered. */
static void keep_unread(struct client *c, const char *data, size_t len)
{
	c->unread = malloc(len);
	if (!c->unread) {
		c->closing = true;
		return;
	}
	memcpy(c->unread, data, len);
	c->nr_unread = len;
}

static void take(struct client *c, const char *data, size_t len)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	enum http_progress progress;
	size_t used;

	while (len && !c->closing && !c->gone) {
		if (c->answering || waiting_to_send(c)) {
			keep_unread(c, data, len);
			return;
		}
		used = http_read(&c->reader, data, len, &progress);
		data += used;
		len -= used;
		if (c->reader.started && !c->deadline_ns)
			set_deadline(c, event_loop_now_ns() + SERVER_REQUEST_NS);
		if (progress == HTTP_FAILED) {
			refuse(c);
		} else if (progress == HTTP_NEEDS_CONTINUE) {
			send_bytes(c, go_on, sizeof(go_on) - 1);
		} else if (progress == HTTP_COMPLETE) {
			c->deadline_ns = 0;
			c->answering = true;
			c->pins++;
			c->server->handler(c->server->opaque, c, &c->reader.request);
		}
	}
}

/* What to wait for next, and until when. */
static void settle(struct client *c)
{
	if (c->gone)
		return;
	if (waiting_to_send(c)) {
		watch(c, c->streaming ? EPOLLOUT | EPOLLRDHUP : EPOLLOUT);
		if (!c->deadline_ns && !c->streaming)
			set_deadline(c, event_loop_now_ns() + SERVER_REQUEST_NS);
	} else if (c->streaming) {
		watch(c, EPOLLRDHUP);
	} else if (c->refused && !c->lingering) {
		c->lingering = true;
		shutdown(c->ev.fd, SHUT_WR);
		set_deadline(c, event_loop_now_ns() + LINGER_NS);
		watch(c, EPOLLIN);
	} else if (c->closing && !c->lingering) {
		close_client(c);
	} else {
		watch(c, c->answering ? 0 : EPOLLIN);
	}
}

/* Requests that came together are answered one after the other, here and not below the handler, where each would
 * deepen the stack. */
static void go_on(struct client *c)
{
	while (c->unread && !c->gone && !c->closing && !c->answering && !waiting_to_send(c)) {
		char *data = c->unread;

		c->unread = NULL;
		take(c, data, c->nr_unread);
		free(data);
	}
	settle(c);
}

static void receive(struct client *c)
{
	struct server *s = c->server;
	ssize_t n = read(c->ev.fd, s->buffer, sizeof(s->buffer));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_client(c);
		return;
	}
	list_remove(s, c);
	list_add(s, c);
	take(c, s->buffer, (size_t)n);
}

static void on_client(struct event_fd *ev, uint32_t events)
{
	struct client *c = ev->opaque;

	c->pins++;
	c->in_turn = true;
	if (c->streaming && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		close_client(c);
	else if (waiting_to_send(c))
		flush(c);
	else
		receive(c);
	c->in_turn = false;
	go_on(c);
	unpin(c);
}

/* ---- answers ---- */

void client_reply(struct client *c, int status, const char *content_type, const char *text, size_t len)
{
	bool keep_alive = c->reader.request.keep_alive;
	bool body = content_type && !c->reader.request.no_answer_body;
	char head[HTTP_ANSWER_HEAD_MAX];
	size_t head_len = http_head(head, status, content_type, len, keep_alive);

	send_parts(c, (struct iovec[]){ text_part(head, head_len), text_part(text, len) }, body ? 2 : 1);
	if (!keep_alive)
		c->closing = true;
	http_next(&c->reader);
	c->answering = false;
	if (!c->in_turn)
		go_on(c);
	unpin(c);
}

void client_stream(struct client *c, const char *content_type, void (*gone)(void *opaque), void *opaque)
{
	char head[HTTP_ANSWER_HEAD_MAX];

	c->streaming = true;
	c->stream_gone = gone;
	c->stream_opaque = opaque;
	c->closing = true; /* nothing more is read from it */
	send_bytes(c, head, http_head(head, 200, content_type, HTTP_CHUNKED, false));
	http_next(&c->reader);
	c->answering = false;
	unpin(c);
}

void client_send(struct client *c, const char *text, size_t len)
{
	char size[24];
	int n = snprintf(size, sizeof(size), "%zx\r\n", len);

	c->pins++;
	if (c->out_len - c->out_at + len > SERVER_STREAM_MAX) {
		close_client(c);
	} else {
		send_parts(c,
			   (struct iovec[]){ text_part(size, (size_t)n), text_part(text, len), text_part("\r\n", 2) },
			   3);
		settle(c);
	}
	unpin(c);
}

void client_stream_end(struct client *c)
{
	c->pins++;
	send_bytes(c, "0\r\n\r\n", 5);
	close_client(c);
	unpin(c);
}

/* ---- all clients ---- */

/* Silent for too long in the middle of a request, or without one. */
static void time_out(struct client *c)
{
	c->pins++;
	if (c->reader.started && !c->closing && !waiting_to_send(c)) {
		c->reader.fail_status = 408;
		c->reader.fail_why = "The request did not come in whole within 10 seconds.";
		refuse(c);
	}
	close_client(c);
	unpin(c);
}

static void on_timeout(struct event_timer *timer)
{
	struct server *s = timer->opaque;
	uint64_t now = event_loop_now_ns(), next = UINT64_MAX;
	struct client *c, *newer;

	for (c = s->oldest; c; c = newer) {
		newer = c->newer;
		if (!c->deadline_ns)
			continue;
		if (c->deadline_ns <= now)
			time_out(c);
		else if (c->deadline_ns < next)
			next = c->deadline_ns;
	}
	if (next != UINT64_MAX)
		event_loop_arm(s->loop, timer, next);
}

/* The one that has been silent longest goes, unless it is being answered. */
static bool make_room(void *opaque)
{
	struct server *s = opaque;
	struct client *c = s->oldest;

	while (c && (c->answering || c->streaming))
		c = c->newer;
	if (!c)
		return false;
	c->pins++;
	close_client(c);
	unpin(c);
	return true;
}

static void add_client(void *opaque, int fd)
{
	struct server *s = opaque;
	bool room = s->nr_clients < SERVER_MAX_CLIENTS || make_room(s);
	struct client *c = room ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		close(fd);
		return;
	}
	c->server = s;
	c->ev = (struct event_fd){ .fd = fd, .ready = on_client, .opaque = c };
	http_reader_init(&c->reader, s->body_max);
	list_add(s, c);
	s->nr_clients++;
	set_deadline(c, event_loop_now_ns() + SERVER_REQUEST_NS);
	settle(c);
}

int server_create(struct server **out, struct event_loop *loop, int listen_fd, size_t body_max, server_handler *handler,
		  void *opaque, struct error *err)
{
	struct server *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return error_set(err, -ENOMEM, "no memory for the API server");
	s->loop = loop;
	s->listener = (struct unix_listener){ .accepted = add_client, .starved = make_room, .opaque = s };
	s->timeout = (struct event_timer){ .expired = on_timeout, .opaque = s };
	s->handler = handler;
	s->opaque = opaque;
	s->body_max = body_max;
	ret = unix_listener_start(&s->listener, loop, listen_fd);
	if (ret) {
		free(s);
		return error_set(err, ret, "--api-sock: cannot wait on the socket: %s", strerror(-ret));
	}
	*out = s;
	return 0;
}
