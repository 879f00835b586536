/* vsock_bench.c: bytes as fast as a vsock connection takes or gives them, for measuring it. */
#include "io.h"
#include "vsock.h"

#define PATIENCE_MS 60000

/* Send bytes of them (their values do not matter), then the end. */
static void send_some(struct vsock *v, struct vconn *c, uint64_t *left)
{
	static const uint8_t data[VSOCK_TX_SIZE - sizeof(struct virtio_vsock_hdr)];
	uint32_t n = 1;

	while (*left && n) {
		n = vsock_write(v, c, data, *left < sizeof(data) ? (uint32_t)*left : (uint32_t)sizeof(data));
		*left -= n;
	}
	if (!*left)
		vsock_shutdown(v, c, VIRTIO_VSOCK_SHUTDOWN_SEND);
}

static void take_all(struct vsock *v, struct vconn *c, uint64_t *left)
{
	const uint8_t *data;
	uint32_t n;

	while ((n = vsock_peek(c, &data))) {
		*left -= n;
		vsock_consume(v, c, n);
	}
}

/* bench PORT [dir=tx|rx] [bytes=64M]: connects to the host; done when the host has closed the connection (tx) or all
 * bytes have come (rx). */
bool vsock_bench(struct vsock *v, struct step *s)
{
	uint64_t port, bytes = step_option(s, "bytes", 64 << 20), left = bytes, begin = ticks(), before, end;
	bool tx = equal(step_text(s, "dir", "tx"), "tx");
	static uint32_t guest_port = 50000;
	struct vconn *c;

	if (!step_number(s, 2, &port))
		return false;
	c = vsock_connect(v, (uint32_t)port, guest_port++);
	end = begin + PATIENCE_MS * TICKS_PER_MS;
	while (c && !c->reset && (tx ? !(c->host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) : left != 0)) {
		before = left;
		if (!vsock_poll(v) || ticks() > end) {
			say("vsock bench: stuck with %llu bytes left\n", (unsigned long long)left);
			return false;
		}
		if (!tx)
			take_all(v, c, &left);
		else if (c->open && !c->shut)
			send_some(v, c, &left);
		if (left != before)
			end = ticks() + PATIENCE_MS * TICKS_PER_MS;
	}
	if (!c)
		return false;
	say("vsock bench: %s %llu bytes, %llu left, %llu ticks\n", tx ? "sent" : "received", (unsigned long long)bytes,
	    (unsigned long long)left, (unsigned long long)(ticks() - begin));
	vsock_shutdown(v, c, VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
	vsock_release(v, c);
	return !left;
}
