/* test_net_state.c: an interface goes on in another microVM, on another host side; and its link that flaps. */
#include "side_fixture.h"

#include <linux/virtio_net.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net.h"
#include "net_internal.h"

#define STATUS    (1ull << VIRTIO_NET_F_STATUS)
#define HDR       ((uint32_t)NET_HDR_LEN)
#define FRAME     100u
#define TX_GPA(i) DATA_GPA(100u + (i))

/* One microVM's, and the other's; each with a peer of its own. */
static struct side old, new;
static struct net *old_net, *new_net;
static int old_peer, new_peer;
static struct net_config cfg;
static struct saved saved;

static void make_side(struct side *s, struct net **net, int *peer)
{
	struct error err;
	int pair[2];

	side_begin(s);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	*peer = pair[0];
	snprintf(cfg.host_dev_name, sizeof(cfg.host_dev_name), "fd:%d", pair[1]);
	assert_int_equal(net_create(net, &cfg, &s->gm, &s->loop, &err), 0);
	close(pair[1]);
	side_bind(s, net_device(*net));
}

static void end_side(struct side *s, struct net *net, int peer)
{
	net_destroy(net);
	close(peer);
	side_end(s);
}

static void change_both(void)
{
	end_side(&old, old_net, old_peer);
	end_side(&new, new_net, new_peer);
	make_side(&old, &old_net, &old_peer);
	make_side(&new, &new_net, &new_peer);
}

static int start(void **state)
{
	(void)state;
	cfg = (struct net_config){ .iface_id = "eth0" };
	make_side(&old, &old_net, &old_peer);
	make_side(&new, &new_net, &new_peer);
	return 0;
}

static int end(void **state)
{
	(void)state;
	end_side(&old, old_net, old_peer);
	end_side(&new, new_net, new_peer);
	state_free(&saved.w);
	return 0;
}

static void save(void)
{
	net_pause(old_net);
	state_free(&saved.w);
	virtio_mmio_save(&old.mmio, saved_begin(&saved), SIDE_SLOT);
	saved_end(&saved);
}

static int restore(void)
{
	net_pause(new_net);
	return virtio_mmio_restore(&new.mmio, saved_rewind(&saved), SIDE_SLOT, &saved.err);
}

static void move(void)
{
	save();
	copy_memory(&new, &old);
	if (restore())
		fail_msg("%s", saved.err.message);
	assert_int_equal(state_end(&saved.r, &saved.err), 0);
	assert_same_transport(&new, &saved);
}

static void offer_rx(struct side *s, unsigned int i)
{
	driver_desc(&s->ring[NET_RX], i, DATA_GPA(i), 0x1000, VRING_DESC_F_WRITE, 0);
	driver_offer(&s->ring[NET_RX], (uint16_t)i);
}

static void offer_tx(struct side *s, unsigned int i, uint8_t byte)
{
	memset(guest(&s->gm, TX_GPA(i)), 0, HDR);
	memset(guest(&s->gm, TX_GPA(i) + HDR), byte, FRAME);
	driver_desc(&s->ring[NET_TX], i, TX_GPA(i), HDR + FRAME, 0, 0);
	driver_offer(&s->ring[NET_TX], (uint16_t)i);
}

static void peer_send(int peer, uint8_t byte)
{
	uint8_t frame[FRAME];

	memset(frame, byte, sizeof(frame));
	assert_int_equal(send(peer, frame, sizeof(frame), MSG_DONTWAIT), sizeof(frame));
}

/* The first byte of the next frame that came; -1: none did. */
static int peer_got(int peer)
{
	uint8_t frame[2 * FRAME];
	ssize_t n = recv(peer, frame, sizeof(frame), MSG_DONTWAIT);

	assert_true(n < 0 || n == FRAME);
	return n < 0 ? -1 : frame[0];
}

static int guest_got(struct side *s, uint16_t i)
{
	uint32_t id = s->ring[NET_RX].used->ring[i % SIDE_QUEUE].id;

	return *(uint8_t *)guest(&s->gm, DATA_GPA(id) + HDR);
}

static bool sent_all(struct side *s)
{
	return driver_used_idx(&s->ring[NET_TX]) == s->ring[NET_TX].avail_idx;
}

static bool got_one(struct side *s)
{
	return driver_used_idx(&s->ring[NET_RX]) >= 1;
}

static bool got_two(struct side *s)
{
	return driver_used_idx(&s->ring[NET_RX]) >= 2;
}

static void frames_go_on(void **state)
{
	unsigned int i;

	(void)state;
	bring_up(&old, VERSION_1 | EVENT_IDX | 1ull << VIRTIO_NET_F_MRG_RXBUF);
	for (i = 0; i < 8; i++)
		offer_rx(&old, i);
	kick(&old, NET_RX);
	offer_tx(&old, 0, 0x10);
	kick(&old, NET_TX);
	peer_send(old_peer, 0x20);
	serve_until(&old, sent_all);
	serve_until(&old, got_one);
	assert_int_equal(peer_got(old_peer), 0x10);
	/* One offered and rung for, but the device is paused; a frame on either side that nobody has read yet. */
	net_pause(old_net);
	offer_tx(&old, 1, 0x11);
	kick(&old, NET_TX);
	peer_send(old_peer, 0x21);
	peer_send(new_peer, 0x22);
	move();
	assert_true(new.dev->active);
	let_the_loop_work(&new);
	assert_int_equal(driver_used_idx(&new.ring[NET_RX]), 1);
	assert_int_equal(peer_got(new_peer), -1); /* still paused */
	net_resume(new_net);
	serve_until(&new, sent_all);
	serve_until(&new, got_two);
	assert_int_equal(peer_got(new_peer), 0x11);
	assert_int_equal(guest_got(&new, 0), 0x20);
	assert_int_equal(guest_got(&new, 1), 0x22);
	/* The one that was saved goes on for itself. */
	net_resume(old_net);
	serve_until(&old, got_two);
	assert_int_equal(peer_got(old_peer), 0x11);
	assert_int_equal(guest_got(&old, 1), 0x21);
}

/* A frame that was read and waits stays behind; what waits for buffers in the other one is served by them. */
static void a_frame_that_waits_stays_behind(void **state)
{
	(void)state;
	bring_up(&old, VERSION_1);
	peer_send(old_peer, 0x30);
	kick(&old, NET_RX);
	let_the_loop_work(&old);
	move();
	peer_send(new_peer, 0x31);
	net_resume(new_net);
	offer_rx(&new, 5);
	kick(&new, NET_RX);
	serve_until(&new, got_one);
	assert_int_equal(guest_got(&new, 0), 0x31);
}

/* One frame an hour, which has been sent. */
static void the_rate_limit_goes_on(void **state)
{
	const struct rate_limiter_config unlimited = { 0 };

	(void)state;
	cfg.tx.ops = (struct token_bucket_config){ .size = 1, .refill_time = 3600000 };
	change_both();
	bring_up(&old, VERSION_1);
	offer_tx(&old, 0, 0x10);
	kick(&old, NET_TX);
	serve_until(&old, sent_all);
	move();
	net_resume(new_net);
	offer_tx(&new, 1, 0x11);
	kick(&new, NET_TX);
	let_the_loop_work(&new);
	assert_int_equal(peer_got(new_peer), -1);
	net_set_rate(new_net, NULL, &unlimited);
	serve_until(&new, sent_all);
	assert_int_equal(peer_got(new_peer), 0x11);
}

/* The TAP could more than this socket can. */
static void features_that_the_other_side_lacks_are_named(void **state)
{
	struct virtio_mmio_state *t;

	(void)state;
	cfg.mtu = 9000;
	change_both();
	bring_up(&old, VERSION_1 | 1ull << VIRTIO_NET_F_MTU);
	save();
	t = saved_payload(&saved, STATE_TRANSPORT, SIDE_SLOT);
	t->driver_features |= 1ull << VIRTIO_NET_F_HOST_TSO4 | 1ull << 56;
	assert_refused(&saved, restore(), "virtio device eth0: the snapshot's guest uses VIRTIO_NET_F_HOST_TSO4");
	assert_refused(&saved, restore(), "(needs a TAP that has this offload");
	t->driver_features &= ~(1ull << VIRTIO_NET_F_HOST_TSO4);
	assert_refused(&saved, restore(), "VIRTIO_NET_F_HOST_USO (feature bit 56)");
	t->driver_features &= ~(1ull << 56);
	end_side(&new, new_net, new_peer);
	cfg.mtu = 0;
	make_side(&new, &new_net, &new_peer);
	assert_refused(&saved, restore(), "VIRTIO_NET_F_MTU");
}

static void any_state_but_a_strange_flag_will_do(void **state)
{
	struct net_state *n;

	(void)state;
	bring_up(&old, VERSION_1);
	save();
	n = saved_payload(&saved, STATE_NET, SIDE_SLOT);
	memset(n, 0xff, sizeof(*n));
	assert_refused(&saved, restore(), "VNET 3: a flag");
	assert_false(new.dev->active);
	n->flapping = 1;
	assert_int_equal(restore(), 0);
	net_resume(new_net);
}

/* ---- the link ---- */

static unsigned int link_up(struct side *s)
{
	uint16_t status;

	bus_read(&s->bus, SIDE_GPA + VIRTIO_MMIO_CONFIG + offsetof(struct virtio_net_config, status), &status, 2);
	return status;
}

static bool is_up(struct side *s)
{
	return link_up(s) == VIRTIO_NET_S_LINK_UP;
}

/* The driver takes the config interrupt, if there is one. */
static bool told(struct side *s)
{
	bool is = get(s, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG;

	set(s, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
	return is;
}

static void the_link_goes_down_and_up(void **state)
{
	uint64_t before;

	(void)state;
	bring_up(&old, VERSION_1 | STATUS);
	assert_true(is_up(&old));
	before = event_loop_now_ns();
	net_flap_link(old_net);
	assert_true(told(&old));
	assert_int_equal(link_up(&old), 0);
	assert_int_equal(get(&old, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	serve_until(&old, is_up);
	assert_true(event_loop_now_ns() - before >= 100000000ull);
	assert_true(told(&old));
	assert_int_equal(get(&old, VIRTIO_MMIO_CONFIG_GENERATION), 2);
	/* Who does not know the status is left alone. */
	change_both();
	bring_up(&old, VERSION_1);
	net_flap_link(old_net);
	assert_true(is_up(&old));
	assert_false(told(&old));
}

static bool never(struct side *s)
{
	(void)s;
	return false;
}

/* A guest that is too busy to look at once still finds the link down, and has as much time again for what follows. */
static void the_link_waits_for_a_busy_guest(void **state)
{
	(void)state;
	bring_up(&old, VERSION_1 | STATUS);
	net_flap_link(old_net);
	assert_false(serve_for(&old, never, 500000000));
	assert_int_equal(link_up(&old), 0);
	assert_false(serve_for(&old, is_up, 400000000));
	serve_until(&old, is_up);
}

/* While the guest stands still it sees nothing: the link waits for it. */
static void the_link_waits_for_a_paused_guest(void **state)
{
	(void)state;
	bring_up(&old, VERSION_1 | STATUS);
	move();
	net_flap_link(new_net);
	assert_true(is_up(&new));
	assert_false(told(&new));
	net_resume(new_net);
	assert_true(told(&new));
	assert_int_equal(link_up(&new), 0);
	/* Paused and saved while it is down: it comes up here, and where the state went. */
	net_pause(new_net);
	assert_false(serve_for(&new, is_up, 150000000));
	state_free(&saved.w);
	virtio_mmio_save(&new.mmio, saved_begin(&saved), SIDE_SLOT);
	saved_end(&saved);
	net_resume(new_net);
	serve_until(&new, is_up);
	change_both();
	assert_int_equal(restore(), 0);
	assert_true(is_up(&new));
	net_resume(new_net);
	assert_int_equal(link_up(&new), 0);
	assert_true(told(&new));
	serve_until(&new, is_up);
	assert_true(told(&new));
	/* A driver that starts anew begins with a link. */
	net_flap_link(new_net);
	new.dev->active = false;
	assert_true(new.dev->ops->reset(new.dev));
	assert_true(is_up(&new));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(frames_go_on, start, end),
		cmocka_unit_test_setup_teardown(a_frame_that_waits_stays_behind, start, end),
		cmocka_unit_test_setup_teardown(the_rate_limit_goes_on, start, end),
		cmocka_unit_test_setup_teardown(features_that_the_other_side_lacks_are_named, start, end),
		cmocka_unit_test_setup_teardown(any_state_but_a_strange_flag_will_do, start, end),
		cmocka_unit_test_setup_teardown(the_link_goes_down_and_up, start, end),
		cmocka_unit_test_setup_teardown(the_link_waits_for_a_busy_guest, start, end),
		cmocka_unit_test_setup_teardown(the_link_waits_for_a_paused_guest, start, end),
	};

	return cmocka_run_group_tests_name("net state", tests, NULL, NULL);
}
