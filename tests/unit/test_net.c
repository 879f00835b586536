/* test_net.c: virtio-net between a driver, good or hostile, and a socket: what the guest sends, limits, pauses, errors.
 */
#include "net_fixture.h"

#include <errno.h>

static bool has(struct fixture *f, unsigned int bit)
{
	return f->dev->ops->features(f->dev) & 1ull << bit;
}

static void test_features_and_config(void **state)
{
	struct fixture *f = *state;
	struct virtio_net_config cfg;
	uint8_t beyond[8];

	assert_true(has(f, VIRTIO_NET_F_MRG_RXBUF));
	/* A socket's frames have to be complete; the driver picks an address of its own. */
	assert_false(has(f, VIRTIO_NET_F_CSUM) || has(f, VIRTIO_NET_F_GUEST_CSUM) || has(f, VIRTIO_NET_F_HOST_TSO4));
	assert_false(has(f, VIRTIO_NET_F_MAC) || has(f, VIRTIO_NET_F_MTU));
	f->fd = dup(f->peer);
	snprintf(f->cfg.host_dev_name, sizeof(f->cfg.host_dev_name), "fd:%d", f->fd);
	f->cfg.mac_given = true;
	memcpy(f->cfg.guest_mac, "\x06\x00\xac\x10\x00\x02", 6);
	f->cfg.mtu = 9000;
	fixture_reopen(f);
	close(f->fd);
	assert_true(has(f, VIRTIO_NET_F_MAC) && has(f, VIRTIO_NET_F_MTU));
	f->dev->ops->read_config(f->dev, 0, &cfg, sizeof(cfg));
	assert_memory_equal(cfg.mac, f->cfg.guest_mac, 6);
	assert_int_equal(cfg.mtu, 9000);
	memset(beyond, 1, sizeof(beyond));
	f->dev->ops->read_config(f->dev, UINT64_MAX - 3, beyond, sizeof(beyond));
	assert_true(beyond[0] == 0 && beyond[7] == 0);
}

static void test_transmit(void **state)
{
	struct fixture *f = *state;

	offer_tx(f, 0, 60, 1);
	offer_tx(f, 1, 1514, 2);
	offer_tx(f, 2, NET_FRAME_MAX, 3);
	offer_tx(f, 3, ETH_HLEN, 4);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 4);
	assert_int_equal(f->tx.used->ring[2].id, 2);
	assert_int_equal(f->tx.used->ring[2].len, 0);
	assert_int_equal(f->interrupts, 1);
	peer_expect(f, 60, 1);
	peer_expect(f, 1514, 2);
	peer_expect(f, NET_FRAME_MAX, 3);
	peer_expect(f, ETH_HLEN, 4);
}

/* Header and frame cut anywhere make the same frame. */
static void test_transmit_any_layout(void **state)
{
	struct fixture *f = *state;
	uint8_t *p = guest(&f->gm, TX_GPA(0));
	uint32_t cut;

	for (cut = 1; cut < HDR + 60; cut++) {
		memset(p, 0, HDR);
		pattern(p + HDR, 60, (uint8_t)cut);
		driver_desc(&f->tx, 0, TX_GPA(0), cut, VRING_DESC_F_NEXT, 1);
		driver_desc(&f->tx, 1, TX_GPA(0) + cut, HDR + 60 - cut, 0, 0);
		driver_offer(&f->tx, 0);
		notify(f, NET_TX);
		peer_expect(f, 60, (uint8_t)cut);
	}
	assert_int_equal(driver_used_idx(&f->tx), HDR + 59);
}

/* Frames that cannot be are given back and counted, the next one goes out. */
static void test_transmit_malformed(void **state)
{
	struct fixture *f = *state;
	uint64_t before = metrics.net_tx_malformed_frames;

	driver_desc(&f->tx, 0, TX_GPA(0), HDR - 1, 0, 0);
	driver_offer(&f->tx, 0);
	driver_desc(&f->tx, 1, TX_GPA(0), HDR + ETH_HLEN - 1, 0, 0);
	driver_offer(&f->tx, 1);
	driver_desc(&f->tx, 2, TX_GPA(0), HDR + NET_FRAME_MAX + 1, 0, 0);
	driver_offer(&f->tx, 2);
	driver_desc(&f->tx, 3, TX_GPA(0), 100, VRING_DESC_F_NEXT, 4);
	driver_desc(&f->tx, 4, TX_GPA(1), 100, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->tx, 3);
	offer_tx(f, 5, 100, 9);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 5);
	assert_int_equal(metrics.net_tx_malformed_frames, before + 4);
	peer_expect(f, 100, 9);
	peer_expect_nothing(f);
	assert_int_equal(f->broken, 0);
}

static void test_transmit_broken(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->tx, 0, (uint64_t)MEM_MIB << 20, 100, 0, 0);
	driver_offer(&f->tx, 0);
	notify(f, NET_TX);
	assert_int_equal(f->broken, 1);
	assert_false(f->dev->active);
	/* The link goes on after a reset, and nothing of the past comes back. */
	reset_device(f);
	activate(f, ~0ull);
	offer_tx(f, 0, 60, 1);
	notify(f, NET_TX);
	peer_expect(f, 60, 1);
}

/* Others of the event loop get their turn while a guest has much to send; then it goes on by itself. */
static void test_transmit_in_turns(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[64];
	unsigned int i;

	for (i = 0; i < 250; i++) {
		driver_desc(&f->tx, i, TX_GPA(0), HDR + 60, 0, 0);
		driver_offer(&f->tx, (uint16_t)i);
	}
	notify(f, NET_TX);
	assert_in_range(driver_used_idx(&f->tx), 1, 128);
	wait_tx(f, 250);
	for (i = 0; i < 250; i++)
		assert_int_equal(recv(f->peer, frame, sizeof(frame), MSG_DONTWAIT), 60);
}

static struct rate_limiter_config limit(uint64_t bytes, uint64_t ops, uint64_t ms)
{
	return (struct rate_limiter_config){ .bandwidth = { .size = bytes, .refill_time = ms },
					     .ops = { .size = ops, .refill_time = ms } };
}

/* 10 frames at once, the rest at 10 in 50 ms, in order, each once. */
static void test_rate_limits(void **state)
{
	struct fixture *f = *state;
	const struct rate_limiter_config ops = limit(0, 10, 50), none = limit(0, 0, 0);
	uint64_t begin;
	unsigned int i;

	net_set_rate(f->net, &ops, &ops);
	for (i = 0; i < 30; i++)
		offer_tx(f, i, 100, (uint8_t)i);
	begin = event_loop_now_ns();
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 10);
	wait_tx(f, 30);
	assert_true(event_loop_now_ns() - begin >= 95000000);
	for (i = 0; i < 30; i++)
		peer_expect(f, 100, (uint8_t)i);
	for (i = 0; i < 30; i++)
		offer_rx(f, i, 1536);
	for (i = 0; i < 30; i++)
		peer_send(f, 100, (uint8_t)i);
	begin = event_loop_now_ns();
	notify(f, NET_RX);
	wait_rx(f, 25);
	assert_true(event_loop_now_ns() - begin >= 70000000);
	/* Lifting the limit wakes what waits. */
	net_set_rate(f->net, &none, NULL);
	wait_rx(f, 30);
	for (i = 0; i < 30; i++)
		assert_true(is_pattern((const uint8_t *)rx_header(f, i) + HDR, 100, (uint8_t)i, 0));
	assert_true(f->net->tx.limiter.ops.cfg.size == 10);
}

/* A frame pays once, even if it waits for the limit first and for buffers then. */
static void test_rate_limit_paid_once(void **state)
{
	struct fixture *f = *state;
	const struct rate_limiter_config one = limit(0, 1, 3600000), another = limit(0, 1, 3600001);

	net_set_rate(f->net, &one, NULL);
	offer_rx(f, 0, 100);
	offer_rx(f, 1, 100);
	notify(f, NET_RX);
	peer_send(f, 80, 1);
	peer_send(f, 150, 2);
	wait_rx(f, 1);
	serve_once(f);
	net_set_rate(f->net, &another, NULL);
	serve_once(f);
	assert_int_equal(driver_used_idx(&f->rx), 1);
	offer_rx(f, 2, 100);
	notify(f, NET_RX);
	assert_int_equal(driver_used_idx(&f->rx), 3);
	assert_int_equal(rx_header(f, 1)->num_buffers, 2);
}

/* Bytes are those of the frame, without header. */
static void test_rate_limit_bytes(void **state)
{
	struct fixture *f = *state;
	const struct rate_limiter_config bytes = limit(1000, 0, 3600000);
	unsigned int i;

	net_set_rate(f->net, &bytes, &bytes);
	for (i = 0; i < 11; i++) {
		offer_tx(f, i, 100, 0);
		offer_rx(f, i, 1536);
		peer_send(f, 100, 0);
	}
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 10);
	notify(f, NET_RX);
	serve_once(f);
	assert_int_equal(driver_used_idx(&f->rx), 10);
}

/* A full backend: the frame stays in the ring, is paid once and sent once. */
static void test_backend_full(void **state)
{
	struct fixture *f = *state;
	const struct rate_limiter_config ops = limit(0, 250, 3600000);
	uint16_t sent;
	unsigned int i;

	net_set_rate(f->net, NULL, &ops);
	for (i = 0; i < 250; i++) {
		driver_desc(&f->tx, i, TX_GPA(0), HDR + 8192, 0, 0);
		driver_offer(&f->tx, (uint16_t)i);
	}
	notify(f, NET_TX);
	serve_once(f);
	sent = driver_used_idx(&f->tx);
	assert_in_range(sent, 1, 249);
	serve_once(f);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), sent);
	for (i = 0; i < 250; i++) {
		uint8_t frame[9000];

		while (recv(f->peer, frame, sizeof(frame), MSG_DONTWAIT) != 8192)
			serve_once(f);
	}
	peer_expect_nothing(f);
	assert_int_equal(driver_used_idx(&f->tx), 250);
}

/* Paused, the device leaves memory and rings alone; then it goes on where it was, with what waited, too. */
static void test_pause(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	offer_rx(f, 0, 1000);
	notify(f, NET_RX);
	peer_send(f, 1500, 1);
	serve_once(f); /* the frame waits for a second buffer */
	net_pause(f->net);
	assert_int_equal(f->dev->queue[NET_RX].next_avail, f->dev->queue[NET_RX].next_used);
	memset(guest(&f->gm, RX_GPA(0)), 0xAA, 1000);
	for (i = 1; i < 4; i++)
		offer_rx(f, i, 1000);
	offer_tx(f, 0, 100, 7);
	peer_send(f, 200, 2);
	notify(f, NET_RX);
	notify(f, NET_TX);
	serve_once(f);
	assert_int_equal(driver_used_idx(&f->rx), 0);
	assert_int_equal(driver_used_idx(&f->tx), 0);
	assert_int_equal(*(uint8_t *)guest(&f->gm, RX_GPA(0)), 0xAA);
	net_resume(f->net);
	wait_rx(f, 3);
	wait_tx(f, 1);
	peer_expect(f, 100, 7);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 1000 - HDR, 1, 0));
	assert_int_equal(rx_header(f, 2)->num_buffers, 1);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 2) + HDR, 200, 2, 0));
}

/* The other side goes: frames are dropped, the guest goes on, the loop sleeps. */
static void test_peer_gone(void **state)
{
	struct fixture *f = *state;
	uint64_t events;

	offer_rx(f, 0, 1536);
	notify(f, NET_RX);
	close(f->peer);
	f->peer = -1;
	serve_once(f);
	events = metrics.net_rx_tap_event_count;
	serve_once(f);
	serve_once(f);
	assert_int_equal(metrics.net_rx_tap_event_count, events);
	offer_tx(f, 0, 100, 0);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 1);
	assert_int_equal(f->broken, 0);
}

/* The same when nobody reads: with a full backend, only EPOLLOUT is watched. */
static void test_peer_gone_while_full(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < 250; i++) {
		driver_desc(&f->tx, i, TX_GPA(0), HDR + 8192, 0, 0);
		driver_offer(&f->tx, (uint16_t)i);
	}
	notify(f, NET_TX);
	serve_once(f);
	assert_true(driver_used_idx(&f->tx) < 250);
	close(f->peer);
	f->peer = -1;
	wait_tx(f, 250);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct error err = { 0 };
	struct net *net;
	int pipe_fd[2], sock;

	assert_int_equal(pipe(pipe_fd), 0);
	snprintf(f->cfg.host_dev_name, sizeof(f->cfg.host_dev_name), "fd:%d", pipe_fd[0]);
	assert_int_equal(net_create(&net, &f->cfg, &f->gm, &f->loop, &err), -EINVAL);
	assert_non_null(strstr(err.message, "network-interfaces[eth0].host_dev_name: fd:"));
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	assert_int_equal(net_create(&net, &f->cfg, &f->gm, &f->loop, &err), -EBADF);
	strcpy(f->cfg.host_dev_name, "fd:1");
	assert_int_equal(net_create(&net, &f->cfg, &f->gm, &f->loop, &err), -EBADF);
	sock = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(f->cfg.host_dev_name, sizeof(f->cfg.host_dev_name), "fd:%d", sock);
	assert_int_equal(net_create(&net, &f->cfg, &f->gm, &f->loop, &err), -ENOTCONN);
	close(sock);
	strcpy(f->cfg.host_dev_name, "unix:/nonexistent/passt");
	assert_int_equal(net_create(&net, &f->cfg, &f->gm, &f->loop, &err), -ENOENT);
	assert_non_null(strstr(err.message, "passt"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_seqpacket, fixture_teardown)
		TEST(test_features_and_config),
		TEST(test_transmit),
		TEST(test_transmit_any_layout),
		TEST(test_transmit_malformed),
		TEST(test_transmit_broken),
		TEST(test_transmit_in_turns),
		TEST(test_rate_limits),
		TEST(test_rate_limit_paid_once),
		TEST(test_rate_limit_bytes),
		TEST(test_backend_full),
		TEST(test_pause),
		TEST(test_peer_gone),
		TEST(test_peer_gone_while_full),
		TEST(test_errors),
	};

	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
