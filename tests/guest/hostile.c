/* hostile.c: "blk N hostile NAME|all": runs attacks, names their outcomes, and checks that the device recovers. */
#include "hostile.h"
#include "io.h"

#define PATIENCE_MS 400 /* after this long, an attack was ignored */
#define LOOK_EVERY  256

void set_desc(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*d = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

void header(struct hostile *h, uint32_t type, uint64_t sector)
{
	*h->b->hdr = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	h->status = h->b->status;
	*h->status = STATUS_UNTOUCHED;
}

void usual_chain(struct hostile *h, struct vring_desc *d, uint32_t type, uint64_t sector, uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;

	header(h, type, sector);
	set_desc(&d[0], (uint64_t)h->b->hdr, sizeof(*h->b->hdr), VRING_DESC_F_NEXT, 1);
	set_desc(&d[1], (uint64_t)h->data, len, VRING_DESC_F_NEXT | (in ? VRING_DESC_F_WRITE : 0), 2);
	set_desc(&d[2], (uint64_t)h->status, 1, VRING_DESC_F_WRITE, 0);
}

/* 2.1.2: a device that sets NEEDS_RESET while DRIVER_OK is set must say so by a configuration interrupt. */
static enum outcome needs_reset(struct hostile *h)
{
	const struct vdev *d = &h->b->dev;
	unsigned int i;

	if (!(vdev_status(d) & VIRTIO_CONFIG_S_DRIVER_OK))
		return OUT_NEEDS_RESET;
	for (i = 0; i < 10000; i++) {
		if (vdev_read(d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG)
			return OUT_NEEDS_RESET;
	}
	return OUT_SILENT;
}

static enum outcome used_outcome(struct hostile *h)
{
	struct virtq *vq = &h->b->vq;

	vq->last_used++;
	if (vdev_status(&h->b->dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
		return needs_reset(h);
	switch (*(volatile uint8_t *)h->status) {
	case VIRTIO_BLK_S_OK:
		return OUT_OK;
	case VIRTIO_BLK_S_IOERR:
		return OUT_IOERR;
	case VIRTIO_BLK_S_UNSUPP:
		return OUT_UNSUPP;
	default:
		return OUT_DROPPED;
	}
}

enum outcome outcome(struct hostile *h)
{
	uint64_t end = ticks() + PATIENCE_MS * TICKS_PER_MS;
	struct virtq *vq = &h->b->vq;
	unsigned int polls = 0;

	for (;;) {
		if (*(volatile uint16_t *)&vq->used->idx != vq->last_used)
			return used_outcome(h);
		pause();
		if (++polls % LOOK_EVERY)
			continue;
		if (vdev_status(&h->b->dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return needs_reset(h);
		if (ticks() > end)
			return OUT_IGNORED;
	}
}

enum outcome fire(struct hostile *h, uint16_t head)
{
	virtq_offer(&h->b->vq, head);
	virtq_notify(&h->b->vq);
	return outcome(h);
}

enum outcome still_works(struct hostile *h)
{
	enum outcome o;

	usual_chain(h, h->d, VIRTIO_BLK_T_IN, 0, SECTOR);
	o = fire(h, 0);
	return o == OUT_OK ? OUT_IGNORED : o;
}

enum outcome unless_read_only(const struct hostile *h, enum outcome o)
{
	if (!blk_has(h->b, VIRTIO_BLK_F_RO))
		return o;
	return o == OUT_IOERR || o == OUT_UNSUPP ? OUT_OK : OUT_CORRUPT;
}

static void print_outcomes(unsigned int set)
{
	static const char *const name[] = { "ok",      "ioerr",   "unsupp",  "needs_reset",
					    "ignored", "refused", "dropped", "needs_reset-silently",
					    "corrupt" };
	const char *before = "";
	unsigned int i;

	for (i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
		if (set & 1u << i) {
			say("%s%s", before, name[i]);
			before = "|";
		}
	}
}

static uint64_t hash_sector_0(struct blk *b)
{
	uint64_t h = 0;
	unsigned int i;

	memset(b->bounce, 0, SECTOR);
	if (blk_request(b, VIRTIO_BLK_T_IN, 0, b->bounce, SECTOR, true) != VIRTIO_BLK_S_OK)
		return 0;
	for (i = 0; i < SECTOR_WORDS; i++)
		h = mix64(h ^ ((uint64_t *)b->bounce)[i]);
	return h | 1;
}

static bool canary_lives(const struct hostile *h)
{
	unsigned int i;

	for (i = 0; i < 4096; i++) {
		if (h->data[DATA_LEN + i] != CANARY)
			return false;
	}
	for (i = 1; i < 4096; i++) {
		if (h->b->status[i])
			return false;
	}
	return true;
}

/* The device must come back after a reset, and every other one must not have noticed at all. */
static bool recovers(struct hostile *h)
{
	struct guest *g = h->b->g;
	unsigned int i;

	for (i = 0; i < g->nr_blk; i++) {
		if (g->blk[i] != h->b && g->blk[i]->open && !hash_sector_0(g->blk[i])) {
			say("hostile: block device %u stopped working\n", i);
			return false;
		}
	}
	if (blk_open(h->b, BLK_WANTED, 0) && hash_sector_0(h->b) == h->baseline)
		return true;
	say("hostile: the device did not recover\n");
	return false;
}

static bool run_attack(struct hostile *h, const struct attack *a)
{
	enum outcome o;
	bool good;

	if (!blk_open(h->b, BLK_WANTED, 0))
		return false;
	if (a->needs & ~h->b->dev.offered) {
		say("hostile %s: absent (not offered)\n", a->name);
		return true;
	}
	memset(h->table, 0, TABLE_ENTRIES * sizeof(*h->table));
	memset(h->data, 0, DATA_LEN);
	memset(h->data + DATA_LEN, CANARY, 4096);
	h->status = h->b->status;
	*h->status = STATUS_UNTOUCHED;
	o = a->run(h);
	if (!canary_lives(h)) {
		o = OUT_CORRUPT;
		memset(h->b->status, 0, 4096);
	}
	good = o & a->expect;
	say("hostile %s: ", a->name);
	print_outcomes(o);
	say(good ? " (expected " : " BUT expected (");
	print_outcomes(a->expect);
	say(")\n");
	return recovers(h) && good;
}

static bool run_named(struct hostile *h, const char *name)
{
	static const struct attack *const tables[] = { chain_attacks, indirect_attacks, request_attacks,
						       range_attacks, queue_attacks,    register_attacks };
	bool all = equal(name, "all");
	unsigned int run = 0, wrong = 0, i;
	const struct attack *a;

	for (i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (a = tables[i]; a->name; a++) {
			if (!all && !equal(name, a->name))
				continue;
			run++;
			if (!run_attack(h, a))
				wrong++;
		}
	}
	say("hostile: %u attacks, %u with a wrong outcome\n", run, wrong);
	return run && !wrong;
}

static bool prepare(struct hostile *h, struct blk *b)
{
	struct guest *g = b->g;
	unsigned int i;

	h->b = b;
	h->d = b->vq.desc;
	h->table = alloc(g, TABLE_ENTRIES * sizeof(*h->table), 4096);
	h->data = alloc(g, DATA_LEN + 4096, 4096);
	h->outside = ram_end(g);
	if (!h->table || !h->data || !h->outside) {
		say("hostile: not enough memory, or no RAM map\n");
		return false;
	}
	for (i = 0; i < g->nr_blk; i++) {
		if (!g->blk[i]->open && !blk_open(g->blk[i], BLK_WANTED, 0))
			return false;
	}
	h->baseline = hash_sector_0(b);
	return h->baseline;
}

bool hostile_step(struct blk *b, struct step *s)
{
	uint64_t mark = b->g->arena;
	struct hostile h = { 0 };
	bool good = prepare(&h, b) && run_named(&h, s->nr > 3 ? s->word[3] : "all");

	b->g->arena = mark;
	return good;
}
