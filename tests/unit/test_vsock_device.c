/* test_vsock_device.c: the vsock device's own life: its socket file, reset, pause, transport reset, its end. */
#include "vsock_fixture.h"

static void test_config(void **state)
{
	struct fixture *f = *state;
	uint64_t cid = 0;
	uint8_t part[4] = { 1, 1, 1, 1 };

	assert_int_equal(f->dev->ops->features(f->dev), 0);
	f->dev->ops->read_config(f->dev, 0, &cid, sizeof(cid));
	assert_int_equal(cid, GUEST_CID);
	f->dev->ops->read_config(f->dev, 6, part, sizeof(part));
	assert_memory_equal(part, "\0\0\0\0", 4);
	memset(part, 1, sizeof(part));
	f->dev->ops->read_config(f->dev, UINT64_MAX - 1, part, sizeof(part));
	assert_memory_equal(part, "\0\0\0\0", 4);
}

static void test_socket_file(void **state)
{
	struct fixture *f = *state;
	struct vsock_config cfg = f->cfg;
	struct error err = { 0 };
	struct vsock *other;
	struct stat st;

	assert_int_equal(lstat(f->cfg.uds_path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(vsock_create(&other, &cfg, &f->gm, &f->loop, &err), -EADDRINUSE);
	assert_non_null(strstr(err.message, "vsock.uds_path: "));
	assert_non_null(strstr(err.message, f->cfg.uds_path));
	snprintf(cfg.uds_path, sizeof(cfg.uds_path), "%s/no/such", f->dir);
	assert_int_equal(vsock_create(&other, &cfg, &f->gm, &f->loop, &err), -ENOENT);
	/* Neither has done anything to the first. */
	assert_int_equal(lstat(f->cfg.uds_path, &st), 0);
	vsock_destroy(f->v);
	assert_int_equal(lstat(f->cfg.uds_path, &st), -1);
	fixture_open(f);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;
	int listener = listen_on(f, 5000, 5), fd, waiting = dial(f), asked = dial(f), greeting = dial(f);
	uint32_t port;

	fd = open_from_host(f, 80, &port);
	send_op(f, VIRTIO_VSOCK_OP_REQUEST, 5000, 1);
	expect_op(f, VIRTIO_VSOCK_OP_RESPONSE, 5000, 1);
	say(f, waiting, "CONNECT 7 60000\n");
	assert_true(receive(f));
	say(f, asked, "CONNECT 8\n");
	assert_true(receive(f));
	say(f, greeting, "CONN");
	reset_device(f);
	assert_true(at_end(fd));
	assert_true(at_end(accept_on(f, listener)));
	assert_true(at_end(asked));
	assert_true(quiet(waiting) && quiet(greeting));
	activate(f);
	assert_true(receive(f));
	assert_int_equal(f->last.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(f->last.dst_port, 7);
	expect_nothing(f);
	say(f, greeting, "ECT 9\n");
	assert_true(receive(f));
	assert_int_equal(f->last.dst_port, 9);
}

static void test_pause(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr hdr;
	uint16_t used;
	uint32_t port;
	int fd = open_from_host(f, 80, &port), asked = dial(f);

	request(f, asked, 81);
	vsock_pause(f->v);
	vsock_pause(f->v);
	used = driver_used_idx(&f->tx);
	hdr = packet(VIRTIO_VSOCK_OP_RW, port, 80, 5);
	send_packet(f, &hdr, "guest", 5);
	say(f, fd, "host");
	say(f, dial(f), "CONNECT 82\n");
	expect_nothing(f);
	assert_true(quiet(fd));
	assert_int_equal(driver_used_idx(&f->tx), used);
	/* Time does not count. */
	f->v->paused_ns -= 2 * VSOCK_PATIENCE_NS;
	f->v->conn[1].deadline_ns -= 2 * VSOCK_PATIENCE_NS;
	vsock_resume(f->v);
	pump(f);
	assert_true(quiet(asked));
	hear(fd, "guest");
	expect_op(f, VIRTIO_VSOCK_OP_RW, port, 80);
	assert_memory_equal(f->payload, "host", 4);
	assert_true(receive(f));
	assert_int_equal(f->last.dst_port, 82);
	expect_nothing(f);
}

static void test_transport_reset(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_event *event = guest(&f->gm, TX_GPA(0));
	uint32_t port;
	int fd = open_from_host(f, 80, &port);

	event->id = 7;
	vsock_transport_reset(f->v);
	pump(f);
	assert_true(at_end(fd));
	assert_int_equal(open_conns(f), 0);
	driver_desc(&f->event, 0, TX_GPA(0), sizeof(*event), VRING_DESC_F_WRITE, 0);
	driver_offer(&f->event, 0);
	notify(f, VSOCK_QUEUE_EVENT);
	assert_int_equal(driver_used_idx(&f->event), 1);
	assert_int_equal(f->event.used->ring[0].len, sizeof(*event));
	assert_int_equal(event->id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	/* Said once. */
	driver_offer(&f->event, 0);
	notify(f, VSOCK_QUEUE_EVENT);
	assert_int_equal(driver_used_idx(&f->event), 1);
	open_from_host(f, 80, &port);
	assert_int_equal(f->broken, 0);
}

/* The machine ends right after the guest has spoken. */
static void test_last_words(void **state)
{
	struct fixture *f = *state;
	int listener = listen_on(f, 5000, 5), fd;
	struct virtio_vsock_hdr hdr = packet(VIRTIO_VSOCK_OP_REQUEST, 5000, 1, 0);

	queue_tx(f, &hdr, NULL, 0);
	hdr = packet(VIRTIO_VSOCK_OP_RW, 5000, 1, 6);
	queue_tx(f, &hdr, "result", 6);
	hdr = packet(VIRTIO_VSOCK_OP_SHUTDOWN, 5000, 1, 0);
	hdr.flags = VSOCK_SHUTDOWN_BOTH;
	queue_tx(f, &hdr, NULL, 0);
	vsock_destroy(f->v);
	fd = accept_on(f, listener);
	hear(fd, "result");
	assert_true(at_end(fd));
	fixture_open(f);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_config), TEST(test_socket_file),     TEST(test_reset),
		TEST(test_pause),  TEST(test_transport_reset), TEST(test_last_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
