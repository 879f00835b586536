/* fuzz_net.c: a hostile driver of a network interface, with egress policy and metadata service, and a hostile network.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "driver.h"
#include "frames.h"
#include "mmds/mmds.h"
#include "net.h"
#include "net_path.h"

#define MAX_DRAINS 256u /* of the least that a socket holds: more than any frame needs */

/* Bits of the first byte. */
enum { KIND_MASK = 3, WITH_POLICY = 4, WITH_MMDS = 8, WITH_RATES = 16, WITH_MTU = 32, WITH_LITTLE_ROOM = 64 };
enum { KIND_TAP, KIND_DGRAM, KIND_SEQPACKET, KIND_STREAM };

static struct net *net;
static struct net_path path;
static struct net_config cfg;
static struct mmds *mmds;
static int peer = -1;

static size_t make_request(struct input *in, unsigned int queue, uint8_t *buf, size_t size)
{
	uint8_t *at = buf;
	size_t len;

	if (queue == 0)
		return 0;
	at = frames_put(in, frames_put_vnet_header(in, at));
	/* Text for the metadata service, or whatever. */
	len = take8(in);
	if (len > size - (size_t)(at - buf))
		len = size - (size_t)(at - buf);
	take_bytes(in, at, len);
	return (size_t)(at - buf) + len;
}

/* ---- the network ---- */

static void peer_sends(struct input *in)
{
	static uint8_t frame[70000];
	uint8_t shape = take8(in), *at = frame;
	size_t len = (size_t)take16(in) + (shape & 1 ? 5000 : 0);

	if (shape & 2) { /* as passt has it */
		at = mempcpy(at, &(uint32_t){ htonl((uint32_t)len) }, 4);
		len += 4;
	}
	if (shape & 4)
		at = frames_put_vnet_header(in, at);
	at = frames_put(in, at);
	(void)!send(peer, frame, len < sizeof(frame) ? len : sizeof(frame), MSG_DONTWAIT);
}

static void drain_peer(void)
{
	static uint8_t frame[70000];

	while (recv(peer, frame, sizeof(frame), MSG_DONTWAIT) > 0)
		;
}

static void host(struct input *in)
{
	uint8_t what = take8(in), bytes[256];
	const struct rate_limiter_config rate = { .bandwidth = { .size = what * 64u, .refill_time = what } };
	size_t n;

	switch (what & 7) {
	case 0:
	case 1:
	case 2:
		if (peer >= 0)
			peer_sends(in);
		break;
	case 3:
		if (peer >= 0)
			drain_peer();
		break;
	case 4:
		n = take_bytes(in, bytes, what);
		if (peer >= 0)
			(void)!send(peer, bytes, n, MSG_DONTWAIT);
		break;
	case 5:
		what & 8 ? net_pause(net) : net_resume(net);
		break;
	case 6:
		net_set_rate(net, what & 8 ? &rate : NULL, what & 16 ? &rate : NULL);
		break;
	default:
		if (what == 0xff && peer >= 0) {
			close(peer);
			peer = -1;
		}
	}
}

static void settle(void)
{
	const struct rate_limiter_config unlimited = { 0 };

	net_resume(net);
	net_set_rate(net, &unlimited, &unlimited);
	if (peer >= 0)
		drain_peer();
}

/* What is sent comes back as used, whether the policy lets it through or not and whether there is a network or not. */
static void alive(void)
{
	const struct driver_buffer buffer = { DRIVER_DATA_GPA, 12 + 60, false };
	unsigned int i;

	memset(driver_guest(buffer.gpa), 0, buffer.len);
	driver_offer(1, &buffer, 1);
	/* Where there is little room, what is left of a frame of before goes out first, piece by piece. */
	for (i = 0; i < MAX_DRAINS && driver_used(1) == 0; i++) {
		fuzz_rest(&driver.loop);
		if (peer >= 0)
			drain_peer();
	}
	CHECK(driver_used(1) == 1);
}

/* ---- set-up ---- */

static void configure(uint8_t how, struct input *in)
{
	static const struct egress_rule rules[] = {
		{ .net = { { [10] = 0xff, 0xff, 8, 8, 8, 8 } }, .prefix = 128, .protocol = IPPROTO_UDP, 53, 53 },
		{ .net = { { [10] = 0xff, 0xff, 10 } }, .prefix = 104, .port_last = 65535 },
		{ .net = { { 0x20, 1 } }, .prefix = 16, .protocol = IPPROTO_TCP, .port_first = 1, .port_last = 1024 },
	};
	uint8_t flags;

	cfg = (struct net_config){ .iface_id = "eth0", .mac_given = true, .mtu = how & WITH_MTU ? 1500 : 0 };
	memcpy(cfg.guest_mac, frames_guest_mac, sizeof(cfg.guest_mac));
	if (how & WITH_POLICY) {
		flags = take8(in);
		cfg.egress.anti_spoof = flags & 1;
		cfg.egress.block_link_local = flags & 2;
		cfg.egress.default_deny = flags & 4;
		cfg.egress.address[0] = (struct egress_address){ { [10] = 0xff, 0xff, 10, 0, 0, 2 } };
		cfg.egress.nr_addresses = flags >> 3 & 1;
		memcpy(cfg.egress.rule, rules, sizeof(rules));
		cfg.egress.nr_rules = 3;
	}
	if (how & WITH_RATES)
		cfg.rx = cfg.tx = (struct rate_limiter_config){ .ops = { take8(in), take8(in), 1 + take8(in) } };
}

static uint64_t fake_clock(void)
{
	return fuzz_host.now_ns;
}

static void create(uint8_t how)
{
	static const int types[] = { SOCK_SEQPACKET, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM };
	struct error err;
	int pair[2];

	fuzz_sockets_are_taps = (how & KIND_MASK) == KIND_TAP;
	CHECK(socketpair(AF_UNIX, types[how & KIND_MASK] | SOCK_CLOEXEC, 0, pair) == 0);
	peer = pair[0];
	if (how & WITH_LITTLE_ROOM) /* the least that the kernel gives: the network is soon full */
		CHECK(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &(int){ 1 }, sizeof(int)) == 0);
	snprintf(cfg.host_dev_name, sizeof(cfg.host_dev_name), "fd:%d", pair[1]);
	CHECK(net_create(&net, &cfg, &driver.gm, &driver.loop, &err) == 0);
	close(pair[1]);
	if (how & WITH_MMDS) {
		CHECK(mmds_create(&mmds, 1024, &err) == 0);
		mmds->now_ns = fake_clock;
	}
	CHECK(net_path_create(&path, net, &cfg, mmds, FRAMES_SERVICE_IP, &driver.loop, &err) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct driver_target target = {
		.request = make_request, .host = host, .settle = settle, .alive = alive
	};
	struct input in = { data, size };
	uint8_t how = take8(&in);

	driver_begin();
	configure(how, &in);
	create(how);
	driver_bind(net_device(net), &target);
	driver_run(&in);
	net_path_destroy(&path);
	net_destroy(net);
	if (mmds)
		mmds_destroy(mmds);
	mmds = NULL;
	if (peer >= 0)
		close(peer);
	peer = -1;
	driver_end();
	return 0;
}
