/* vsock_rx.c: fills the driver's RX buffers with packets of connections, in turn, and its event buffers. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <sys/uio.h>

#include "iov.h"
#include "metrics.h"
#include "vsock_internal.h"

#define HDR_LEN ((uint32_t)sizeof(struct virtio_vsock_hdr))

/* RX chains taken and not given back yet. */
struct batch {
	struct vsock *v;
	struct vq_chain chain[VSOCK_BATCH];
	unsigned int nr, nr_iov;
	uint64_t room; /* for payload, in all of them */
};

/* Take one more chain: 1, 0 when the ring is empty, or -1 when the driver broke the rules. */
static int batch_add(struct batch *b)
{
	struct vq_chain *chain = &b->chain[b->nr];
	struct vsock *v = b->v;
	int ret;

	*chain = (struct vq_chain){ .iov = v->iov + b->nr_iov, .iov_max = VIRTQUEUE_MAX_SIZE };
	ret = vq_pop(&v->dev.queue[VSOCK_QUEUE_RX], chain);
	if (ret == 0)
		return 0;
	if (ret < 0 || chain->nr_out || chain->in_len <= HDR_LEN) {
		metrics_inc(vsock_rx_queue_event_fails);
		vsock_broken(v, VSOCK_QUEUE_RX, ret < 0 ? vq_why(ret) : "receive buffer without room for a packet");
		return -1;
	}
	b->nr++;
	b->nr_iov += chain->nr_in;
	b->room += chain->in_len - HDR_LEN;
	return 1;
}

/* Put back all but the first used chains. */
static void batch_return(struct batch *b, unsigned int used)
{
	for (; b->nr > used; b->nr--)
		vq_unpop(&b->v->dev.queue[VSOCK_QUEUE_RX]);
}

static void push(struct vsock *v, const struct vq_chain *chain, const struct virtio_vsock_hdr *hdr)
{
	int ret;

	(void)iov_write(chain->iov, chain->nr_in, 0, hdr, sizeof(*hdr));
	ret = vq_push(&v->dev.queue[VSOCK_QUEUE_RX], chain->head, HDR_LEN + le32toh(hdr->len));
	if (ret)
		vsock_broken(v, VSOCK_QUEUE_RX, vq_why(ret));
	v->pushed[VSOCK_QUEUE_RX] = true;
	metrics_inc(vsock_rx_packets_count);
}

/* The payload areas of all chains of the batch as one list of buffers, at most len bytes in all. */
static unsigned int payload(const struct batch *b, uint32_t len)
{
	struct iovec *slice = b->v->slice;
	unsigned int i, n = 0;
	uint64_t take;

	for (i = 0; i < b->nr && len; i++) {
		take = b->chain[i].in_len - HDR_LEN;
		if (take > len)
			take = len;
		n += iov_slice(slice + n, b->chain[i].iov, b->chain[i].nr_in, HDR_LEN, take);
		len -= (uint32_t)take;
	}
	return n;
}

/* n bytes have come into the payload areas: a header before each part, and off they go. */
static unsigned int push_data(struct batch *b, struct vsock_conn *conn, uint32_t n)
{
	struct virtio_vsock_hdr hdr;
	unsigned int i;
	uint64_t part;

	for (i = 0; n; i++) {
		part = b->chain[i].in_len - HDR_LEN;
		if (part > n)
			part = n;
		vsock_conn_header(conn, &hdr, (uint32_t)part);
		push(b->v, &b->chain[i], &hdr);
		n -= (uint32_t)part;
	}
	return i;
}

/* What a step of handing out came to, besides work done. */
#define NO_BUFFERS (-1)

/* One read from the socket straight into as many RX buffers as it fills. The work it was, or NO_BUFFERS. */
static int send_data(struct vsock *v, struct vsock_conn *conn, uint32_t want)
{
	struct batch b = { .v = v };
	unsigned int used = 0;
	ssize_t n;
	int ret = 1;

	if (want > VSOCK_BUF_SIZE)
		want = VSOCK_BUF_SIZE;
	while (b.room < want && b.nr < VSOCK_BATCH && b.nr_iov <= VIRTQUEUE_MAX_SIZE && ret > 0)
		ret = batch_add(&b);
	if (ret < 0 || !b.nr)
		return NO_BUFFERS;
	n = readv(conn->event.fd, v->slice, (int)payload(&b, want));
	if (n < 0)
		n = -errno;
	if (n > 0)
		used = push_data(&b, conn, (uint32_t)n);
	batch_return(&b, used);
	vsock_conn_read_done(conn, n);
	return (int)(1 + used + (n > 0 ? (uint32_t)n / VSOCK_WORK_BYTES : 0));
}

static int send_control(struct vsock *v, struct vsock_conn *conn)
{
	struct batch b = { .v = v };
	struct virtio_vsock_hdr hdr;

	if (batch_add(&b) <= 0)
		return NO_BUFFERS;
	if (vsock_conn_control(conn, &hdr))
		push(v, &b.chain[0], &hdr);
	else
		batch_return(&b, 0);
	return 1;
}

void vsock_queue_reset(struct vsock *v, const struct virtio_vsock_hdr *hdr)
{
	struct vsock_reset *reset = &v->reset[(v->reset_start + v->nr_resets++) % VSOCK_MAX_RESETS];

	*reset = (struct vsock_reset){ .host_port = hdr->dst_port, .guest_port = hdr->src_port, .type = hdr->type };
}

static int send_reset(struct vsock *v)
{
	const struct vsock_reset *reset = &v->reset[v->reset_start];
	struct batch b = { .v = v };
	struct virtio_vsock_hdr hdr = {
		.src_cid = htole64(VMADDR_CID_HOST),
		.dst_cid = htole64(v->guest_cid),
		.src_port = htole32(reset->host_port),
		.dst_port = htole32(reset->guest_port),
		.type = htole16(reset->type),
		.op = htole16(VIRTIO_VSOCK_OP_RST),
	};

	if (batch_add(&b) <= 0)
		return NO_BUFFERS;
	push(v, &b.chain[0], &hdr);
	v->reset_start = (v->reset_start + 1) % VSOCK_MAX_RESETS;
	v->nr_resets--;
	return 1;
}

/* Has the connection something to say before, or instead of, its data? */
static bool control_first(const struct vsock_conn *conn)
{
	return conn->due & ~DUE_CREDIT_UPDATE || !vsock_conn_may_read(conn);
}

/* One step. The work it was; NO_BUFFERS, and then it is the same one's turn next time; 0 when nobody has anything. */
static int serve_one(struct vsock *v)
{
	struct vsock_conn *conn;
	int ret;

	if (v->nr_resets)
		return send_reset(v);
	conn = vsock_ready_first(v);
	if (!conn)
		return 0;
	if (control_first(conn))
		ret = send_control(v, conn);
	else
		ret = send_data(v, conn, vsock_conn_may_read(conn));
	if (ret != NO_BUFFERS)
		vsock_ready_served(v);
	return ret;
}

bool vsock_run_rx(struct vsock *v)
{
	unsigned int work = 0;
	int ret;

	if (!v->dev.queue[VSOCK_QUEUE_RX].ready)
		return false;
	while (work < VSOCK_TURN) {
		ret = serve_one(v);
		if (ret <= 0 || !v->dev.active)
			return false;
		work += (unsigned int)ret;
	}
	return true;
}

/*
 * Have the driver ring when it adds event buffers, although it has some: only a queue that was found empty asks for
 * that. Whoever adds chains as fast as they are looked at is not asked.
 */
static int ask_for_kick(struct vsock *v)
{
	struct vq_chain chain = { .iov = v->slice, .iov_max = VIRTQUEUE_MAX_SIZE };
	struct virtqueue *vq = &v->dev.queue[VSOCK_QUEUE_EVENT];
	unsigned int n = 0;
	int ret = 1;

	while (n < vq->size && (ret = vq_pop(vq, &chain)) > 0)
		n++;
	for (; n; n--)
		vq_unpop(vq);
	return ret;
}

/*
 * Linux ends all the connections it knows when it gets to the event, also those made since: who connects right after a
 * restore would be let in and thrown out. So the driver gets no packets until it gives the buffer back, which it does
 * last.
 */
static void hold(struct vsock *v)
{
	v->held = true;
	event_loop_arm(v->dev.loop, &v->hold, event_loop_now_ns() + VSOCK_HOLD_NS);
}

void vsock_release(struct vsock *v)
{
	v->held = false;
	event_loop_disarm(v->dev.loop, &v->hold);
}

void vsock_send_event(struct vsock *v)
{
	const struct virtio_vsock_event event = { .id = htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) };
	struct vq_chain chain = { .iov = v->iov, .iov_max = VIRTQUEUE_MAX_SIZE };
	struct virtqueue *vq = &v->dev.queue[VSOCK_QUEUE_EVENT];
	int ret;

	if (!v->event_pending || !vq->ready)
		return;
	ret = vq_pop(vq, &chain);
	if (ret == 0)
		return;
	if (ret > 0 && (chain.nr_out || chain.in_len < sizeof(event)))
		ret = -EINVAL;
	if (ret > 0) {
		ret = ask_for_kick(v);
		ret = ret < 0 ? ret : 1;
	}
	if (ret > 0) {
		(void)iov_write(chain.iov, chain.nr_in, 0, &event, sizeof(event));
		ret = vq_push(vq, chain.head, sizeof(event));
	}
	if (ret) {
		metrics_inc(vsock_ev_queue_event_fails);
		vsock_broken(v, VSOCK_QUEUE_EVENT, ret == -EINVAL ? "event buffer too small" : vq_why(ret));
		return;
	}
	v->event_pending = false;
	v->pushed[VSOCK_QUEUE_EVENT] = true;
	hold(v);
}
