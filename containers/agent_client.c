/* agent_client.c: the host's end of the agent's protocol. */
#include "agent_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t deadline_in(int patience_ms)
{
	return patience_ms < 0 ? INT64_MAX : now_ms() + patience_ms;
}

/* Whether it happens in time. */
static bool wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd poll_fd = { .fd = fd, .events = events };
	int64_t left;
	int ret;

	do {
		left = deadline - now_ms();
		ret = poll(&poll_fd, 1, deadline == INT64_MAX ? -1 : left > 0 ? (int)left : 0);
	} while (ret < 0 && errno == EINTR);
	return ret > 0;
}

/* ---- requests ---- */

static bool make_room(struct request *r, size_t more)
{
	size_t size = r->size ? r->size : 4096;
	char *text;

	while (size - r->len < more)
		size *= 2;
	if (size == r->size)
		return true;
	text = r->failed ? NULL : realloc(r->text, size);
	if (!text) {
		r->failed = true;
		return false;
	}
	r->text = text;
	r->size = size;
	return true;
}

void request_add(struct request *r, const char *key, const char *value)
{
	const size_t key_len = strlen(key), value_len = strlen(value);

	if (!make_room(r, key_len + value_len + 2))
		return;
	memcpy(r->text + r->len, key, key_len);
	r->text[r->len + key_len] = '=';
	memcpy(r->text + r->len + key_len + 1, value, value_len + 1);
	r->len += key_len + value_len + 2;
}

void request_add_number(struct request *r, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	request_add(r, key, text);
}

void request_free(struct request *r)
{
	free(r->text);
	*r = (struct request){ 0 };
}

int agent_request(struct agent_client *c, struct request *r, struct error *err)
{
	size_t at, part;
	int ret = 0;

	request_add(r, "end", "1");
	if (r->failed)
		return error_set(err, -ENOMEM, "no memory for the request");
	if (r->len > AGENT_REQUEST_MAX)
		return error_set(err, -E2BIG, "arguments and environment are %zu bytes (needs 1 MiB at most)", r->len);
	for (at = 0; at < r->len && !ret; at += part) {
		part = r->len - at < FRAME_MAX ? r->len - at : FRAME_MAX;
		ret = agent_send(c, FRAME_REQUEST, r->text + at, part, err);
	}
	return ret;
}

/* ---- connections ---- */

struct agent_client *agent_adopt(int fd)
{
	/* Most of it is room for frames, which nobody needs zeroed. */
	struct agent_client *c = malloc(sizeof(*c));

	if (!c)
		return NULL;
	c->fd = fd;
	c->in.have = 0;
	c->in.len = 0;
	c->out_at = c->out_len = 0;
	(void)fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	return c;
}

void agent_hang_up(struct agent_client *c)
{
	if (c)
		close(c->fd);
	free(c);
}

/*
 * The folder is the jail's: its socket is looked at before it is connected to, and by descriptor, so that whoever took
 * over the monitor cannot have us speak to another socket through a link.
 */
static int connect_in(const struct instance *i, struct error *err)
{
	int folder = openat(i->dir, INSTANCE_VSOCK, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), socket_fd = -1,
	    fd = -1;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;

	if (folder >= 0)
		socket_fd = openat(folder, INSTANCE_SOCKET, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (socket_fd < 0 || fstat(socket_fd, &st)) {
		error_set(err, -errno, "%s: does not run (%s)", i->id, strerror(errno));
	} else if (!S_ISSOCK(st.st_mode)) {
		error_set(err, -EPROTO, "%s/" INSTANCE_VSOCK "/" INSTANCE_SOCKET ": not a socket",
			  text_path_shown(i->path));
	} else {
		snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", socket_fd);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
			error_set(err, -errno, "%s: cannot be reached: %s", i->id, strerror(errno));
			if (fd >= 0)
				close(fd);
			fd = -1;
		}
	}
	if (folder >= 0)
		close(folder);
	if (socket_fd >= 0)
		close(socket_fd);
	return fd >= 0 ? fd : err->code;
}

/* "OK 1073741824\n", a byte at a time: what follows is the agent's. */
static int read_answer(int fd, int patience_ms)
{
	const int64_t deadline = deadline_in(patience_ms);
	char line[32];
	size_t len;

	for (len = 0; len < sizeof(line); len++) {
		if (!wait_for(fd, POLLIN, deadline) || read(fd, line + len, 1) != 1)
			return -ECONNREFUSED;
		if (line[len] == '\n')
			return len > 3 && memcmp(line, "OK ", 3) == 0 ? 0 : -EPROTO;
	}
	return -EPROTO;
}

int agent_dial(const struct instance *i, int patience_ms, struct agent_client **out, struct error *err)
{
	struct error local = { 0 };
	int fd = connect_in(i, err ? err : &local), ret;
	char line[48];

	if (fd < 0)
		return fd;
	snprintf(line, sizeof(line), "CONNECT %d %d\n", AGENT_PORT, patience_ms);
	ret = send(fd, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line) ? 0 : -EPIPE;
	/* Mayfly keeps the time; ours is for a Mayfly that does not answer at all. */
	if (!ret)
		ret = read_answer(fd, patience_ms + AGENT_PATIENCE_MS);
	if (ret) {
		close(fd);
		return error_set(err, ret, "%s: its agent does not answer", i->id);
	}
	*out = agent_adopt(fd);
	if (*out)
		return 0;
	close(fd);
	return error_set(err, -ENOMEM, "no memory");
}

/* ---- frames ---- */

bool agent_room(const struct agent_client *c, size_t len)
{
	return len <= FRAME_MAX && sizeof(c->out) - c->out_len >= FRAME_HEADER + len;
}

bool agent_queue(struct agent_client *c, enum frame_type type, const void *data, size_t len)
{
	if (c->out_at == c->out_len)
		c->out_at = c->out_len = 0;
	if (!agent_room(c, len))
		return false;
	frame_header(c->out + c->out_len, type, len);
	if (len)
		memcpy(c->out + c->out_len + FRAME_HEADER, data, len);
	c->out_len += FRAME_HEADER + len;
	return true;
}

int agent_flush(struct agent_client *c, struct error *err)
{
	ssize_t n;

	while (c->out_at < c->out_len) {
		n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			/* Nobody will ever take it. */
			c->out_at = c->out_len = 0;
			return error_set(err, -EPIPE, "the guest hung up");
		}
		c->out_at += (size_t)n;
	}
	/* What waits moves to the front, so that there is room whenever there can be. */
	if (c->out_at > 0) {
		memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
		c->out_len -= c->out_at;
		c->out_at = 0;
	}
	return 0;
}

static int no_answer(struct error *err)
{
	return error_set(err, -ETIMEDOUT, "the guest's agent does not answer");
}

int agent_send(struct agent_client *c, enum frame_type type, const void *data, size_t len, struct error *err)
{
	const int64_t deadline = deadline_in(AGENT_PATIENCE_MS);
	bool queued = agent_queue(c, type, data, len);
	int ret = agent_flush(c, err);

	while (!ret && (!queued || c->out_len > 0)) {
		ret = wait_for(c->fd, POLLOUT, deadline) ? agent_flush(c, err) : no_answer(err);
		if (!queued)
			queued = agent_queue(c, type, data, len);
	}
	return ret;
}

int agent_receive(struct agent_client *c, struct error *err)
{
	ssize_t n;
	int ret;

	for (;;) {
		n = recv(c->fd, frame_space(&c->in), frame_wanted(&c->in), MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0)
			return error_set(err, -EPIPE, "the guest hung up");
		ret = frame_got(&c->in, (size_t)n);
		if (ret < 0)
			return error_set(err, -EPROTO, "the guest's agent sent what is no frame of the protocol");
		if (ret)
			return 1;
	}
}

int agent_next(struct agent_client *c, int patience_ms, struct error *err)
{
	const int64_t deadline = deadline_in(patience_ms);
	int ret;

	while ((ret = agent_receive(c, err)) == 0)
		if (!wait_for(c->fd, POLLIN, deadline))
			return no_answer(err);
	return ret;
}

int agent_check_reply(const struct agent_client *c, struct fields *fields, struct error *err)
{
	const char *sentence;
	char shown[sizeof(err->message) - 16];

	*fields = (struct fields){ .text = frame_payload(&c->in), .len = c->in.len };
	if (c->in.type != FRAME_REPLY || fields_check(fields->text, fields->len))
		return error_set(err, -EPROTO, "the guest's agent sent something else than an answer");
	sentence = field_get(fields, "error");
	if (sentence) {
		text_escape(shown, sizeof(shown), sentence, strlen(sentence));
		return error_set(err, -EREMOTEIO, "%s", shown);
	}
	if (!field_get(fields, "ok"))
		return error_set(err, -EPROTO, "the guest's agent sent something else than an answer");
	return 0;
}

int agent_reply(struct agent_client *c, int patience_ms, struct fields *fields, struct error *err)
{
	int ret = agent_next(c, patience_ms, err);

	return ret < 0 ? ret : agent_check_reply(c, fields, err);
}

int agent_status(const struct fields *fields)
{
	int64_t n;

	if (field_number(fields, "code", 0, 255, &n) == 0)
		return (int)n;
	if (field_number(fields, "signal", 1, 64, &n) == 0)
		return 128 + (int)n;
	return -1;
}
