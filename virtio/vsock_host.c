/* vsock_host.c: the host's side of vsock: the socket at uds_path, its CONNECT lines, connections to <uds_path>_PORT. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"
#include "metrics.h"
#include "retry.h"
#include "vsock_internal.h"

/* Who connects while we do something else; the host's net.core.somaxconn may allow less. musl's SOMAXCONN is 128. */
#define BACKLOG 1024
/* Ports for the host's end of host-initiated connections: 2^30 … 2^31 − 1, as Firecracker counts them. */
#define HOST_PORT_FIRST (1u << 30)
#define HOST_PORT_MASK  (HOST_PORT_FIRST - 1)
#define MS              1000000ull
/* How long a CONNECT line may take to come: people type them, too. */
#define GREETING_NS (60000 * MS)

/* ---- who connects to uds_path ---- */

static void on_connection(void *opaque, int fd)
{
	struct vsock_conn *conn = vsock_conn_alloc(opaque, fd, CONN_GREETING);

	/* Who says nothing must not keep a place for ever. */
	if (conn) {
		conn->deadline_ns = event_loop_now_ns() + GREETING_NS;
		vsock_plan(opaque, conn->deadline_ns);
		return;
	}
	log_warn_limited("vsock: %u connections are open, one more from the host is refused", VSOCK_MAX_CONNS);
	close(fd);
}

/* Whoever connects now waits in the backlog until there is one. */
static bool on_no_descriptor(void *opaque)
{
	(void)opaque;
	metrics_inc(vsock_muxer_event_fails);
	log_warn_limited("vsock: no descriptor for a connection from the host");
	return false;
}

int vsock_listen(struct vsock *v, struct error *err)
{
	int fd = unix_socket_listen(v->uds_path, BACKLOG, "vsock.uds_path", err), ret;

	if (fd < 0)
		return fd;
	v->last_host_port = HOST_PORT_FIRST - 1;
	v->listener = (struct unix_listener){ .accepted = on_connection, .starved = on_no_descriptor, .opaque = v };
	ret = unix_listener_start(&v->listener, v->dev.loop, fd);
	if (!ret)
		return 0;
	unix_socket_remove(v->uds_path, "vsock.uds_path");
	close(fd);
	return error_set(err, ret, "vsock.uds_path: %s: %s", v->uds_path, strerror(-ret));
}

/* ---- the CONNECT line ---- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of the line [at, end), blanks around it skipped; NULL when there is none. */
static const char *next_word(const char **at, const char *end, size_t *len)
{
	const char *word;

	while (*at < end && is_blank(**at))
		(*at)++;
	word = *at;
	while (*at < end && !is_blank(**at))
		(*at)++;
	*len = (size_t)(*at - word);
	return *len ? word : NULL;
}

static bool parse_u32(const char *word, size_t len, uint32_t *value)
{
	uint64_t sum = 0;
	size_t i;

	if (!word)
		return false;
	for (i = 0; i < len; i++) {
		if (word[i] < '0' || word[i] > '9')
			return false;
		sum = sum * 10 + (uint64_t)(word[i] - '0');
		if (sum > UINT32_MAX)
			return false;
	}
	*value = (uint32_t)sum;
	return true;
}

/* CONNECT PORT [MILLISECONDS], in any letter case as in Firecracker. */
static bool parse_line(const char *at, const char *end, uint32_t *port, uint32_t *wait_ms)
{
	const char *word;
	size_t len;

	word = next_word(&at, end, &len);
	if (!word || len != strlen("CONNECT") || strncasecmp(word, "CONNECT", len) != 0)
		return false;
	word = next_word(&at, end, &len);
	if (!parse_u32(word, len, port))
		return false;
	*wait_ms = 0;
	word = next_word(&at, end, &len);
	if (word && !parse_u32(word, len, wait_ms))
		return false;
	return !next_word(&at, end, &len);
}

bool vsock_host_port_plausible(uint32_t port)
{
	return port == HOST_PORT_FIRST - 1 || (port & ~HOST_PORT_MASK) == HOST_PORT_FIRST;
}

static uint32_t free_host_port(struct vsock *v, uint32_t guest_port)
{
	/* There are a million times as many ports as connections. */
	do
		v->last_host_port = HOST_PORT_FIRST | ((v->last_host_port + 1) & HOST_PORT_MASK);
	while (vsock_table_find(v, v->last_host_port, guest_port));
	return v->last_host_port;
}

static void line_complete(struct vsock_conn *conn)
{
	struct vsock *v = conn->vsock;
	uint32_t port, wait_ms;

	if (!parse_line(conn->line, conn->line + conn->line_len - 1, &port, &wait_ms)) {
		log_warn_limited("vsock: a connection to %s did not begin with \"CONNECT PORT\"", v->uds_path);
		vsock_conn_free(conn);
		return;
	}
	conn->state = CONN_REQUESTED;
	conn->guest_port = port;
	conn->host_port = free_host_port(v, port);
	conn->due = DUE_REQUEST;
	conn->waits = wait_ms != 0;
	conn->deadline_ns = 0;
	if (conn->waits) {
		conn->deadline_ns = event_loop_now_ns() + wait_ms * MS;
		vsock_plan(v, conn->deadline_ns);
	}
	vsock_table_add(conn);
	vsock_ready_add(conn);
}

/* What follows the line is the guest's: look first, then take no more than the line. */
void vsock_greet(struct vsock_conn *conn)
{
	char *at, *end;
	ssize_t n;

	for (;;) {
		at = conn->line + conn->line_len;
		n = recv(conn->event.fd, at, sizeof(conn->line) - conn->line_len, MSG_PEEK | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0)
			break;
		end = memchr(at, '\n', (size_t)n);
		if (end)
			n = end + 1 - at;
		if (RETRY_INTERRUPTED(recv(conn->event.fd, at, (size_t)n, MSG_DONTWAIT)) != n)
			break;
		conn->line_len += (unsigned int)n;
		if (end) {
			line_complete(conn);
			return;
		}
		if (conn->line_len == sizeof(conn->line))
			break;
	}
	vsock_conn_free(conn);
}

/* ---- where the guest connects to ---- */

/* 0, or -errno; -EAGAIN: the listener's backlog is full. Unix sockets know no connection in progress. */
static int connect_port(const struct vsock *v, int fd, uint32_t port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", v->uds_path, port), ret;

	if (n < 0 || (size_t)n >= sizeof(addr.sun_path)) {
		log_warn_limited("vsock: %s_%u is too long for a socket's path (at most %zu bytes)", v->uds_path, port,
				 sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
		return 0;
	ret = -errno;
	/* Root is no exception once the microVM runs, which may surprise who started it as root. */
	if (ret == -EACCES)
		log_warn_limited("vsock: %s: %s (needs to be writable by uid %u)", addr.sun_path, strerror(EACCES),
				 (unsigned int)geteuid());
	return ret;
}

static void connected(struct vsock_conn *conn)
{
	vsock_conn_opened(conn);
	conn->due = DUE_RESPONSE;
	vsock_ready_add(conn);
}

void vsock_plan_retry(struct vsock_conn *conn)
{
	conn->retry_delay_ns = conn->retry_delay_ns ? conn->retry_delay_ns * 2 : VSOCK_RETRY_FIRST_NS;
	if (conn->retry_delay_ns > VSOCK_RETRY_LAST_NS)
		conn->retry_delay_ns = VSOCK_RETRY_LAST_NS;
	conn->retry_ns = event_loop_now_ns() + conn->retry_delay_ns;
	vsock_plan(conn->vsock, conn->retry_ns);
}

void vsock_request(struct vsock *v, const struct vsock_packet *p)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int ret = fd < 0 ? -errno : connect_port(v, fd, p->hdr.dst_port);
	struct vsock_conn *conn = NULL;

	if (fd < 0)
		log_warn_limited("vsock: no socket for the guest's connection to port %u: %s", p->hdr.dst_port,
				 strerror(-ret));
	if (!ret || ret == -EAGAIN)
		conn = vsock_conn_alloc(v, fd, CONN_CONNECTING);
	if (!conn) {
		if (fd >= 0)
			close(fd);
		vsock_queue_reset(v, &p->hdr);
		return;
	}
	conn->host_port = p->hdr.dst_port;
	conn->guest_port = p->hdr.src_port;
	conn->guest_alloc = p->hdr.buf_alloc;
	conn->guest_fwd = p->hdr.fwd_cnt;
	vsock_table_add(conn);
	if (!ret) {
		connected(conn);
		return;
	}
	conn->deadline_ns = event_loop_now_ns() + VSOCK_PATIENCE_NS;
	vsock_plan(v, conn->deadline_ns);
	vsock_plan_retry(conn);
}

void vsock_retry(struct vsock_conn *conn)
{
	int ret;

	if (conn->state == CONN_REQUESTED) {
		conn->due |= DUE_REQUEST;
		vsock_ready_add(conn);
		return;
	}
	ret = connect_port(conn->vsock, conn->event.fd, conn->host_port);
	if (!ret)
		connected(conn);
	else if (ret == -EAGAIN)
		vsock_plan_retry(conn);
	else
		vsock_conn_kill(conn);
}
