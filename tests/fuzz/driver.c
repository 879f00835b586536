/* driver.c: carries out an input as the program of a hostile driver, which also changes memory between two reads. */
#include "driver.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOW_SIZE  0x100000u
#define HIGH_SIZE 0x40000u
#define GUARD     0x200000u /* nothing may be read or written just outside RAM */

#define RINGS_GPA(q) ((q)*0x4000u)
#define AVAIL_OFFSET 0x1000u
#define USED_OFFSET  0x2000u
#define TABLE_GPA    0xc000u
#define TABLE_SIZE   0x4000u
#define SLOTS        ((LOW_SIZE - DRIVER_DATA_GPA) / DRIVER_SLOT_SIZE)
#define MAX_OPS      400u

/* Ways in which a set-up differs from the book's. */
enum {
	LIE_NO_SET_UP = 1 << 0,
	LIE_FEATURES = 1 << 1, /* a mask for them follows */
	LIE_SMALL = 1 << 2,    /* queues of 2^n entries, n follows */
	LIE_SHARED = 1 << 3,   /* all queues have their rings in the same place */
	LIE_BUSY = 1 << 4,     /* each queue is about to get its ioeventfd */
	LIE_HIGH = 1 << 5,     /* rings above 4 GiB */
};

enum op {
	OP_NOTIFY,
	OP_TURN,
	OP_REQUEST,
	OP_HOST,
	OP_DESC,
	OP_OFFER,
	OP_AVAIL_IDX,
	OP_WRITE,
	OP_FILL,
	OP_RACE,
	OP_REGISTER_WRITE,
	OP_REGISTER_READ,
	OP_CONFIG,
	OP_TIME,
	OP_RESET,
	OP_SET_UP,
	OP_TABLE,
	NR_OPS,
};

struct driver driver;
void (*driver_set_racing)(bool on);

/* ---- memory ---- */

static uint8_t *map_guarded(size_t size)
{
	uint8_t *map = mmap(NULL, size + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(map != MAP_FAILED);
	CHECK(mprotect(map + GUARD, size, PROT_READ | PROT_WRITE) == 0);
	return map + GUARD;
}

/* Mapped once; each input finds it zeroed. */
static void memory_begin(void)
{
	struct guest_memory *gm = &driver.gm;
	unsigned int i;

	if (!gm->nr_regions) {
		gm->region[0] = (struct gm_region){ 0, LOW_SIZE, map_guarded(LOW_SIZE) };
		gm->region[1] = (struct gm_region){ GM_HOLE_END, HIGH_SIZE, map_guarded(HIGH_SIZE) };
		gm->nr_regions = 2;
		gm->size = LOW_SIZE + HIGH_SIZE;
		gm->small_pages = true;
	}
	for (i = 0; i < gm->nr_regions; i++)
		CHECK(madvise(gm->region[i].hva, gm->region[i].size, MADV_DONTNEED) == 0);
}

void *driver_guest(uint64_t gpa)
{
	const struct gm_region *low = &driver.gm.region[0], *high = &driver.gm.region[1];

	if (gpa < low->size)
		return low->hva + gpa;
	CHECK(gpa >= high->gpa && gpa - high->gpa < high->size);
	return high->hva + (gpa - high->gpa);
}

/* Bytes from gpa on, as many of them as are RAM. */
static void poke(uint64_t gpa, const void *bytes, size_t len)
{
	unsigned int i;

	for (i = 0; i < driver.gm.nr_regions; i++) {
		const struct gm_region *r = &driver.gm.region[i];

		if (gpa < r->gpa || gpa - r->gpa >= r->size)
			continue;
		if (len > r->size - (gpa - r->gpa))
			len = (size_t)(r->size - (gpa - r->gpa));
		memcpy(r->hva + (gpa - r->gpa), bytes, len);
	}
}

static uint64_t rings_gpa(unsigned int queue)
{
	if (driver.lies & LIE_SHARED)
		queue = 0;
	return (driver.lies & LIE_HIGH ? GM_HOLE_END : 0) + RINGS_GPA(queue);
}

static unsigned int take_queue(struct input *in)
{
	return take8(in) % driver.dev->ops->nr_queues;
}

/* Mostly where data lies; else the rings themselves, tables, the edges of RAM, and what is no RAM. */
static uint64_t take_gpa(struct input *in)
{
	uint8_t where = take8(in), offset = take8(in);

	if (where < SLOTS)
		return DRIVER_DATA_GPA + where * DRIVER_SLOT_SIZE + (offset < 0xf0 ? offset : offset * 0x10u);
	switch (where) {
	case 0xf0 ... 0xf2:
		return rings_gpa(where - 0xf0u) + offset * 2u;
	case 0xf3 ... 0xf5:
		return rings_gpa(where - 0xf3u) + AVAIL_OFFSET + offset * 2u;
	case 0xf6 ... 0xf8:
		return rings_gpa(where - 0xf6u) + USED_OFFSET + offset * 8u;
	case 0xf9:
		return TABLE_GPA + offset * 16u;
	case 0xfa:
		return LOW_SIZE - offset;
	case 0xfb:
		return GM_HOLE_END + offset * 0x100u;
	case 0xfc:
		return GM_HOLE_END + HIGH_SIZE - offset;
	case 0xfd:
		return GM_HOLE_START + offset;
	case 0xfe:
		return UINT64_MAX - offset;
	default:
		return take64(in);
	}
}

static uint32_t take_len(struct input *in)
{
	uint16_t len = take16(in);

	/* Lengths around a power of two find more than any others. */
	if (len >= 0xff00)
		return (1u << (len & 31)) - (len >> 5 & 7);
	return len & 0x7fff;
}

/* ---- changes between two reads ---- */

#define MAX_RACES 4u

static struct race {
	unsigned int countdown; /* accesses until it happens; 0: free */
	uint64_t gpa;
	uint8_t bytes[16];
	size_t len;
} races[MAX_RACES];

static void on_access(void)
{
	unsigned int i;

	for (i = 0; i < MAX_RACES; i++) {
		if (races[i].countdown && --races[i].countdown == 0)
			poke(races[i].gpa, races[i].bytes, races[i].len);
	}
}

static void race(struct input *in)
{
	struct race *r = &races[take8(in) % MAX_RACES];

	r->countdown = take8(in) + 1u;
	r->gpa = take_gpa(in);
	r->len = take_bytes(in, r->bytes, 1 + take8(in) % sizeof(r->bytes));
	fuzz_host.on_access = on_access;
}

/* ---- registers ---- */

static void write32(uint32_t offset, uint32_t value)
{
	bus_write(&driver.bus, X86_VIRTIO_GPA + offset, &value, sizeof(value));
}

uint32_t driver_read(uint32_t offset)
{
	uint32_t value;

	bus_read(&driver.bus, X86_VIRTIO_GPA + offset, &value, sizeof(value));
	return value;
}

static void notify(unsigned int queue)
{
	const uint64_t one = 1;

	if (fuzz_host.ioeventfd[queue] >= 0)
		CHECK(write(fuzz_host.ioeventfd[queue], &one, sizeof(one)) == sizeof(one));
	else
		write32(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

static void reset(void)
{
	write32(VIRTIO_MMIO_STATUS, 0);
}

static void acknowledge(uint64_t mask)
{
	unsigned int word;

	for (word = 0; word < 2; word++) {
		write32(VIRTIO_MMIO_DEVICE_FEATURES_SEL, word);
		write32(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
		write32(VIRTIO_MMIO_DRIVER_FEATURES,
			driver_read(VIRTIO_MMIO_DEVICE_FEATURES) & (uint32_t)(mask >> (32 * word)));
	}
}

static void set_up_queue(unsigned int i, uint16_t size)
{
	uint64_t gpa = rings_gpa(i);

	driver.queue[i] = (struct driver_queue){ .size = size };
	memset(driver_guest(gpa), 0, USED_OFFSET + 0x1000);
	write32(VIRTIO_MMIO_QUEUE_SEL, i);
	write32(VIRTIO_MMIO_QUEUE_NUM, size);
	write32(VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)gpa);
	write32(VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(gpa >> 32));
	write32(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)gpa + AVAIL_OFFSET);
	write32(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(gpa >> 32));
	write32(VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)gpa + USED_OFFSET);
	write32(VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(gpa >> 32));
	write32(VIRTIO_MMIO_QUEUE_READY, 1);
}

/* virtio 1.2, 3.1.1 */
static void set_up(uint64_t features, uint16_t size)
{
	unsigned int i;

	write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	acknowledge(features);
	write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	for (i = 0; i < driver.dev->ops->nr_queues; i++)
		set_up_queue(i, size);
	write32(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
					    VIRTIO_CONFIG_S_DRIVER_OK);
	if (driver.lies & LIE_BUSY) {
		for (i = 0; i < driver.dev->ops->nr_queues; i++)
			driver.mmio.kick[i].forwarded = 1020;
	}
}

static void set_up_with_lies(struct input *in)
{
	uint64_t features = ~driver.target->unwanted;
	uint16_t size = VIRTQUEUE_MAX_SIZE;

	driver.lies = take8(in);
	if (driver.lies & LIE_FEATURES)
		features &= take64(in) | 1ull << VIRTIO_F_VERSION_1;
	if (driver.lies & LIE_SMALL)
		size = (uint16_t)(1u << take8(in) % 9);
	if (!(driver.lies & LIE_NO_SET_UP))
		set_up(features, size);
}

/* ---- rings ---- */

static void put_desc(uint64_t table, unsigned int index, struct vring_desc desc)
{
	poke(table + index * sizeof(desc), &desc, sizeof(desc));
}

static void put_buffer(uint64_t table, unsigned int index, const struct driver_buffer *buffer, bool more, uint16_t next)
{
	unsigned int flags = (more ? VRING_DESC_F_NEXT : 0) | (buffer->write ? VRING_DESC_F_WRITE : 0);

	put_desc(table, index, (struct vring_desc){ buffer->gpa, buffer->len, (uint16_t)flags, next });
}

static void put_avail(unsigned int queue, uint16_t head)
{
	struct driver_queue *q = &driver.queue[queue];
	uint64_t avail = rings_gpa(queue) + AVAIL_OFFSET;

	poke(avail + offsetof(struct vring_avail, ring) + q->avail_idx % q->size * sizeof(head), &head, sizeof(head));
	q->avail_idx++;
	poke(avail + offsetof(struct vring_avail, idx), &q->avail_idx, sizeof(q->avail_idx));
}

static uint16_t next_desc(struct driver_queue *q)
{
	return q->next_desc++ % q->size;
}

void driver_offer(unsigned int queue, const struct driver_buffer *buffer, unsigned int n)
{
	struct driver_queue *q = &driver.queue[queue];
	uint16_t head = next_desc(q), at = head;
	unsigned int i;

	for (i = 0; i < n; i++) {
		uint16_t next = i + 1 < n ? next_desc(q) : 0;

		put_buffer(rings_gpa(queue), at, &buffer[i], i + 1 < n, next);
		at = next;
	}
	put_avail(queue, head);
	notify(queue);
}

uint16_t driver_used(unsigned int queue)
{
	struct vring_used *used = driver_guest(rings_gpa(queue) + USED_OFFSET);

	return used->idx;
}

/* A table of n descriptors for the buffers elsewhere, and one descriptor that refers to it. */
static void offer_indirect(unsigned int queue, const struct driver_buffer *buffer, unsigned int n, uint8_t where)
{
	uint64_t table = TABLE_GPA + where * 64u % (TABLE_SIZE - 0x400);
	uint16_t head = next_desc(&driver.queue[queue]);
	unsigned int i;

	for (i = 0; i < n; i++)
		put_buffer(table, i, &buffer[i], i + 1 < n, (uint16_t)(i + 1));
	put_desc(rings_gpa(queue), head,
		 (struct vring_desc){ table, n * (uint32_t)sizeof(struct vring_desc), VRING_DESC_F_INDIRECT, 0 });
	put_avail(queue, head);
	notify(queue);
}

/* A chain as the device expects it: the request's own bytes, then buffers from the input. */
static void request(struct input *in)
{
	unsigned int queue = take_queue(in), n = 0, more;
	uint8_t shape = take8(in), bytes[1024];
	struct driver_buffer buffer[9];
	size_t len = driver.target->request(in, queue, bytes, sizeof(bytes));

	if (len) {
		buffer[n++] = (struct driver_buffer){ take_gpa(in), (uint32_t)len, false };
		poke(buffer[0].gpa, bytes, len);
	}
	for (more = shape & 7; more; more--) {
		buffer[n] = (struct driver_buffer){ .gpa = take_gpa(in), .len = take_len(in) };
		/* As requests are: what is read first, what is written last; unless told otherwise. */
		buffer[n].write = more <= (unsigned int)(shape >> 3 & 7);
		n++;
	}
	if (!n || !driver.queue[queue].size)
		return;
	if (shape & 0x40)
		offer_indirect(queue, buffer, n, take8(in));
	else
		driver_offer(queue, buffer, n);
	if (!(shape & 0x80))
		fuzz_turn(&driver.loop);
}

static void write_bytes(struct input *in)
{
	uint64_t gpa = take_gpa(in);
	struct input span = take_span(in, take8(in));

	poke(gpa, span.at, span.left);
}

static void fill(struct input *in)
{
	uint64_t gpa = take_gpa(in);
	static uint8_t bytes[0x8000];
	uint32_t len = take_len(in);

	memset(bytes, take8(in), sizeof(bytes));
	poke(gpa, bytes, len < sizeof(bytes) ? len : sizeof(bytes));
}

static void desc(struct input *in, bool indirect)
{
	uint64_t table = indirect ? TABLE_GPA : rings_gpa(take_queue(in));
	uint8_t index = take8(in);
	struct vring_desc d = { .addr = take_gpa(in), .len = take_len(in) };

	d.flags = take8(in);
	d.next = take8(in);
	put_desc(table, index, d);
}

static void avail_idx(struct input *in)
{
	unsigned int queue = take_queue(in);
	struct driver_queue *q = &driver.queue[queue];

	q->avail_idx = (uint16_t)(q->avail_idx + (int8_t)take8(in));
	poke(rings_gpa(queue) + AVAIL_OFFSET + offsetof(struct vring_avail, idx), &q->avail_idx, sizeof(q->avail_idx));
}

static void offer(struct input *in)
{
	unsigned int queue = take_queue(in);
	uint8_t head = take8(in);

	if (driver.queue[queue].size)
		put_avail(queue, head);
}

/* Any register or config byte, in any width that a CPU has. */
static void access_register(struct input *in, bool is_write)
{
	uint64_t value, offset = take8(in);
	unsigned int len = 1u << (take8(in) & 3);

	if (offset >= 0xf0)
		offset = take16(in) & 0xfff;
	if (is_write) {
		value = take64(in);
		/* Not a reset by the back door: OP_RESET counts. */
		bus_write(&driver.bus, X86_VIRTIO_GPA + offset, &value, len);
	} else {
		bus_read(&driver.bus, X86_VIRTIO_GPA + offset, &value, len);
	}
}

static void config(struct input *in)
{
	uint8_t byte = take8(in), offset = take8(in) & 0x7f;

	if (byte & 0x80)
		bus_write(&driver.bus, X86_VIRTIO_GPA + VIRTIO_MMIO_CONFIG + offset, &byte, 1);
	else
		bus_read(&driver.bus, X86_VIRTIO_GPA + VIRTIO_MMIO_CONFIG + offset, &byte, 1);
}

/* ---- the program ---- */

static void step(struct input *in)
{
	unsigned int n;

	switch ((enum op)(take8(in) % NR_OPS)) {
	case OP_NOTIFY:
		notify(take_queue(in));
		break;
	case OP_TURN:
		for (n = 1 + take8(in) % 4; n && fuzz_turn(&driver.loop); n--)
			;
		break;
	case OP_REQUEST:
		request(in);
		break;
	case OP_HOST:
		driver.target->host(in);
		break;
	case OP_DESC:
		desc(in, false);
		break;
	case OP_TABLE:
		desc(in, true);
		break;
	case OP_OFFER:
		offer(in);
		break;
	case OP_AVAIL_IDX:
		avail_idx(in);
		break;
	case OP_WRITE:
		write_bytes(in);
		break;
	case OP_FILL:
		fill(in);
		break;
	case OP_RACE:
		race(in);
		break;
	case OP_REGISTER_WRITE:
		access_register(in, true);
		break;
	case OP_REGISTER_READ:
		access_register(in, false);
		break;
	case OP_CONFIG:
		config(in);
		break;
	case OP_TIME:
		fuzz_pass_ns((uint64_t)take16(in) << 16);
		break;
	case OP_RESET:
		reset();
		break;
	case OP_SET_UP:
		set_up_with_lies(in);
		break;
	case NR_OPS:
		break;
	}
}

void driver_begin(void)
{
	memory_begin();
	fuzz_begin(&driver.loop);
	memset(races, 0, sizeof(races));
	memset(driver.queue, 0, sizeof(driver.queue));
	driver.lies = 0;
}

void driver_bind(struct virtio_device *dev, const struct driver_target *target)
{
	struct error err;

	driver.bus.nr = 0;
	driver.dev = dev;
	driver.target = target;
	CHECK(ioapic_init(&driver.ioapic, FUZZ_VM_FD, &driver.bus, &err) == 0);
	driver.ioapic.rte[X86_VIRTIO_GSI] = 0x31; /* unmasked */
	CHECK(virtio_mmio_init(&driver.mmio, dev, &driver.loop, &driver.ioapic, &driver.bus, FUZZ_VM_FD, X86_VIRTIO_GPA,
			       X86_VIRTIO_GSI, &err) == 0);
	/* Here the loop's thread is the vCPU's, too: who resets the device does not wait for it. */
	virtio_mmio_close(&driver.mmio);
}

static void expect_alive(void)
{
	driver.lies = 0;
	set_up(~driver.target->unwanted, VIRTQUEUE_MAX_SIZE);
	fuzz_rest(&driver.loop);
	CHECK(!(driver_read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET));
	driver.target->alive();
	fuzz_rest(&driver.loop);
	CHECK(!(driver_read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET));
	reset();
	fuzz_rest(&driver.loop);
}

void driver_run(struct input *in)
{
	unsigned int i;

	if (driver_set_racing)
		driver_set_racing(true);
	set_up_with_lies(in);
	for (i = 0; i < MAX_OPS && in->left; i++)
		step(in);
	if (driver_set_racing)
		driver_set_racing(false);
	fuzz_host.on_access = NULL;
	reset();
	fuzz_turn(&driver.loop);
	driver.target->settle();
	fuzz_rest(&driver.loop);
	CHECK(driver_read(VIRTIO_MMIO_STATUS) == 0);
	expect_alive();
}

void driver_end(void)
{
	fuzz_end(&driver.loop);
	CHECK(driver.gm.region[0].size == LOW_SIZE);
}
