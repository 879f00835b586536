/* vsock_table.c: all connections of a vsock device: where they live, who is found by which ports, whose turn it is. */
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "metrics.h"
#include "vsock_internal.h"

/* ---- slots ---- */

static struct vsock_conn *take_slot(struct vsock *v)
{
	struct vsock_conn *conn = v->free;

	if (conn)
		v->free = conn->next_hash;
	else if (v->nr_fresh < VSOCK_MAX_CONNS)
		conn = &v->conn[v->nr_fresh++];
	return conn;
}

static void give_slot(struct vsock_conn *conn)
{
	conn->state = CONN_FREE;
	conn->next_hash = conn->vsock->free;
	conn->vsock->free = conn;
}

struct vsock_conn *vsock_conn_alloc(struct vsock *v, int fd, enum vsock_conn_state state)
{
	struct vsock_conn *conn = take_slot(v);
	struct vsock_conn *next_ready;
	bool on_ready_list;

	if (!conn)
		return NULL;
	/* It may still be on the list from its former life; that only gives it a turn early. */
	next_ready = conn->next_ready;
	on_ready_list = conn->on_ready_list;
	memset(conn, 0, sizeof(*conn));
	conn->vsock = v;
	conn->next_ready = next_ready;
	conn->on_ready_list = on_ready_list;
	conn->state = state;
	conn->event = (struct event_fd){ .fd = fd, .ready = vsock_conn_event, .opaque = conn };
	if (event_loop_add(v->dev.loop, &conn->event, EPOLLIN | EPOLLET)) {
		metrics_inc(vsock_muxer_event_fails);
		give_slot(conn);
		return NULL;
	}
	metrics_inc(vsock_conns_added);
	return conn;
}

void vsock_conn_close_socket(struct vsock_conn *conn)
{
	if (conn->buf)
		munmap(conn->buf, VSOCK_BUF_SIZE);
	conn->buf = NULL;
	conn->buf_len = 0;
	if (conn->event.fd < 0)
		return;
	event_loop_remove(conn->vsock->dev.loop, &conn->event);
	close(conn->event.fd);
	conn->event.fd = -1;
}

void vsock_conn_free(struct vsock_conn *conn)
{
	vsock_conn_close_socket(conn);
	vsock_table_remove(conn);
	give_slot(conn);
	metrics_inc(vsock_conns_removed);
}

/* ---- by ports ---- */

static struct vsock_conn **bucket(const struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	/* Guests count one of them up and the host the other. 2^32 over the golden ratio spreads either. */
	uint32_t h = (host_port * 2654435769u) ^ guest_port;

	return (struct vsock_conn **)&v->hash[h % VSOCK_HASH_SIZE];
}

void vsock_table_add(struct vsock_conn *conn)
{
	struct vsock_conn **at = bucket(conn->vsock, conn->host_port, conn->guest_port);

	conn->next_hash = *at;
	*at = conn;
}

void vsock_table_remove(struct vsock_conn *conn)
{
	struct vsock_conn **at = bucket(conn->vsock, conn->host_port, conn->guest_port);

	/* One that is still greeting or only flushes is not there. */
	for (; *at; at = &(*at)->next_hash) {
		if (*at == conn) {
			*at = conn->next_hash;
			return;
		}
	}
}

struct vsock_conn *vsock_table_find(const struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_conn *conn = *bucket(v, host_port, guest_port);

	while (conn && (conn->host_port != host_port || conn->guest_port != guest_port))
		conn = conn->next_hash;
	return conn;
}

/* ---- turns ---- */

void vsock_ready_add(struct vsock_conn *conn)
{
	struct vsock *v = conn->vsock;

	if (conn->on_ready_list || !vsock_conn_ready(conn))
		return;
	conn->on_ready_list = true;
	conn->next_ready = NULL;
	*v->ready_tail = conn;
	v->ready_tail = &conn->next_ready;
}

static void remove_first(struct vsock *v)
{
	v->ready->on_ready_list = false;
	v->ready = v->ready->next_ready;
	if (!v->ready)
		v->ready_tail = &v->ready;
}

struct vsock_conn *vsock_ready_first(struct vsock *v)
{
	/* Some ended or lost their reason while they waited. */
	while (v->ready && !vsock_conn_ready(v->ready))
		remove_first(v);
	return v->ready;
}

void vsock_ready_served(struct vsock *v)
{
	struct vsock_conn *conn = v->ready;

	remove_first(v);
	vsock_ready_add(conn);
}

/* ---- deadlines ---- */

void vsock_plan(struct vsock *v, uint64_t when_ns)
{
	if (!v->paused && (!v->timer.armed || when_ns < v->timer.deadline_ns))
		event_loop_arm(v->dev.loop, &v->timer, when_ns);
}

/* Those that are due now; when the next is. */
static void serve_deadlines(struct vsock_conn *conn, uint64_t now)
{
	if (conn->state != CONN_FREE && conn->retry_ns && conn->retry_ns <= now) {
		conn->retry_ns = 0;
		vsock_retry(conn);
	}
	if (conn->state != CONN_FREE && conn->deadline_ns && conn->deadline_ns <= now) {
		conn->deadline_ns = 0;
		vsock_conn_kill(conn);
	}
	if (conn->state == CONN_FREE)
		return;
	if (conn->retry_ns)
		vsock_plan(conn->vsock, conn->retry_ns);
	if (conn->deadline_ns)
		vsock_plan(conn->vsock, conn->deadline_ns);
}

static void serve_all_deadlines(struct vsock *v)
{
	uint64_t now = event_loop_now_ns();
	unsigned int i;

	for (i = 0; i < v->nr_fresh; i++)
		serve_deadlines(&v->conn[i], now);
}

void vsock_timer_expired(struct event_timer *timer)
{
	struct vsock *v = timer->opaque;

	serve_all_deadlines(v);
	vsock_run(v);
}

void vsock_shift_deadlines(struct vsock *v, uint64_t ns)
{
	unsigned int i;

	for (i = 0; i < v->nr_fresh; i++) {
		if (v->conn[i].deadline_ns)
			v->conn[i].deadline_ns += ns;
	}
	serve_all_deadlines(v);
}

/* ---- all at once ---- */

static void drop(struct vsock_conn *conn)
{
	switch (conn->state) {
	case CONN_FREE:
	case CONN_GREETING:
		break;
	case CONN_REQUESTED:
		/* One that waits for a guest to listen, or that no guest has seen, waits for the next driver. */
		if (conn->asked && !conn->waits) {
			vsock_conn_free(conn);
			break;
		}
		conn->asked = false;
		conn->retry_ns = 0;
		conn->due = DUE_REQUEST;
		vsock_ready_add(conn);
		break;
	case CONN_CONNECTING:
	case CONN_OPEN:
		vsock_conn_end(conn, false);
		break;
	case CONN_FLUSHING:
	case CONN_DEAD:
		vsock_conn_forget(conn);
		break;
	}
}

void vsock_drop_all(struct vsock *v)
{
	unsigned int i;

	for (i = 0; i < v->nr_fresh; i++)
		drop(&v->conn[i]);
	v->nr_resets = 0;
}
