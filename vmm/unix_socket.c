/* unix_socket.c: makes listening Unix sockets, says why when it cannot, and accepts. */
#include "unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"
#include "text.h"

#define ACCEPT_TURN 16u
#define RETRY_NS    100000000ull /* no descriptor or memory for another: look again then */

int unix_socket_listen(const char *path, int backlog, const char *who, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	bool bound = false;
	int fd, ret;

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, -ENAMETOOLONG, "%s: %s: %zu bytes (needs a path of at most %zu)", who,
				 text_path_shown(path), strlen(path), sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set(err, -errno, "%s: socket: %s", who, strerror(errno));
	bound = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
	if (bound && listen(fd, backlog) == 0)
		return fd;
	ret = -errno;
	close(fd);
	if (bound)
		unix_socket_remove(path, who);
	else if (ret == -EADDRINUSE)
		return error_set(err, ret, "%s: %s: there is something already (remove it if no microVM uses it)", who,
				 text_path_shown(path));
	return error_set(err, ret, "%s: %s: %s (needs a folder where a socket can be made)", who, text_path_shown(path),
			 strerror(-ret));
}

int unix_socket_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, ret;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd < 0 ? -errno : fd;
	ret = -errno;
	close(fd);
	return ret;
}

void unix_socket_remove(const char *path, const char *who)
{
	if (unlink(path) && errno != ENOENT)
		log_warn("%s: %s: cannot be removed: %s", who, text_path_shown(path), strerror(errno));
}

/* Level-triggered: a listener that cannot be served now must not be watched, or the loop would spin. */
static void pause_listening(struct unix_listener *l)
{
	event_loop_remove(l->loop, &l->ev);
	event_loop_arm(l->loop, &l->retry, event_loop_now_ns() + RETRY_NS);
}

static void on_retry(struct event_timer *timer)
{
	struct unix_listener *l = timer->opaque;

	if (event_loop_add(l->loop, &l->ev, EPOLLIN))
		event_loop_arm(l->loop, timer, event_loop_now_ns() + RETRY_NS);
}

static void on_connection(struct event_fd *ev, uint32_t events)
{
	struct unix_listener *l = ev->opaque;
	unsigned int i;

	(void)events;
	for (i = 0; i < ACCEPT_TURN; i++) {
		int fd = accept4(ev->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			l->accepted(l->opaque, fd);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			/* accept(2) says so also when nobody waits: only the first one of a turn surely does. */
			if (i > 0)
				return;
			if (!l->starved || !l->starved(l->opaque)) {
				pause_listening(l);
				return;
			}
		} else if (errno != EINTR && errno != ECONNABORTED) {
			return;
		}
	}
}

int unix_listener_start(struct unix_listener *l, struct event_loop *loop, int fd)
{
	l->loop = loop;
	l->ev = (struct event_fd){ .fd = fd, .ready = on_connection, .opaque = l };
	l->retry = (struct event_timer){ .expired = on_retry, .opaque = l };
	return event_loop_add(loop, &l->ev, EPOLLIN);
}

void unix_listener_stop(struct unix_listener *l)
{
	if (l->retry.armed)
		event_loop_disarm(l->loop, &l->retry);
	else
		event_loop_remove(l->loop, &l->ev);
}
