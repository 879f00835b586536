/* test_net_hook.c: what a hook sees, takes and sends, and that what it decided by is what goes out. */
#include "net_fixture.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

struct spy {
	struct fixture *f;
	unsigned int calls;
	bool take;
	bool tamper; /* play the guest's other vCPU while the hook looks */
	size_t head_len, len, rest_len;
	uint8_t head[NET_HOOK_HEAD];
	unsigned int nr_replies;
	size_t reply_len;
	bool reply_at_once;
};

static bool from_guest(void *opaque, const void *head, size_t head_len, const struct iovec *rest, unsigned int n,
		       size_t len)
{
	struct spy *spy = opaque;
	unsigned int i;

	spy->calls++;
	spy->head_len = head_len;
	spy->len = len;
	spy->rest_len = 0;
	for (i = 0; i < n; i++)
		spy->rest_len += rest[i].iov_len;
	memcpy(spy->head, head, head_len);
	if (spy->tamper)
		memset(guest(&spy->f->gm, TX_GPA(0)), 0xBB, HDR + len);
	if (spy->reply_at_once) {
		spy->nr_replies++;
		net_hook_ready(spy->f->net);
	}
	return spy->take;
}

static size_t to_guest(void *opaque, void *buf, size_t size)
{
	struct spy *spy = opaque;

	if (!spy->nr_replies)
		return 0;
	assert_true(size >= spy->reply_len);
	pattern(buf, spy->reply_len, (uint8_t)spy->nr_replies--);
	return spy->reply_len;
}

static struct spy hooked(struct fixture *f)
{
	return (struct spy){ .f = f, .reply_len = 80 };
}

static void set_hook(struct fixture *f, struct spy *spy)
{
	const struct net_hook hook = { .from_guest = from_guest, .to_guest = to_guest, .opaque = spy };

	net_set_hook(f->net, &hook);
}

static void test_sees_and_takes(void **state)
{
	struct fixture *f = *state;
	struct spy spy = hooked(f);

	set_hook(f, &spy);
	offer_tx(f, 0, 1000, 1);
	notify(f, NET_TX);
	assert_int_equal(spy.calls, 1);
	assert_int_equal(spy.head_len, NET_HOOK_HEAD);
	assert_int_equal(spy.len, 1000);
	assert_int_equal(spy.rest_len, 1000 - NET_HOOK_HEAD);
	assert_true(is_pattern(spy.head, NET_HOOK_HEAD, 1, 0));
	peer_expect(f, 1000, 1);
	offer_tx(f, 1, 60, 2);
	notify(f, NET_TX);
	assert_int_equal(spy.head_len, 60);
	assert_int_equal(spy.rest_len, 0);
	peer_expect(f, 60, 2);
	spy.take = true;
	offer_tx(f, 2, 60, 3);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 3);
	peer_expect_nothing(f);
	net_set_hook(f->net, NULL);
	offer_tx(f, 3, 60, 4);
	notify(f, NET_TX);
	assert_int_equal(spy.calls, 3);
	peer_expect(f, 60, 4);
}

/* The guest changes the frame while the hook looks: the head that goes out is the one that was looked at. */
static void test_sends_what_was_checked(void **state)
{
	struct fixture *f = *state;
	struct spy spy = hooked(f);
	uint8_t frame[1024];

	spy.tamper = true;
	set_hook(f, &spy);
	offer_tx(f, 0, 1000, 1);
	notify(f, NET_TX);
	assert_int_equal(recv(f->peer, frame, sizeof(frame), MSG_DONTWAIT), 1000);
	assert_true(is_pattern(frame, NET_HOOK_HEAD, 1, 0));
	assert_int_equal(frame[NET_HOOK_HEAD], 0xBB);
}

/* However the frame is cut up. */
static void test_any_layout(void **state)
{
	struct fixture *f = *state;
	struct spy spy = hooked(f);
	uint8_t *p = guest(&f->gm, TX_GPA(0));
	uint32_t cut, total = HDR + NET_HOOK_HEAD + 20;

	set_hook(f, &spy);
	for (cut = 1; cut < total; cut++) {
		memset(p, 0, HDR);
		pattern(p + HDR, total - HDR, (uint8_t)cut);
		driver_desc(&f->tx, 0, TX_GPA(0), cut, VRING_DESC_F_NEXT, 1);
		driver_desc(&f->tx, 1, TX_GPA(0) + cut, total - cut, 0, 0);
		driver_offer(&f->tx, 0);
		notify(f, NET_TX);
		assert_true(is_pattern(spy.head, NET_HOOK_HEAD, (uint8_t)cut, 0));
		assert_int_equal(spy.rest_len, 20);
		peer_expect(f, total - HDR, (uint8_t)cut);
	}
}

/* 256 descriptors of one byte: the two buffers in front still fit. */
static void test_many_descriptors(void **state)
{
	struct fixture *f = *state;
	struct spy spy = hooked(f);
	uint8_t *p = guest(&f->gm, TX_GPA(0));
	unsigned int i;

	set_hook(f, &spy);
	memset(p, 0, HDR);
	pattern(p + HDR, 244, 1);
	for (i = 0; i < 256; i++)
		driver_desc(&f->tx, i, TX_GPA(0) + i, 1, i < 255 ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
	driver_offer(&f->tx, 0);
	notify(f, NET_TX);
	assert_int_equal(spy.rest_len, 244 - NET_HOOK_HEAD);
	peer_expect(f, 244, 1);
}

/* With every receive buffer held, the two buffers in front of a frame's rest do not land in anybody else's memory. */
static void test_beside_full_receive_ring(void **state)
{
	struct fixture *f = *state;
	struct spy spy = hooked(f);
	unsigned int i;

	set_hook(f, &spy);
	for (i = 0; i < 256; i++)
		offer_rx(f, i, 100);
	peer_send(f, 60, 0);
	notify(f, NET_RX);
	wait_rx(f, 1);
	offer_tx(f, 0, 1000, 1);
	notify(f, NET_TX);
	peer_expect(f, 1000, 1);
	for (i = 1; i < 256; i++) {
		peer_send(f, 60, (uint8_t)i);
		wait_rx(f, (uint16_t)(i + 1));
		assert_int_equal(rx_used(f, (uint16_t)i).id, i);
		assert_true(is_pattern((const uint8_t *)rx_header(f, i) + HDR, 60, (uint8_t)i, 0));
	}
}

static void test_replies(void **state)
{
	struct fixture *f = *state;
	struct spy spy = hooked(f);
	unsigned int i;

	spy.take = spy.reply_at_once = true;
	set_hook(f, &spy);
	/* No buffers yet: the reply waits. */
	offer_tx(f, 0, 60, 0);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 1);
	assert_int_equal(driver_used_idx(&f->rx), 0);
	for (i = 0; i < 8; i++)
		offer_rx(f, i, 50);
	peer_send(f, 100, 9);
	notify(f, NET_RX);
	wait_rx(f, 5);
	assert_int_equal(rx_header(f, 0)->num_buffers, 2);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 50 - HDR, 1, 0));
	assert_true(is_pattern((const uint8_t *)rx_header(f, 2) + HDR, 50 - HDR, 9, 0));
	/* From its own initiative, several in a row. */
	spy.nr_replies = 2;
	spy.reply_len = 30;
	net_hook_ready(f->net);
	wait_rx(f, 7);
	assert_int_equal(rx_used(f, 5).len, HDR + 30);
	assert_int_equal(spy.nr_replies, 0);
}

/* ---- checksum offsets that would change what was checked ---- */

enum l3 { V4, V4_OPTIONS, V6, V6_EXTRA, ARP, TRUNCATED };

static size_t build(uint8_t *frame, enum l3 l3, uint8_t protocol, unsigned int tags)
{
	size_t at = 12;
	unsigned int i;

	memset(frame, 0, 256);
	for (i = 0; i < tags; i++, at += 4)
		frame[at] = 0x81;
	switch (l3) {
	case V4:
	case V4_OPTIONS:
		frame[at] = 0x08;
		at += 2;
		frame[at] = l3 == V4 ? 0x45 : 0x4f;
		frame[at + 9] = protocol;
		return at + (l3 == V4 ? 20 : 60);
	case V6:
	case V6_EXTRA:
		frame[at] = 0x86;
		frame[at + 1] = 0xdd;
		at += 2;
		frame[at] = 0x60;
		frame[at + 6] = l3 == V6 ? protocol : IPPROTO_HOPOPTS;
		frame[at + 40] = protocol;
		frame[at + 41] = 1; /* 16 bytes */
		return at + (l3 == V6 ? 40 : 56);
	case ARP:
		frame[at] = 0x08;
		frame[at + 1] = 0x06;
		return at + 2;
	default:
		frame[at] = 0x08;
		frame[at + 2] = 0x45;
		return at + 2;
	}
}

static void test_header_honest(void **state)
{
	static const struct {
		enum l3 l3;
		uint8_t protocol;
		unsigned int tags;
		uint16_t checksum;
	} good[] = {
		{ V4, IPPROTO_TCP, 0, 16 },         { V4, IPPROTO_UDP, 0, 6 }, { V4, IPPROTO_TCP, 2, 16 },
		{ V4_OPTIONS, IPPROTO_TCP, 0, 16 }, { V6, IPPROTO_UDP, 1, 6 }, { V6, IPPROTO_TCP, 0, 16 },
		{ V6_EXTRA, IPPROTO_TCP, 0, 16 },
	};
	struct virtio_net_hdr_v1 hdr = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM };
	uint8_t frame[256];
	unsigned int i;
	size_t l4;
	int start, offset;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		l4 = build(frame, good[i].l3, good[i].protocol, good[i].tags);
		/* Of all places that a checksum could be written to, one is right. */
		for (start = 0; start < 140; start++) {
			for (offset = 0; offset < 40; offset++) {
				hdr.csum_start = (uint16_t)start;
				hdr.csum_offset = (uint16_t)offset;
				assert_int_equal(net_header_honest(&hdr, frame, 128),
						 (size_t)start == l4 && offset == good[i].checksum);
			}
		}
		hdr.csum_start = (uint16_t)l4;
		hdr.csum_offset = good[i].checksum;
		assert_true(net_header_honest(&hdr, frame, l4 + good[i].checksum + 2));
		assert_false(net_header_honest(&hdr, frame, l4 + good[i].checksum + 1));
	}
	hdr.csum_start = (uint16_t)build(frame, V4, IPPROTO_ICMP, 0);
	assert_false(net_header_honest(&hdr, frame, 128));
	hdr.csum_start = (uint16_t)build(frame, ARP, 0, 0);
	assert_false(net_header_honest(&hdr, frame, 60));
	hdr.csum_start = (uint16_t)build(frame, V4, IPPROTO_TCP, 3);
	assert_false(net_header_honest(&hdr, frame, 128));
	for (l4 = 0; l4 < 34; l4++) {
		(void)build(frame, TRUNCATED, 0, 0);
		assert_false(net_header_honest(&hdr, frame, l4));
	}
	hdr = (struct virtio_net_hdr_v1){ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 };
	assert_false(net_header_honest(&hdr, frame, 128));
	hdr = (struct virtio_net_hdr_v1){ 0 };
	assert_true(net_header_honest(&hdr, frame, 20));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_seqpacket, fixture_teardown)
		TEST(test_sees_and_takes),
		TEST(test_sends_what_was_checked),
		TEST(test_any_layout),
		TEST(test_many_descriptors),
		TEST(test_beside_full_receive_ring),
		TEST(test_replies),
		cmocka_unit_test(test_header_honest),
	};

	return cmocka_run_group_tests_name("net_hook", tests, NULL, NULL);
}
