/* vsock_conn.c: one vsock connection: its states, its credit both ways (virtio 1.2, 5.10.6.3), its buffer. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "iov.h"
#include "lazy_memory.h"
#include "metrics.h"
#include "retry.h"
#include "vsock_internal.h"

/* ---- the end ---- */

void vsock_conn_kill(struct vsock_conn *conn)
{
	bool known = conn->state == CONN_CONNECTING || conn->state == CONN_OPEN ||
		     (conn->state == CONN_REQUESTED && conn->asked);

	metrics_inc(vsock_conns_killed);
	if (!known) {
		vsock_conn_free(conn);
		return;
	}
	vsock_conn_close_socket(conn);
	conn->state = CONN_DEAD;
	conn->deadline_ns = conn->retry_ns = 0;
	conn->due = DUE_RST;
	vsock_ready_add(conn);
}

void vsock_conn_forget(struct vsock_conn *conn)
{
	if (conn->state == CONN_DEAD) {
		vsock_conn_free(conn);
	} else {
		vsock_table_remove(conn);
		conn->due = 0;
	}
}

/* The socket has no use any more. */
static void flushed(struct vsock_conn *conn)
{
	vsock_conn_close_socket(conn);
	conn->state = CONN_DEAD;
	if (!conn->due)
		vsock_conn_free(conn);
}

void vsock_conn_end(struct vsock_conn *conn, bool tell)
{
	conn->state = CONN_FLUSHING;
	conn->deadline_ns = conn->retry_ns = 0;
	conn->due = tell ? DUE_RST : 0;
	if (!tell)
		vsock_table_remove(conn);
	if (conn->gone || !conn->buf_len)
		flushed(conn);
	vsock_ready_add(conn);
}

/* ---- to the guest ---- */

/* What the guest's buffer has room for (5.10.6.3). A guest that counts wrong has none. */
static uint32_t guest_credit(const struct vsock_conn *conn)
{
	uint32_t in_flight = conn->sent - conn->guest_fwd;

	return in_flight < conn->guest_alloc ? conn->guest_alloc - in_flight : 0;
}

static bool has_data(const struct vsock_conn *conn)
{
	return conn->state == CONN_OPEN && conn->readable && !conn->eof &&
	       !(conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV);
}

uint32_t vsock_conn_may_read(const struct vsock_conn *conn)
{
	return has_data(conn) ? guest_credit(conn) : 0;
}

/* While the guest takes data it gets that, and then the whole news at once. */
static bool shutdown_due(const struct vsock_conn *conn)
{
	return conn->state == CONN_OPEN && conn->host_shut & ~conn->told_shut && !vsock_conn_may_read(conn);
}

bool vsock_conn_ready(const struct vsock_conn *conn)
{
	return conn->state != CONN_FREE && (conn->due || shutdown_due(conn) || vsock_conn_may_read(conn));
}

/* Guests tell by themselves when they have room again; one that does not is asked, once per time that it ran out. */
static void ask_for_credit(struct vsock_conn *conn)
{
	if (!has_data(conn) || conn->credit_asked || guest_credit(conn))
		return;
	conn->credit_asked = true;
	conn->due |= DUE_CREDIT_REQUEST;
}

void vsock_conn_header(struct vsock_conn *conn, struct virtio_vsock_hdr *hdr, uint32_t len)
{
	conn->told_fwd_cnt = conn->fwd_cnt;
	conn->due &= (uint8_t)~DUE_CREDIT_UPDATE;
	*hdr = (struct virtio_vsock_hdr){
		.src_cid = htole64(VMADDR_CID_HOST),
		.dst_cid = htole64(conn->vsock->guest_cid),
		.src_port = htole32(conn->host_port),
		.dst_port = htole32(conn->guest_port),
		.len = htole32(len),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.op = htole16(VIRTIO_VSOCK_OP_RW),
		.buf_alloc = htole32(VSOCK_BUF_SIZE),
		.fwd_cnt = htole32(conn->fwd_cnt),
	};
}

static void plan_deadline(struct vsock_conn *conn)
{
	conn->deadline_ns = event_loop_now_ns() + VSOCK_PATIENCE_NS;
	vsock_plan(conn->vsock, conn->deadline_ns);
}

/* The packet without data that goes out next, and what is to be remembered of it; 0: none. */
static uint16_t next_control(struct vsock_conn *conn)
{
	if (conn->due & DUE_RST)
		return VIRTIO_VSOCK_OP_RST;
	if (conn->due & DUE_RESPONSE) {
		conn->due &= (uint8_t)~DUE_RESPONSE;
		return VIRTIO_VSOCK_OP_RESPONSE;
	}
	if (conn->due & DUE_REQUEST) {
		conn->due &= (uint8_t)~DUE_REQUEST;
		conn->asked = true;
		if (!conn->waits)
			plan_deadline(conn);
		return VIRTIO_VSOCK_OP_REQUEST;
	}
	if (shutdown_due(conn)) {
		conn->told_shut = conn->host_shut;
		if (conn->told_shut == VSOCK_SHUTDOWN_BOTH)
			plan_deadline(conn);
		return VIRTIO_VSOCK_OP_SHUTDOWN;
	}
	if (conn->due & DUE_CREDIT_REQUEST) {
		conn->due &= (uint8_t)~DUE_CREDIT_REQUEST;
		return VIRTIO_VSOCK_OP_CREDIT_REQUEST;
	}
	/* A data packet would say as much. */
	if (conn->due & DUE_CREDIT_UPDATE && !vsock_conn_may_read(conn))
		return VIRTIO_VSOCK_OP_CREDIT_UPDATE;
	return 0;
}

bool vsock_conn_control(struct vsock_conn *conn, struct virtio_vsock_hdr *hdr)
{
	uint16_t op = next_control(conn);

	if (!op)
		return false;
	vsock_conn_header(conn, hdr, 0);
	hdr->op = htole16(op);
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
		hdr->flags = htole32(conn->told_shut);
	if (op == VIRTIO_VSOCK_OP_RST)
		vsock_conn_forget(conn);
	return true;
}

void vsock_conn_read_done(struct vsock_conn *conn, ssize_t n)
{
	if (n > 0) {
		conn->sent += (uint32_t)n;
		metrics_add(vsock_rx_bytes_count, n);
		ask_for_credit(conn);
	} else if (n == 0) {
		conn->eof = true;
		conn->host_shut |= VIRTIO_VSOCK_SHUTDOWN_SEND;
	} else if (n == -EAGAIN) {
		conn->readable = false;
	} else if (n != -EINTR) {
		metrics_inc(vsock_rx_read_fails);
		vsock_conn_kill(conn);
	}
}

/* ---- from the guest ---- */

/* Tell of freed buffer before the guest has used up what it knows of. */
static void tell_credit(struct vsock_conn *conn)
{
	uint32_t untold = conn->fwd_cnt - conn->told_fwd_cnt;

	if (untold + conn->buf_len < VSOCK_BUF_SIZE / 2 || !untold)
		return;
	conn->due |= DUE_CREDIT_UPDATE;
	vsock_ready_add(conn);
}

/* The host's peer takes no more: what is buffered has nobody to go to, and the guest may stop sending. */
static void host_gone(struct vsock_conn *conn)
{
	conn->gone = true;
	conn->fwd_cnt += conn->buf_len;
	conn->buf_len = 0;
	conn->host_shut |= VIRTIO_VSOCK_SHUTDOWN_RCV;
	/* Nobody will read to the end of what the peer sent, either. */
	if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
		conn->host_shut = VSOCK_SHUTDOWN_BOTH;
	if (conn->state == CONN_FLUSHING)
		flushed(conn);
}

static void watch_write(struct vsock_conn *conn, bool on)
{
	if (conn->write_watched == on)
		return;
	conn->write_watched = on;
	if (event_loop_modify(conn->vsock->dev.loop, &conn->event, EPOLLIN | EPOLLET | (on ? EPOLLOUT : 0u)))
		metrics_inc(vsock_muxer_event_fails);
}

/* Write n bytes or as many as the socket takes; how many. A peer that is gone took none. */
static uint32_t write_some(struct vsock_conn *conn, struct iovec *iov, unsigned int nr_iov)
{
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;

	msg.msg_iovlen = nr_iov;
	do
		n = sendmsg(conn->event.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0) {
		conn->fwd_cnt += (uint32_t)n;
		metrics_add(vsock_tx_bytes_count, n);
		return (uint32_t)n;
	}
	if (errno != EAGAIN) {
		metrics_inc(vsock_tx_write_fails);
		host_gone(conn);
	}
	return 0;
}

static unsigned int buffered(const struct vsock_conn *conn, uint32_t skip, uint32_t len, struct iovec iov[2])
{
	uint32_t start = (conn->buf_start + skip) % VSOCK_BUF_SIZE;
	uint32_t first = VSOCK_BUF_SIZE - start < len ? VSOCK_BUF_SIZE - start : len;

	iov[0] = (struct iovec){ .iov_base = conn->buf + start, .iov_len = first };
	iov[1] = (struct iovec){ .iov_base = conn->buf, .iov_len = len - first };
	return first < len ? 2 : 1;
}

/* The buffer is empty: give its memory back, and pass on the end that the guest has announced. */
static void drained(struct vsock_conn *conn)
{
	if (conn->buf)
		munmap(conn->buf, VSOCK_BUF_SIZE);
	conn->buf = NULL;
	conn->buf_start = 0;
	watch_write(conn, false);
	if (conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND)
		shutdown(conn->event.fd, SHUT_WR);
}

void vsock_conn_flush(struct vsock_conn *conn)
{
	struct iovec iov[2];
	uint32_t n = 1;

	while (conn->buf_len && n) {
		n = write_some(conn, iov, buffered(conn, 0, conn->buf_len, iov));
		if (conn->gone)
			break;
		conn->buf_start = (conn->buf_start + n) % VSOCK_BUF_SIZE;
		conn->buf_len -= n;
	}
	/* Whoever was only to be flushed is closed with the last byte, or when nobody is there to take it. */
	if (conn->state == CONN_FREE || conn->state == CONN_DEAD || conn->buf_len)
		return;
	if (conn->state == CONN_FLUSHING)
		flushed(conn);
	else
		drained(conn);
}

/* The socket is full: keep the rest of the packet, which the guest's credit covers. */
static void keep(struct vsock_conn *conn, const struct vsock_packet *p, uint32_t skip, uint32_t len)
{
	struct iovec iov[2];
	unsigned int i, nr;
	void *buf;

	if (!conn->buf) {
		buf = lazy_alloc(VSOCK_BUF_SIZE);
		if (!buf) {
			metrics_inc(vsock_tx_flush_fails);
			vsock_conn_kill(conn);
			return;
		}
		conn->buf = buf;
		conn->buf_start = 0;
	}
	nr = buffered(conn, conn->buf_len, len, iov);
	for (i = 0; i < nr; i++) {
		(void)iov_read(p->iov, p->nr_iov, sizeof(p->hdr) + skip, iov[i].iov_base, iov[i].iov_len);
		skip += (uint32_t)iov[i].iov_len;
	}
	conn->buf_len += len;
	watch_write(conn, true);
}

static void take_data(struct vsock_conn *conn, const struct vsock_packet *p)
{
	uint32_t len = p->hdr.len, done = 0;
	unsigned int nr;

	/* More than there is, after it said there would be no more, or more than it was allowed to. */
	if (len > p->payload_len || conn->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND ||
	    len > VSOCK_BUF_SIZE - conn->buf_len) {
		vsock_conn_kill(conn);
		return;
	}
	/* Straight from the guest's memory; only what waits already goes first. */
	if (!conn->buf_len && !conn->gone && len) {
		nr = iov_slice(conn->vsock->slice, p->iov, p->nr_iov, sizeof(p->hdr), len);
		done = write_some(conn, conn->vsock->slice, nr);
	}
	if (conn->gone)
		conn->fwd_cnt += len;
	else if (done < len)
		keep(conn, p, done, len - done);
	if (conn->state == CONN_OPEN)
		tell_credit(conn);
}

static void shutdown_by_guest(struct vsock_conn *conn, uint32_t flags)
{
	uint8_t added = (uint8_t)(flags & VSOCK_SHUTDOWN_BOTH) & (uint8_t)~conn->guest_shut;

	conn->guest_shut |= added;
	/* Nothing can follow in either direction: the guest waits for an RST (5.10.6.5). */
	if (conn->guest_shut == VSOCK_SHUTDOWN_BOTH) {
		vsock_conn_end(conn, true);
		return;
	}
	if (added & VIRTIO_VSOCK_SHUTDOWN_SEND && !conn->buf_len)
		shutdown(conn->event.fd, SHUT_WR);
	if (added & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		shutdown(conn->event.fd, SHUT_RD);
		if (conn->gone)
			conn->host_shut = VSOCK_SHUTDOWN_BOTH;
	}
}

static void announce(struct vsock *v, uint32_t port)
{
	unsigned int i, known = v->nr_announced < VSOCK_ANNOUNCED ? v->nr_announced : VSOCK_ANNOUNCED;

	for (i = 0; i < known; i++) {
		if (v->announced[i] == port)
			return;
	}
	v->announced[v->nr_announced++ % VSOCK_ANNOUNCED] = port;
	if (v->listening_cb)
		v->listening_cb(v->listening_opaque, port);
}

void vsock_conn_opened(struct vsock_conn *conn)
{
	conn->state = CONN_OPEN;
	conn->deadline_ns = conn->retry_ns = 0;
	/* The socket may have had news while nobody cared. */
	conn->readable = true;
}

/* The guest accepts what the host asked for. */
static void accepted_by_guest(struct vsock_conn *conn)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "OK %u\n", conn->host_port);

	vsock_conn_opened(conn);
	if (RETRY_INTERRUPTED(send(conn->event.fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL)) != n)
		vsock_conn_kill(conn);
	else if (conn->waits)
		announce(conn->vsock, conn->guest_port);
}

static void reset_by_guest(struct vsock_conn *conn)
{
	switch (conn->state) {
	case CONN_REQUESTED:
		conn->asked = false;
		if (conn->waits)
			vsock_plan_retry(conn);
		else
			vsock_conn_free(conn);
		break;
	case CONN_DEAD:
	case CONN_FLUSHING:
		vsock_conn_forget(conn);
		break;
	default:
		vsock_conn_end(conn, false);
	}
}

static void open_packet(struct vsock_conn *conn, const struct vsock_packet *p)
{
	switch (p->hdr.op) {
	case VIRTIO_VSOCK_OP_RW:
		take_data(conn, p);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		shutdown_by_guest(conn, p->hdr.flags);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		conn->due |= DUE_CREDIT_UPDATE;
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	default:
		vsock_conn_kill(conn);
	}
}

void vsock_conn_packet(struct vsock_conn *conn, const struct vsock_packet *p)
{
	if (p->hdr.op == VIRTIO_VSOCK_OP_RST) {
		reset_by_guest(conn);
		return;
	}
	/* The RST that is on its way answers whatever this is. */
	if (conn->state == CONN_DEAD || conn->state == CONN_FLUSHING)
		return;
	conn->guest_alloc = p->hdr.buf_alloc;
	conn->guest_fwd = p->hdr.fwd_cnt;
	if (guest_credit(conn))
		conn->credit_asked = false;
	if (conn->state == CONN_OPEN)
		open_packet(conn, p);
	else if (conn->state == CONN_REQUESTED && conn->asked && p->hdr.op == VIRTIO_VSOCK_OP_RESPONSE)
		accepted_by_guest(conn);
	else
		vsock_conn_kill(conn);
	if (conn->state == CONN_OPEN)
		vsock_ready_add(conn);
}

/* ---- from the host ---- */

static void open_event(struct vsock_conn *conn, uint32_t events)
{
	conn->readable = true;
	if (events & (EPOLLHUP | EPOLLERR) && !conn->gone)
		host_gone(conn);
	if (events & EPOLLOUT && conn->buf_len && !conn->gone)
		vsock_conn_flush(conn);
	ask_for_credit(conn);
	tell_credit(conn);
	vsock_ready_add(conn);
}

void vsock_conn_event(struct event_fd *ev, uint32_t events)
{
	struct vsock_conn *conn = ev->opaque;
	struct vsock *v = conn->vsock;

	if (conn->state == CONN_GREETING)
		vsock_greet(conn);
	if (conn->state == CONN_REQUESTED && events & (EPOLLHUP | EPOLLERR))
		vsock_conn_kill(conn);
	else if (conn->state == CONN_OPEN)
		open_event(conn, events);
	else if (conn->state == CONN_FLUSHING)
		vsock_conn_flush(conn);
	vsock_run(v);
}
