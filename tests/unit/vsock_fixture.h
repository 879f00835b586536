/* vsock_fixture.h: a vsock device with a driver for its three queues, a directory for sockets, a transport that counts.
 */
#ifndef MAYFLY_TEST_VSOCK_FIXTURE_H
#define MAYFLY_TEST_VSOCK_FIXTURE_H

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "metrics.h"
#include "vring.h"
#include "vsock.h"
#include "vsock_internal.h"

#define GUEST_CID   52u
#define HOST_CID    2u
#define MEM_MIB     64
#define RING_GPA(q) (0x10000ull * ((q) + 1u)) /* a ring each: descriptors, avail, used */
#define RX_GPA(i)   (0x100000ull + 0x2000ull * (i))
#define RX_SIZE     (4096u + 44u)
#define TX_GPA(i)   (0x1000000ull + 0x20000ull * (i))
#define ALLOC       (256u << 10) /* the guest's buffer for each connection */
#define MAX_FDS     4096u

struct fixture {
	struct guest_memory gm;
	struct event_loop loop;
	struct vsock *v;
	struct virtio_device *dev;
	struct vsock_config cfg;
	struct driver_ring rx, tx, event;
	char dir[64];
	unsigned int interrupts, broken, resets_done, turns;
	bool hold_rx; /* RX buffers are not offered again */
	unsigned int announced, last_announced;
	struct event_timer stop;
	int fds[MAX_FDS];
	unsigned int nr_fds;
	uint8_t payload[RX_SIZE]; /* of the packet received last */
	struct virtio_vsock_hdr last;
};

/* ---- transport ---- */

static inline void count_interrupt(struct virtio_device *dev)
{
	((struct fixture *)dev->transport)->interrupts++;
}

static inline void count_broken(struct virtio_device *dev)
{
	((struct fixture *)dev->transport)->broken++;
}

static const struct virtio_transport_ops counting_transport = {
	.interrupt = count_interrupt,
	.config_changed = count_interrupt,
	.broken = count_broken,
	.reset_done = count_interrupt,
};

/* ---- the loop ---- */

static inline void on_stop(struct event_timer *timer)
{
	event_loop_stop(timer->opaque);
}

/* Serve what is there to be served now: sockets that are ready, timers that are due. Waits for nothing. */
static inline void pump(struct fixture *f)
{
	struct pollfd more = { .fd = f->loop.epoll_fd, .events = POLLIN };
	unsigned int i;

	f->stop = (struct event_timer){ .expired = on_stop, .opaque = &f->loop };
	for (i = 0; i < 100000; i++) {
		event_loop_arm(&f->loop, &f->stop, event_loop_now_ns());
		f->loop.stop = false;
		event_loop_run(&f->loop);
		f->turns++;
		if (!f->v->turn.armed && poll(&more, 1, 0) == 0)
			return;
	}
	fail_msg("the loop never comes to rest");
}

/* Let ns pass for the deadlines of connections. */
static inline void pass_time(struct fixture *f, uint64_t ns)
{
	vsock_shift_deadlines(f->v, 0 - ns);
	vsock_run(f->v);
	pump(f);
}

/* ---- the driver ---- */

static inline void ring_init(struct fixture *f, struct driver_ring *r, unsigned int q)
{
	uint64_t gpa = RING_GPA(q);
	struct virtqueue *vq = &f->dev->queue[q];

	memset(guest(&f->gm, gpa), 0, 0x6000);
	*r = (struct driver_ring){ .gm = &f->gm, .vq = vq, .size = VIRTQUEUE_MAX_SIZE };
	r->desc = guest(&f->gm, gpa);
	r->avail = guest(&f->gm, gpa + 0x2000);
	r->used = guest(&f->gm, gpa + 0x4000);
	vq_reset(vq);
	vq->size = r->size;
	vq->desc_gpa = gpa;
	vq->avail_gpa = gpa + 0x2000;
	vq->used_gpa = gpa + 0x4000;
	vq->ready = vq->indirect = vq->event_idx = true;
}

static inline void notify(struct fixture *f, unsigned int q)
{
	if (f->dev->active)
		f->dev->ops->notify(f->dev, q);
	pump(f);
}

static inline void offer_rx(struct fixture *f, uint16_t first, unsigned int n)
{
	unsigned int i;

	for (i = first; i < first + n; i++) {
		driver_desc(&f->rx, i, RX_GPA(i), RX_SIZE, VRING_DESC_F_WRITE, 0);
		driver_offer(&f->rx, (uint16_t)i);
	}
}

/* What the transport does at DRIVER_OK; the driver offers all RX buffers. */
static inline void activate(struct fixture *f)
{
	ring_init(f, &f->rx, VSOCK_QUEUE_RX);
	ring_init(f, &f->tx, VSOCK_QUEUE_TX);
	ring_init(f, &f->event, VSOCK_QUEUE_EVENT);
	if (!f->hold_rx)
		offer_rx(f, 0, VIRTQUEUE_MAX_SIZE);
	f->dev->features = 1ull << VIRTIO_F_VERSION_1;
	f->dev->active = true;
	assert_int_equal(f->dev->ops->activate(f->dev), 0);
	pump(f);
}

static inline void reset_device(struct fixture *f)
{
	f->dev->active = false;
	assert_true(f->dev->ops->reset(f->dev));
	pump(f);
}

static inline struct virtio_vsock_hdr packet(uint16_t op, uint32_t host_port, uint32_t guest_port, uint32_t len)
{
	return (struct virtio_vsock_hdr){
		.src_cid = GUEST_CID,
		.dst_cid = HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = ALLOC,
	};
}

/* Put one packet into the TX ring: header and payload in a descriptor each. No kick. */
static inline void queue_tx(struct fixture *f, const struct virtio_vsock_hdr *hdr, const void *data, uint32_t len)
{
	uint16_t slot = f->tx.avail_idx % 64u;
	uint16_t d = (uint16_t)(slot * 2);

	assert_true(len <= 0x20000 - sizeof(*hdr));
	memcpy(guest(&f->gm, TX_GPA(slot)), hdr, sizeof(*hdr));
	driver_desc(&f->tx, d, TX_GPA(slot), sizeof(*hdr), len ? VRING_DESC_F_NEXT : 0, (uint16_t)(d + 1));
	if (len) {
		memcpy(guest(&f->gm, TX_GPA(slot) + sizeof(*hdr)), data, len);
		driver_desc(&f->tx, d + 1u, TX_GPA(slot) + sizeof(*hdr), len, 0, 0);
	}
	driver_offer(&f->tx, d);
}

/* One packet, served. */
static inline void send_packet(struct fixture *f, const struct virtio_vsock_hdr *hdr, const void *data, uint32_t len)
{
	queue_tx(f, hdr, data, len);
	notify(f, VSOCK_QUEUE_TX);
}

static inline void send_op(struct fixture *f, uint16_t op, uint32_t host_port, uint32_t guest_port)
{
	struct virtio_vsock_hdr hdr = packet(op, host_port, guest_port, 0);

	send_packet(f, &hdr, NULL, 0);
}

static inline void send_shutdown(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint32_t flags)
{
	struct virtio_vsock_hdr hdr = packet(VIRTIO_VSOCK_OP_SHUTDOWN, host_port, guest_port, 0);

	hdr.flags = flags;
	send_packet(f, &hdr, NULL, 0);
}

static inline void send_data(struct fixture *f, uint32_t host_port, uint32_t guest_port, const void *data, uint32_t len)
{
	struct virtio_vsock_hdr hdr = packet(VIRTIO_VSOCK_OP_RW, host_port, guest_port, len);

	send_packet(f, &hdr, data, len);
}

/* The guest has consumed fwd bytes of the connection and has room for alloc. */
static inline void send_credit(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint32_t alloc, uint32_t fwd)
{
	struct virtio_vsock_hdr hdr = packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, host_port, guest_port, 0);

	hdr.buf_alloc = alloc;
	hdr.fwd_cnt = fwd;
	send_packet(f, &hdr, NULL, 0);
}

/* The next packet for the guest, in f->last and f->payload; false when there is none. Its buffer is offered again. */
static inline bool receive(struct fixture *f)
{
	struct vring_used_elem elem;

	if (driver_used_idx(&f->rx) == f->rx.seen_used)
		return false;
	elem = f->rx.used->ring[f->rx.seen_used++ % f->rx.size];
	assert_in_range(elem.len, sizeof(f->last), RX_SIZE);
	memcpy(&f->last, guest(&f->gm, RX_GPA(elem.id)), sizeof(f->last));
	memcpy(f->payload, (uint8_t *)guest(&f->gm, RX_GPA(elem.id)) + sizeof(f->last), elem.len - sizeof(f->last));
	assert_int_equal(f->last.len, elem.len - sizeof(f->last));
	assert_int_equal(f->last.src_cid, HOST_CID);
	assert_int_equal(f->last.dst_cid, GUEST_CID);
	if (!f->hold_rx) {
		driver_offer(&f->rx, (uint16_t)elem.id);
		notify(f, VSOCK_QUEUE_RX);
	}
	return true;
}

/* The next packet is this one. */
static inline void expect_op(struct fixture *f, uint16_t op, uint32_t host_port, uint32_t guest_port)
{
	assert_true(receive(f));
	assert_int_equal(f->last.op, op);
	assert_int_equal(f->last.src_port, host_port);
	assert_int_equal(f->last.dst_port, guest_port);
	assert_int_equal(f->last.type, VIRTIO_VSOCK_TYPE_STREAM);
}

static inline void expect_shutdown(struct fixture *f, uint32_t host_port, uint32_t guest_port, uint32_t flags)
{
	expect_op(f, VIRTIO_VSOCK_OP_SHUTDOWN, host_port, guest_port);
	assert_int_equal(f->last.flags, flags);
}

static inline void expect_nothing(struct fixture *f)
{
	pump(f);
	assert_false(receive(f));
}

/* ---- host programs ---- */

static inline int keep_fd(struct fixture *f, int fd)
{
	assert_true(fd >= 0 && f->nr_fds < MAX_FDS);
	f->fds[f->nr_fds++] = fd;
	return fd;
}

static inline void close_fd(struct fixture *f, int fd)
{
	unsigned int i;

	for (i = 0; i < f->nr_fds && f->fds[i] != fd; i++)
		;
	assert_true(i < f->nr_fds);
	f->fds[i] = f->fds[--f->nr_fds];
	close(fd);
}

static inline struct sockaddr_un address(const struct fixture *f, int port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	memcpy(addr.sun_path, f->cfg.uds_path, sizeof(addr.sun_path));
	if (port >= 0)
		snprintf(addr.sun_path, sizeof(addr.sun_path), "%.90s_%d", f->cfg.uds_path, port);
	return addr;
}

/* Connected to uds_path, not blocking. */
static inline int dial(struct fixture *f)
{
	struct sockaddr_un addr = address(f, -1);
	int fd = keep_fd(f, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));

	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static inline int listen_on(struct fixture *f, int port, int backlog)
{
	struct sockaddr_un addr = address(f, port);
	int fd = keep_fd(f, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static inline int accept_on(struct fixture *f, int listener)
{
	return keep_fd(f, accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

static inline void say_bytes(struct fixture *f, int fd, const void *data, size_t len)
{
	assert_int_equal(write(fd, data, len), len);
	pump(f);
}

static inline void say(struct fixture *f, int fd, const char *text)
{
	say_bytes(f, fd, text, strlen(text));
}

/* Nothing to read, but not the end either. */
static inline bool quiet(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}

static inline bool at_end(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, MSG_PEEK);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static inline void hear(int fd, const char *text)
{
	char buf[128] = "";
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	assert_true(n >= 0);
	assert_string_equal(buf, text);
}

/* Dialled to a port of the guest, which has the REQUEST; its host port. */
static inline uint32_t request(struct fixture *f, int fd, uint32_t guest_port)
{
	char line[32];

	snprintf(line, sizeof(line), "CONNECT %u\n", guest_port);
	say(f, fd, line);
	assert_true(receive(f));
	assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(f->last.dst_port, guest_port);
	assert_int_equal(f->last.buf_alloc, VSOCK_BUF_SIZE);
	return f->last.src_port;
}

static inline void hear_ok(int fd, uint32_t host_port)
{
	char line[32];

	snprintf(line, sizeof(line), "OK %u\n", host_port);
	hear(fd, line);
}

/* Open for data both ways. */
static inline int open_from_host(struct fixture *f, uint32_t guest_port, uint32_t *host_port)
{
	int fd = dial(f);

	*host_port = request(f, fd, guest_port);
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, *host_port, guest_port);
	hear_ok(fd, *host_port);
	return fd;
}

static inline unsigned int open_conns(const struct fixture *f)
{
	unsigned int i, n = 0;

	for (i = 0; i < f->v->nr_fresh; i++)
		n += f->v->conn[i].state != CONN_FREE;
	return n;
}

/* ---- set-up ---- */

static inline void on_listening(void *opaque, uint32_t port)
{
	struct fixture *f = opaque;

	f->announced++;
	f->last_announced = port;
}

static inline void fixture_open(struct fixture *f)
{
	struct error err = { 0 };

	assert_int_equal(vsock_create(&f->v, &f->cfg, &f->gm, &f->loop, &err), 0);
	f->dev = vsock_device(f->v);
	f->dev->transport = f;
	f->dev->transport_ops = &counting_transport;
	vsock_on_listening(f->v, on_listening, f);
}

static inline int setup_inactive(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct rlimit files;
	struct error err = { 0 };

	if (!f || gm_create(&f->gm, MEM_MIB, HUGE_PAGES_NONE, &err) || event_loop_init(&f->loop, &err))
		return -1;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max < MAX_FDS ? files.rlim_max : MAX_FDS;
	setrlimit(RLIMIT_NOFILE, &files);
	strcpy(f->dir, "/tmp/mayfly-vsock-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->cfg = (struct vsock_config){ .present = true, .guest_cid = GUEST_CID };
	snprintf(f->cfg.uds_path, sizeof(f->cfg.uds_path), "%s/v", f->dir);
	fixture_open(f);
	*state = f;
	return 0;
}

static inline int setup(void **state)
{
	int ret = setup_inactive(state);

	if (!ret)
		activate(*state);
	return ret;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	while (f->nr_fds)
		close(f->fds[--f->nr_fds]);
	vsock_destroy(f->v);
	event_loop_destroy(&f->loop);
	gm_destroy(&f->gm);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	if (system(command))
		return -1;
	free(f);
	return 0;
}

#endif
