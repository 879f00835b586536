/* net_bench.c: frames as fast as a network device takes or gives them, for measuring it. */
#include "io.h"
#include "net.h"

#define PATIENCE_MS 30000

static bool stuck(struct net *n, const struct virtq *vq, uint64_t done)
{
	say("net %u bench: %s after %llu frames\n", n->index,
	    vdev_status(vq->dev) & VIRTIO_CONFIG_S_NEEDS_RESET ? "the device needs a reset" : "nothing more happens",
	    (unsigned long long)done);
	n->open = false;
	return false;
}

/* The same few frames over and over, depth of them with the device at a time. */
static bool send_all(struct net *n, uint64_t count, uint32_t len, uint64_t depth)
{
	uint64_t sent = 0, done = 0;
	struct segment seg;
	uint32_t used;
	unsigned int i;

	for (i = 0; i < NET_TX_SLOTS; i++) {
		memset(n->tx_memory + i * NET_TX_SLOT, 0, NET_HDR_LEN);
		net_make_frame(n, n->tx_memory + i * NET_TX_SLOT + NET_HDR_LEN, len, i, 0);
	}
	while (done < count) {
		for (; sent < count && sent - done < depth; sent++) {
			seg.addr = (uint64_t)(n->tx_memory + sent % NET_TX_SLOTS * NET_TX_SLOT);
			seg.len = NET_HDR_LEN + len;
			seg.in = false;
			if (virtq_add(&n->tx, &seg, 1, NULL) < 0)
				break;
		}
		virtq_kick(&n->tx);
		if (virtq_wait(&n->tx, PATIENCE_MS) != 1)
			return stuck(n, &n->tx, done);
		for (; virtq_pop(&n->tx, &used) >= 0; done++)
			;
	}
	return true;
}

/* Whatever comes: counted, and its buffer given back. */
static bool receive_all(struct net *n, uint64_t count)
{
	volatile struct vring_used_elem *e;
	uint64_t done = 0;

	while (done < count) {
		if (virtq_wait(&n->rx, PATIENCE_MS) != 1)
			return stuck(n, &n->rx, done);
		for (; *(volatile uint16_t *)&n->rx.used->idx != n->rx.last_used; done++) {
			full_barrier();
			e = &n->rx.used->ring[n->rx.last_used++ % n->rx.size];
			net_post(n, (uint16_t)(e->id % n->rx.size));
		}
		virtq_kick(&n->rx);
	}
	return true;
}

bool net_bench(struct net *n, struct step *s)
{
	uint64_t count = step_option(s, "n", 100000), depth = step_option(s, "depth", 128), begin = ticks();
	uint32_t len = (uint32_t)step_option(s, "len", 64);
	bool tx = equal(step_text(s, "dir", "tx"), "tx");

	if (len < NET_DATA_AT || len > NET_FRAME_MAX || !depth)
		return false;
	if (tx ? !send_all(n, count, len, depth) : !receive_all(n, count))
		return false;
	say("net %u bench: %s %llu frames, %llu ticks\n", n->index, tx ? "sent" : "received", (unsigned long long)count,
	    (unsigned long long)(ticks() - begin));
	return true;
}
