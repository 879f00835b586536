/* race.c: one vCPU makes requests of a device, another changes descriptors, rings and buffers while the device reads
 * them. */
#include "race.h"

#include "io.h"
#include "pattern.h"
#include "virtio.h"

#define MAX_QUEUES 3u
#define QUEUE_SIZE 64u
#define DATA_LEN   65536u
#define CHAIN_MAX  4u
#define RACED      7u /* things that the racer writes to: rings of each queue, buffers */

struct race {
	struct vdev dev;
	struct virtq vq[MAX_QUEUES];
	unsigned int nr_queues;
	uint8_t *data;
	uint64_t writes; /* the racer's */
	bool on;         /* the racer may write */
	bool idle;       /* … and has seen that it may not */
	struct rng rng;
	uint64_t requests, resets;
};

static uint64_t any_address(struct race *r, uint64_t random)
{
	const struct virtq *vq = &r->vq[random % r->nr_queues];

	switch (random >> 8 & 15) {
	case 0:
		return (uint64_t)vq->desc;
	case 1:
		return (uint64_t)vq->avail;
	case 2:
		return (uint64_t)vq->used;
	case 3:
		return random >> 12; /* nobody's */
	default:
		return (uint64_t)r->data + (random >> 12) % DATA_LEN;
	}
}

static struct vring_desc any_desc(struct race *r, uint64_t random)
{
	return (struct vring_desc){ .addr = any_address(r, random),
				    .len = (uint32_t)(random >> 40) & 0xfff,
				    .flags = (uint16_t)(random >> 52) & 7,
				    .next = (uint16_t)(random >> 56) % QUEUE_SIZE };
}

/* ---- the second vCPU ---- */

static void write_once(struct race *r, struct rng *rng)
{
	uint64_t random = rng_next(rng), value = rng_next(rng);
	struct virtq *vq = &r->vq[random >> 8 & 3 % r->nr_queues];

	switch (random % RACED) {
	case 0:
	case 1:
	case 2: /* field by field, so that the device may see half of it */
		*(volatile struct vring_desc *)&vq->desc[random >> 16 & (QUEUE_SIZE - 1)] = any_desc(r, value);
		break;
	case 3:
		*(volatile uint16_t *)&vq->avail->ring[random >> 16 & (QUEUE_SIZE - 1)] =
			(uint16_t)value & (2 * QUEUE_SIZE - 1);
		break;
	case 4:
		if (!(random >> 16 & 0xff)) /* this one breaks the device nearly always */
			*(volatile uint16_t *)&vq->avail->idx = (uint16_t)value;
		break;
	case 5:
		*(volatile uint16_t *)&vq->used->ring[random >> 16 & (QUEUE_SIZE - 1)].id = (uint16_t)value;
		break;
	default:
		*(volatile uint32_t *)(r->data + (random >> 16 & (DATA_LEN - 4))) = (uint32_t)value & 0xf;
	}
	r->writes++;
}

static void racer(void *arg)
{
	struct race *r = arg;
	struct rng rng = rng_for(r->rng.state, 1);

	for (;;) {
		while (!__atomic_load_n(&r->on, __ATOMIC_ACQUIRE)) {
			__atomic_store_n(&r->idle, true, __ATOMIC_RELEASE);
			pause();
		}
		write_once(r, &rng);
	}
}

static void stop_racer(struct race *r)
{
	__atomic_store_n(&r->idle, false, __ATOMIC_RELEASE);
	__atomic_store_n(&r->on, false, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&r->idle, __ATOMIC_ACQUIRE))
		pause();
}

/* ---- the first vCPU ---- */

static bool open_device(struct race *r)
{
	unsigned int i;

	if (!vdev_reset(&r->dev) || !vdev_negotiate(&r->dev, ~0ull, 0)) {
		say("race: the device does not come back from a reset\n");
		return false;
	}
	for (i = 0; i < r->nr_queues; i++) {
		virtq_clear(&r->vq[i], QUEUE_SIZE);
		virtq_program(&r->vq[i]);
	}
	vdev_add_status(&r->dev, VIRTIO_CONFIG_S_DRIVER_OK);
	return true;
}

/* What block requests and vsock packets begin with, and what reads as a frame: small numbers. */
static void write_header(struct race *r, uint64_t at)
{
	volatile uint32_t *word = (volatile uint32_t *)(r->data + at);
	unsigned int i;

	for (i = 0; i < 4; i++)
		word[i] = i == 3 ? 0 : (uint32_t)rng_next(&r->rng) & 7;
}

/* A chain as a request looks: its header, data, and at least a byte for the device to write. */
static void request(struct race *r)
{
	uint64_t random = rng_next(&r->rng), at = random >> 32 & 0xff0;
	struct virtq *vq = &r->vq[random % r->nr_queues];
	unsigned int n = 2 + (unsigned int)(random >> 8) % (CHAIN_MAX - 1),
		     writable = 1 + (unsigned int)(random >> 16) % (n - 1), i;
	uint16_t head = (uint16_t)(random >> 24) % QUEUE_SIZE;

	write_header(r, at);
	for (i = 0; i < n; i++) {
		struct vring_desc d = { .addr = (uint64_t)r->data + (i ? rng_next(&r->rng) & (DATA_LEN / 2 - 1) : at),
					.len = i ? 512u * (1 + (uint32_t)(rng_next(&r->rng) & 7)) : 16 };

		d.flags =
			(uint16_t)((i + 1 < n ? VRING_DESC_F_NEXT : 0) | (n - i <= writable ? VRING_DESC_F_WRITE : 0));
		d.next = (uint16_t)((head + i + 1) % QUEUE_SIZE);
		vq->desc[(head + i) % QUEUE_SIZE] = d;
	}
	virtq_offer(vq, head);
	virtq_notify(vq);
	r->requests++;
}

static bool run(struct race *r, uint64_t ms)
{
	uint64_t end = ticks() + ms * TICKS_PER_MS;

	while (ticks() < end) {
		request(r);
		if (!(vdev_status(&r->dev) & VIRTIO_CONFIG_S_NEEDS_RESET))
			continue;
		r->resets++;
		if (!open_device(r))
			return false;
	}
	return true;
}

static bool prepare(struct race *r, struct guest *g)
{
	unsigned int i;

	switch (vdev_read(&r->dev, VIRTIO_MMIO_DEVICE_ID)) {
	case VIRTIO_ID_BLOCK:
		r->nr_queues = 1;
		break;
	case VIRTIO_ID_NET:
		r->nr_queues = 2;
		break;
	default:
		r->nr_queues = 3;
	}
	for (i = 0; i < r->nr_queues; i++) {
		if (!virtq_alloc(g, &r->vq[i], &r->dev, (uint16_t)i))
			return false;
	}
	r->data = alloc(g, DATA_LEN, 4096);
	return r->data && open_device(r);
}

bool race_step(struct step *s)
{
	static struct race race; /* the second vCPU keeps it */
	static bool started;
	uint64_t device, ms = step_option(s, "ms", 1000);
	bool good;

	if (s->nr < 2 || !step_number(s, 1, &device))
		return false;
	race.dev.base = device;
	race.rng = rng_for(step_option(s, "seed", 1), 0);
	race.requests = race.resets = race.writes = 0;
	if (!prepare(&race, s->g) || (!started && !smp_start(racer, &race)))
		return false;
	started = true;
	__atomic_store_n(&race.on, true, __ATOMIC_RELEASE);
	good = run(&race, ms);
	stop_racer(&race);
	say("race: %llu requests, %llu resets, %llu writes by the other vCPU\n", (unsigned long long)race.requests,
	    (unsigned long long)race.resets, (unsigned long long)race.writes);
	return good && vdev_reset(&race.dev) && race.requests && race.writes;
}
