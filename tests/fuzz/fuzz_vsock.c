/* fuzz_vsock.c: a hostile driver of a vsock device, and host programs that come, talk, stall and go as the input says.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "driver.h"
#include "vsock.h"
#include "vsock_internal.h"

#define GUEST_CID 52u
#define HOST_CID  2u
#define PEERS     8u
#define LISTENERS 2u /* ports 1 and 2 */
#define BUFFERS   16u

static struct vsock *vsock;
static struct vsock_config cfg = { .present = true, .guest_cid = GUEST_CID };
static char dir[] = "/dev/shm/mayfly-fuzz-XXXXXX";
static int peer[PEERS], listener[LISTENERS];

/* ---- the guest's packets ---- */

static uint32_t take_port(struct input *in)
{
	uint8_t port = take8(in);

	/* From 0x80 on the ports of connections that the host began. */
	if (port < 0x80)
		return port & 7;
	return port == 0xff ? take32(in) : (1u << 30) + (port & 7);
}

static size_t make_request(struct input *in, unsigned int queue, uint8_t *buf, size_t size)
{
	struct virtio_vsock_hdr hdr = { .src_cid = GUEST_CID, .dst_cid = HOST_CID, .type = VIRTIO_VSOCK_TYPE_STREAM };
	uint8_t shape;
	size_t len;

	if (queue != VSOCK_QUEUE_TX)
		return 0;
	shape = take8(in);
	hdr.op = shape & 15;
	hdr.src_port = take_port(in);
	hdr.dst_port = take_port(in);
	len = shape & 0x10 ? take8(in) : 0;
	hdr.len = (uint32_t)len;
	hdr.buf_alloc = 1u << (shape >> 5) * 4;
	hdr.flags = hdr.op == VIRTIO_VSOCK_OP_SHUTDOWN ? take8(in) & 3 : 0;
	if (hdr.op > VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
		/* A packet with something wrong. */
		hdr.op = take8(in) & 7;
		hdr.type = take8(in) & 3;
		hdr.len = take32(in);
		hdr.src_cid = take8(in);
		hdr.fwd_cnt = take32(in);
		hdr.buf_alloc = take32(in);
	}
	memcpy(buf, &hdr, sizeof(hdr));
	if (len > size - sizeof(hdr))
		len = size - sizeof(hdr);
	return sizeof(hdr) + take_bytes(in, buf + sizeof(hdr), len);
}

/* Buffers for what the host's programs say, each of a page. */
static void offer_buffers(unsigned int queue, unsigned int n)
{
	struct driver_buffer buffer = { .len = DRIVER_SLOT_SIZE, .write = true };

	for (; n && driver.queue[queue].size; n--) {
		buffer.gpa = DRIVER_DATA_GPA + 0x80000 + n % 64 * DRIVER_SLOT_SIZE;
		driver_offer(queue, &buffer, 1);
	}
}

/* ---- the host's programs ---- */

static struct sockaddr_un address(int port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (port < 0)
		snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/v", dir);
	else
		snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/v_%d", dir, port);
	return addr;
}

static int new_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	CHECK(fd >= 0);
	return fd;
}

static void hang_up(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void dial(unsigned int i)
{
	struct sockaddr_un addr = address(-1);

	hang_up(&peer[i]);
	peer[i] = new_socket();
	if (connect(peer[i], (struct sockaddr *)&addr, sizeof(addr)))
		hang_up(&peer[i]);
}

static void answer(unsigned int i, unsigned int port)
{
	hang_up(&peer[i]);
	peer[i] = accept4(listener[port % LISTENERS], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void say(struct input *in, unsigned int i)
{
	static uint8_t bytes[0x8000];
	uint8_t how = take8(in);
	char line[32];
	size_t len;

	if (how < 0x40) /* what a program says first */
		len = (size_t)snprintf(line, sizeof(line), how & 0x20 ? "CONNECT %u %u\n" : "CONNECT %u\n", how & 7,
				       how);
	else
		len = how < 0xc0 ? take_bytes(in, bytes, how & 0x3f) : (size_t)take8(in) * 128;
	(void)!send(peer[i], how < 0x40 ? (void *)line : bytes, len, MSG_DONTWAIT);
}

static void hear(unsigned int i, size_t len)
{
	static uint8_t bytes[0x10000];

	(void)!recv(peer[i], bytes, len * 256, MSG_DONTWAIT);
}

static void host(struct input *in)
{
	uint8_t what = take8(in), i = (what >> 3) % PEERS;

	switch (what & 7) {
	case 0:
		dial(i);
		break;
	case 1:
		answer(i, what >> 6);
		break;
	case 2:
		say(in, i);
		break;
	case 3:
		hear(i, take8(in));
		break;
	case 4:
		hang_up(&peer[i]);
		break;
	case 5:
		offer_buffers(what & 0x80 ? VSOCK_QUEUE_EVENT : VSOCK_QUEUE_RX, 1 + i);
		break;
	case 6:
		if (peer[i] >= 0)
			shutdown(peer[i], what >> 6 == 3 ? SHUT_RDWR : what >> 6);
		break;
	default:
		if (what < 0x40)
			vsock_pause(vsock);
		else if (what < 0x80)
			vsock_resume(vsock);
		else if (what >= 0xf0)
			vsock_transport_reset(vsock);
		else
			fuzz_pass_ns((uint64_t)what << 26);
	}
}

static void settle(void)
{
	unsigned int i;

	vsock_resume(vsock);
	for (i = 0; i < LISTENERS; i++) {
		do
			answer(0, i);
		while (peer[0] >= 0);
	}
	for (i = 0; i < PEERS; i++)
		hang_up(&peer[i]);
}

/* A connection from the host reaches the guest. */
static void alive(void)
{
	struct virtio_vsock_hdr *hdr = driver_guest(DRIVER_DATA_GPA + 0x80000 + DRIVER_SLOT_SIZE);

	offer_buffers(VSOCK_QUEUE_RX, 1);
	dial(0);
	CHECK(peer[0] >= 0 && send(peer[0], "CONNECT 77\n", 11, 0) == 11);
	fuzz_rest(&driver.loop);
	CHECK(driver_used(VSOCK_QUEUE_RX) == 1);
	CHECK(hdr->op == VIRTIO_VSOCK_OP_REQUEST && hdr->dst_port == 77 && hdr->dst_cid == GUEST_CID);
	hang_up(&peer[0]);
}

/* ---- set-up ---- */

static void remove_dir(void)
{
	struct sockaddr_un addr;
	int i;

	for (i = -1; i <= (int)LISTENERS; i++) {
		addr = address(i);
		unlink(addr.sun_path);
	}
	rmdir(dir);
}

/* Listeners for the guest's connections, one of them with a backlog that is soon full. */
static void prepare(void)
{
	struct sockaddr_un addr;
	unsigned int i;

	CHECK(mkdtemp(dir));
	atexit(remove_dir);
	snprintf(cfg.uds_path, sizeof(cfg.uds_path), "%s/v", dir);
	for (i = 0; i < LISTENERS; i++) {
		addr = address((int)i + 1);
		listener[i] = new_socket();
		CHECK(bind(listener[i], (struct sockaddr *)&addr, sizeof(addr)) == 0);
		CHECK(listen(listener[i], i ? 0 : 64) == 0);
	}
	memset(peer, 0xff, sizeof(peer));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct driver_target target = {
		.request = make_request, .host = host, .settle = settle, .alive = alive
	};
	struct input in = { data, size };
	struct error err;

	if (!cfg.uds_path[0])
		prepare();
	driver_begin();
	CHECK(vsock_create(&vsock, &cfg, &driver.gm, &driver.loop, &err) == 0);
	driver_bind(vsock_device(vsock), &target);
	driver_run(&in);
	vsock_destroy(vsock);
	driver_end();
	return 0;
}
