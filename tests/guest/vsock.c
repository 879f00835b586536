/* vsock.c: drives a virtio-vsock device: its queues, connections and their credit. */
#include "vsock.h"
#include "io.h"

static struct vsock *vsock_new(struct guest *g, uint64_t base)
{
	struct vsock *v = alloc(g, sizeof(*v), 64);
	unsigned int i;

	if (!v)
		return NULL;
	v->g = g;
	v->dev.base = base;
	v->rx_buf = alloc(g, VSOCK_RX_SLOTS * 8192u, 4096);
	v->tx_buf = alloc(g, VSOCK_TX_SLOTS * VSOCK_TX_SIZE, 4096);
	if (!v->rx_buf || !v->tx_buf || !virtq_alloc(g, &v->rx, &v->dev, 0) || !virtq_alloc(g, &v->tx, &v->dev, 1) ||
	    !virtq_alloc(g, &v->event, &v->dev, 2))
		return NULL;
	for (i = 0; i < VSOCK_CONNS; i++) {
		v->conn[i].buf = reserve(g, VSOCK_BUF, 4096);
		if (!v->conn[i].buf)
			return NULL;
	}
	return v;
}

struct vsock *vsock_get(struct guest *g)
{
	struct vdev d = { 0 };
	unsigned int i;

	for (i = 0; i < g->nr_devices && !g->vsock; i++) {
		d.base = g->device[i];
		if (vdev_read(&d, VIRTIO_MMIO_MAGIC_VALUE) == MMIO_MAGIC && vdev_read(&d, VIRTIO_MMIO_VERSION) == 2 &&
		    vdev_read(&d, VIRTIO_MMIO_DEVICE_ID) == VIRTIO_ID_VSOCK)
			g->vsock = vsock_new(g, d.base);
	}
	if (!g->vsock)
		say("no vsock device, or no memory for its buffers\n");
	return g->vsock;
}

static bool start_queue(struct vsock *v, struct virtq *vq)
{
	uint32_t max;

	vdev_write(&v->dev, VIRTIO_MMIO_QUEUE_SEL, vq->index);
	max = vdev_read(&v->dev, VIRTIO_MMIO_QUEUE_NUM_MAX);
	virtq_clear(vq, (uint16_t)(max < 256 ? max : 256));
	virtq_program(vq);
	return max >= VSOCK_RX_SLOTS;
}

bool vsock_open(struct vsock *v, uint32_t rx_size)
{
	struct segment seg = { .len = rx_size, .in = true };
	unsigned int i;

	v->open = false;
	if (!vdev_reset(&v->dev) || !vdev_negotiate(&v->dev,
						    FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_RING_F_EVENT_IDX) |
							    FEATURE(VIRTIO_RING_F_INDIRECT_DESC),
						    0)) {
		say("vsock: no reset or no features\n");
		return false;
	}
	if (!start_queue(v, &v->rx) || !start_queue(v, &v->tx) || !start_queue(v, &v->event)) {
		say("vsock: a queue is too short\n");
		return false;
	}
	v->cid = vdev_read(&v->dev, VIRTIO_MMIO_CONFIG) | (uint64_t)vdev_read(&v->dev, VIRTIO_MMIO_CONFIG + 4) << 32;
	v->nr_tx_free = VSOCK_TX_SLOTS;
	for (i = 0; i < VSOCK_TX_SLOTS; i++)
		v->tx_free[i] = (uint16_t)i;
	for (i = 0; i < VSOCK_CONNS; i++)
		v->conn[i].used = false;
	v->accepted = v->refused = v->resets = v->ended = 0;
	/* Slot i has descriptor i for ever: a buffer goes back the way it came. */
	for (i = 0; i < VSOCK_RX_SLOTS; i++) {
		seg.addr = (uint64_t)(v->rx_buf + i * 8192u);
		virtq_add(&v->rx, &seg, 1, NULL);
	}
	vdev_add_status(&v->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	virtq_kick(&v->rx);
	v->open = true;
	return true;
}

static void reap_tx(struct vsock *v)
{
	uint32_t len;
	int head;

	while ((head = virtq_pop(&v->tx, &len)) >= 0)
		v->tx_free[v->nr_tx_free++] = v->tx_slot[head];
}

bool vsock_send(struct vsock *v, const struct virtio_vsock_hdr *hdr, const void *data, uint32_t len)
{
	struct segment seg = { .len = (uint32_t)sizeof(*hdr) + len };
	uint16_t slot;
	uint8_t *buf;
	int head;

	reap_tx(v);
	if (!v->nr_tx_free)
		return false;
	slot = v->tx_free[--v->nr_tx_free];
	buf = v->tx_buf + slot * VSOCK_TX_SIZE;
	memcpy(buf, hdr, sizeof(*hdr));
	if (len)
		memcpy(buf + sizeof(*hdr), data, len);
	seg.addr = (uint64_t)buf;
	head = virtq_add(&v->tx, &seg, 1, NULL);
	v->tx_slot[head] = slot;
	virtq_kick(&v->tx);
	return true;
}

struct virtio_vsock_hdr vsock_header(struct vsock *v, struct vconn *c, uint16_t op, uint32_t len)
{
	c->told_fwd = c->fwd;
	return (struct virtio_vsock_hdr){
		.src_cid = v->cid,
		.dst_cid = HOST_CID,
		.src_port = c->guest_port,
		.dst_port = c->host_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = VSOCK_BUF,
		.fwd_cnt = c->fwd,
	};
}

static bool send_op(struct vsock *v, struct vconn *c, uint16_t op)
{
	struct virtio_vsock_hdr hdr = vsock_header(v, c, op, 0);

	return vsock_send(v, &hdr, NULL, 0);
}

static struct vconn *conn_new(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	unsigned int i;

	for (i = 0; i < VSOCK_CONNS; i++) {
		struct vconn *c = &v->conn[i];
		uint8_t *buf = c->buf;

		if (c->used)
			continue;
		*c = (struct vconn){ .used = true, .buf = buf, .host_port = host_port, .guest_port = guest_port };
		return c;
	}
	return NULL;
}

struct vconn *vsock_connect(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct vconn *c = conn_new(v, host_port, guest_port);

	if (c && send_op(v, c, VIRTIO_VSOCK_OP_REQUEST))
		return c;
	say("vsock: no room for a connection\n");
	return NULL;
}

static struct vconn *conn_find(struct vsock *v, const struct virtio_vsock_hdr *hdr)
{
	unsigned int i;

	for (i = 0; i < VSOCK_CONNS; i++) {
		struct vconn *c = &v->conn[i];

		if (c->used && c->host_port == hdr->src_port && c->guest_port == hdr->dst_port)
			return c;
	}
	return NULL;
}

static void keep_data(struct vconn *c, const uint8_t *data, uint32_t len)
{
	uint32_t at = (c->start + c->len) % VSOCK_BUF;
	uint32_t first = VSOCK_BUF - at < len ? VSOCK_BUF - at : len;

	if (len > VSOCK_BUF - c->len) {
		say("vsock: the host ignores our credit: %u bytes on top of %u\n", len, c->len);
		c->reset = true;
		return;
	}
	memcpy(c->buf + at, data, first);
	memcpy(c->buf, data + first, len - first);
	c->len += len;
}

/* A request for a connection that we do not know, or anything else that is of nobody. */
static void stranger(struct vsock *v, const struct virtio_vsock_hdr *hdr)
{
	struct vconn refused = { .host_port = hdr->src_port, .guest_port = hdr->dst_port };
	struct vconn *c = NULL;

	if (hdr->op == VIRTIO_VSOCK_OP_RST)
		return;
	if (hdr->op == VIRTIO_VSOCK_OP_REQUEST && hdr->dst_port == v->listen_port)
		c = conn_new(v, hdr->src_port, hdr->dst_port);
	if (c) {
		c->open = true;
		c->host_alloc = hdr->buf_alloc;
		c->host_fwd = hdr->fwd_cnt;
		v->accepted++;
		send_op(v, c, VIRTIO_VSOCK_OP_RESPONSE);
	} else {
		v->refused++;
		send_op(v, &refused, VIRTIO_VSOCK_OP_RST);
	}
}

static void handle(struct vsock *v, const struct virtio_vsock_hdr *hdr, const uint8_t *data)
{
	struct vconn *c = conn_find(v, hdr);

	v->last_op = hdr->op;
	v->last_type = hdr->type;
	if (hdr->op == VIRTIO_VSOCK_OP_RST)
		v->resets++;
	if (!c) {
		stranger(v, hdr);
		return;
	}
	c->host_alloc = hdr->buf_alloc;
	c->host_fwd = hdr->fwd_cnt;
	if (hdr->op == VIRTIO_VSOCK_OP_RESPONSE)
		c->open = true;
	else if (hdr->op == VIRTIO_VSOCK_OP_RW)
		keep_data(c, data, hdr->len);
	else if (hdr->op == VIRTIO_VSOCK_OP_SHUTDOWN)
		c->host_shut |= (uint8_t)hdr->flags;
	else if (hdr->op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
		send_op(v, c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	else if (hdr->op == VIRTIO_VSOCK_OP_RST)
		c->reset = true;
}

bool vsock_poll(struct vsock *v)
{
	struct segment seg = { .in = true };
	static unsigned int polls;
	const uint8_t *buf;
	uint32_t len;
	int head;

	/* Answers need TX slots: what has come waits in the ring until there are some. */
	reap_tx(v);
	while (v->nr_tx_free > VSOCK_TX_SLOTS / 2 && (head = virtq_pop(&v->rx, &len)) >= 0) {
		buf = (const uint8_t *)v->rx.desc[head].addr;
		handle(v, (const struct virtio_vsock_hdr *)buf, buf + sizeof(struct virtio_vsock_hdr));
		seg.addr = v->rx.desc[head].addr;
		seg.len = v->rx.desc[head].len;
		virtq_add(&v->rx, &seg, 1, NULL);
		virtq_kick(&v->rx);
		reap_tx(v);
	}
	pause();
	if (++polls % 4096 == 0 && vdev_status(&v->dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		return false;
	return true;
}

uint32_t vsock_write(struct vsock *v, struct vconn *c, const uint8_t *data, uint32_t len)
{
	uint32_t credit = c->host_alloc - (c->sent - c->host_fwd);
	struct virtio_vsock_hdr hdr;

	if (len > credit)
		len = credit;
	if (len > VSOCK_TX_SIZE - sizeof(hdr))
		len = VSOCK_TX_SIZE - sizeof(hdr);
	reap_tx(v);
	if (!len || v->nr_tx_free < 8)
		return 0;
	hdr = vsock_header(v, c, VIRTIO_VSOCK_OP_RW, len);
	vsock_send(v, &hdr, data, len);
	c->sent += len;
	return len;
}

uint32_t vsock_peek(const struct vconn *c, const uint8_t **data)
{
	*data = c->buf + c->start;
	return VSOCK_BUF - c->start < c->len ? VSOCK_BUF - c->start : c->len;
}

void vsock_consume(struct vsock *v, struct vconn *c, uint32_t n)
{
	c->start = (c->start + n) % VSOCK_BUF;
	c->len -= n;
	c->fwd += n;
	if (c->fwd - c->told_fwd > VSOCK_BUF / 2)
		send_op(v, c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

bool vsock_shutdown(struct vsock *v, struct vconn *c, uint8_t flags)
{
	struct virtio_vsock_hdr hdr = vsock_header(v, c, VIRTIO_VSOCK_OP_SHUTDOWN, 0);

	if (!(flags & ~c->shut))
		return true;
	hdr.flags = flags;
	if (!vsock_send(v, &hdr, NULL, 0))
		return false;
	c->shut |= flags;
	return true;
}

void vsock_release(struct vsock *v, struct vconn *c)
{
	c->used = false;
	v->ended++;
}
