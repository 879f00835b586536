/* net.c: opens network devices, sends and receives frames that can be checked, and attacks the device's rings. */
#include "net.h"
#include "io.h"

#define PATIENCE_MS 30000

#define NET_WANTED                                                                                               \
	(FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_RING_F_EVENT_IDX) | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | \
	 FEATURE(VIRTIO_NET_F_MRG_RXBUF) | FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_MTU))

static struct net *net_new(struct guest *g, uint64_t base)
{
	struct net *n = alloc(g, sizeof(*n), 64);

	if (!n)
		return NULL;
	n->g = g;
	n->index = g->nr_net;
	n->dev.base = base;
	n->frame = alloc(g, NET_HDR_LEN + 2 * 65600u, 4096);
	n->tx_memory = alloc(g, NET_TX_SLOTS * NET_TX_SLOT, 4096);
	if (!n->frame || !n->tx_memory || !virtq_alloc(g, &n->rx, &n->dev, NET_RX) ||
	    !virtq_alloc(g, &n->tx, &n->dev, NET_TX))
		return NULL;
	return n;
}

static struct net *net_get(struct guest *g, unsigned int index)
{
	struct vdev d = { 0 };
	unsigned int i;

	for (i = 0; i < g->nr_devices && !g->net_searched && g->nr_net < MAX_NET; i++) {
		d.base = g->device[i];
		if (vdev_read(&d, VIRTIO_MMIO_MAGIC_VALUE) != MMIO_MAGIC ||
		    vdev_read(&d, VIRTIO_MMIO_DEVICE_ID) != VIRTIO_ID_NET)
			continue;
		g->net[g->nr_net] = net_new(g, d.base);
		if (g->net[g->nr_net])
			g->nr_net++;
	}
	g->net_searched = true;
	if (index < g->nr_net)
		return g->net[index];
	say("no network device %u: there are %u\n", index, g->nr_net);
	return NULL;
}

static uint64_t max_size(struct net *n, uint32_t queue, uint64_t size)
{
	uint32_t max;

	vdev_write(&n->dev, VIRTIO_MMIO_QUEUE_SEL, queue);
	max = vdev_read(&n->dev, VIRTIO_MMIO_QUEUE_NUM_MAX);
	return size < max ? size : max;
}

/* Put the receive buffer of descriptor i into the ring (again). */
void net_post(struct net *n, uint16_t i)
{
	n->rx.desc[i] = (struct vring_desc){
		.addr = (uint64_t)(n->rx_memory + i * n->buffer),
		.len = n->buffer,
		.flags = VRING_DESC_F_WRITE,
	};
	virtq_offer(&n->rx, i);
}

/* open [q=N] [buf=N] [post=N] [mrg=0] [event=0] [want=MASK]: buf is the size of one receive buffer, post how many. */
static bool do_open(struct net *n, struct step *s)
{
	uint64_t want = NET_WANTED;
	uint16_t i;

	n->open = false;
	if (!step_option(s, "event", 1))
		want &= ~FEATURE(VIRTIO_RING_F_EVENT_IDX);
	if (!step_option(s, "mrg", 1))
		want &= ~FEATURE(VIRTIO_NET_F_MRG_RXBUF);
	want = step_option(s, "want", want);
	n->buffer = (uint32_t)step_option(s, "buf", 2048);
	if (!vdev_reset(&n->dev) || !vdev_negotiate(&n->dev, want, 0)) {
		say("net %u: no reset, or features 0x%llx refused\n", n->index, (unsigned long long)n->dev.accepted);
		return false;
	}
	virtq_clear(&n->rx, (uint16_t)max_size(n, NET_RX, step_option(s, "q", 256)));
	virtq_program(&n->rx);
	virtq_clear(&n->tx, (uint16_t)max_size(n, NET_TX, step_option(s, "q", 256)));
	virtq_program(&n->tx);
	n->rx_memory = alloc(n->g, (uint64_t)n->buffer * n->rx.size, 4096);
	if (!n->rx_memory)
		return false;
	for (i = 0; i < sizeof(n->mac); i++)
		n->mac[i] = mmio_read8(n->dev.base + VIRTIO_MMIO_CONFIG + i);
	vdev_add_status(&n->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	n->nr_posted = (uint16_t)step_option(s, "post", n->rx.size);
	for (i = 0; i < n->nr_posted && i < n->rx.size; i++)
		net_post(n, i);
	virtq_kick(&n->rx);
	n->open = true;
	return true;
}

static bool do_info(struct net *n, struct step *s)
{
	(void)s;
	say("net %u: offered 0x%llx, accepted 0x%llx, queue %u, mac %x:%x:%x:%x:%x:%x, mtu %u\n", n->index,
	    (unsigned long long)n->dev.offered, (unsigned long long)n->dev.accepted, n->rx.size, n->mac[0], n->mac[1],
	    n->mac[2], n->mac[3], n->mac[4], n->mac[5], mmio_read16(n->dev.base + VIRTIO_MMIO_CONFIG + 10));
	return true;
}

static void put32(uint8_t *p, uint32_t value)
{
	memcpy(p, &value, sizeof(value));
}

static uint8_t data_byte(uint32_t number, uint32_t seed, uint32_t i)
{
	return (uint8_t)(seed + number * 13 + i * 7 + (i >> 8));
}

void net_make_frame(const struct net *n, uint8_t *frame, uint32_t len, uint32_t number, uint32_t seed)
{
	uint32_t i;

	memset(frame, 0xff, 6);
	memcpy(frame + 6, n->mac, 6);
	frame[12] = NET_ETHERTYPE >> 8;
	frame[13] = NET_ETHERTYPE & 0xff;
	put32(frame + NET_NUMBER_AT, number);
	put32(frame + NET_SEED_AT, seed);
	for (i = NET_DATA_AT; i < len; i++)
		frame[i] = data_byte(number, seed, i);
}

/* Lengths from len to max, so that a stream of frames has many. */
static uint32_t frame_len(struct step *s, uint32_t number)
{
	uint32_t len = (uint32_t)step_option(s, "len", 60), max = (uint32_t)step_option(s, "max", len);

	return max > len ? len + number * 251u % (max - len + 1) : len;
}

/* The oldest frame back, so that its memory can be used again. */
static bool wait_sent(struct net *n)
{
	uint32_t len;

	if (virtq_wait(&n->tx, PATIENCE_MS) == 1 && virtq_pop(&n->tx, &len) >= 0 && len == 0)
		return true;
	say("net %u: a frame was not sent\n", n->index);
	n->open = false;
	return false;
}

/* send N [len=60] [max=len] [seed=0] [segs=1]: N frames, as many at a time as fit. */
static bool do_send(struct net *n, struct step *s)
{
	uint32_t seed = (uint32_t)step_option(s, "seed", 0), segs = (uint32_t)step_option(s, "segs", 1);
	struct segment seg[17];
	uint64_t count, i, done = 0;
	uint32_t k, len, part;

	if (!step_number(s, 3, &count) || !segs || segs > 16)
		return false;
	for (i = 0; i < count; i++) {
		uint8_t *slot = n->tx_memory + i % NET_TX_SLOTS * NET_TX_SLOT;

		while (i - done == NET_TX_SLOTS || n->tx.nr_free < segs) {
			virtq_kick(&n->tx);
			if (!wait_sent(n))
				return false;
			done++;
		}
		len = frame_len(s, (uint32_t)i);
		memset(slot, 0, NET_HDR_LEN);
		net_make_frame(n, slot + NET_HDR_LEN, len, (uint32_t)i, seed);
		part = (NET_HDR_LEN + len) / segs;
		for (k = 0; k < segs; k++)
			seg[k] = (struct segment){ (uint64_t)slot + k * part, part, false };
		seg[segs - 1].len = NET_HDR_LEN + len - (segs - 1) * part;
		if (virtq_add(&n->tx, seg, segs, NULL) < 0)
			return false;
		if (i % 16 == 15)
			virtq_kick(&n->tx);
	}
	virtq_kick(&n->tx);
	for (; done < count; done++) {
		if (!wait_sent(n))
			return false;
	}
	say("net %u: %llu frames sent\n", n->index, (unsigned long long)count);
	return true;
}

/* One used buffer: copy its bytes to `at` of n->frame and give it back to the device. -1: none came. */
static int64_t take_buffer(struct net *n, uint32_t at)
{
	volatile struct vring_used_elem *e;
	uint32_t id, len;

	if (virtq_wait(&n->rx, PATIENCE_MS) != 1)
		return -1;
	full_barrier();
	e = &n->rx.used->ring[n->rx.last_used++ % n->rx.size];
	id = e->id;
	len = e->len;
	if (id >= n->rx.size || len > n->buffer || at + len > NET_HDR_LEN + 2 * 65600u) {
		say("net %u: buffer %u used with %u bytes\n", n->index, id, len);
		return -1;
	}
	memcpy(n->frame + at, n->rx_memory + id * n->buffer, len);
	net_post(n, (uint16_t)id);
	return len;
}

/* Receive one frame into n->frame; merged buffers must be there as soon as the first of them is. */
static bool receive(struct net *n)
{
	struct virtio_net_hdr_v1 *hdr = (void *)n->frame;
	int64_t len = take_buffer(n, 0);
	uint32_t i;

	if (len < (int64_t)NET_HDR_LEN) {
		say("net %u: no frame\n", n->index);
		n->open = false;
		return false;
	}
	n->len = (uint32_t)len;
	if (!hdr->num_buffers ||
	    (uint16_t)(*(volatile uint16_t *)&n->rx.used->idx - n->rx.last_used) + 1 < hdr->num_buffers) {
		say("net %u: %u buffers, but not all are there\n", n->index, hdr->num_buffers);
		return false;
	}
	for (i = 1; i < hdr->num_buffers; i++) {
		len = take_buffer(n, n->len);
		if (len < 0)
			return false;
		n->len += (uint32_t)len;
	}
	virtq_kick(&n->rx);
	return true;
}

/* Is what came frame `number` of that seed, of that length? Shorter ones are padded by some links. */
static bool check_frame(const struct net *n, uint32_t number, uint32_t seed, uint32_t len)
{
	const uint8_t *frame = n->frame + NET_HDR_LEN;
	uint32_t i, got[2];

	memcpy(got, frame + NET_NUMBER_AT, sizeof(got));
	if (n->len - NET_HDR_LEN != len || got[0] != number || got[1] != seed) {
		say("net %u: frame %u of seed %u with %u bytes instead of frame %u of seed %u with %u\n", n->index,
		    got[0], got[1], n->len - NET_HDR_LEN, number, seed, len);
		return false;
	}
	for (i = NET_DATA_AT; i < len; i++) {
		if (frame[i] == data_byte(number, seed, i))
			continue;
		say("net %u: frame %u, byte %u: 0x%x\n", n->index, number, i, frame[i]);
		return false;
	}
	return true;
}

static bool is_ours(const struct net *n)
{
	const uint8_t *frame = n->frame + NET_HDR_LEN;

	uint32_t number;

	memcpy(&number, frame + NET_NUMBER_AT, sizeof(number));
	return n->len >= NET_HDR_LEN + NET_DATA_AT && number != NET_PROBE && frame[12] == NET_ETHERTYPE >> 8 &&
	       frame[13] == (NET_ETHERTYPE & 0xff);
}

/* recv N [len=] [max=] [seed=]: N frames as send makes them, in order; what others send is passed over. */
static bool do_recv(struct net *n, struct step *s)
{
	uint32_t seed = (uint32_t)step_option(s, "seed", 0);
	uint64_t count, i;

	if (!step_number(s, 3, &count))
		return false;
	for (i = 0; i < count; i++) {
		do {
			if (!receive(n))
				return false;
		} while (!is_ours(n));
		if (!check_frame(n, (uint32_t)i, seed, frame_len(s, (uint32_t)i)))
			return false;
	}
	say("net %u: %llu frames received\n", n->index, (unsigned long long)count);
	return true;
}

/* arp TARGET [SENDER]: who has the IPv4 address (four numbers in one, as 0x0a000001)? Waits for the answer. */
static bool do_arp(struct net *n, struct step *s)
{
	static const uint8_t request[] = { 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1 };
	uint8_t *slot = n->tx_memory, *frame = slot + NET_HDR_LEN, *got = n->frame + NET_HDR_LEN;
	struct segment seg = { (uint64_t)slot, NET_HDR_LEN + 60, false };
	uint64_t target, sender;
	unsigned int i;

	if (!step_number(s, 3, &target) || !step_number(s, 4, &sender))
		return false;
	memset(slot, 0, NET_HDR_LEN + 60);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, n->mac, 6);
	memcpy(frame + 12, request, sizeof(request));
	memcpy(frame + 22, n->mac, 6);
	for (i = 0; i < 4; i++) {
		frame[28 + i] = (uint8_t)(sender >> (24 - 8 * i));
		frame[38 + i] = (uint8_t)(target >> (24 - 8 * i));
	}
	if (virtq_add(&n->tx, &seg, 1, NULL) < 0)
		return false;
	virtq_kick(&n->tx);
	if (!wait_sent(n))
		return false;
	do {
		if (!receive(n))
			return false;
	} while (n->len < NET_HDR_LEN + 42 || got[12] != 0x08 || got[13] != 0x06 || got[21] != 2);
	say("net %u: answer from %x:%x:%x:%x:%x:%x\n", n->index, got[22], got[23], got[24], got[25], got[26], got[27]);
	return true;
}

/* bad WHAT: one malformed chain; the device must ask for a reset, or (oversize, undersize, writable) throw the frame
 * away. */
static bool do_bad(struct net *n, struct step *s)
{
	const char *what = s->nr > 3 ? s->word[3] : "";
	struct virtq *vq = starts_with(what, "rx") ? &n->rx : &n->tx;
	struct vring_desc d = { .addr = (uint64_t)n->tx_memory, .len = 100, .flags = 0 };
	bool dropped = false;
	uint32_t len;
	int state;

	if (equal(what, "tx-outside") || equal(what, "rx-outside")) {
		d.addr = ram_end(n->g);
	} else if (equal(what, "tx-loop")) {
		d.flags = VRING_DESC_F_NEXT;
	} else if (equal(what, "tx-oversize")) {
		d.len = NET_HDR_LEN + NET_FRAME_MAX + 1;
		dropped = true;
	} else if (equal(what, "tx-undersize")) {
		d.len = NET_HDR_LEN + 13;
		dropped = true;
	} else if (equal(what, "tx-writable")) {
		d.flags = VRING_DESC_F_WRITE;
		dropped = true;
	} else if (equal(what, "rx-short")) {
		d.len = NET_HDR_LEN - 1;
	} else if (!equal(what, "rx-readable")) {
		say("no such attack: \"%s\"\n", what);
		return false;
	}
	if (vq == &n->rx)
		d.flags |= equal(what, "rx-readable") ? 0 : VRING_DESC_F_WRITE;
	/* Descriptor 0, and next of a loop is 0. With post=0 the receive ring has no other. */
	vq->desc[0] = d;
	virtq_offer(vq, 0);
	virtq_notify(vq);
	/* A receive buffer is looked at when something comes: an echo of this. */
	if (vq == &n->rx) {
		net_make_frame(n, n->tx_memory + NET_HDR_LEN, 60, NET_PROBE, 0);
		if (virtq_add(&n->tx, &(struct segment){ (uint64_t)n->tx_memory, NET_HDR_LEN + 60, false }, 1, NULL) <
		    0)
			return false;
		virtq_kick(&n->tx);
	}
	state = virtq_wait(vq, 5000);
	n->open = dropped;
	if (dropped && state == 1)
		return virtq_pop(vq, &len) >= 0 && len == 0;
	say("net %u: %s: %s\n", n->index, what, state < 0 ? "needs_reset" : "BUT expected needs_reset");
	return state < 0 && !dropped;
}

static const struct {
	const char *name;
	bool (*run)(struct net *n, struct step *s);
} verbs[] = {
	{ "open", do_open }, { "info", do_info }, { "send", do_send },    { "recv", do_recv },
	{ "arp", do_arp },   { "bad", do_bad },   { "bench", net_bench },
};

bool net_step(struct step *s)
{
	struct net *n;
	uint64_t index;
	unsigned int i;

	if (!step_number(s, 1, &index) || s->nr < 3)
		return false;
	n = net_get(s->g, (unsigned int)index);
	if (!n)
		return false;
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (!equal(s->word[2], verbs[i].name))
			continue;
		if (verbs[i].run != do_open && !n->open && !do_open(n, s))
			return false;
		return verbs[i].run(n, s);
	}
	say("no such verb: \"%s\"\n", s->word[2]);
	return false;
}
