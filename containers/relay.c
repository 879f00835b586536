/* relay.c: a command in the guest and what is on this side of it: its streams, signals and terminal, without waiting.
 */
#include "relay.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "terminal.h"

#define PIECE    4096  /* what a pipe that says it is writable takes for sure (PIPE_BUF) */
#define IN_PIECE 16384 /* bytes of input in one frame */
#define CONTROL  256   /* bytes that are kept free for signals and sizes */
#define WORD_MS  2000  /* between what a guest hears while nothing is taken from it; it waits 5 s */
#define FRAMES   32    /* of one step, so that a guest that never stops does not keep us from anything else */

static int *target(struct relay *r)
{
	return r->agent->in.type == FRAME_STDERR ? &r->err : &r->out;
}

unsigned int relay_watch(struct relay *r, struct pollfd fds[RELAY_FDS])
{
	const bool has_room = agent_room(r->agent, IN_PIECE + CONTROL);
	const short events = (short)((r->pending ? 0 : POLLIN) | (r->agent->out_len > 0 ? POLLOUT : 0));
	unsigned int nr = 0;

	/* That a guest has hung up is reported whatever is asked for, again and again until what is pending is gone. */
	fds[nr++] = (struct pollfd){ .fd = events ? r->agent->fd : -1, .events = events };
	if (r->pending)
		fds[nr++] = (struct pollfd){ .fd = *target(r), .events = POLLOUT };
	if (r->in >= 0 && r->started && !r->in_ended && has_room)
		fds[nr++] = (struct pollfd){ .fd = r->in, .events = POLLIN };
	return nr;
}

int relay_timeout(const struct relay *r)
{
	return r->pending ? WORD_MS : -1;
}

/* ---- to the guest ---- */

static bool queue_size(struct relay *r, unsigned int rows, unsigned int cols)
{
	char text[64];
	struct field_buffer b = { .text = text, .size = sizeof(text) };

	field_add_number(&b, "rows", rows);
	field_add_number(&b, "cols", cols);
	return agent_queue(r->agent, FRAME_RESIZE, text, b.len);
}

/* A guest that has nothing more to say waits for us to hang up, but not long for one who is silent. */
static void say_something(struct relay *r)
{
	unsigned int rows = 0, cols = 0;
	const int64_t now = now_ms();

	if (!r->pending || (r->said_at && now - r->said_at < WORD_MS))
		return;
	(void)terminal_size(r->in >= 0 ? r->in : r->out, &rows, &cols);
	/* Not at once: most readers only want a moment. */
	if (r->said_at)
		(void)queue_size(r, rows, cols);
	r->said_at = now;
}

static void send_controls(struct relay *r)
{
	char text[64];
	struct field_buffer b = { .text = text, .size = sizeof(text) };
	unsigned int rows, cols;
	int n;

	if (!r->started)
		return;
	for (n = 1; r->signals && n < 64; n++) {
		if (!(r->signals & 1ull << n))
			continue;
		b.len = 0;
		field_add_number(&b, "signal", n);
		if (!agent_queue(r->agent, FRAME_SIGNAL, text, b.len))
			return;
		r->signals &= ~(1ull << n);
	}
	if (r->resized && terminal_size(r->in >= 0 ? r->in : r->out, &rows, &cols)) {
		if (!queue_size(r, rows, cols))
			return;
	}
	r->resized = false;
}

void relay_signal(struct relay *r, int number)
{
	if (number > 0 && number < 64)
		r->signals |= 1ull << number;
	send_controls(r);
}

void relay_resize(struct relay *r)
{
	r->resized = true;
	send_controls(r);
}

static void take_input(struct relay *r)
{
	char data[IN_PIECE];
	ssize_t n = read(r->in, data, sizeof(data));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	/* The end of it, also that of a terminal that was hung up: an empty frame. */
	(void)agent_queue(r->agent, FRAME_STDIN, data, n > 0 ? (size_t)n : 0);
	r->in_ended = n <= 0;
}

/* ---- from the guest ---- */

/* Passes on a piece of the frame. Whoever is gone at the other end is to us what it would be to the command. */
static void write_piece(struct relay *r)
{
	const size_t left = r->agent->in.len - r->written;
	int *fd = target(r);
	ssize_t n = 0;

	if (*fd >= 0)
		n = write(*fd, frame_payload(&r->agent->in) + r->written, left < PIECE ? left : PIECE);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n < 0 && errno == EPIPE)
		relay_signal(r, SIGPIPE);
	if (n < 0)
		*fd = -1;
	if (*fd < 0)
		n = (ssize_t)left;
	r->written += (size_t)n;
	if (r->written < r->agent->in.len)
		return;
	r->pending = false;
	frame_next(&r->agent->in);
}

static int take_exit(struct relay *r, struct error *err)
{
	struct fields fields = { .text = frame_payload(&r->agent->in), .len = r->agent->in.len };

	r->code = fields_check(fields.text, fields.len) ? -1 : agent_status(&fields);
	return r->code < 0 ? error_set(err, -EPROTO, "the guest's agent sent an exit status that is none") : 1;
}

static int take_reply(struct relay *r, struct error *err)
{
	struct fields fields;
	int64_t code;
	int ret = agent_check_reply(r->agent, &fields, err);

	if (!ret) {
		r->started = true;
		send_controls(r);
	} else if (ret == -EREMOTEIO) {
		r->refused = true;
		r->code = field_number(&fields, "code", 126, 127, &code) == 0 ? (int)code : 0;
	}
	frame_next(&r->agent->in);
	return ret;
}

static int take_frame(struct relay *r, struct error *err)
{
	struct frame_reader *in = &r->agent->in;

	if (!r->started)
		return take_reply(r, err);
	switch (in->type) {
	case FRAME_STDOUT:
	case FRAME_STDERR:
		if (r->log)
			container_log_write(r->log, in->type == FRAME_STDERR, frame_payload(in), in->len);
		r->pending = in->len > 0 && *target(r) >= 0;
		r->written = 0;
		if (!r->pending)
			frame_next(in);
		return 0;
	case FRAME_EXIT:
		return take_exit(r, err);
	default:
		return error_set(err, -EPROTO, "the guest's agent sent a frame of type %u that does not belong here",
				 in->type);
	}
}

static int take_frames(struct relay *r, struct error *err)
{
	unsigned int n = 0;
	int ret;

	do {
		ret = agent_receive(r->agent, err);
		if (ret > 0) {
			ret = take_frame(r, err);
			if (ret)
				return ret;
			ret = 1;
		}
	} while (ret > 0 && !r->pending && ++n < FRAMES);
	return ret < 0 ? ret : 0;
}

int relay_step(struct relay *r, const struct pollfd *fds, unsigned int nr, struct error *err)
{
	unsigned int i;
	int ret = 0;

	for (i = 1; i < nr; i++) {
		if (!fds[i].revents)
			continue;
		if (fds[i].events & POLLOUT)
			write_piece(r);
		else
			take_input(r);
	}
	send_controls(r);
	say_something(r);
	/* What the guest has said before it hung up counts, so sending may fail. */
	(void)agent_flush(r->agent, NULL);
	if (!r->pending && fds[0].revents & (POLLIN | POLLHUP | POLLERR))
		ret = take_frames(r, err);
	if (!ret)
		(void)agent_flush(r->agent, NULL);
	return ret;
}
