/* test_vsock.c: connections through the vsock device: how they begin and end, from either side. */
#include "vsock_fixture.h"

/* ---- from the host ---- */

static void test_connect(void **state)
{
	struct fixture *f = *state;
	uint32_t port, other;
	int fd = open_from_host(f, 80, &port);
	int fd2 = open_from_host(f, 80, &other);

	assert_true(port >= 1u << 30 && other != port);
	say(f, fd, "hello");
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_int_equal(f->last.len, 5);
	assert_memory_equal(f->payload, "hello", 5);
	send_data(f, other, 80, "second", 6);
	send_data(f, port, 80, "first", 5);
	hear(fd, "first");
	hear(fd2, "second");
	expect_nothing(f);
	assert_int_equal(f->broken, 0);
}

static void test_connect_byte_by_byte(void **state)
{
	static const char line[] = "connect\t4294967295 \r\nrest";
	struct fixture *f = *state;
	int fd = dial(f);
	const char *c;
	uint32_t port;

	for (c = line; *c; c++) {
		if (c > strchr(line, '\n'))
			assert_false(receive(f) && f->last.op != VIRTIO_VSOCK_OP_REQUEST);
		else
			assert_false(receive(f));
		say_bytes(f, fd, c, 1);
	}
	port = f->last.src_port;
	assert_int_equal(f->last.dst_port, UINT32_MAX);
	assert_true(quiet(fd));
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, UINT32_MAX);
	hear_ok(fd, port);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, UINT32_MAX);
	assert_int_equal(f->last.len, 4);
	assert_memory_equal(f->payload, "rest", 4);
}

static void test_malformed_lines(void **state)
{
	static const char *const lines[] = {
		"\n",
		"CONNECT\n",
		"CONNECT \n",
		"CONNECT x\n",
		"CONNECT -1\n",
		"CONNECT +1\n",
		"CONNECT 1x\n",
		"CONNECT 0x10\n",
		"CONNECT 4294967296\n",
		"CONNECT 99999999999999999999\n",
		"CONNECT 1 2 3\n",
		"CONNECT 1 x\n",
		"CONNECT 1 4294967296\n",
		"CONNECTED 1\n",
		"CONNEC 1\n",
		"GET / HTTP/1.1\n",
		"CONNECT 1 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	};
	struct fixture *f = *state;
	unsigned int i;
	int fd;

	for (i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		fd = dial(f);
		say(f, fd, lines[i]);
		assert_true(at_end(fd));
		expect_nothing(f);
	}
	fd = dial(f);
	say_bytes(f, fd, "CONNECT\0001\n", 10);
	assert_true(at_end(fd));
	/* One that goes away before it has said all. */
	fd = dial(f);
	say(f, fd, "CONNECT 1");
	close_fd(f, fd);
	expect_nothing(f);
	assert_int_equal(open_conns(f), 0);
}

static void test_nobody_listens(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f);
	uint32_t port = request(f, fd, 9);

	send_op(f, VIRTIO_VSOCK_OP_RST, port, 9);
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 0);
	expect_nothing(f);
}

static void test_guest_never_answers(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f);
	uint32_t port = request(f, fd, 9);

	pass_time(f, VSOCK_PATIENCE_NS / 2);
	assert_true(quiet(fd));
	pass_time(f, VSOCK_PATIENCE_NS / 2);
	assert_true(at_end(fd));
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 9);
	assert_int_equal(open_conns(f), 0);
}

static void test_host_gives_up(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f);
	uint32_t port = request(f, fd, 9);

	close_fd(f, fd);
	pump(f);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 9);
	/* The guest's answer comes too late. */
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, 9);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 9);
	assert_int_equal(open_conns(f), 0);
}

/* Run until the next packet for the guest; fails after 10 s. */
static void wait_for_packet(struct fixture *f)
{
	uint64_t end = event_loop_now_ns() + 10000000000ull;

	while (driver_used_idx(&f->rx) == f->rx.seen_used && event_loop_now_ns() < end)
		pump(f);
}

static void test_connect_waits(void **state)
{
	struct fixture *f = *state;
	uint64_t start = event_loop_now_ns();
	unsigned int i;
	uint32_t port;
	int fd = dial(f);

	say(f, fd, "CONNECT 7 60000\n");
	expect_op(f, VIRTIO_VSOCK_OP_REQUEST, 1u << 30, 7);
	port = f->last.src_port;
	for (i = 0; i < 8; i++) {
		send_op(f, VIRTIO_VSOCK_OP_RST, port, 7);
		assert_true(quiet(fd));
		wait_for_packet(f);
		expect_op(f, VIRTIO_VSOCK_OP_REQUEST, port, 7);
	}
	/* 1 + 2 + 4 + 8 + 16 + 32 + 50 + 50 ms: it did not ask as fast as it could. */
	assert_true(event_loop_now_ns() - start >= 163 * 1000000ull);
	assert_int_equal(f->announced, 0);
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, 7);
	hear_ok(fd, port);
	assert_int_equal(f->announced, 1);
	assert_int_equal(f->last_announced, 7);
	/* Neither the second on that port nor one that does not wait is news. */
	fd = dial(f);
	say(f, fd, "CONNECT 7 1000\n");
	assert_true(receive(f));
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, f->last.src_port, 7);
	open_from_host(f, 8, &port);
	assert_int_equal(f->announced, 1);
	/* The time is over once there is an answer. */
	pass_time(f, 61000000000ull);
	expect_nothing(f);
	assert_int_equal(open_conns(f), 3);
}

static void test_connect_waits_in_vain(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f), fd2 = dial(f);
	uint32_t port;

	say(f, fd, "CONNECT 7 5000\n");
	assert_true(receive(f));
	port = f->last.src_port;
	send_op(f, VIRTIO_VSOCK_OP_RST, port, 7);
	pass_time(f, 4000000000ull);
	assert_true(quiet(fd));
	/* A request that is out when the time is over is taken back. */
	say(f, fd2, "CONNECT 8 500\n");
	pass_time(f, 5000000000ull);
	assert_true(at_end(fd));
	assert_true(at_end(fd2));
	while (receive(f) && f->last.dst_port == 7)
		assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(f->last.dst_port, 8);
	expect_op(f, VIRTIO_VSOCK_OP_RST, f->last.src_port, 8);
	assert_int_equal(open_conns(f), 0);
}

static void test_before_the_driver(void **state)
{
	struct fixture *f = *state;
	int fd = dial(f), timed = dial(f), gone = dial(f), late = dial(f);
	uint32_t port;

	say(f, fd, "CONNECT 1\nearly");
	say(f, timed, "CONNECT 2 60000\n");
	say(f, gone, "CONNECT 3\n");
	say(f, late, "CONNECT 4 1000\n");
	close_fd(f, gone);
	pass_time(f, 30000000000ull);
	assert_true(quiet(fd) && quiet(timed));
	assert_true(at_end(late));
	activate(f);
	expect_op(f, VIRTIO_VSOCK_OP_REQUEST, f->v->conn[0].host_port, 1);
	port = f->last.src_port;
	assert_true(receive(f));
	assert_int_equal(f->last.dst_port, 2);
	expect_nothing(f);
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, 1);
	hear_ok(fd, port);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 1);
	assert_int_equal(f->last.len, 5);
}

/* ---- from the guest ---- */

static void test_guest_connects(void **state)
{
	struct fixture *f = *state;
	int listener = listen_on(f, 5000, 5);
	int fd;

	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1234);
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1234);
	assert_int_equal(f->last.buf_alloc, VSOCK_BUF_SIZE);
	fd = accept_on(f, listener);
	send_data(f, 5000, 1234, "ping", 4);
	hear(fd, "ping");
	say(f, fd, "pong");
	expect_op(f, VIRTIO_VSOCK_OP_RW, 5000, 1234);
	assert_memory_equal(f->payload, "pong", 4);
	/* A server that speaks first. */
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1235);
	say(f, accept_on(f, listener), "hi");
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1235);
	expect_op(f, VIRTIO_VSOCK_OP_RW, 5000, 1235);
}

static void test_guest_connects_in_vain(void **state)
{
	struct fixture *f = *state;

	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1234);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 5000, 1234);
	close_fd(f, listen_on(f, 5001, 5)); /* its file is still there */
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5001, 1234);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 5001, 1234);
	memset(f->v->uds_path + strlen(f->v->uds_path), 'x', sizeof(f->v->uds_path) - 3 - strlen(f->v->uds_path));
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5002, 1234);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 5002, 1234);
	memcpy(f->v->uds_path, f->cfg.uds_path, sizeof(f->v->uds_path));
	assert_int_equal(open_conns(f), 0);
}

static void test_listener_is_busy(void **state)
{
	struct fixture *f = *state;
	int listener = listen_on(f, 5000, 0);
	unsigned int i;

	/* A backlog of 0 holds one. */
	for (i = 0; i < 3; i++)
		send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, i);
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 0);
	expect_nothing(f);
	accept_on(f, listener);
	wait_for_packet(f);
	assert_true(receive(f));
	assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RESPONSE);
	i = f->last.dst_port == 1 ? 2 : 1;
	pass_time(f, VSOCK_PATIENCE_NS);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 5000, i);
	assert_int_equal(open_conns(f), 2);
	/* One that waits when its listener ends. */
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 7);
	expect_nothing(f);
	close_fd(f, listener);
	wait_for_packet(f);
	while (receive(f) && f->last.dst_port != 7)
		;
	assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RST);
}

static void test_ports_anew(void **state)
{
	struct fixture *f = *state;
	int listener = listen_on(f, 5000, 5);
	int fd;

	f->hold_rx = true;
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	fd = accept_on(f, listener);
	/* Used up, so that the RST waits. */
	while (f->rx.vq->next_avail != f->rx.avail_idx)
		send_op(f, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 5000, 1);
	send_shutdown(f, 5000, 1, VSOCK_SHUTDOWN_BOTH);
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 1);
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	fd = accept_on(f, listener);
	while (receive(f))
		assert_int_not_equal(f->last.op, VIRTIO_VSOCK_OP_RST);
	f->hold_rx = false;
	offer_rx(f, 0, 8);
	notify(f, VSOCK_QUEUE_RX);
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1);
	expect_nothing(f);
	send_data(f, 5000, 1, "new", 3);
	hear(fd, "new");
}

/* ---- the end ---- */

static void test_host_closes(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	say(f, fd, "last words");
	close_fd(f, fd);
	pump(f);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	expect_shutdown(f, port, 80, VSOCK_SHUTDOWN_BOTH);
	send_data(f, port, 80, "too late", 8);
	expect_nothing(f);
	send_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	expect_nothing(f);
	assert_int_equal(open_conns(f), 0);
}

static void test_host_closes_and_guest_does_not(void **state)
{
	static const uint8_t late[40000];
	struct fixture *f = *state;
	uint32_t port, i;

	close_fd(f, open_from_host(f, 80, &port));
	pump(f);
	expect_shutdown(f, port, 80, VSOCK_SHUTDOWN_BOTH);
	/* What it still sends is thrown away, and its credit comes back. */
	for (i = 1; i <= 3; i++) {
		send_data(f, port, 80, late, sizeof(late));
		expect_op(f, VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, 80);
		assert_int_equal(f->last.fwd_cnt, i * sizeof(late));
	}
	pass_time(f, VSOCK_PATIENCE_NS - 1000000000ull);
	expect_nothing(f);
	pass_time(f, 1000000000ull);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	assert_int_equal(open_conns(f), 0);
}

static void test_host_half_closes(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	say(f, fd, "question");
	shutdown(fd, SHUT_WR);
	pump(f);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	expect_shutdown(f, port, 80, VIRTIO_VSOCK_SHUTDOWN_SEND);
	pass_time(f, 10 * VSOCK_PATIENCE_NS);
	send_data(f, port, 80, "answer", 6);
	send_shutdown(f, port, 80, VSOCK_SHUTDOWN_BOTH);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	hear(fd, "answer");
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 0);
}

static void test_guest_half_closes(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	send_data(f, port, 80, "question", 8);
	send_shutdown(f, port, 80, VIRTIO_VSOCK_SHUTDOWN_SEND);
	hear(fd, "question");
	assert_true(at_end(fd));
	expect_nothing(f);
	pass_time(f, 10 * VSOCK_PATIENCE_NS);
	say(f, fd, "answer");
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	close_fd(f, fd);
	pump(f);
	expect_shutdown(f, port, 80, VSOCK_SHUTDOWN_BOTH);
	send_shutdown(f, port, 80, VSOCK_SHUTDOWN_BOTH);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	assert_int_equal(open_conns(f), 0);
}

static void test_guest_stops_reading(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	send_shutdown(f, port, 80, VIRTIO_VSOCK_SHUTDOWN_RCV);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	send_data(f, port, 80, "still", 5);
	hear(fd, "still");
	close_fd(f, fd);
	pump(f);
	expect_shutdown(f, port, 80, VSOCK_SHUTDOWN_BOTH);
	send_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	assert_int_equal(open_conns(f), 0);
}

static void test_guest_resets(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	send_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	assert_true(at_end(fd));
	expect_nothing(f);
	assert_int_equal(open_conns(f), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_connect),
		TEST(test_connect_byte_by_byte),
		TEST(test_malformed_lines),
		TEST(test_nobody_listens),
		TEST(test_guest_never_answers),
		TEST(test_host_gives_up),
		TEST(test_connect_waits),
		TEST(test_connect_waits_in_vain),
		cmocka_unit_test_setup_teardown(test_before_the_driver, setup_inactive, teardown),
		TEST(test_guest_connects),
		TEST(test_guest_connects_in_vain),
		TEST(test_listener_is_busy),
		TEST(test_ports_anew),
		TEST(test_host_closes),
		TEST(test_host_closes_and_guest_does_not),
		TEST(test_host_half_closes),
		TEST(test_guest_half_closes),
		TEST(test_guest_stops_reading),
		TEST(test_guest_resets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
