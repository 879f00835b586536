/* test_vsock_state.c: after a restore the guest learns that its connections are gone, and gets new ones only then. */
#include "side_fixture.h"

#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vsock.h"
#include "vsock_internal.h"

#define GUEST_CID  52u
#define RX_GPA(i)  DATA_GPA(i)
#define TX_GPA(i)  DATA_GPA(100u + (i))
#define EVENT_GPA  DATA_GPA(200u)
#define NR_BUFFERS 8u
#define HELD       (VSOCK_HOLD_NS * 9 / 10) /* both clocks are the same, but the test began to look a little later */

/* One microVM's, and the other's. */
static struct side old, new;
static struct vsock *old_vsock, *new_vsock;
static char dir[64];
static struct saved saved;
static uint16_t seen; /* packets that the driver has taken */

static void make_side(struct side *s, struct vsock **vsock, const char *name)
{
	struct vsock_config cfg = { .present = true, .guest_cid = GUEST_CID };
	struct error err;

	snprintf(cfg.uds_path, sizeof(cfg.uds_path), "%s/%s", dir, name);
	side_begin(s);
	assert_int_equal(vsock_create(vsock, &cfg, &s->gm, &s->loop, &err), 0);
	side_bind(s, vsock_device(*vsock));
}

static int start(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/mayfly-test-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	make_side(&old, &old_vsock, "old");
	make_side(&new, &new_vsock, "new");
	seen = 0;
	return 0;
}

static int end(void **state)
{
	(void)state;
	vsock_destroy(old_vsock);
	vsock_destroy(new_vsock);
	side_end(&old);
	side_end(&new);
	state_free(&saved.w);
	return rmdir(dir);
}

/* ---- the driver ---- */

static void offer_event(struct side *s, unsigned int i)
{
	driver_desc(&s->ring[VSOCK_QUEUE_EVENT], i, EVENT_GPA + i * 16, sizeof(struct virtio_vsock_event),
		    VRING_DESC_F_WRITE, 0);
	driver_offer(&s->ring[VSOCK_QUEUE_EVENT], (uint16_t)i);
}

static void bring_up_driver(uint64_t features)
{
	unsigned int i;

	bring_up(&old, features);
	for (i = 0; i < SIDE_QUEUE / 2; i++) {
		driver_desc(&old.ring[VSOCK_QUEUE_RX], i, RX_GPA(i), 0x1000, VRING_DESC_F_WRITE, 0);
		driver_offer(&old.ring[VSOCK_QUEUE_RX], (uint16_t)i);
	}
	for (i = 0; i < NR_BUFFERS; i++)
		offer_event(&old, i);
	kick(&old, VSOCK_QUEUE_RX);
	kick(&old, VSOCK_QUEUE_EVENT);
	let_the_loop_work(&old);
}

static void guest_sends(struct side *s, uint16_t op, uint32_t host_port, uint32_t guest_port, const char *text)
{
	const uint32_t len = (uint32_t)strlen(text);
	const struct virtio_vsock_hdr hdr = { .src_cid = GUEST_CID,
					      .dst_cid = 2,
					      .src_port = guest_port,
					      .dst_port = host_port,
					      .len = len,
					      .type = VIRTIO_VSOCK_TYPE_STREAM,
					      .op = op,
					      .buf_alloc = 65536 };
	unsigned int i = s->ring[VSOCK_QUEUE_TX].avail_idx % SIDE_QUEUE;

	memcpy(guest(&s->gm, TX_GPA(i)), &hdr, sizeof(hdr));
	memcpy(guest(&s->gm, TX_GPA(i) + sizeof(hdr)), text, len);
	driver_desc(&s->ring[VSOCK_QUEUE_TX], i, TX_GPA(i), (uint32_t)sizeof(hdr) + len, 0, 0);
	driver_offer(&s->ring[VSOCK_QUEUE_TX], (uint16_t)i);
}

static bool packet_came(struct side *s)
{
	return driver_used_idx(&s->ring[VSOCK_QUEUE_RX]) != seen;
}

static bool event_came(struct side *s)
{
	return driver_used_idx(&s->ring[VSOCK_QUEUE_EVENT]) != 0;
}

/* The next packet, which is this one; its host port. */
static uint32_t guest_gets(struct side *s, uint16_t op, uint32_t guest_port)
{
	const struct vring_used_elem *elem = &s->ring[VSOCK_QUEUE_RX].used->ring[seen % SIDE_QUEUE];
	struct virtio_vsock_hdr hdr;

	serve_until(s, packet_came);
	memcpy(&hdr, guest(&s->gm, RX_GPA(elem->id)), sizeof(hdr));
	assert_int_equal(hdr.op, op);
	assert_int_equal(hdr.dst_port, guest_port);
	seen++;
	return hdr.src_port;
}

/* ---- the host ---- */

static int dial(const char *name, const char *line)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", dir, name);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	return fd;
}

static int watched_fd;

static bool host_has_bytes(struct side *s)
{
	struct pollfd pfd = { .fd = watched_fd, .events = POLLIN };

	(void)s;
	return poll(&pfd, 1, 0) == 1;
}

static void host_hears(struct side *s, int fd, const char *text)
{
	char buf[64] = "";

	watched_fd = fd;
	serve_until(s, host_has_bytes);
	assert_int_equal(read(fd, buf, sizeof(buf) - 1), strlen(text));
	assert_string_equal(buf, text);
}

/* An open connection from the host to that port; the host's end of it, and its port. */
static int open_connection(struct side *s, const char *name, uint32_t guest_port, uint32_t *host_port)
{
	char line[32];
	int fd;

	snprintf(line, sizeof(line), "CONNECT %u\n", guest_port);
	fd = dial(name, line);
	*host_port = guest_gets(s, VIRTIO_VSOCK_OP_REQUEST, guest_port);
	guest_sends(s, VIRTIO_VSOCK_OP_RESPONSE, *host_port, guest_port, "");
	kick(s, VSOCK_QUEUE_TX);
	snprintf(line, sizeof(line), "OK %u\n", *host_port);
	host_hears(s, fd, line);
	return fd;
}

/* ---- saving and restoring ---- */

static void save(void)
{
	vsock_pause(old_vsock);
	state_free(&saved.w);
	virtio_mmio_save(&old.mmio, saved_begin(&saved), SIDE_SLOT);
	saved_end(&saved);
}

static int restore(void)
{
	vsock_pause(new_vsock);
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

/* ---- tests ---- */

static void servers_in_the_guest_get_connections_once_it_knows(uint64_t features)
{
	const struct virtio_vsock_event *event = guest(&new.gm, EVENT_GPA);
	uint32_t port, new_port;
	int fd, new_fd;

	bring_up_driver(features);
	fd = open_connection(&old, "old", 80, &port);
	move();
	seen = driver_used_idx(&new.ring[VSOCK_QUEUE_RX]);
	/* What the guest had sent for it, and what it goes on to send before it has heard. */
	guest_sends(&new, VIRTIO_VSOCK_OP_RW, port, 80, "old");
	new_fd = dial("new", "CONNECT 80\n");
	let_the_loop_work(&new);
	assert_false(event_came(&new) || packet_came(&new)); /* still paused */
	vsock_resume(new_vsock);
	assert_true(event_came(&new));
	assert_int_equal(event->id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	assert_true(get(&new, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_VRING);
	assert_false(serve_for(&new, packet_came, HELD / 3));
	/* It has ended its old connections, and gives the buffer back: with a kick, for it was asked for one. */
	offer_event(&new, 0);
	if (features & EVENT_IDX)
		assert_int_equal(driver_avail_event(&new.ring[VSOCK_QUEUE_EVENT]), NR_BUFFERS);
	else
		assert_int_equal(new.ring[VSOCK_QUEUE_EVENT].used->flags, 0);
	kick(&new, VSOCK_QUEUE_EVENT);
	assert_int_equal(guest_gets(&new, VIRTIO_VSOCK_OP_RST, 80), port);
	new_port = guest_gets(&new, VIRTIO_VSOCK_OP_REQUEST, 80);
	assert_true(new_port != port);
	guest_sends(&new, VIRTIO_VSOCK_OP_RESPONSE, new_port, 80, "");
	guest_sends(&new, VIRTIO_VSOCK_OP_RW, new_port, 80, "hello");
	kick(&new, VSOCK_QUEUE_TX);
	watched_fd = new_fd;
	serve_until(&new, host_has_bytes);
	assert_int_equal(driver_used_idx(&new.ring[VSOCK_QUEUE_EVENT]), 1); /* told once */
	close(new_fd);
	/* Looking at the other buffers has not used them up. */
	vsock_transport_reset(new_vsock);
	assert_int_equal(driver_used_idx(&new.ring[VSOCK_QUEUE_EVENT]), 2);
	assert_int_equal(new.ring[VSOCK_QUEUE_EVENT].used->ring[1].id, 1);
	/* The one that was saved keeps its connection, and its guest hears of nothing. */
	vsock_resume(old_vsock);
	guest_sends(&old, VIRTIO_VSOCK_OP_RW, port, 80, "still here");
	kick(&old, VSOCK_QUEUE_TX);
	host_hears(&old, fd, "still here");
	assert_false(event_came(&old));
	close(fd);
}

static void connections_with_event_idx(void **state)
{
	(void)state;
	servers_in_the_guest_get_connections_once_it_knows(VERSION_1 | EVENT_IDX);
}

static void connections_without_event_idx(void **state)
{
	(void)state;
	servers_in_the_guest_get_connections_once_it_knows(VERSION_1);
}

/* A driver that keeps the buffer is not waited for long; and the time while it is paused does not count. */
static void a_driver_that_keeps_the_buffer(void **state)
{
	uint64_t before;
	int fd;

	(void)state;
	bring_up_driver(VERSION_1);
	move();
	vsock_resume(new_vsock);
	vsock_pause(new_vsock);
	fd = dial("new", "CONNECT 80\n");
	assert_false(serve_for(&new, packet_came, 2 * VSOCK_HOLD_NS));
	before = event_loop_now_ns();
	vsock_resume(new_vsock);
	guest_gets(&new, VIRTIO_VSOCK_OP_REQUEST, 80);
	assert_true(event_loop_now_ns() - before >= HELD);
	close(fd);
}

/* One that gave none for events hears of it when it gives one; its packets do not wait for that. */
static void a_driver_without_event_buffers(void **state)
{
	int fd;

	(void)state;
	bring_up(&old, VERSION_1);
	driver_desc(&old.ring[VSOCK_QUEUE_RX], 0, RX_GPA(0), 0x1000, VRING_DESC_F_WRITE, 0);
	driver_offer(&old.ring[VSOCK_QUEUE_RX], 0);
	move();
	vsock_resume(new_vsock);
	fd = dial("new", "CONNECT 80\n");
	guest_gets(&new, VIRTIO_VSOCK_OP_REQUEST, 80);
	offer_event(&new, 0);
	kick(&new, VSOCK_QUEUE_EVENT);
	serve_until(&new, event_came);
	close(fd);
}

static void a_port_that_no_host_uses_is_refused(void **state)
{
	struct vsock_state *v;

	(void)state;
	bring_up_driver(VERSION_1);
	save();
	v = saved_payload(&saved, STATE_VSOCK, SIDE_SLOT);
	v->last_host_port = 1024;
	assert_refused(&saved, restore(), "VSCK 3: a port of the host's");
	v->last_host_port = UINT32_MAX;
	assert_refused(&saved, restore(), "VSCK 3: a port of the host's");
	assert_false(new.dev->active);
	v->last_host_port = INT32_MAX;
	assert_int_equal(restore(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(connections_with_event_idx, start, end),
		cmocka_unit_test_setup_teardown(connections_without_event_idx, start, end),
		cmocka_unit_test_setup_teardown(a_driver_that_keeps_the_buffer, start, end),
		cmocka_unit_test_setup_teardown(a_driver_without_event_buffers, start, end),
		cmocka_unit_test_setup_teardown(a_port_that_no_host_uses_is_refused, start, end),
	};

	return cmocka_run_group_tests_name("vsock state", tests, NULL, NULL);
}
