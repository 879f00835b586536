/* test_net_rx.c: frames into a guest's receive buffers: merged, split, too few, too small, hostile. */
#include "net_fixture.h"

static void test_receive(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < 8; i++)
		offer_rx(f, i, 1536);
	notify(f, NET_RX);
	peer_send(f, 60, 1);
	peer_send(f, 1514, 2);
	wait_rx(f, 2);
	assert_int_equal(rx_used(f, 0).id, 0);
	assert_int_equal(rx_used(f, 0).len, HDR + 60);
	assert_int_equal(rx_used(f, 1).len, HDR + 1514);
	assert_int_equal(rx_header(f, 0)->num_buffers, 1);
	assert_int_equal(rx_header(f, 0)->gso_type, VIRTIO_NET_HDR_GSO_NONE);
	assert_int_equal(rx_header(f, 0)->flags, 0);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 60, 1, 0));
	assert_true(is_pattern((const uint8_t *)rx_header(f, 1) + HDR, 1514, 2, 0));
	assert_int_equal(((const uint8_t *)rx_header(f, 0))[HDR + 60], 0xEE);
}

/* A frame over many buffers of awkward sizes: all of them appear together, and the header says how many. */
static void test_receive_merged(void **state)
{
	static const uint32_t sizes[] = { 12, 13, 100, 1536, 4096 };
	struct fixture *f = *state;
	unsigned int i, s, n;
	size_t at, len = 9014;

	for (s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		reset_device(f);
		activate(f, ~0ull);
		for (i = 0; i < 256 && (uint64_t)i * sizes[s] < HDR + len; i++)
			offer_rx(f, i, sizes[s]);
		n = i;
		if ((uint64_t)n * sizes[s] < HDR + len)
			len = (size_t)n * sizes[s] - HDR;
		notify(f, NET_RX);
		peer_send(f, len, (uint8_t)s);
		wait_rx(f, (uint16_t)n);
		assert_int_equal(driver_used_idx(&f->rx), n);
		assert_int_equal(rx_header(f, 0)->num_buffers, n);
		for (i = 0, at = 0; i < n; i++) {
			size_t skip = i ? 0 : HDR, part = rx_used(f, (uint16_t)i).len - skip;

			assert_int_equal(rx_used(f, (uint16_t)i).id, i);
			assert_true(is_pattern((const uint8_t *)rx_header(f, i) + skip, part, (uint8_t)s, at));
			at += part;
		}
		assert_int_equal(at, len);
		len = 9014;
	}
}

/* The header itself may be cut in pieces. */
static void test_receive_split_header(void **state)
{
	struct fixture *f = *state;
	uint32_t cut;

	for (cut = 1; cut < 40; cut++) {
		memset(guest(&f->gm, RX_GPA(0)), 0xEE, 200);
		driver_desc(&f->rx, 0, RX_GPA(0), cut, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
		driver_desc(&f->rx, 1, RX_GPA(0) + cut, 200 - cut, VRING_DESC_F_WRITE, 0);
		driver_offer(&f->rx, 0);
		notify(f, NET_RX);
		peer_send(f, 64, (uint8_t)cut);
		wait_rx(f, (uint16_t)cut);
		assert_int_equal(rx_header(f, 0)->num_buffers, 1);
		assert_int_equal(rx_header(f, 0)->csum_start, 0);
		assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 64, (uint8_t)cut, 0));
	}
}

/* Without merging a frame needs a chain that holds it; a shorter one stays the device's for the next frame. */
static void test_receive_unmerged(void **state)
{
	struct fixture *f = *state;
	uint64_t before = metrics.net_rx_fails;

	reset_device(f);
	activate(f, ~(1ull << VIRTIO_NET_F_MRG_RXBUF));
	offer_rx(f, 0, 200);
	offer_rx(f, 1, 200);
	notify(f, NET_RX);
	peer_send(f, 189, 1);
	peer_send(f, 188, 2);
	wait_rx(f, 1);
	assert_int_equal(metrics.net_rx_fails, before + 1);
	assert_int_equal(rx_used(f, 0).id, 0);
	assert_int_equal(rx_used(f, 0).len, 200);
	assert_int_equal(rx_header(f, 0)->num_buffers, 1);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 188, 2, 0));
	assert_int_equal(((const uint8_t *)rx_header(f, 1))[0], 0xEE);
}

/* No buffers: frames wait in the backend, in order, and the loop sleeps meanwhile. */
static void test_receive_without_buffers(void **state)
{
	struct fixture *f = *state;
	uint64_t events;
	unsigned int i;

	for (i = 0; i < 4; i++)
		peer_send(f, 100, (uint8_t)i);
	serve_once(f);
	events = metrics.net_rx_tap_event_count;
	serve_once(f);
	serve_once(f);
	assert_int_equal(metrics.net_rx_tap_event_count, events);
	assert_int_equal(driver_used_idx(&f->rx), 0);
	for (i = 0; i < 4; i++)
		offer_rx(f, i, 1536);
	notify(f, NET_RX);
	wait_rx(f, 4);
	for (i = 0; i < 4; i++)
		assert_true(is_pattern((const uint8_t *)rx_header(f, i) + HDR, 100, (uint8_t)i, 0));
}

/* Some buffers, but too few for the frame: it waits whole until there are more. */
static void test_receive_waits_for_more(void **state)
{
	struct fixture *f = *state;

	offer_rx(f, 0, 1000);
	notify(f, NET_RX);
	peer_send(f, 2500, 5);
	serve_once(f);
	assert_int_equal(driver_used_idx(&f->rx), 0);
	offer_rx(f, 1, 1000);
	notify(f, NET_RX);
	serve_once(f);
	assert_int_equal(driver_used_idx(&f->rx), 0);
	/* What the guest does to its own buffers meanwhile is its own loss, not that of the frame. */
	memset(guest(&f->gm, RX_GPA(0)), 0, 1000);
	offer_rx(f, 2, 1000);
	notify(f, NET_RX);
	wait_rx(f, 3);
	assert_int_equal(rx_header(f, 0)->num_buffers, 3);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 1000 - HDR, 5, 0));
	assert_true(is_pattern(guest(&f->gm, RX_GPA(2)), 2500 - 2000 + HDR, 5, 2000 - HDR));
}

/* A driver whose whole ring cannot hold a frame loses that frame, not the link. */
static void test_receive_ring_too_small(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	reset_device(f);
	activate_sized(f, ~0ull, 4);
	for (i = 0; i < 4; i++)
		offer_rx(f, i, 100);
	notify(f, NET_RX);
	peer_send(f, 500, 1);
	peer_send(f, 80, 2);
	wait_rx(f, 1);
	assert_int_equal(rx_used(f, 0).len, HDR + 80);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 80, 2, 0));
}

/* 256 buffers of one byte each after the header: as many as a chain can have, over and over. */
static void test_receive_tiny_descriptors(void **state)
{
	struct fixture *f = *state;
	uint8_t *p = guest(&f->gm, RX_GPA(0));
	unsigned int i, round;

	for (round = 1; round <= 20; round++) {
		memset(p, 0xEE, 256);
		for (i = 0; i < 256; i++)
			driver_desc(&f->rx, i, RX_GPA(0) + i, 1,
				    (uint16_t)(VRING_DESC_F_WRITE | (i < 255 ? VRING_DESC_F_NEXT : 0)),
				    (uint16_t)(i + 1));
		driver_offer(&f->rx, 0);
		notify(f, NET_RX);
		peer_send(f, 244, (uint8_t)round);
		wait_rx(f, (uint16_t)round);
		assert_int_equal(rx_header(f, 0)->num_buffers, 1);
		assert_true(is_pattern(p + HDR, 244, (uint8_t)round, 0));
	}
}

/* A chain that is readable at first, however much it offers after that. */
static void test_receive_half_readable(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->rx, 0, RX_GPA(0), 100, VRING_DESC_F_NEXT, 1);
	driver_desc(&f->rx, 1, RX_GPA(1), 2000, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->rx, 0);
	peer_send(f, 100, 1);
	notify(f, NET_RX);
	serve_once(f);
	assert_int_equal(f->broken, 1);
}

static void test_receive_hostile(void **state)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags;
	} bad[] = {
		{ RX_GPA(0), 1000, 0 },                                     /* readable */
		{ RX_GPA(0), HDR - 1, VRING_DESC_F_WRITE },                 /* no room for a header */
		{ (uint64_t)MEM_MIB << 20, 1000, VRING_DESC_F_WRITE },      /* outside RAM */
		{ ((uint64_t)MEM_MIB << 20) - 10, 20, VRING_DESC_F_WRITE }, /* across its end */
		{ UINT64_MAX - 5, 20, VRING_DESC_F_WRITE },                 /* wraps */
		{ RX_GPA(0), 0, VRING_DESC_F_WRITE },                       /* empty */
	};
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		offer_rx(f, 1, 20);
		driver_desc(&f->rx, 0, bad[i].addr, bad[i].len, bad[i].flags, 0);
		driver_offer(&f->rx, 0);
		peer_send(f, 100, 1);
		notify(f, NET_RX);
		serve_once(f);
		assert_int_equal(f->broken, i + 1);
		serve_once(f);
		assert_int_equal(driver_used_idx(&f->rx), 0);
		reset_device(f);
		activate(f, ~0ull);
	}
}

/* Frames that are none: too short, too long, empty. */
static void test_receive_odd_frames(void **state)
{
	struct fixture *f = *state;
	uint64_t before = metrics.net_rx_fails;
	unsigned int i;

	for (i = 0; i < 64; i++)
		offer_rx(f, i, 2048);
	notify(f, NET_RX);
	peer_send(f, ETH_HLEN - 1, 1);
	peer_send(f, NET_FRAME_MAX + 1, 2);
	peer_send(f, NET_FRAME_MAX, 3);
	wait_rx(f, 33);
	assert_int_equal(metrics.net_rx_fails, before + 2);
	assert_int_equal(rx_header(f, 0)->num_buffers, 33);
	assert_true(is_pattern(guest(&f->gm, RX_GPA(1)), 2048, 3, 2048 - HDR));
}

/* One interrupt for a batch; none when the driver wants none yet. */
static void test_interrupts_coalesced(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < 32; i++)
		offer_rx(f, i, 1536);
	for (i = 0; i < 16; i++)
		peer_send(f, 100, 0);
	notify(f, NET_RX);
	wait_rx(f, 16);
	assert_int_equal(f->interrupts, 1);
	*driver_used_event(&f->rx) = 23;
	for (i = 0; i < 7; i++) {
		peer_send(f, 100, 0);
		wait_rx(f, (uint16_t)(17 + i));
	}
	assert_int_equal(f->interrupts, 1);
	peer_send(f, 100, 0);
	wait_rx(f, 24);
	serve_once(f);
	assert_int_equal(f->interrupts, 2);
}

/* A frame that begins to wait at the very end of a turn is not forgotten. */
static void test_receive_waits_after_turn(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < NET_TURN_FRAMES + 2; i++)
		offer_rx(f, i, 100);
	for (i = 0; i < NET_TURN_FRAMES - 1; i++)
		peer_send(f, 60, 0);
	peer_send(f, 500, 1);
	wait_rx(f, NET_TURN_FRAMES - 1);
	serve_once(f);
	for (i = 0; i < 4; i++)
		offer_rx(f, NET_TURN_FRAMES + 2 + i, 100);
	notify(f, NET_RX);
	assert_int_equal(driver_used_idx(&f->rx), NET_TURN_FRAMES + 5);
	assert_int_equal(rx_header(f, NET_TURN_FRAMES - 1)->num_buffers, 6);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_seqpacket, fixture_teardown)
		TEST(test_receive),
		TEST(test_receive_merged),
		TEST(test_receive_split_header),
		TEST(test_receive_unmerged),
		TEST(test_receive_without_buffers),
		TEST(test_receive_waits_for_more),
		TEST(test_receive_ring_too_small),
		TEST(test_receive_tiny_descriptors),
		TEST(test_receive_half_readable),
		TEST(test_receive_hostile),
		TEST(test_receive_odd_frames),
		TEST(test_interrupts_coalesced),
		TEST(test_receive_waits_after_turn),
	};

	return cmocka_run_group_tests_name("net_rx", tests, NULL, NULL);
}
