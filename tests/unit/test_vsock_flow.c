/* test_vsock_flow.c: bytes through vsock connections: credit both ways, slow peers, full rings, a thousand at once. */
#include "vsock_fixture.h"

#define CHUNK 4096u

/* The byte at offset of a stream; streams differ. */
static uint8_t stream_byte(uint32_t stream, uint64_t offset)
{
	return (uint8_t)(stream * 31 + offset * 7 + (offset >> 8) + (offset >> 16));
}

static void fill(uint8_t *buf, uint32_t stream, uint64_t offset, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = stream_byte(stream, offset + i);
}

static void check(const uint8_t *buf, uint32_t stream, uint64_t offset, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++) {
		if (buf[i] != stream_byte(stream, offset + i))
			fail_msg("stream %u differs at %lu", stream, offset + i);
	}
}

/* Write as much of the stream as the socket takes, up to len; how much. */
static size_t host_writes(int fd, uint32_t stream, uint64_t offset, size_t len)
{
	static uint8_t buf[CHUNK];
	size_t done = 0, part;
	ssize_t n;

	do {
		part = len - done < CHUNK ? len - done : CHUNK;
		fill(buf, stream, offset + done, part);
		n = write(fd, buf, part);
		done += n > 0 ? (size_t)n : 0;
	} while (n > 0 && done < len);
	return done;
}

/* Read and check what is there; how much. */
static size_t host_reads(int fd, uint32_t stream, uint64_t offset, size_t most)
{
	static uint8_t buf[CHUNK];
	size_t done = 0;
	ssize_t n;

	while (done < most && (n = read(fd, buf, most - done < CHUNK ? most - done : CHUNK)) > 0) {
		check(buf, stream, offset + done, (size_t)n);
		done += (size_t)n;
	}
	return done;
}

/* ---- host to guest ---- */

static void test_host_to_guest(void **state)
{
	struct fixture *f = *state;
	uint64_t written = 0, got = 0, packets = 0;
	const uint64_t total = 3u << 20;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	while (got < total) {
		written += host_writes(fd, 1, written, total - written);
		pump(f);
		while (receive(f)) {
			assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RW);
			check(f->payload, 1, got, f->last.len);
			got += f->last.len;
			packets++;
			if (packets % 16 == 0)
				send_credit(f, port, 80, ALLOC, (uint32_t)got);
		}
		send_credit(f, port, 80, ALLOC, (uint32_t)got);
	}
	assert_int_equal(got, total);
	/* Buffers were filled, not only used: 768 would do. */
	assert_in_range(packets, 768, 800);
	expect_nothing(f);
}

static void test_guest_credit(void **state)
{
	struct fixture *f = *state;
	uint64_t got = 0;
	uint32_t port, other;
	int fd = open_from_host(f, 80, &port);

	send_credit(f, port, 80, 1000, 0);
	assert_int_equal(host_writes(fd, 1, 0, 30000), 30000);
	pump(f);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_int_equal(f->last.len, 1000);
	/* It asks once, also when the answer is no. */
	expect_op(f, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, 80);
	send_credit(f, port, 80, 1000, 0);
	say(f, fd, "more");
	expect_nothing(f);
	send_credit(f, port, 80, 1000, 300);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_int_equal(f->last.len, 300);
	expect_op(f, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, 80);
	/* A smaller buffer, and one that has read more than it got: no credit, and no harm. */
	send_credit(f, port, 80, 500, 300);
	send_credit(f, port, 80, 1000, 5000);
	expect_nothing(f);
	/* Another connection goes on. */
	say(f, open_from_host(f, 81, &other), "hello");
	expect_op(f, VIRTIO_VSOCK_OP_RW, other, 81);
	send_credit(f, port, 80, 1u << 20, 1300);
	for (got = 1300; receive(f); got += f->last.len) {
		assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RW);
		check(f->payload, 1, got, got + f->last.len > 30000 ? 30000 - got : f->last.len);
	}
	assert_int_equal(got, 30004);
}

/* Counters are 32 bits and wrap. */
static void test_counters_wrap(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd = open_from_host(f, 80, &port);
	struct vsock_conn *conn = vsock_table_find(f->v, port, 80);

	conn->sent = conn->fwd_cnt = conn->told_fwd_cnt = UINT32_MAX - 10;
	send_credit(f, port, 80, 100, UINT32_MAX - 10);
	host_writes(fd, 1, 0, 300);
	pump(f);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_int_equal(f->last.len, 100);
	expect_op(f, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port, 80);
	send_credit(f, port, 80, 100, 89);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_int_equal(f->last.len, 100);
	send_data(f, port, 80, "0123456789abcdef0123", 20);
	assert_int_equal(conn->fwd_cnt, 9);
}

/* No RX buffers for a while: everything waits, nothing is lost, turns are taken when it goes on. */
static void test_full_rx_ring(void **state)
{
	struct fixture *f = *state;
	uint64_t got[4] = { 0 }, sum = 0;
	uint32_t port[4], i, n, c;
	int fd[4];

	for (i = 0; i < 4; i++)
		fd[i] = open_from_host(f, 80 + i, &port[i]);
	f->hold_rx = true;
	while (f->rx.vq->next_avail != f->rx.avail_idx) {
		send_op(f, VIRTIO_VSOCK_OP_CREDIT_REQUEST, port[0], 80);
		assert_true(receive(f));
	}
	for (i = 0; i < 4; i++)
		assert_int_equal(host_writes(fd[i], i, 0, 100000), 100000);
	pump(f);
	assert_false(receive(f));
	f->hold_rx = false;
	offer_rx(f, 0, 1);
	notify(f, VSOCK_QUEUE_RX);
	for (n = 0; receive(f); n++) {
		c = f->last.dst_port - 80;
		assert_in_range(c, 0, 3);
		check(f->payload, c, got[c], f->last.len);
		got[c] += f->last.len;
		sum += f->last.len;
		/* One buffer at a time, and four who want it. */
		if (n < 80)
			assert_in_range(got[c], n / 4 * 4096, (n / 4 + 1) * 4096);
	}
	assert_int_equal(sum, 400000);
}

/* One who has much to say does not keep another from being heard. */
static void test_turns(void **state)
{
	struct fixture *f = *state;
	uint32_t port[2], first_of_b = 0, n;
	int a = open_from_host(f, 80, &port[0]), b = open_from_host(f, 81, &port[1]);

	vsock_pause(f->v);
	host_writes(a, 1, 0, 200000);
	assert_int_equal(write(b, "x", 1), 1);
	pump(f);
	vsock_resume(f->v);
	for (n = 1; receive(f); n++) {
		if (f->last.dst_port == 81)
			first_of_b = n;
	}
	assert_in_range(first_of_b, 1, VSOCK_BATCH + 1);
}

/* RX buffers in several pieces, header and payload cut anywhere. */
static void test_rx_in_pieces(void **state)
{
	static const uint32_t cut[] = { 1, 42, 3, 4000, 94 };
	struct fixture *f = *state;
	uint64_t at = RX_GPA(0);
	uint32_t port, i;
	int fd;

	fd = open_from_host(f, 80, &port);
	f->hold_rx = true;
	ring_init(f, &f->rx, VSOCK_QUEUE_RX);
	for (i = 0; i < 5; at += cut[i], i++)
		driver_desc(&f->rx, i, at, cut[i], VRING_DESC_F_WRITE | (i < 4 ? VRING_DESC_F_NEXT : 0),
			    (uint16_t)(i + 1));
	driver_offer(&f->rx, 0);
	host_writes(fd, 5, 0, 4096);
	notify(f, VSOCK_QUEUE_RX);
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_int_equal(f->last.len, 4096);
	check(f->payload, 5, 0, 4096);
}

/* ---- guest to host ---- */

/* The guest's side of the credit for one connection. */
struct sender {
	uint32_t port, guest_port, stream;
	uint64_t sent, total;
	uint32_t alloc, fwd;
};

static void note_credit(struct fixture *f, struct sender *s)
{
	if (f->last.src_port == s->port && f->last.dst_port == s->guest_port) {
		s->alloc = f->last.buf_alloc;
		s->fwd = f->last.fwd_cnt;
	}
}

/* Send what credit allows. */
static void send_more(struct fixture *f, struct sender *s)
{
	static uint8_t buf[65536];
	uint32_t credit, part;

	for (;;) {
		while (receive(f)) {
			assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
			note_credit(f, s);
		}
		credit = s->alloc - ((uint32_t)s->sent - s->fwd);
		part = credit < sizeof(buf) ? credit : sizeof(buf);
		if (part > s->total - s->sent)
			part = (uint32_t)(s->total - s->sent);
		if (!part)
			return;
		fill(buf, s->stream, s->sent, part);
		send_data(f, s->port, s->guest_port, buf, part);
		s->sent += part;
	}
}

static void test_guest_to_host(void **state)
{
	struct fixture *f = *state;
	struct sender s = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	int fd = open_from_host(f, 80, &s.port);
	uint64_t got = 0;

	while (got < s.total) {
		send_more(f, &s);
		got += host_reads(fd, 3, got, 100000);
		pump(f);
	}
	assert_int_equal(got, s.total);
	assert_null(vsock_table_find(f->v, s.port, 80)->buf);
	assert_int_equal(f->broken, 0);
}

/* A host program that reads nothing stalls its connection, and no other. */
static void test_slow_reader(void **state)
{
	struct fixture *f = *state;
	struct sender slow = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE },
		      quick = slow;
	int slow_fd = open_from_host(f, 80, &slow.port), quick_fd;
	struct vsock_conn *conn;
	uint64_t got = 0, quick_got = 0;
	unsigned int turns;

	send_more(f, &slow);
	conn = vsock_table_find(f->v, slow.port, 80);
	assert_int_equal(conn->buf_len, VSOCK_BUF_SIZE);
	assert_in_range(slow.sent, VSOCK_BUF_SIZE, slow.total - 1);
	/* The loop sleeps meanwhile. */
	turns = f->turns;
	pump(f);
	pump(f);
	assert_int_equal(f->turns, turns + 2);

	quick.guest_port = 81;
	quick_fd = open_from_host(f, 81, &quick.port);
	while (quick_got < quick.total) {
		send_more(f, &quick);
		quick_got += host_reads(quick_fd, 3, quick_got, 1u << 20);
		pump(f);
	}
	assert_int_equal(conn->buf_len, VSOCK_BUF_SIZE);
	while (got < slow.total) {
		send_more(f, &slow);
		got += host_reads(slow_fd, 3, got, 5000);
		pump(f);
	}
	assert_int_equal(got, slow.total);
}

/* The socket has room again, but what is buffered has not gone yet: it goes first. */
static void test_order_behind_backlog(void **state)
{
	struct fixture *f = *state;
	struct sender s = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	struct virtio_vsock_hdr hdr;
	static uint8_t buf[1000];
	uint64_t got;
	int fd = open_from_host(f, 80, &s.port);
	const struct vsock_conn *conn = vsock_table_find(f->v, s.port, 80);

	while (!conn->buf_len) {
		fill(buf, 3, s.sent, sizeof(buf));
		send_data(f, s.port, 80, buf, sizeof(buf));
		s.sent += sizeof(buf);
	}
	got = host_reads(fd, 3, 0, 100000);
	fill(buf, 3, s.sent, sizeof(buf));
	hdr = packet(VIRTIO_VSOCK_OP_RW, s.port, 80, sizeof(buf));
	queue_tx(f, &hdr, buf, sizeof(buf));
	f->dev->ops->notify(f->dev, VSOCK_QUEUE_TX);
	s.sent += sizeof(buf);
	while (got < s.sent) {
		got += host_reads(fd, 3, got, s.sent - got);
		pump(f);
	}
}

/* A connection ends while it waits for its turn and another takes its place; those behind it are not forgotten. */
static void test_end_in_the_queue(void **state)
{
	struct fixture *f = *state;
	uint32_t port[3], i, seen = 0;
	int fd[3];

	for (i = 0; i < 3; i++)
		fd[i] = open_from_host(f, 80 + i, &port[i]);
	f->hold_rx = true;
	ring_init(f, &f->rx, VSOCK_QUEUE_RX);
	for (i = 0; i < 3; i++)
		say(f, fd[i], "x");
	send_op(f, VIRTIO_VSOCK_OP_RST, port[1], 81);
	say(f, dial(f), "CONNECT 90\n");
	offer_rx(f, 0, 10);
	notify(f, VSOCK_QUEUE_RX);
	while (receive(f))
		seen |= 1u << (f->last.dst_port - 80);
	assert_int_equal(seen, 1u << 0 | 1u << 2 | 1u << 10);
}

static void test_credit_overrun(void **state)
{
	struct fixture *f = *state;
	struct sender s = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	int fd = open_from_host(f, 80, &s.port);
	uint64_t got;

	send_more(f, &s);
	send_data(f, s.port, 80, "x", 1);
	expect_op(f, VIRTIO_VSOCK_OP_RST, s.port, 80);
	/* What came before the offence and had been passed on is there. */
	got = host_reads(fd, 3, 0, s.total);
	assert_int_equal(got, s.sent - VSOCK_BUF_SIZE);
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 0);
	assert_int_equal(f->broken, 0);
}

/* The guest sends, closes and is done; what it sent arrives, however slowly it is read. */
static void test_guest_closes_with_backlog(void **state)
{
	struct fixture *f = *state;
	struct sender s = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	int fd = open_from_host(f, 80, &s.port);
	uint64_t got = 0;

	send_more(f, &s);
	send_shutdown(f, s.port, 80, VSOCK_SHUTDOWN_BOTH);
	expect_op(f, VIRTIO_VSOCK_OP_RST, s.port, 80);
	assert_null(vsock_table_find(f->v, s.port, 80));
	pass_time(f, 10 * VSOCK_PATIENCE_NS);
	reset_device(f);
	while (got < s.sent) {
		got += host_reads(fd, 3, got, 5000);
		pump(f);
	}
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 0);
}

/* … and the same when it only half-closes: the end comes after the backlog. */
static void test_guest_half_closes_with_backlog(void **state)
{
	struct fixture *f = *state;
	struct sender s = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	int fd = open_from_host(f, 80, &s.port);
	uint64_t got = 0;

	send_more(f, &s);
	send_shutdown(f, s.port, 80, VIRTIO_VSOCK_SHUTDOWN_SEND);
	while (got < s.sent) {
		got += host_reads(fd, 3, got, 5000);
		pump(f);
	}
	assert_true(at_end(fd));
	say(f, fd, "answer");
	while (receive(f) && f->last.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE)
		;
	assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RW);
}

static void test_reader_vanishes(void **state)
{
	struct fixture *f = *state;
	struct sender s = { .guest_port = 80, .stream = 3, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	int fd = open_from_host(f, 80, &s.port), fd2;

	send_more(f, &s);
	close_fd(f, fd);
	pump(f);
	/* Nobody reads, but the credit comes back: the guest is not left hanging. Unread bytes make it a reset. */
	while (receive(f) && f->last.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE)
		;
	assert_true(f->last.op == VIRTIO_VSOCK_OP_SHUTDOWN || f->last.op == VIRTIO_VSOCK_OP_RST);
	/* Over for the guest, waiting for a reader who goes away. */
	fd2 = open_from_host(f, 81, &s.port);
	s = (struct sender){ .port = s.port, .guest_port = 81, .total = 3u << 20, .alloc = VSOCK_BUF_SIZE };
	send_more(f, &s);
	send_shutdown(f, s.port, 81, VSOCK_SHUTDOWN_BOTH);
	assert_int_equal(f->v->conn[f->v->nr_fresh - 1].state, CONN_FLUSHING);
	close_fd(f, fd2);
	pump(f);
	expect_op(f, VIRTIO_VSOCK_OP_RST, s.port, 81);
	assert_int_equal(f->v->conn[f->v->nr_fresh - 1].state, CONN_FREE);
}

static void test_tx_in_pieces(void **state)
{
	static const uint32_t cut[] = { 3, 40, 2, 98, 1 };
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	uint8_t buf[144], got[100];
	uint64_t at = TX_GPA(0);
	uint32_t port, i;
	int fd = open_from_host(f, 80, &port);

	hdr = packet(VIRTIO_VSOCK_OP_RW, port, 80, 100);
	memcpy(buf, &hdr, sizeof(hdr));
	fill(buf + sizeof(hdr), 9, 0, 100);
	memcpy(guest(&f->gm, at), buf, sizeof(buf));
	for (i = 0; i < 5; at += cut[i], i++)
		driver_desc(&f->tx, i, at, cut[i], i < 4 ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
	driver_offer(&f->tx, 0);
	notify(f, VSOCK_QUEUE_TX);
	assert_int_equal(read(fd, got, sizeof(got)), 100);
	check(got, 9, 0, 100);
}

/* ---- many ---- */

static void test_a_thousand(void **state)
{
	struct fixture *f = *state;
	static uint32_t port[VSOCK_MAX_CONNS];
	static int fd[VSOCK_MAX_CONNS];
	unsigned int i, n = 0;
	char text[16];
	int extra;

	for (i = 0; i < VSOCK_MAX_CONNS; i++)
		fd[i] = open_from_host(f, 80, &port[i]);
	/* No room for one more, from either side. */
	listen_on(f, 5000, 5);
	extra = dial(f);
	pump(f);
	assert_true(at_end(extra));
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	expect_op(f, VIRTIO_VSOCK_OP_RST, 5000, 1);
	/* All speak at once. */
	for (i = 0; i < VSOCK_MAX_CONNS; i++) {
		n = (unsigned int)snprintf(text, sizeof(text), "%u", i);
		assert_int_equal(write(fd[i], text, n), n);
	}
	pump(f);
	for (n = 0; receive(f); n++) {
		assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_RW);
		send_data(f, f->last.src_port, 80, f->payload, f->last.len);
	}
	assert_int_equal(n, VSOCK_MAX_CONNS);
	for (i = 0; i < VSOCK_MAX_CONNS; i++) {
		snprintf(text, sizeof(text), "%u", i);
		hear(fd[i], text);
		close_fd(f, fd[i]);
	}
	pump(f);
	for (n = 0; receive(f); n++)
		send_op(f, VIRTIO_VSOCK_OP_RST, f->last.src_port, 80);
	assert_int_equal(n, VSOCK_MAX_CONNS);
	assert_int_equal(open_conns(f), 0);
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1);
}

/* A kick with more work than a turn has is served in several. */
static void test_bounded_turns(void **state)
{
	struct fixture *f = *state;
	uint32_t port, i, turns;
	int fd = open_from_host(f, 80, &port);
	struct virtio_vsock_hdr hdr = packet(VIRTIO_VSOCK_OP_RW, port, 80, 60000);
	static uint8_t buf[60000];

	(void)fd;
	for (i = 0; i < 60; i++)
		queue_tx(f, &hdr, buf, sizeof(buf));
	turns = f->turns;
	f->dev->ops->notify(f->dev, VSOCK_QUEUE_TX);
	assert_in_range(driver_used_idx(&f->tx), 4, 10);
	pump(f);
	assert_true(f->turns > turns + 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_host_to_guest),
		TEST(test_guest_credit),
		TEST(test_counters_wrap),
		TEST(test_full_rx_ring),
		TEST(test_turns),
		TEST(test_rx_in_pieces),
		TEST(test_guest_to_host),
		TEST(test_slow_reader),
		TEST(test_order_behind_backlog),
		TEST(test_end_in_the_queue),
		TEST(test_credit_overrun),
		TEST(test_guest_closes_with_backlog),
		TEST(test_guest_half_closes_with_backlog),
		TEST(test_reader_vanishes),
		TEST(test_tx_in_pieces),
		TEST(test_a_thousand),
		TEST(test_bounded_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
