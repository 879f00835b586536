/* test_net_stream.c: passt's protocol: frames cut anywhere, half a frame sent, a peer that talks nonsense or dies. */
#include "net_fixture.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/un.h>

static uint8_t wire[4 * (NET_FRAME_MAX + 64)];

/* Append a frame with its length to wire; the new end. */
static size_t put_frame(size_t at, size_t len, uint8_t seed)
{
	uint32_t prefix = htonl((uint32_t)len);

	memcpy(wire + at, &prefix, 4);
	pattern(wire + at + 4, len, seed);
	return at + 4 + len;
}

static void send_all(struct fixture *f, const uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = send(f->peer, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else {
			serve_once(f);
		}
	}
}

static void recv_all(struct fixture *f, uint8_t *p, size_t len)
{
	while (len) {
		ssize_t n = recv(f->peer, p, len, MSG_DONTWAIT);

		assert_true(n != 0);
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else {
			serve_once(f);
		}
	}
}

/* Two frames, the stream cut at every byte: both arrive whole, in order. */
static void test_cut_anywhere(void **state)
{
	struct fixture *f = *state;
	size_t total = put_frame(put_frame(0, 60, 1), 90, 2), cut;
	uint16_t done = 0;

	for (cut = 1; cut < total; cut++) {
		offer_rx(f, 0, 1536);
		offer_rx(f, 1, 1536);
		notify(f, NET_RX);
		send_all(f, wire, cut);
		serve_once(f);
		if (cut < 64)
			assert_int_equal(driver_used_idx(&f->rx), done);
		send_all(f, wire + cut, total - cut);
		done = (uint16_t)(done + 2);
		wait_rx(f, done);
		assert_int_equal(rx_used(f, (uint16_t)(done - 2)).len, HDR + 60);
		assert_int_equal(rx_used(f, (uint16_t)(done - 1)).len, HDR + 90);
		assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 60, 1, 0));
		assert_true(is_pattern((const uint8_t *)rx_header(f, 1) + HDR, 90, 2, 0));
	}
}

/* More frames in one piece than a turn takes: the rest needs no event to arrive. */
static void test_many_at_once(void **state)
{
	struct fixture *f = *state;
	size_t at = 0;
	unsigned int i;

	for (i = 0; i < 250; i++)
		at = put_frame(at, 100, (uint8_t)i);
	for (i = 0; i < 250; i++)
		offer_rx(f, i, 200);
	send_all(f, wire, at);
	notify(f, NET_RX);
	wait_rx(f, 250);
	for (i = 0; i < 250; i++)
		assert_true(is_pattern((const uint8_t *)rx_header(f, i) + HDR, 100, (uint8_t)i, 0));
}

/* The largest frames, and buffers that come late. */
static void test_large_frames(void **state)
{
	struct fixture *f = *state;
	size_t end = put_frame(put_frame(put_frame(0, NET_FRAME_MAX, 1), 14, 2), NET_FRAME_MAX, 3);
	unsigned int i, at;

	offer_rx(f, 0, 4096);
	notify(f, NET_RX);
	send_all(f, wire, 4 + NET_FRAME_MAX);
	serve_once(f);
	for (i = 1; i < 40; i++)
		offer_rx(f, i, 4096);
	notify(f, NET_RX);
	send_all(f, wire + 4 + NET_FRAME_MAX, end - 4 - NET_FRAME_MAX);
	wait_rx(f, 35);
	for (i = 0, at = 0; i < 17; i++) {
		uint32_t skip = i ? 0 : HDR, part = rx_used(f, (uint16_t)i).len - skip;

		assert_true(is_pattern((const uint8_t *)rx_header(f, i) + skip, part, 1, at));
		at += part;
	}
	assert_int_equal(at, NET_FRAME_MAX);
	assert_int_equal(rx_used(f, 17).len, HDR + 14);
}

static void test_transmit(void **state)
{
	struct fixture *f = *state;
	uint8_t got[4 + 100];
	uint32_t prefix;

	offer_tx(f, 0, 100, 5);
	notify(f, NET_TX);
	recv_all(f, got, sizeof(got));
	memcpy(&prefix, got, 4);
	assert_int_equal(ntohl(prefix), 100);
	assert_true(is_pattern(got + 4, 100, 5, 0));
}

/* A peer that reads slowly gets every frame whole, wherever the socket's buffer was full. */
static void test_transmit_partial(void **state)
{
	struct fixture *f = *state;
	int size = 1;
	unsigned int i;
	uint32_t prefix;

	assert_int_equal(setsockopt(f->net->be->event.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	for (i = 0; i < 20; i++)
		offer_tx(f, i, 40000 + i, (uint8_t)i);
	notify(f, NET_TX);
	assert_true(driver_used_idx(&f->tx) < 20);
	for (i = 0; i < 20; i++) {
		recv_all(f, (uint8_t *)&prefix, 4);
		assert_int_equal(ntohl(prefix), 40000 + i);
		recv_all(f, wire, 40000 + i);
		assert_true(is_pattern(wire, 40000 + i, (uint8_t)i, 0));
	}
	wait_tx(f, 20);
}

/* ---- a server that can die ---- */

struct server {
	struct sockaddr_un addr;
	int listening;
};

static void serve_listen(struct server *s)
{
	s->listening = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(s->listening, (struct sockaddr *)&s->addr, sizeof(s->addr)), 0);
	assert_int_equal(listen(s->listening, 1), 0);
}

static bool accepted(struct fixture *f)
{
	int fd = accept4(f->fd, NULL, NULL, SOCK_NONBLOCK);

	if (fd >= 0)
		f->peer = fd;
	return fd >= 0;
}

static void open_unix(struct fixture *f, struct server *s)
{
	s->addr.sun_family = AF_UNIX;
	snprintf(s->addr.sun_path, sizeof(s->addr.sun_path), "/tmp/mayfly-net-%d", getpid());
	unlink(s->addr.sun_path);
	serve_listen(s);
	snprintf(f->cfg.host_dev_name, sizeof(f->cfg.host_dev_name), "unix:%s", s->addr.sun_path);
	close(f->peer);
	fixture_reopen(f);
	f->fd = s->listening;
	serve_until(f, accepted);
}

static void test_reconnects(void **state)
{
	struct fixture *f = *state;
	struct server s = { 0 };
	unsigned int i;

	open_unix(f, &s);
	for (i = 0; i < 4; i++)
		offer_rx(f, i, 1536);
	notify(f, NET_RX);
	/* It dies in the middle of a frame: that one is lost, and nothing of it is taken for the next. */
	send_all(f, wire, put_frame(0, 100, 1) - 50);
	serve_once(f);
	close(f->peer);
	close(s.listening);
	unlink(s.addr.sun_path);
	serve_once(f);
	offer_tx(f, 0, 60, 1);
	notify(f, NET_TX);
	assert_int_equal(driver_used_idx(&f->tx), 1); /* dropped */
	/* It is away for more than one retry. */
	assert_false(serve_for(f, never, 300000000));
	serve_listen(&s);
	f->fd = s.listening;
	serve_until(f, accepted);
	send_all(f, wire, put_frame(0, 100, 2));
	wait_rx(f, 1);
	assert_true(is_pattern((const uint8_t *)rx_header(f, 0) + HDR, 100, 2, 0));
	offer_tx(f, 1, 60, 3);
	notify(f, NET_TX);
	recv_all(f, wire, 64);
	assert_true(is_pattern(wire + 4, 60, 3, 0));
	close(s.listening);
	unlink(s.addr.sun_path);
}

/* Lengths that no frame has end the connection, and a new one is made. */
static void test_nonsense(void **state)
{
	static const uint32_t lengths[] = { 0, 13, NET_FRAME_MAX + 1, 0x7fffffff, 0xffffffff };
	struct fixture *f = *state;
	struct server s = { 0 };
	unsigned int i;

	open_unix(f, &s);
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint32_t prefix = htonl(lengths[i]);
		size_t end = put_frame(0, 100, (uint8_t)i);
		char byte;

		offer_rx(f, 2 * i, 1536);
		offer_rx(f, 2 * i + 1, 1536);
		notify(f, NET_RX);
		memcpy(wire + end, &prefix, 4);
		send_all(f, wire, end + 4);
		wait_rx(f, (uint16_t)(i + 1));
		serve_once(f);
		assert_int_equal(recv(f->peer, &byte, 1, MSG_DONTWAIT), 0);
		close(f->peer);
		serve_until(f, accepted);
	}
	close(s.listening);
	unlink(s.addr.sun_path);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_stream, fixture_teardown)
		TEST(test_cut_anywhere),     TEST(test_many_at_once), TEST(test_large_frames), TEST(test_transmit),
		TEST(test_transmit_partial), TEST(test_reconnects),   TEST(test_nonsense),
	};

	return cmocka_run_group_tests_name("net_stream", tests, NULL, NULL);
}
