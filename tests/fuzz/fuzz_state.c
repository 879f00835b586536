/*
 * fuzz_state.c: a hostile driver whose device is saved and restored in between, from a state file that is hostile, too.
 *
 * The program is driver.c's; what happens on the host's side is a snapshot: the device is paused and saved, some bytes
 * of the file are changed and its checksum is made right again, and another device takes over from it. Two things must
 * hold besides: what is not changed is restored, whatever the driver did before, and saved again it is the same.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_vsock.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "block.h"
#include "driver.h"
#include "fake_block_io.h"
#include "legacy/i8042.h"
#include "legacy/serial.h"
#include "mmds/mmds.h"
#include "net.h"
#include "snapshot/state.h"
#include "vsock.h"

#define DISK_SIZE (1u << 16)
#define GUEST_CID 52u
#define SLOT      2u

enum kind { BLOCK, NET, VSOCK, NR_KINDS };

static const struct driver_target target;
static enum kind kind;
static struct block *blk;
static struct net *net;
static struct vsock *vsock;
static struct mmds *mmds;
static struct bus pio;
static struct serial serial;
static struct i8042 i8042;
static struct drive_config drive = { .drive_id = "rootfs", .path_on_host = "/disk" };
static struct net_config iface = { .iface_id = "eth0", .mtu = 1500 };
static struct vsock_config socket_cfg = { .present = true, .guest_cid = GUEST_CID };
static int disk = -1, peer = -1;

/* ---- the machine ---- */

static void nothing(void *opaque)
{
	(void)opaque;
}

static void create_net(void)
{
	struct error err;
	int pair[2];

	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	peer = pair[0];
	snprintf(iface.host_dev_name, sizeof(iface.host_dev_name), "fd:%d", pair[1]);
	CHECK(net_create(&net, &iface, &driver.gm, &driver.loop, &err) == 0);
	close(pair[1]);
}

static void create(void)
{
	struct virtio_device *dev;
	struct error err;

	if (kind == BLOCK) {
		CHECK(block_create(&blk, &drive, &driver.gm, &driver.loop, &err) == 0);
		dev = block_device(blk);
	} else if (kind == NET) {
		create_net();
		dev = net_device(net);
	} else {
		CHECK(vsock_create(&vsock, &socket_cfg, &driver.gm, &driver.loop, &err) == 0);
		dev = vsock_device(vsock);
	}
	driver_bind(dev, &target);
	CHECK(mmds_create(&mmds, 256, &err) == 0);
	pio.nr = 0;
	serial = (struct serial){ .irq = nothing, .tx_ready = nothing, .rx_wanted = nothing };
	i8042 = (struct i8042){ .reset = nothing, .irq = nothing };
	CHECK(serial_init(&serial, &pio, &err) == 0);
	CHECK(i8042_init(&i8042, &pio) == 0);
}

static void destroy(void)
{
	block_destroy(blk);
	net_destroy(net);
	vsock_destroy(vsock);
	mmds_destroy(mmds);
	if (peer >= 0)
		close(peer);
	blk = NULL;
	net = NULL;
	vsock = NULL;
	peer = -1;
}

static void finish_io(void)
{
	do {
		fake_block_io_finish(fake_block_io.nr_waiting);
		fuzz_turn(&driver.loop);
	} while (fake_block_io.nr_waiting);
}

static void pause_device(void)
{
	if (blk)
		CHECK(block_drain(blk, nothing, NULL));
	if (net)
		net_pause(net);
	if (vsock)
		vsock_pause(vsock);
}

static void resume_device(void)
{
	if (blk)
		block_resume(blk);
	if (net)
		net_resume(net);
	if (vsock)
		vsock_resume(vsock);
}

/* ---- the state file ---- */

static void save(struct state_writer *w)
{
	struct error err;

	state_begin(w);
	mmds_save(mmds, w);
	ioapic_save(&driver.ioapic, w);
	i8042_save(&i8042, w);
	serial_save(&serial, w);
	virtio_mmio_save(&driver.mmio, w, SLOT);
	CHECK(state_finish(w, &err) == 0);
}

static int restore(struct state_writer *w, struct error *err)
{
	struct state_reader r;
	int ret = state_open(&r, w->data, w->len, err);

	if (!ret)
		ret = mmds_restore(mmds, &r, err);
	if (!ret)
		ret = ioapic_restore(&driver.ioapic, &r, err);
	if (!ret)
		ret = i8042_restore(&i8042, &r, err);
	if (!ret)
		ret = serial_restore(&serial, &r, err);
	if (!ret)
		ret = virtio_mmio_restore(&driver.mmio, &r, SLOT, err);
	return ret ? ret : state_end(&r, err);
}

/* Change some bytes, and have the checksum say that nobody did. True: something is different. */
static bool tamper(struct state_writer *w, struct input *in)
{
	const size_t room = w->len - sizeof(struct state_header) - sizeof(uint64_t);
	uint8_t *before = malloc(w->len), n = take8(in) & 7, bytes[8];
	size_t at, len;
	uint64_t crc;
	bool differs;

	CHECK(before);
	memcpy(before, w->data, w->len);
	while (n--) {
		at = take16(in) % room;
		len = (size_t)1 << (take8(in) & 3);
		len = len < room - at ? len : room - at;
		take_bytes(in, bytes, len);
		memcpy(w->data + sizeof(struct state_header) + at, bytes, len);
	}
	crc = crc64(0, w->data, w->len - sizeof(crc));
	memcpy(w->data + w->len - sizeof(crc), &crc, sizeof(crc));
	differs = memcmp(before, w->data, w->len) != 0;
	free(before);
	return differs;
}

static const struct virtio_mmio_state *transport_of(const struct state_writer *w)
{
	const struct state_record *record = NULL;
	const void *payload = NULL;
	struct state_reader r;
	struct error err;

	CHECK(state_open(&r, w->data, w->len, &err) == 0);
	do
		CHECK(state_next(&r, &record, &payload));
	while (record->tag != STATE_TRANSPORT);
	return payload;
}

static void snapshot(struct input *in)
{
	struct state_writer w = { 0 }, again = { 0 };
	struct error err = { 0 };
	bool differs;

	finish_io();
	pause_device();
	save(&w);
	differs = tamper(&w, in);
	bus_write(&driver.bus, X86_VIRTIO_GPA + VIRTIO_MMIO_STATUS, &(uint32_t){ 0 }, 4);
	fuzz_rest(&driver.loop); /* the old one gives its ioeventfds back */
	destroy();
	create();
	pause_device();
	if (restore(&w, &err)) {
		CHECK(differs);
		CHECK(err.message[0]);
		destroy();
		create();
	} else if (!differs) {
		save(&again);
		CHECK(memcmp(transport_of(&again), transport_of(&w), sizeof(struct virtio_mmio_state)) == 0);
	}
	resume_device();
	state_free(&w);
	state_free(&again);
}

/* ---- the guest ---- */

static void use_ports(struct input *in)
{
	static uint8_t text[SERIAL_TX_BUFFER];
	uint8_t port = take8(in), byte = take8(in), keys[SERIAL_RX_FIFO];
	size_t n = serial_rx_room(&serial);

	bus_write(&pio, port & 8 ? 0x60u + (port & 4) : SERIAL_COM1 + (port & 7), &byte, 1);
	bus_read(&pio, port & 0x80 ? 0x60u + (port & 4) : SERIAL_COM1 + (port >> 4 & 7), &byte, 1);
	CHECK(n <= sizeof(keys));
	memset(keys, byte, sizeof(keys));
	serial_receive(&serial, keys, n < byte ? n : byte);
	n = serial_peek(&serial, text, sizeof(text));
	CHECK(n <= sizeof(text));
	serial_consume(&serial, n < byte ? n : byte);
}

static void host(struct input *in)
{
	static const char metadata[] = "{\"a\":[1,2.5,\"x\"]}";
	uint8_t what = take8(in);
	struct error err;
	json_t *json;

	switch (what & 3) {
	case 0:
		snapshot(in);
		break;
	case 1:
		use_ports(in);
		break;
	case 2:
		fake_block_io.deferred = what & 4;
		if (net && what & 8)
			net_flap_link(net);
		if (net && what & 16)
			(void)!send(peer, metadata, sizeof(metadata), MSG_DONTWAIT);
		ioapic_raise(&driver.ioapic, what >> 3);
		break;
	default:
		json = json_loads(metadata, 0, NULL);
		CHECK(json && mmds_store_put(&mmds->store, json, &err) == 0);
		json_decref(json);
	}
}

static size_t make_request(struct input *in, unsigned int queue, uint8_t *buf, size_t size)
{
	const struct virtio_blk_outhdr block_hdr = { .type = take8(in) & 15, .sector = take8(in) };
	const struct virtio_vsock_hdr vsock_hdr = { .src_cid = GUEST_CID,
						    .dst_cid = 2,
						    .src_port = take8(in),
						    .dst_port = (1u << 30) + (take8(in) & 3),
						    .op = take8(in) & 7,
						    .type = VIRTIO_VSOCK_TYPE_STREAM,
						    .buf_alloc = 4096 };

	(void)size;
	if (kind == NET)
		return queue == 0 ? 0 : take_bytes(in, buf, 80);
	if (kind == VSOCK && queue != 1)
		return 0;
	memcpy(buf, kind == BLOCK ? (const void *)&block_hdr : &vsock_hdr,
	       kind == BLOCK ? sizeof(block_hdr) : sizeof(vsock_hdr));
	return kind == BLOCK ? sizeof(block_hdr) : sizeof(vsock_hdr);
}

static void drain_peer(void)
{
	uint8_t frame[2048];

	while (peer >= 0 && recv(peer, frame, sizeof(frame), MSG_DONTWAIT) > 0)
		;
}

static void settle(void)
{
	const struct rate_limiter_config unlimited = { 0 };

	fake_block_io.deferred = false;
	finish_io();
	resume_device();
	/* A state file may have had a debt for ever. */
	if (blk)
		block_set_rate(blk, &unlimited);
	if (net)
		net_set_rate(net, &unlimited, &unlimited);
	drain_peer();
}

/* What the guest sends comes back as used, and any drive knows its name. */
static void alive(void)
{
	const struct driver_buffer buffer[] = {
		{ DRIVER_DATA_GPA, 80, false },
		{ DRIVER_DATA_GPA + 0x100, VIRTIO_BLK_ID_BYTES, true },
		{ DRIVER_DATA_GPA + 0x200, 1, true },
	};
	const unsigned int queue = kind == BLOCK ? 0 : 1;

	memset(driver_guest(DRIVER_DATA_GPA), 0, 80);
	((struct virtio_blk_outhdr *)driver_guest(DRIVER_DATA_GPA))->type = kind == BLOCK ? VIRTIO_BLK_T_GET_ID : 0;
	driver_offer(queue, buffer, kind == BLOCK ? 3 : 1);
	fuzz_rest(&driver.loop);
	CHECK(driver_used(queue) == 1);
	CHECK(kind != BLOCK || memcmp(driver_guest(buffer[1].gpa), "rootfs", 7) == 0);
}

static const struct driver_target target = { .request = make_request, .host = host, .settle = settle, .alive = alive };

/* ---- set-up ---- */

static void remove_socket(void)
{
	unlink(socket_cfg.uds_path);
}

static void prepare(void)
{
	disk = memfd_create("disk", MFD_CLOEXEC);
	CHECK(disk >= 0 && ftruncate(disk, DISK_SIZE) == 0);
	snprintf(socket_cfg.uds_path, sizeof(socket_cfg.uds_path), "/dev/shm/mayfly-fuzz-state-%d", getpid());
	atexit(remove_socket);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint8_t how = take8(&in);

	if (disk < 0)
		prepare();
	kind = how % NR_KINDS;
	drive.is_read_only = how & 0x10;
	drive.cache_type = how & 0x20 ? CACHE_UNSAFE : CACHE_WRITEBACK;
	drive.rate_limiter.ops = (struct token_bucket_config){ .size = how & 0x40 ? 100 : 0, .refill_time = 1 };
	iface.rx = iface.tx = drive.rate_limiter;
	fake_block_io = (struct fake_block_io){ .deferred = how & 0x80 };
	driver_begin();
	fuzz_file(drive.path_on_host, disk);
	create();
	driver_run(&in);
	destroy();
	driver_end();
	return 0;
}
