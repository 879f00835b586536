/* console.c: moves bytes between the serial port and the host, and keeps a terminal sane on every way out. */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jail.h"
#include "log.h"
#include "metrics.h"
#include "retry.h"
#include "text.h"

#define ESCAPE_KEY    0x01 /* Ctrl-A, as QEMU and kvmtool */
#define CHUNK         1024 /* bytes a write, below PIPE_BUF: a pipe that polls writable takes it whole */
#define CHUNKS_A_TURN 16   /* then the loop's other events have their turn: a guest can print without end */
#define FINISH_NS     (1000 * 1000000ull) /* how long the end waits for a slow reader */
#define RETRY_NS      (100 * 1000000ull)  /* the host has no memory to watch a descriptor with: look again then */

static void watch_output(struct console *con, bool on)
{
	if (on == con->out_watched)
		return;
	if (on)
		con->out_watched = event_loop_add(con->loop, &con->out, EPOLLOUT) == 0;
	else {
		event_loop_remove(con->loop, &con->out);
		con->out_watched = false;
	}
	if (on && !con->out_watched)
		event_loop_arm(con->loop, &con->throttle, event_loop_now_ns() + RETRY_NS);
}

/* Writes one chunk if the host takes it now. Returns bytes written, 0: would block, -1: nothing to write or output
 * gone. */
static ssize_t write_chunk(struct console *con, int wait_ms)
{
	struct pollfd pfd = { .fd = con->out.fd, .events = POLLOUT };
	uint8_t buf[CHUNK];
	size_t n = serial_peek(con->serial, buf, sizeof(buf));
	ssize_t written;

	if (!n)
		return -1;
	if (con->out.fd < 0) /* the socket alone, which never makes the guest wait */
		written = (ssize_t)n;
	else if (poll(&pfd, 1, wait_ms) <= 0) /* full; or a signal came, and a write might wait */
		return 0;
	else
		written = write(con->out.fd, buf, n);
	if (written < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (written < 0) {
		/* Nobody reads any more (EPIPE) or the disk is full: the guest goes on, its output does not. */
		metrics_add(uart_missed_write_count, n);
		written = (ssize_t)n;
	}
	if (con->sock)
		console_socket_output(con->sock, buf, (size_t)written);
	metrics_inc(uart_flush_count);
	serial_consume(con->serial, (size_t)written);
	return written;
}

/* Pays for what was written last. False: not yet, the throttle timer is armed. */
static bool pay(struct console *con)
{
	uint64_t now, wait;

	if (!con->owed || !rate_limiter_active(&con->limiter))
		return true;
	now = event_loop_now_ns();
	wait = rate_limiter_take(&con->limiter, con->owed, now);
	if (wait) {
		event_loop_arm(con->loop, &con->throttle, now + wait);
		return false;
	}
	con->owed = 0;
	return true;
}

/* Moves output until there is none, the host is slow, the rate limit is reached, or others have waited long enough. */
static void flush_output(struct console *con)
{
	unsigned int chunks = 0;
	ssize_t n = 1;

	if (con->throttle.armed)
		return;
	while (pay(con) && chunks < CHUNKS_A_TURN && (n = write_chunk(con, 0)) > 0) {
		con->owed = (uint64_t)n;
		chunks++;
	}
	if (chunks == CHUNKS_A_TURN && !con->throttle.armed)
		event_loop_post(con->loop, &con->tx_work);
	watch_output(con, n == 0);
}

static void on_throttle_end(struct event_timer *timer)
{
	flush_output(timer->opaque);
}

static void on_tx_work(struct event_work *work)
{
	flush_output(work->opaque);
}

static void on_output_ready(struct event_fd *ev, uint32_t events)
{
	(void)events;
	flush_output(ev->opaque);
}

static void ignore_input(struct console *con)
{
	if (con->in_watched)
		event_loop_remove(con->loop, &con->in);
	con->in_watched = false;
	event_loop_disarm(con->loop, &con->in_retry);
}

/* False: a regular file, which cannot be watched and is always ready. Only such a file may be read unasked: a read of
 * anything else waits. */
static bool watch_input(struct console *con)
{
	int ret = con->in_watched ? 0 : event_loop_add(con->loop, &con->in, EPOLLIN);

	con->in_watched = ret == 0;
	if (ret && ret != -EPERM)
		event_loop_arm(con->loop, &con->in_retry, event_loop_now_ns() + RETRY_NS);
	return ret != -EPERM;
}

static void on_in_retry(struct event_timer *timer)
{
	struct console *con = timer->opaque;

	event_loop_post(con->loop, &con->rx_work);
}

/* Takes our own keys out of n typed bytes; returns how many are the guest's. */
static size_t filter_keys(struct console *con, uint8_t *buf, size_t n)
{
	size_t in, out = 0;

	for (in = 0; in < n; in++) {
		if (con->escape) {
			con->escape = false;
			if (buf[in] == 'x') {
				con->quit(con->opaque);
				return 0;
			}
			if (buf[in] != ESCAPE_KEY)
				continue;
		} else if (buf[in] == ESCAPE_KEY) {
			con->escape = true;
			continue;
		}
		buf[out++] = buf[in];
	}
	return out;
}

/* Hands the guest as much as its FIFO takes; the rest waits in con->typed. */
static void deliver_input(struct console *con)
{
	size_t room = serial_rx_room(con->serial), n = con->nr_typed < room ? con->nr_typed : room;

	if (!n)
		return;
	serial_receive(con->serial, con->typed, n);
	con->nr_typed -= n;
	memmove(con->typed, con->typed + n, con->nr_typed);
}

/* From the socket: what the guest has no room for stays with whoever typed it. */
static size_t take_typed(void *opaque, const uint8_t *data, size_t n)
{
	struct console *con = opaque;
	size_t space = sizeof(con->typed) - con->nr_typed;

	n = n < space ? n : space;
	memcpy(con->typed + con->nr_typed, data, n);
	con->nr_typed += n;
	deliver_input(con);
	return n;
}

/*
 * A pipe or file waits when the guest does not read. A terminal is read all the same, since the person may want to
 * type Ctrl-A x to a guest that hangs; what finds no room is dropped, as a tty does.
 */
static void read_input(struct console *con)
{
	uint8_t buf[CONSOLE_TYPED_MAX];
	size_t space = sizeof(con->typed) - con->nr_typed, n;
	ssize_t got;

	if (!space && !con->terminal) {
		ignore_input(con); /* until the guest has taken some */
		return;
	}
	got = read(con->in.fd, buf, con->terminal ? sizeof(buf) : space);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got < 0)
		log_warn("console: standard input: %s (nothing more is read from it)", strerror(errno));
	if (got <= 0) {
		ignore_input(con); /* end of input is not the end of the microVM */
		con->in.fd = -1;
		return;
	}
	n = con->terminal ? filter_keys(con, buf, (size_t)got) : (size_t)got;
	n = n < space ? n : space;
	memcpy(con->typed + con->nr_typed, buf, n);
	con->nr_typed += n;
	deliver_input(con);
}

static void on_input(struct event_fd *ev, uint32_t events)
{
	(void)events;
	read_input(ev->opaque);
}

static void on_rx_work(struct event_work *work)
{
	struct console *con = work->opaque;

	deliver_input(con);
	if (con->sock)
		console_socket_wants_input(con->sock);
	if (con->in.fd < 0 || con->in_watched)
		return;
	if (!watch_input(con) && con->nr_typed < sizeof(con->typed)) {
		read_input(con);
		if (con->nr_typed < sizeof(con->typed) && con->in.fd >= 0)
			event_loop_post(con->loop, work);
	}
}

static void tx_ready(void *opaque)
{
	struct console *con = opaque;

	event_loop_post(con->loop, &con->tx_work);
}

static void rx_wanted(void *opaque)
{
	struct console *con = opaque;

	event_loop_post(con->loop, &con->rx_work);
}

/* No foreground process group at all means that we led the session ourselves, which has ended with us. */
static bool terminal_is_ours(void)
{
	pid_t foreground = tcgetpgrp(STDIN_FILENO);

	return foreground == getpgrp() || foreground < 0;
}

/*
 * A kill -9 leaves nobody to restore the terminal, so a tiny process stays behind that does nothing else: it sleeps
 * until our end of a pipe closes, and restores unless we wrote a byte first (then it is done already). It leaves
 * a terminal alone that has a new foreground process group: that one has set it up as it likes.
 */
static void terminal_watcher(struct console *con)
{
	int pipe_fd[2];
	char done;

	con->watcher_fd = -1;
	if (pipe2(pipe_fd, O_CLOEXEC))
		return;
	if (fork() == 0) {
		signal(SIGINT, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		signal(SIGTTOU, SIG_IGN);
		jail_helper();
		/* Nothing else: a client of ours that is closed would wait for the end of its connection. */
		dup2(pipe_fd[0], 3);
		(void)syscall(SYS_close_range, 4u, ~0u, 0u);
		if (read(3, &done, 1) == 0 && terminal_is_ours())
			tcsetattr(STDIN_FILENO, TCSANOW, &con->saved);
		_exit(0);
	}
	close(pipe_fd[0]);
	con->watcher_fd = pipe_fd[1];
}

static void make_terminal_raw(struct console *con)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &con->saved))
		return; /* not a terminal */
	if (tcgetpgrp(STDIN_FILENO) != getpgrp()) {
		con->in.fd = -1; /* in the background: it is somebody else's now, and reading would stop us (SIGTTIN) */
		return;
	}
	signal(SIGCHLD, SIG_IGN); /* the watcher never becomes a zombie */
	terminal_watcher(con);
	raw = con->saved;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* our own log lines share the screen */
	con->terminal = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

/* A terminal is opened again so that O_NONBLOCK does not reach whoever shares it with us; pipes and files are fine as
 * they are. */
static int open_output(const struct serial_config *cfg, struct error *err)
{
	int fd;

	if (cfg->serial_out_path[0]) {
		fd = RETRY_INTERRUPTED(open(cfg->serial_out_path,
					    O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600));
		if (fd < 0 && errno == ENXIO) /* a FIFO that nobody reads yet */
			fd = open(cfg->serial_out_path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		if (fd < 0)
			return error_set(
				err, -errno,
				"serial.serial_out_path: %s: %s (needs a file, FIFO or terminal that can be written)",
				text_path_shown(cfg->serial_out_path), strerror(errno));
		return fd;
	}
	fd = isatty(STDOUT_FILENO) ? open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY) : -1;
	return fd >= 0 ? fd : STDOUT_FILENO;
}

int console_init(struct console *con, struct serial *serial, const struct serial_config *cfg, struct event_loop *loop,
		 struct error *err)
{
	const struct rate_limiter_config rate = { .bandwidth = cfg->rate_limiter };
	int fd = -1, ret = 0;

	if (cfg->serial_out_path[0] || !cfg->serial_socket_path[0])
		ret = fd = open_output(cfg, err);
	if (ret >= 0 && cfg->serial_socket_path[0])
		ret = console_socket_create(&con->sock, cfg->serial_socket_path, loop, take_typed, con, err);
	if (ret < 0) {
		if (fd >= 0 && fd != STDOUT_FILENO)
			close(fd);
		return ret;
	}
	con->serial = serial;
	con->loop = loop;
	con->watcher_fd = -1;
	con->out = (struct event_fd){ .fd = fd, .ready = on_output_ready, .opaque = con };
	con->in = (struct event_fd){ .fd = STDIN_FILENO, .ready = on_input, .opaque = con };
	con->tx_work = (struct event_work){ .run = on_tx_work, .opaque = con };
	con->rx_work = (struct event_work){ .run = on_rx_work, .opaque = con };
	con->throttle = (struct event_timer){ .expired = on_throttle_end, .opaque = con };
	con->in_retry = (struct event_timer){ .expired = on_in_retry, .opaque = con };
	if (rate.bandwidth.size)
		rate_limiter_init(&con->limiter, &rate, event_loop_now_ns());
	serial->tx_ready = tx_ready;
	serial->rx_wanted = rx_wanted;
	serial->opaque = con;
	if (cfg->serial_out_path[0] || con->sock) {
		con->in.fd = -1; /* input goes with the terminal, not with a log file or a socket */
		return 0;
	}
	make_terminal_raw(con);
	if (con->terminal)
		(void)watch_input(con); /* anything else can wait until the guest listens */
	return 0;
}

/* ---- in a state file ---- */

#define RECORD_TYPED 3 /* behind those of serial.c */

void console_save(const struct console *con, struct state_writer *w)
{
	state_put(w, STATE_SERIAL, RECORD_TYPED, con->typed, con->nr_typed);
}

int console_restore(struct console *con, struct state_reader *r, struct error *err)
{
	const void *typed;
	size_t n;
	int ret = state_view(r, STATE_SERIAL, RECORD_TYPED, &typed, &n, 1, err);

	if (ret)
		return ret;
	if (n > sizeof(con->typed))
		return state_bad(err, STATE_SERIAL, RECORD_TYPED, "more input waits than the console keeps");
	memcpy(con->typed, typed, n);
	con->nr_typed = n;
	return 0;
}

/* ---- the end ---- */

void console_finish(struct console *con)
{
	uint64_t now = event_loop_now_ns(), end = now + FINISH_NS;

	while (now < end && write_chunk(con, (int)((end - now + 999999) / 1000000)) > 0)
		now = event_loop_now_ns();
	ignore_input(con);
	watch_output(con, false);
	event_loop_disarm(con->loop, &con->throttle);
	event_loop_cancel(con->loop, &con->tx_work);
	event_loop_cancel(con->loop, &con->rx_work);
	if (con->out.fd >= 0 && con->out.fd != STDOUT_FILENO)
		close(con->out.fd);
	if (con->sock)
		console_socket_destroy(con->sock);
	con->sock = NULL;
	con->loop = NULL;
	if (!con->terminal)
		return;
	if (terminal_is_ours())
		tcsetattr(STDIN_FILENO, TCSADRAIN, &con->saved);
	(void)!write(con->watcher_fd, "", 1);
	close(con->watcher_fd);
	con->terminal = false;
}
