/* test_vsock_hostile.c: a vsock driver that breaks every rule, and a host that runs out of descriptors. */
#include "vsock_fixture.h"

/* ---- packets ---- */

/* What any packet may say without a connection: an RST to the same ports, or nothing; never a broken device. */
static void test_packets_of_nobody(void **state)
{
	struct fixture *f = *state;
	uint16_t op;

	for (op = 0; op < 20; op++) {
		send_op(f, op, 77, 88);
		if (op == VIRTIO_VSOCK_OP_RST)
			expect_nothing(f);
		else
			expect_op(f, VIRTIO_VSOCK_OP_RST, 77, 88);
	}
	send_op(f, UINT16_MAX, 77, 88);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 77, 88);
	expect_nothing(f);
	assert_int_equal(f->broken, 0);
}

static void test_other_addresses(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	hdr = packet(VIRTIO_VSOCK_OP_RW, port, 80, 1);
	hdr.src_cid = GUEST_CID + 1;
	send_packet(f, &hdr, "x", 1);
	hdr.src_cid = GUEST_CID | 1ull << 32;
	send_packet(f, &hdr, "x", 1);
	hdr.src_cid = GUEST_CID;
	hdr.dst_cid = 1;
	send_packet(f, &hdr, "x", 1);
	hdr.dst_cid = UINT64_MAX;
	send_packet(f, &hdr, "x", 1);
	expect_nothing(f);
	assert_true(quiet(fd));
}

static void test_other_types(void **state)
{
	static const uint16_t types[] = { 0, VIRTIO_VSOCK_TYPE_SEQPACKET, 3, UINT16_MAX };
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	unsigned int i;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		hdr = packet(VIRTIO_VSOCK_OP_REQUEST, 5000, 1, 0);
		hdr.type = types[i];
		send_packet(f, &hdr, NULL, 0);
		assert_true(receive(f));
		assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RST);
		assert_int_equal(f->last.type, types[i]);
		assert_int_equal(f->last.src_port, 5000);
		hdr.op = VIRTIO_VSOCK_OP_RST;
		send_packet(f, &hdr, NULL, 0);
		expect_nothing(f);
		/* Not for the stream of the same ports. */
		hdr = packet(VIRTIO_VSOCK_OP_RST, port, 80, 0);
		hdr.type = types[i];
		send_packet(f, &hdr, NULL, 0);
		assert_true(quiet(fd));
	}
}

/* Ends the connection with an RST, and the host's side with it. */
static void offence(struct fixture *f, uint16_t op, uint32_t len, uint32_t really)
{
	struct virtio_vsock_hdr hdr;
	static const uint8_t data[256];
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	hdr = packet(op, port, 80, len);
	send_packet(f, &hdr, data, really);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	assert_true(at_end(fd));
	close_fd(f, fd);
	expect_nothing(f);
	assert_int_equal(open_conns(f), 0);
}

static void test_offences(void **state)
{
	struct fixture *f = *state;

	offence(f, VIRTIO_VSOCK_OP_INVALID, 0, 0);
	offence(f, VIRTIO_VSOCK_OP_REQUEST, 0, 0);
	offence(f, VIRTIO_VSOCK_OP_RESPONSE, 0, 0);
	offence(f, 8, 0, 0);
	offence(f, UINT16_MAX, 0, 0);
	offence(f, VIRTIO_VSOCK_OP_RW, 1, 0);
	offence(f, VIRTIO_VSOCK_OP_RW, 101, 100);
	offence(f, VIRTIO_VSOCK_OP_RW, UINT32_MAX, 256);
	offence(f, VIRTIO_VSOCK_OP_RW, UINT32_MAX - 43, 256);
	offence(f, VIRTIO_VSOCK_OP_RW, VSOCK_BUF_SIZE + 1, 256);
	assert_int_equal(f->broken, 0);
}

/* Odd, but no offence. */
static void test_oddities(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	send_data(f, port, 80, NULL, 0);
	send_shutdown(f, port, 80, 0);
	send_shutdown(f, port, 80, 0xfffffffc);
	hdr = packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, 80, UINT32_MAX);
	send_packet(f, &hdr, NULL, 0);
	/* More in the chain than the header says. */
	hdr = packet(VIRTIO_VSOCK_OP_RW, port, 80, 3);
	send_packet(f, &hdr, "abcdef", 6);
	expect_nothing(f);
	hear(fd, "abc");
	send_op(f, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, 80);
	expect_op(f, VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, 80);
	assert_int_equal(f->last.fwd_cnt, 3);
}

static void test_data_after_the_end(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	send_shutdown(f, port, 80, VIRTIO_VSOCK_SHUTDOWN_SEND);
	send_data(f, port, 80, "more", 4);
	expect_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 0);
}

static void test_answers_nobody_asked_for(void **state)
{
	static const uint16_t ops[] = { VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_REQUEST,
					VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0 };
	struct fixture *f = *state;
	unsigned int i;
	uint32_t port;
	int fd;

	for (i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		fd = dial(f);
		port = request(f, fd, 9);
		send_op(f, ops[i], port, 9);
		assert_true(at_end(fd));
		expect_op(f, VIRTIO_VSOCK_OP_RST, port, 9);
	}
	assert_int_equal(open_conns(f), 0);
}

/* More packets that want an RST than there is room to note: the TX queue waits, and every one gets its answer. */
static void test_flood_without_rx(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	unsigned int i, n;

	for (i = 0; i < 100; i++) {
		hdr = packet(VIRTIO_VSOCK_OP_REQUEST, 5000 + i, i, 0);
		queue_tx(f, &hdr, NULL, 0);
		if (i % 50 == 49)
			notify(f, VSOCK_QUEUE_TX);
	}
	assert_int_equal(driver_used_idx(&f->tx), VSOCK_MAX_RESETS);
	f->hold_rx = false;
	offer_rx(f, 0, 4);
	notify(f, VSOCK_QUEUE_RX);
	for (n = 0; receive(f); n++)
		assert_int_equal(f->last.src_port, 5000 + n);
	assert_int_equal(n, 100);
	assert_int_equal(driver_used_idx(&f->tx), 100);
}

static int setup_without_rx(void **state)
{
	int ret = setup_inactive(state);

	if (ret)
		return ret;
	((struct fixture *)*state)->hold_rx = true;
	activate(*state);
	return 0;
}

/* ---- rings ---- */

static void expect_broken(struct fixture *f)
{
	uint32_t port = 0;
	int fd;

	assert_int_equal(f->broken, 1);
	assert_false(f->dev->active);
	/* A reset brings it back. */
	reset_device(f);
	f->broken = 0;
	f->hold_rx = false;
	activate(f);
	fd = open_from_host(f, 80, &port);
	say(f, fd, "alive");
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	send_op(f, VIRTIO_VSOCK_OP_RST, port, 80);
	close_fd(f, fd);
}

static void test_bad_tx_chains(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	/* No room for a header; the open connection ends. */
	driver_desc(&f->tx, 0, TX_GPA(0), 43, 0, 0);
	driver_offer(&f->tx, 0);
	notify(f, VSOCK_QUEUE_TX);
	assert_true(at_end(fd));
	expect_broken(f);
	/* A device-writable buffer. */
	driver_desc(&f->tx, 0, TX_GPA(0), 44, VRING_DESC_F_NEXT, 1);
	driver_desc(&f->tx, 1, TX_GPA(1), 10, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->tx, 0);
	notify(f, VSOCK_QUEUE_TX);
	expect_broken(f);
	/* Memory that is not there. */
	driver_desc(&f->tx, 0, 1ull << 40, 44, 0, 0);
	driver_offer(&f->tx, 0);
	notify(f, VSOCK_QUEUE_TX);
	expect_broken(f);
	/* More chains than the ring has room for. */
	f->tx.avail->idx = (uint16_t)(f->tx.avail->idx + 300);
	notify(f, VSOCK_QUEUE_TX);
	expect_broken(f);
}

static void bad_rx(struct fixture *f, uint64_t gpa, uint32_t len, uint16_t flags)
{
	ring_init(f, &f->rx, VSOCK_QUEUE_RX);
	driver_desc(&f->rx, 0, gpa, len, flags, 0);
	driver_offer(&f->rx, 0);
	/* Looked at when there is something to say. */
	send_op(f, VIRTIO_VSOCK_OP_RW, 1, 1);
	expect_broken(f);
}

static void test_bad_rx_chains(void **state)
{
	struct fixture *f = *state;

	bad_rx(f, RX_GPA(0), 44, VRING_DESC_F_WRITE);
	bad_rx(f, RX_GPA(0), 10, VRING_DESC_F_WRITE);
	bad_rx(f, RX_GPA(0), 4096, 0);
	bad_rx(f, (MEM_MIB << 20) - 100, 4096, VRING_DESC_F_WRITE);
	/* A device-readable part before a good one. */
	ring_init(f, &f->rx, VSOCK_QUEUE_RX);
	driver_desc(&f->rx, 0, RX_GPA(0), 8, VRING_DESC_F_NEXT, 1);
	driver_desc(&f->rx, 1, RX_GPA(1), RX_SIZE, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->rx, 0);
	send_op(f, VIRTIO_VSOCK_OP_RW, 1, 1);
	expect_broken(f);
	f->hold_rx = true;
	driver_desc(&f->event, 0, TX_GPA(0), 3, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->event, 0);
	vsock_transport_reset(f->v);
	pump(f);
	expect_broken(f);
}

/* Good buffers first, a bad one among those that one read would fill: nothing that was read is lost on the way. */
static void test_bad_chain_in_a_batch(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[20000];
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	f->hold_rx = true;
	ring_init(f, &f->rx, VSOCK_QUEUE_RX);
	offer_rx(f, 0, 3);
	driver_desc(&f->rx, 3, RX_GPA(3), 12, VRING_DESC_F_WRITE, 0);
	driver_offer(&f->rx, 3);
	say_bytes(f, fd, data, sizeof(data));
	assert_int_equal(f->broken, 1);
	assert_true(at_end(fd));
	expect_broken(f);
}

static void test_queues_not_set_up(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = dial(f);

	f->dev->queue[VSOCK_QUEUE_RX].ready = false;
	f->dev->queue[VSOCK_QUEUE_EVENT].ready = false;
	say(f, fd, "CONNECT 80\n");
	send_op(f, VIRTIO_VSOCK_OP_RW, 1, 1);
	vsock_transport_reset(f->v);
	pump(f);
	reset_device(f);
	activate(f);
	assert_true(receive(f));
	port = f->last.src_port;
	assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_REQUEST);
	send_op(f, VIRTIO_VSOCK_OP_RESPONSE, port, 80);
	hear_ok(fd, port);
	assert_int_equal(f->broken, 0);
}

/* Random packets over a few ports: whatever happens, the device keeps its books and comes to rest. */
static void test_random_packets(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[70000];
	struct virtio_vsock_hdr hdr;
	unsigned int i, seed = 1;
	uint32_t len;
	int fd[3];

	listen_on(f, 1, 2);
	listen_on(f, 2, 100);
	for (i = 0; i < 20000; i++) {
		len = rand_r(&seed) % 4 ? 0 : (uint32_t)rand_r(&seed) % (uint32_t)sizeof(data);
		hdr = packet((uint16_t)(rand_r(&seed) % 9), (uint32_t)rand_r(&seed) % 4, (uint32_t)rand_r(&seed) % 6,
			     rand_r(&seed) % 3 ? len : (uint32_t)rand_r(&seed));
		hdr.flags = (uint32_t)rand_r(&seed) % 4;
		hdr.fwd_cnt = (uint32_t)rand_r(&seed) % 3 * 1000;
		/* Host ports of connections from the host are in reach, too. */
		if (rand_r(&seed) % 2)
			hdr.dst_port = f->v->last_host_port - (uint32_t)rand_r(&seed) % 4;
		send_packet(f, &hdr, data, len);
		if (i % 50 == 0 && f->nr_fds + 8 < 200) {
			fd[0] = dial(f);
			say(f, fd[0], i % 100 ? "CONNECT 1 100\nhello" : "CONNECT 2\n");
		}
		if (i % 97 == 0 && f->nr_fds > 10)
			close_fd(f, f->fds[2 + (unsigned int)rand_r(&seed) % (f->nr_fds - 2)]);
		while (receive(f))
			;
		if (i % 1000 == 0)
			pass_time(f, VSOCK_PATIENCE_NS);
	}
	assert_int_equal(f->broken, 0);
	while (f->nr_fds)
		close_fd(f, f->fds[0]);
	reset_device(f);
	assert_int_equal(open_conns(f), 0);
}

/* ---- the host runs out ---- */

/* Use up all descriptors but `left`. */
static void use_up_fds(struct fixture *f, unsigned int left)
{
	struct rlimit files;
	int fd = dup(0);

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = (rlim_t)fd + left;
	close(fd);
	setrlimit(RLIMIT_NOFILE, &files);
	while ((fd = dup(0)) >= 0 && left)
		left--, keep_fd(f, fd);
	if (fd >= 0)
		keep_fd(f, fd);
}

static void restore_fds(void)
{
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = MAX_FDS;
	setrlimit(RLIMIT_NOFILE, &files);
}

static bool accepted(const struct fixture *f)
{
	return open_conns(f) != 0;
}

static void test_no_descriptors(void **state)
{
	struct fixture *f = *state;
	uint64_t end = event_loop_now_ns() + 10000000000ull;
	unsigned int turns;
	int fd;

	listen_on(f, 5000, 5);
	fd = dial(f);
	use_up_fds(f, 0);
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 5000, 1);
	/* The host's connection waits in the backlog, and the loop sleeps meanwhile. */
	pump(f);
	turns = f->turns;
	pump(f);
	assert_int_equal(f->turns, turns + 1);
	assert_true(f->v->listener.retry.armed);
	assert_int_equal(open_conns(f), 0);
	restore_fds();
	while (!accepted(f) && event_loop_now_ns() < end)
		pump(f);
	request(f, fd, 80);
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_packets_of_nobody),
		TEST(test_other_addresses),
		TEST(test_other_types),
		TEST(test_offences),
		TEST(test_oddities),
		TEST(test_data_after_the_end),
		TEST(test_answers_nobody_asked_for),
		cmocka_unit_test_setup_teardown(test_flood_without_rx, setup_without_rx, teardown),
		TEST(test_bad_tx_chains),
		TEST(test_bad_rx_chains),
		TEST(test_bad_chain_in_a_batch),
		TEST(test_queues_not_set_up),
		TEST(test_random_packets),
		TEST(test_no_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
