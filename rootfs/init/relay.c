/* relay.c: bytes both ways between a command and whoever is attached to it, neither way waiting for the other. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "command.h"
#include "files.h"

#define HANG_UP_MS   5000 /* from SIGHUP to SIGKILL */
#define LAST_WORD_MS 5000 /* how long the ended main command waits for somebody to take its last output */

struct stream {
	int fd; /* -1: it has come to its end */
	bool end_told;
	size_t start, len; /* what is still to be sent */
	char data[FRAME_MAX];
};

struct relay {
	const struct agent *agent;
	struct process *process;
	struct connection *c;
	bool is_main, ended;
	int status;
	struct stream streams[2];
	struct {
		struct stream *from; /* NULL: nothing is on its way */
		uint8_t header[FRAME_HEADER];
		size_t payload, done; /* bytes: of the stream's; sent, with the header */
	} sending;
	bool input_waits;  /* the frame in c->in is input that the command has not taken all */
	size_t input_done; /* bytes of it */
	char last_input;
};

/* What did not reach the one who left is kept, as far as it is not half sent. */
static void detach(struct relay *r)
{
	struct stream *s = r->sending.from;

	if (s && r->sending.done > FRAME_HEADER) {
		s->start += r->sending.done - FRAME_HEADER;
		s->len -= r->sending.done - FRAME_HEADER;
	}
	r->sending.from = NULL;
	r->input_waits = false;
	frame_next(&r->c->in);
	close(r->c->fd);
	r->c->fd = -1;
}

/* Read what the command says. With nobody attached the newest bytes stay and the oldest go. */
static void take_output(struct relay *r, struct stream *s)
{
	char fresh[FRAME_MAX / 4];
	size_t room = sizeof(s->data);
	ssize_t n = read(s->fd, r->c->fd < 0 ? fresh : s->data, r->c->fd < 0 ? sizeof(fresh) : room);

	if (n < 0 && (errno == EINTR || (errno == EAGAIN && !r->ended)))
		return;
	if (n <= 0) { /* a process that it left behind may hold the other end: no reason to wait */
		close(s->fd);
		s->fd = -1;
	} else if (r->c->fd >= 0) {
		s->start = 0;
		s->len = (size_t)n;
	} else {
		size_t kept = s->len < room - (size_t)n ? s->len : room - (size_t)n;

		memmove(s->data, s->data + s->start + s->len - kept, kept);
		memcpy(s->data + kept, fresh, (size_t)n);
		s->start = 0;
		s->len = kept + (size_t)n;
	}
}

/* Choose what goes out next, if anything. */
static void begin_frame(struct relay *r)
{
	for (int i = 0; i < 2 - r->process->tty && !r->sending.from; i++) {
		struct stream *s = &r->streams[i];

		if (!s->len && (s->fd >= 0 || s->end_told))
			continue;
		r->sending.from = s;
		r->sending.payload = s->len;
		r->sending.done = 0;
		frame_header(r->sending.header, i ? FRAME_STDERR : FRAME_STDOUT, s->len);
	}
}

static void send_output(struct relay *r)
{
	struct stream *s = r->sending.from;
	size_t done = r->sending.done, body = done > FRAME_HEADER ? done - FRAME_HEADER : 0;
	struct iovec iov[2] = { { r->sending.header + (done < FRAME_HEADER ? done : FRAME_HEADER),
				  done < FRAME_HEADER ? FRAME_HEADER - done : 0 },
				{ s->data + s->start + body, r->sending.payload - body } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n = sendmsg(r->c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		detach(r);
	if (n <= 0)
		return;
	r->sending.done += (size_t)n;
	if (r->sending.done < FRAME_HEADER + r->sending.payload)
		return;
	s->end_told = !r->sending.payload;
	s->start += r->sending.payload;
	s->len -= r->sending.payload;
	r->sending.from = NULL;
}

/* The end of input: for a terminal the key that says so, as input; twice when once would only end a line. */
static void end_input(struct relay *r)
{
	struct process *p = r->process;
	struct frame_reader *in = &r->c->in;
	struct termios t;

	if (!p->tty) {
		close(p->input);
		p->input = -1;
	} else if (p->input >= 0 && !tcgetattr(p->input, &t) && t.c_lflag & ICANON) {
		in->len = r->last_input == '\n' || !r->last_input ? 1 : 2;
		memset(in->bytes + FRAME_HEADER, t.c_cc[VEOF], in->len);
	}
}

static void give_input(struct relay *r)
{
	struct frame_reader *in = &r->c->in;
	ssize_t n = r->process->input < 0
			    ? in->len
			    : write(r->process->input, frame_payload(in) + r->input_done, in->len - r->input_done);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) { /* nobody reads it: what else comes is dropped */
		close(r->process->input);
		r->process->input = -1;
		n = in->len;
	}
	r->input_done += (size_t)n;
	r->input_waits = r->input_done < in->len;
	if (r->input_waits)
		return;
	r->last_input = frame_payload(in)[in->len - 1];
	frame_next(in);
}

/* A frame of the host's is there. False: not one that may come now. */
static bool take_frame(struct relay *r)
{
	struct frame_reader *in = &r->c->in;
	struct fields f = { frame_payload(in), in->len };
	struct winsize size = { 0 };
	int64_t a = 0, b = 0;

	if (in->type == FRAME_STDIN) {
		if (!in->len)
			end_input(r);
		r->input_done = 0;
		r->input_waits = in->len; /* the frame stays until it is written */
		if (in->len)
			return true;
	} else if (in->type == FRAME_SIGNAL) {
		if (fields_check(f.text, f.len) || field_number(&f, "signal", 1, 64, &a))
			return false;
		if (!r->ended)
			kill(r->process->pid, (int)a);
	} else if (in->type == FRAME_RESIZE) {
		if (fields_check(f.text, f.len) || field_number(&f, "rows", 0, 65535, &a) ||
		    field_number(&f, "cols", 0, 65535, &b))
			return false;
		size.ws_row = (unsigned short)a;
		size.ws_col = (unsigned short)b;
		if (r->process->tty)
			ioctl(r->process->input, TIOCSWINSZ, &size);
	} else {
		return false;
	}
	frame_next(in);
	return true;
}

static void take_frames(struct relay *r)
{
	struct frame_reader *in = &r->c->in;
	ssize_t n = recv(r->c->fd, frame_space(in), frame_wanted(in), MSG_DONTWAIT);
	int whole;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	whole = n > 0 ? frame_got(in, (size_t)n) : -EPIPE;
	if (whole < 0 || (whole && !take_frame(r)))
		detach(r);
}

/* Somebody else wants to hear the main command. Its connection comes with a byte. */
static void attach(struct relay *r)
{
	struct error busy = { 0 };
	static char text[64];
	struct field_buffer reply = { .text = text, .size = sizeof(text) };
	char byte, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct connection other = { .fd = -1 };

	if (recvmsg(r->agent->attach[0], &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0 || !CMSG_FIRSTHDR(&msg))
		return;
	memcpy(&other.fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	field_add_number(&reply, "pid", r->process->pid);
	if (r->c->fd >= 0)
		error_set(&busy, -EBUSY, "the main command has somebody attached already");
	if (reply_send(&other, &reply, busy.code ? &busy : NULL) || busy.code) {
		close(other.fd);
		return;
	}
	r->c->fd = other.fd;
	r->streams[0].end_told = r->streams[1].end_told = false;
}

/* The command has ended. Its status is published before it is buried, so its id is nobody else's in between. */
static void note_end(struct relay *r)
{
	siginfo_t info = { 0 };

	waitid(P_PID, (id_t)r->process->pid, &info, WEXITED | WNOWAIT);
	r->status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
	r->ended = true;
	if (r->is_main) {
		r->agent->shared->status = r->status;
		main_publish(r->agent->shared, MAIN_ENDED);
		processes_kill(r->agent, SIGKILL);
	}
	waitpid(r->process->pid, NULL, 0);
}

/* One wait, and all that there is to do after it. */
static void step(struct relay *r, int timeout)
{
	struct process *p = r->process;
	bool attached = r->c->fd >= 0;
	struct pollfd fd[6];

	if (attached)
		begin_frame(r);
	fd[0] = (struct pollfd){ r->c->fd,
				 (short)(POLLRDHUP | (r->input_waits ? 0 : POLLIN) | (r->sending.from ? POLLOUT : 0)),
				 0 };
	fd[1] = (struct pollfd){ r->input_waits ? p->input : -1, POLLOUT, 0 };
	for (int i = 0; i < 2; i++)
		fd[2 + i] = (struct pollfd){ attached && r->streams[i].len ? -1 : r->streams[i].fd, POLLIN, 0 };
	fd[4] = (struct pollfd){ r->ended ? -1 : p->pidfd, POLLIN, 0 };
	fd[5] = (struct pollfd){ r->is_main ? r->agent->attach[0] : -1, POLLIN, 0 };
	/* An ended command's streams are read to where they would block. */
	if (r->ended && (fd[2].fd >= 0 || fd[3].fd >= 0))
		timeout = 0;
	if (r->input_waits && p->input < 0)
		give_input(r);
	else if (poll(fd, 6, timeout) < 0)
		return;
	if (fd[1].revents && r->input_waits)
		give_input(r);
	for (int i = 0; i < 2; i++)
		if (fd[2 + i].fd >= 0 && (fd[2 + i].revents || r->ended))
			take_output(r, &r->streams[i]);
	if (fd[0].revents & POLLOUT && r->sending.from)
		send_output(r);
	if (r->c->fd >= 0 && fd[0].revents & POLLIN && !r->input_waits)
		take_frames(r);
	else if (r->c->fd >= 0 && fd[0].revents & (POLLHUP | POLLRDHUP | POLLERR))
		detach(r);
	if (fd[4].revents)
		note_end(r);
	if (fd[5].revents)
		attach(r);
}

/* The host is gone: so goes the command, which may still say something that nobody hears. */
static void hang_up(struct relay *r)
{
	int64_t deadline = milliseconds() + HANG_UP_MS, left;

	close(r->process->input);
	r->process->input = -1;
	kill(-r->process->pid, SIGHUP);
	kill(-r->process->pid, SIGCONT);
	while (!r->ended && (left = deadline - milliseconds()) > 0)
		step(r, (int)left);
	if (r->ended)
		return;
	kill(-r->process->pid, SIGKILL);
	waitpid(r->process->pid, NULL, 0);
}

static bool all_said(const struct relay *r)
{
	for (int i = 0; i < 2 - r->process->tty; i++)
		if (r->streams[i].fd >= 0 || r->streams[i].len || !r->streams[i].end_told)
			return false;
	return r->ended && !r->sending.from;
}

void relay_run(const struct agent *agent, struct process *process, struct connection *c, bool is_main, bool detached)
{
	static struct relay r;
	static char text[64];
	struct field_buffer exit = { .text = text, .size = sizeof(text) };
	int64_t deadline = 0;

	r = (struct relay){ .agent = agent, .process = process, .c = c, .is_main = is_main };
	frame_next(&c->in);
	for (int i = 0; i < 2; i++)
		r.streams[i].fd = process->output[i];
	while (c->fd < 0 || !all_said(&r)) {
		int64_t now = milliseconds();

		if (c->fd < 0 && !is_main && !r.ended)
			return hang_up(&r);
		if (c->fd < 0 && r.ended && !deadline)
			deadline = now + (detached || !is_main ? 0 : LAST_WORD_MS);
		if (c->fd >= 0)
			deadline = 0;
		else if (deadline && now >= deadline)
			return;
		step(&r, deadline ? (int)(deadline - now) : -1);
	}
	status_fields(&exit, r.status);
	conn_send(c, FRAME_EXIT, exit.text, exit.len);
	conn_close(c);
}
