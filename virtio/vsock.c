/* vsock.c: virtio-vsock (virtio 1.2, 5.10): the device between its three queues and its connections. */
#include "vsock.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/vm_sockets.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iov.h"
#include "lazy_memory.h"
#include "log.h"
#include "metrics.h"
#include "snapshot/state.h"
#include "vsock_internal.h"

static struct vsock *to_vsock(const struct virtio_device *dev)
{
	return (struct vsock *)(uintptr_t)dev;
}

/*
 * None of our own: stream sockets are what a device without VIRTIO_VSOCK_F_STREAM has (5.10.3), and the drivers of
 * Linux do not know that bit.
 */
static uint64_t vsock_features(const struct virtio_device *dev)
{
	(void)dev;
	return 0;
}

static void vsock_read_config(const struct virtio_device *dev, uint64_t offset, void *buf, size_t len)
{
	struct virtio_vsock_config cfg = { .guest_cid = htole64(to_vsock(dev)->guest_cid) };

	memset(buf, 0, len);
	if (offset >= sizeof(cfg))
		return;
	if (len > sizeof(cfg) - offset)
		len = sizeof(cfg) - (size_t)offset;
	memcpy(buf, (const uint8_t *)&cfg + offset, len);
}

void vsock_broken(struct vsock *v, unsigned int queue, const char *why)
{
	virtio_device_broken(&v->dev, queue, why);
}

/* ---- packets of the guest ---- */

static void header_to_host(struct virtio_vsock_hdr *hdr)
{
	hdr->src_cid = le64toh(hdr->src_cid);
	hdr->dst_cid = le64toh(hdr->dst_cid);
	hdr->src_port = le32toh(hdr->src_port);
	hdr->dst_port = le32toh(hdr->dst_port);
	hdr->len = le32toh(hdr->len);
	hdr->type = le16toh(hdr->type);
	hdr->op = le16toh(hdr->op);
	hdr->flags = le32toh(hdr->flags);
	hdr->buf_alloc = le32toh(hdr->buf_alloc);
	hdr->fwd_cnt = le32toh(hdr->fwd_cnt);
}

static void take_packet(struct vsock *v, const struct vsock_packet *p)
{
	const struct virtio_vsock_hdr *hdr = &p->hdr;
	struct vsock_conn *conn;

	metrics_inc(vsock_tx_packets_count);
	/* 5.10.6.4: nobody speaks for another, and there is nobody else to speak to. */
	if (hdr->src_cid != v->guest_cid || hdr->dst_cid != VMADDR_CID_HOST)
		return;
	if (hdr->type != VIRTIO_VSOCK_TYPE_STREAM) {
		if (hdr->op != VIRTIO_VSOCK_OP_RST)
			vsock_queue_reset(v, hdr);
		return;
	}
	conn = vsock_table_find(v, hdr->dst_port, hdr->src_port);
	/* The guest uses its ports anew: it does not wait for the end of the old connection any more. */
	if (conn && hdr->op == VIRTIO_VSOCK_OP_REQUEST && (conn->state == CONN_DEAD || conn->state == CONN_FLUSHING)) {
		vsock_conn_forget(conn);
		conn = NULL;
	}
	if (conn)
		vsock_conn_packet(conn, p);
	else if (hdr->op == VIRTIO_VSOCK_OP_REQUEST)
		vsock_request(v, p);
	else if (hdr->op != VIRTIO_VSOCK_OP_RST)
		vsock_queue_reset(v, hdr);
}

/* The work that one chain of the TX queue was; 0 when there is none, or the driver broke the rules. */
static unsigned int serve_tx_chain(struct vsock *v)
{
	struct vq_chain chain = { .iov = v->iov, .iov_max = VIRTQUEUE_MAX_SIZE };
	struct virtqueue *vq = &v->dev.queue[VSOCK_QUEUE_TX];
	struct vsock_packet p;
	int ret = vq_pop(vq, &chain);

	if (ret == 0)
		return 0;
	if (ret < 0 || chain.nr_in || chain.out_len < sizeof(p.hdr)) {
		metrics_inc(vsock_tx_queue_event_fails);
		vsock_broken(v, VSOCK_QUEUE_TX, ret < 0 ? vq_why(ret) : "packet without a header");
		return 0;
	}
	(void)iov_read(chain.iov, chain.nr_out, 0, &p.hdr, sizeof(p.hdr));
	header_to_host(&p.hdr);
	p.iov = chain.iov;
	p.nr_iov = chain.nr_out;
	p.payload_len = chain.out_len - sizeof(p.hdr);
	take_packet(v, &p);
	ret = vq_push(vq, chain.head, 0);
	if (ret)
		vsock_broken(v, VSOCK_QUEUE_TX, vq_why(ret));
	v->pushed[VSOCK_QUEUE_TX] = true;
	/* What a packet claims to hold is bounded by the credit before anything is done with it. */
	return 1 + (p.hdr.len < VSOCK_BUF_SIZE ? p.hdr.len : VSOCK_BUF_SIZE) / VSOCK_WORK_BYTES;
}

static bool may_take_packets(const struct vsock *v)
{
	/* Any packet may need an RST; with no room to note it, the queue waits until the driver has taken some. */
	return v->tx_pending && v->dev.active && v->dev.queue[VSOCK_QUEUE_TX].ready && v->nr_resets < VSOCK_MAX_RESETS;
}

static void run_tx(struct vsock *v)
{
	unsigned int work = 0, done;

	while (work < VSOCK_TURN && may_take_packets(v)) {
		done = serve_tx_chain(v);
		v->tx_pending = done;
		work += done;
	}
}

/* ---- turns ---- */

static void interrupt(struct vsock *v)
{
	unsigned int i;

	for (i = 0; i < VSOCK_NR_QUEUES && v->dev.active; i++) {
		if (v->pushed[i])
			virtio_device_interrupt(&v->dev, i);
		v->pushed[i] = false;
	}
}

void vsock_run(struct vsock *v)
{
	bool more;

	if (!v->dev.active || v->paused)
		return;
	vsock_send_event(v);
	run_tx(v);
	more = !v->held && vsock_run_rx(v);
	interrupt(v);
	if (!v->dev.active)
		vsock_drop_all(v);
	else if (more || may_take_packets(v))
		event_loop_arm(v->dev.loop, &v->turn, event_loop_now_ns() + 1);
}

static void on_turn(struct event_timer *timer)
{
	vsock_run(timer->opaque);
}

static void on_hold_over(struct event_timer *timer)
{
	vsock_release(timer->opaque);
	vsock_run(timer->opaque);
}

/* ---- what the transport asks for ---- */

static int vsock_activate(struct virtio_device *dev)
{
	struct vsock *v = to_vsock(dev);

	v->tx_pending = true;
	vsock_run(v);
	return 0;
}

static void vsock_notify(struct virtio_device *dev, unsigned int queue)
{
	struct vsock *v = to_vsock(dev);

	if (queue == VSOCK_QUEUE_TX) {
		metrics_inc(vsock_tx_queue_event_count);
		v->tx_pending = true;
	} else if (queue == VSOCK_QUEUE_RX) {
		metrics_inc(vsock_rx_queue_event_count);
	} else {
		vsock_release(v);
	}
	vsock_run(v);
}

static bool vsock_reset(struct virtio_device *dev)
{
	struct vsock *v = to_vsock(dev);

	event_loop_disarm(dev->loop, &v->turn);
	vsock_release(v);
	vsock_drop_all(v);
	v->tx_pending = v->event_pending = false;
	v->nr_announced = 0;
	memset(v->pushed, 0, sizeof(v->pushed));
	return true;
}

_Static_assert(sizeof(struct vsock_state) == 8, "no holes");

static void vsock_save(const struct virtio_device *dev, struct state_writer *w, uint32_t slot)
{
	const struct vsock_state state = { .last_host_port = to_vsock(dev)->last_host_port };

	state_put(w, STATE_VSOCK, slot, &state, sizeof(state));
}

static int vsock_restore(struct virtio_device *dev, struct state_reader *r, uint32_t slot, struct error *err)
{
	struct vsock *v = to_vsock(dev);
	struct vsock_state state;
	int ret = state_get(r, STATE_VSOCK, slot, &state, sizeof(state), sizeof(state), err);

	if (ret)
		return ret;
	if (!vsock_host_port_plausible(state.last_host_port))
		return state_bad(err, STATE_VSOCK, slot, "a port of the host's that it never uses");
	v->last_host_port = state.last_host_port;
	v->event_pending = true;
	return 0;
}

static const struct virtio_device_ops vsock_ops = {
	.type = VIRTIO_ID_VSOCK,
	.nr_queues = VSOCK_NR_QUEUES,
	.queue_max_size = VIRTQUEUE_MAX_SIZE,
	.features = vsock_features,
	.read_config = vsock_read_config,
	.activate = vsock_activate,
	.notify = vsock_notify,
	.reset = vsock_reset,
	.save = vsock_save,
	.restore = vsock_restore,
};

/* ---- what the machine asks for ---- */

int vsock_create(struct vsock **out, const struct vsock_config *cfg, const struct guest_memory *gm,
		 struct event_loop *loop, struct error *err)
{
	struct vsock *v = lazy_alloc(sizeof(*v));
	unsigned int i;
	int ret;

	if (!v)
		return error_set(err, -ENOMEM, "vsock: no memory");
	memcpy(v->id, cfg->vsock_id[0] ? cfg->vsock_id : "vsock", cfg->vsock_id[0] ? sizeof(v->id) : sizeof("vsock"));
	memcpy(v->uds_path, cfg->uds_path, sizeof(v->uds_path));
	v->guest_cid = cfg->guest_cid;
	v->ready_tail = &v->ready;
	v->timer = (struct event_timer){ .expired = vsock_timer_expired, .opaque = v };
	v->turn = (struct event_timer){ .expired = on_turn, .opaque = v };
	v->hold = (struct event_timer){ .expired = on_hold_over, .opaque = v };
	v->dev.ops = &vsock_ops;
	v->dev.id = v->id;
	v->dev.gm = gm;
	v->dev.loop = loop;
	for (i = 0; i < VSOCK_NR_QUEUES; i++) {
		v->dev.queue[i].gm = gm;
		v->dev.queue[i].max_size = VIRTQUEUE_MAX_SIZE;
	}
	ret = vsock_listen(v, err);
	if (ret) {
		munmap(v, sizeof(*v));
		return ret;
	}
	*out = v;
	return 0;
}

/* A guest that powers off right after its last words has them in the ring, and nobody will ring for them. */
static void take_last_packets(struct vsock *v)
{
	unsigned int i;

	v->tx_pending = true;
	for (i = 0; i < VIRTQUEUE_MAX_SIZE && may_take_packets(v); i++)
		v->tx_pending = serve_tx_chain(v);
}

void vsock_destroy(struct vsock *v)
{
	unsigned int i;

	if (!v)
		return;
	if (!v->paused)
		take_last_packets(v);
	for (i = 0; i < v->nr_fresh; i++) {
		if (v->conn[i].buf_len)
			vsock_conn_flush(&v->conn[i]);
		if (v->conn[i].state != CONN_FREE)
			vsock_conn_free(&v->conn[i]);
	}
	event_loop_disarm(v->dev.loop, &v->timer);
	event_loop_disarm(v->dev.loop, &v->turn);
	event_loop_disarm(v->dev.loop, &v->hold);
	unix_listener_stop(&v->listener);
	close(v->listener.ev.fd);
	unix_socket_remove(v->uds_path, "vsock.uds_path");
	munmap(v, sizeof(*v));
}

struct virtio_device *vsock_device(struct vsock *v)
{
	return &v->dev;
}

void vsock_pause(struct vsock *v)
{
	if (v->paused)
		return;
	v->paused = true;
	v->paused_ns = event_loop_now_ns();
	event_loop_disarm(v->dev.loop, &v->timer);
	event_loop_disarm(v->dev.loop, &v->turn);
	event_loop_disarm(v->dev.loop, &v->hold);
}

void vsock_resume(struct vsock *v)
{
	if (!v->paused)
		return;
	v->paused = false;
	v->tx_pending = true;
	if (v->held)
		event_loop_arm(v->dev.loop, &v->hold, event_loop_now_ns() + VSOCK_HOLD_NS);
	vsock_shift_deadlines(v, event_loop_now_ns() - v->paused_ns);
	vsock_run(v);
}

void vsock_transport_reset(struct vsock *v)
{
	vsock_drop_all(v);
	v->event_pending = true;
	vsock_run(v);
}

void vsock_on_listening(struct vsock *v, void (*listening)(void *opaque, uint32_t port), void *opaque)
{
	v->listening_cb = listening;
	v->listening_opaque = opaque;
}
