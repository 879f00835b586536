/* test_net_tap.c: a real TAP in a network namespace of its own: offloads, a link that is down, deleted, made again. */
#include "net_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

static void ip(const char *args)
{
	char command[256];

	snprintf(command, sizeof(command), "PATH=$PATH:/usr/sbin:/sbin ip %s", args);
	if (system(command))
		fail_msg("%s", command);
}

/* A packet socket on the TAP: the host's network stack, with vnet headers. */
static void host_socket(struct fixture *f)
{
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	const int on = 1;

	f->peer = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
	assert_true(f->peer >= 0);
	addr.sll_ifindex = (int)if_nametoindex("tap7");
	assert_int_equal(bind(f->peer, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(setsockopt(f->peer, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	assert_int_equal(setsockopt(f->peer, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)), 0);
}

/* A user and a network namespace, where the host allows it: then everything below needs no privilege. */
static int enter_namespace(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return 1;
	return system(
		"PATH=$PATH:/usr/sbin:/sbin; sysctl -qw net.ipv6.conf.default.disable_ipv6=1 2>/dev/null; exit 0");
}

static void make_tap(void)
{
	ip("tuntap add tap7 mode tap");
	ip("link set tap7 up");
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	if (!f || gm_create(&f->gm, MEM_MIB, HUGE_PAGES_NONE, &err) || event_loop_init(&f->loop, &err))
		return -1;
	*state = f;
	strcpy(f->cfg.iface_id, "eth0");
	strcpy(f->cfg.host_dev_name, "tap7");
	make_tap();
	fixture_open(f);
	host_socket(f);
	return 0;
}

static int teardown(void **state)
{
	fixture_teardown(state);
	return system("PATH=$PATH:/usr/sbin:/sbin ip link del tap7 2>/dev/null; exit 0");
}

/* A TCP/IPv4 segment of that many payload bytes; the length of the frame. */
static size_t tcp_frame(uint8_t *frame, size_t payload)
{
	size_t len = ETH_HLEN + 20 + 20 + payload, i;
	uint32_t sum = 0;

	memset(frame, 0, len);
	memset(frame, 0xFF, 6);
	frame[6] = 2;
	frame[12] = 8;
	frame[14] = 0x45;
	frame[16] = (uint8_t)((len - ETH_HLEN) >> 8);
	frame[17] = (uint8_t)(len - ETH_HLEN);
	frame[22] = 64;
	frame[23] = IPPROTO_TCP;
	memcpy(frame + 26, "\x0a\x00\x00\x01\x0a\x00\x00\x02", 8);
	for (i = 14; i < 34; i += 2)
		sum += (uint32_t)frame[i] << 8 | frame[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = ~(sum + (sum >> 16)) & 0xffff;
	frame[24] = (uint8_t)(sum >> 8);
	frame[25] = (uint8_t)sum;
	frame[46] = 0x50;
	pattern(frame + ETH_HLEN + 40, payload, 1);
	return len;
}

static const struct virtio_net_hdr_v1 large_segment = {
	.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
	.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
	.hdr_len = ETH_HLEN + 40,
	.gso_size = 1448,
	.csum_start = ETH_HLEN + 20,
	.csum_offset = 16,
};

static void test_offers_offloads(void **state)
{
	struct fixture *f = *state;
	uint64_t want = 1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 |
			1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_TSO4 |
			1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN |
			1ull << VIRTIO_NET_F_HOST_ECN | 1ull << VIRTIO_NET_F_MRG_RXBUF;

	assert_true((f->dev->ops->features(f->dev) & want) == want);
}

/* A large segment from the guest reaches the host in one piece, header and all. */
static void test_large_segment_out(void **state)
{
	struct fixture *f = *state;
	uint8_t *p = guest(&f->gm, TX_GPA(0)), got[70000];
	struct virtio_net_hdr hdr;
	size_t len = tcp_frame(p + HDR, 40000);

	memcpy(p, &large_segment, HDR);
	driver_desc(&f->tx, 0, TX_GPA(0), (uint32_t)(HDR + len), 0, 0);
	driver_offer(&f->tx, 0);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 1);
	assert_int_equal(recv(f->peer, got, sizeof(got), 0), (ssize_t)(sizeof(hdr) + len));
	memcpy(&hdr, got, sizeof(hdr));
	assert_int_equal(hdr.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(hdr.gso_size, 1448);
	assert_memory_equal(got + sizeof(hdr), p + HDR, len);
}

static size_t host_sends_large_segment(struct fixture *f)
{
	static uint8_t buf[sizeof(struct virtio_net_hdr) + 40100];
	size_t len = tcp_frame(buf + sizeof(struct virtio_net_hdr), 40000);

	memcpy(buf, &large_segment, sizeof(struct virtio_net_hdr));
	assert_int_equal(send(f->peer, buf, sizeof(struct virtio_net_hdr) + len, 0),
			 (ssize_t)(sizeof(struct virtio_net_hdr) + len));
	return len;
}

/* And the other way: over as many buffers as it takes, with the header that says so. */
static void test_large_segment_in(void **state)
{
	struct fixture *f = *state;
	unsigned int i, n = 0;
	size_t len, got = 0;

	for (i = 0; i < 64; i++)
		offer_rx(f, i, 1536);
	notify(f, NET_RX);
	len = host_sends_large_segment(f);
	n = (unsigned int)((HDR + len + 1535) / 1536);
	wait_rx(f, (uint16_t)n);
	assert_int_equal(rx_header(f, 0)->num_buffers, n);
	assert_int_equal(rx_header(f, 0)->gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(rx_header(f, 0)->gso_size, 1448);
	assert_int_equal(rx_header(f, 0)->flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	for (i = 0; i < n; i++)
		got += rx_used(f, (uint16_t)i).len;
	assert_int_equal(got, HDR + len);
	assert_true(is_pattern(guest(&f->gm, RX_GPA(1)), 1536, 1, 1536 - HDR - ETH_HLEN - 40));
}

/* A driver that acknowledged no offloads gets segments of the MTU and complete checksums, also of what came before it.
 */
static void test_no_offloads(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	host_sends_large_segment(f);
	reset_device(f);
	activate(f, 1ull << VIRTIO_NET_F_MRG_RXBUF);
	for (i = 0; i < 64; i++)
		offer_rx(f, i, 4096);
	notify(f, NET_RX);
	serve_once(f);
	assert_int_equal(driver_used_idx(&f->rx), 0); /* the stale segment is not for this driver */
	host_sends_large_segment(f);
	wait_rx(f, 28);
	for (i = 0; i < 28; i++) {
		assert_int_equal(rx_header(f, i)->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
		assert_int_equal(rx_header(f, i)->gso_type, VIRTIO_NET_HDR_GSO_NONE);
		assert_int_equal(rx_header(f, i)->num_buffers, 1);
	}
	/* Acknowledging segmentation without checksums is no reason to fail (5.1.3.1 forbids it to the driver). */
	reset_device(f);
	activate(f, 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_GUEST_TSO4);
	assert_int_equal(f->net->be->offload, 0);
}

/* A header that the kernel refuses costs the guest the frame and nothing else. */
static void test_bad_header(void **state)
{
	struct fixture *f = *state;
	uint64_t before = metrics.net_tx_malformed_frames;
	struct virtio_net_hdr_v1 hdr = large_segment;
	uint8_t *p = guest(&f->gm, TX_GPA(0));
	size_t len = tcp_frame(p + HDR, 1000);

	hdr.csum_start = 60000;
	memcpy(p, &hdr, HDR);
	driver_desc(&f->tx, 0, TX_GPA(0), (uint32_t)(HDR + len), 0, 0);
	driver_offer(&f->tx, 0);
	hdr.gso_type = 0x77;
	memcpy(guest(&f->gm, TX_GPA(1)), &hdr, HDR);
	tcp_frame((uint8_t *)guest(&f->gm, TX_GPA(1)) + HDR, 1000);
	driver_desc(&f->tx, 1, TX_GPA(1), (uint32_t)(HDR + len), 0, 0);
	driver_offer(&f->tx, 1);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 2);
	assert_int_equal(metrics.net_tx_malformed_frames, before + 2);
	assert_int_equal(f->broken, 0);
}

static bool sends(struct fixture *f)
{
	uint8_t *p = guest(&f->gm, TX_GPA(0)), got[2000];
	uint16_t slot = (uint16_t)(f->tx.avail_idx % 256);
	size_t len = tcp_frame(p + HDR, 100);

	memset(p, 0, HDR);
	driver_desc(&f->tx, slot, TX_GPA(0), (uint32_t)(HDR + len), 0, 0);
	driver_offer(&f->tx, slot);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), f->tx.avail_idx);
	return recv(f->peer, got, sizeof(got), MSG_DONTWAIT) > 0;
}

static void test_down_and_up(void **state)
{
	struct fixture *f = *state;
	uint64_t before = metrics.net_tap_write_fails, events;

	offer_rx(f, 0, 1536);
	notify(f, NET_RX);
	assert_true(sends(f));
	ip("link set tap7 down");
	(void)sends(f);
	assert_int_equal(metrics.net_tap_write_fails, before + 1);
	serve_once(f);
	events = metrics.net_rx_tap_event_count;
	serve_once(f);
	assert_int_equal(metrics.net_rx_tap_event_count, events);
	ip("link set tap7 up");
	close(f->peer);
	host_socket(f);
	assert_true(sends(f));
}

static void test_deleted_and_made_again(void **state)
{
	struct fixture *f = *state;
	unsigned int i;
	uint64_t events;

	offer_rx(f, 0, 1536);
	notify(f, NET_RX);
	ip("link del tap7");
	serve_once(f);
	events = metrics.net_rx_tap_event_count;
	serve_once(f);
	assert_int_equal(metrics.net_rx_tap_event_count, events);
	assert_false(sends(f));
	/* Retries do not make what nobody made. */
	assert_false(serve_for(f, never, 300000000));
	assert_int_equal(if_nametoindex("tap7"), 0);
	make_tap();
	close(f->peer);
	host_socket(f);
	serve_until(f, sends);
	/* The kernel gets round to sending on it up to a second after it is attached. */
	if (system("PATH=$PATH:/usr/sbin:/sbin timeout 10 sh -c 'while ip link show tap7 | grep -q noop; do sleep "
		   "0.02; done'"))
		fail_msg("tap7 does not come up");
	for (i = 1; i < 64; i++)
		offer_rx(f, i, 1536);
	notify(f, NET_RX);
	host_sends_large_segment(f);
	wait_rx(f, 27);
	assert_true(is_pattern(guest(&f->gm, RX_GPA(1)), 1536, 1, 1536 - HDR - ETH_HLEN - 40));
}

/* Deleted while nobody reads, with only room to send being waited for: its end is noticed all the same. */
static void test_deleted_while_full(void **state)
{
	struct fixture *f = *state;

	ip("link del tap7");
	f->net->rx.stalled = f->net->tx.blocked = true;
	net_settle(f->net);
	serve_once(f);
	assert_false(f->net->be->up);
	assert_false(f->net->tx.blocked);
}

static void expect_error(struct fixture *f, const char *name, int code, const char *says)
{
	struct error err = { 0 };
	struct net *net;

	strcpy(f->cfg.host_dev_name, name);
	assert_int_equal(net_create(&net, &f->cfg, &f->gm, &f->loop, &err), code);
	if (!strstr(err.message, says))
		fail_msg("%s", err.message);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct ifreq ifr = { .ifr_name = "plain7", .ifr_flags = IFF_TAP | IFF_NO_PI };
	char name[16];
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	expect_error(f, "tap7", -EBUSY, "network-interfaces[eth0].host_dev_name: tap7: Device or resource busy");
	expect_error(f, "lo", -EINVAL, "not a TAP");
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	snprintf(name, sizeof(name), "fd:%d", fd);
	expect_error(f, name, -EINVAL, "without IFF_VNET_HDR");
	close(fd);
}

/* An inherited TAP is as good as one by name. */
static void test_inherited(void **state)
{
	struct fixture *f = *state;
	struct ifreq ifr = { .ifr_name = "tap7", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	net_destroy(f->net);
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	snprintf(f->cfg.host_dev_name, sizeof(f->cfg.host_dev_name), "fd:%d", fd);
	fixture_open(f);
	close(fd);
	assert_true(f->dev->ops->features(f->dev) & 1ull << VIRTIO_NET_F_HOST_TSO4);
	assert_true(sends(f));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(test_offers_offloads),
		TEST(test_large_segment_out),
		TEST(test_large_segment_in),
		TEST(test_no_offloads),
		TEST(test_bad_header),
		TEST(test_down_and_up),
		TEST(test_deleted_and_made_again),
		TEST(test_deleted_while_full),
		TEST(test_errors),
		TEST(test_inherited),
	};

	return cmocka_run_group_tests_name("net_tap", tests, enter_namespace, NULL);
}
