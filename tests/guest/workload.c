/* workload.c: what is run on the engine: linear fill and verify, the random model-checked mix, and a benchmark. */
#include "workload.h"
#include "io.h"

#define TAG_FIXED 0ull

static const char op_letter[NR_OP_KINDS] = { 'r', 'w', 'f', 'd', 'z' };
static const uint8_t op_weight[NR_OP_KINDS] = { 6, 8, 1, 1, 1 };

static void next_linear(const struct workload *w, uint64_t i, struct rng *rng, struct op *op)
{
	uint64_t left = w->span - i * w->max;

	(void)rng;
	op->kind = w->weight[OP_WRITE] ? OP_WRITE : OP_READ;
	op->sector = w->start + i * w->max;
	op->n = (uint32_t)(left < w->max ? left : w->max);
	op->tag = TAG_FIXED;
}

/* The draws and their order are part of the contract with blk_model.py. */
static void next_random(const struct workload *w, uint64_t i, struct rng *rng, struct op *op)
{
	uint64_t x = rng_next(rng) % w->total_weight;
	uint64_t n = 1 + rng_next(rng) % w->max;
	uint64_t sector = w->start + rng_next(rng) % (w->span - n + 1);
	bool unmap = rng_next(rng) & 1;
	unsigned int kind = 0;

	while (x >= w->weight[kind])
		x -= w->weight[kind++];
	op->kind = (enum op_kind)kind;
	op->sector = sector;
	op->n = kind == OP_FLUSH ? 0 : (uint32_t)n;
	op->unmap = unmap && kind == OP_ZEROES;
	op->tag = i + 1;
}

/* Every request of the largest size, at a multiple of it. */
static void next_bench(const struct workload *w, uint64_t i, struct rng *rng, struct op *op)
{
	uint64_t blocks = w->span / w->max;

	next_linear(w, 0, rng, op);
	op->n = (uint32_t)w->max;
	op->sector = w->start + (w->odd ? i % blocks : rng_next(rng) % blocks) * w->max;
}

static void set_ops(struct workload *w, const char *letters)
{
	unsigned int kind;
	const char *l;

	w->total_weight = 0;
	for (kind = 0; kind < NR_OP_KINDS; kind++) {
		w->weight[kind] = 0;
		for (l = letters; *l && *l != op_letter[kind]; l++)
			;
		if (*l)
			w->weight[kind] = op_weight[kind];
		w->total_weight += w->weight[kind];
	}
}

/* The options all workloads share, within what the device takes. */
static bool setup(struct workload *w, struct blk *b, struct step *s, const char *ops)
{
	uint64_t seg_max = blk_has(b, VIRTIO_BLK_F_SEG_MAX) ? blk_config(b, 12) : 1;

	w->b = b;
	w->seed = step_option(s, "seed", 0);
	w->max = step_option(s, "max", 64);
	w->segs = step_option(s, "segs", 1);
	w->depth = step_option(s, "depth", 32);
	w->indirect = blk_has(b, VIRTIO_RING_F_INDIRECT_DESC) ? step_option(s, "indirect", 0) : 0;
	w->odd = step_option(s, "odd", 0);
	set_ops(w, ops);
	if (w->segs > seg_max)
		w->segs = seg_max;
	if (w->depth > b->vq.size)
		w->depth = b->vq.size;
	if (w->max > w->span)
		w->max = w->span;
	if (w->span && w->max && w->depth && w->segs && w->total_weight && w->start <= b->capacity &&
	    w->span <= b->capacity - w->start)
		return true;
	say("blk %u: no sectors, no operations, or beyond the end at %llu\n", b->index,
	    (unsigned long long)b->capacity);
	return false;
}

static bool linear(struct blk *b, struct step *s, const char *ops)
{
	struct workload *w = alloc(b->g, sizeof(*w), 64);

	if (!w || !step_number(s, 3, &w->start) || !step_number(s, 4, &w->span) || !setup(w, b, s, ops))
		return false;
	w->n = (w->span + w->max - 1) / w->max;
	w->check = CHECK_FIXED;
	w->next = next_linear;
	if (!workload_alloc(w) || !workload_run(w))
		return false;
	say("blk %u %s: %llu sectors, %llu requests, %llu errors, %llu in flight\n", b->index, s->word[2],
	    (unsigned long long)w->sectors, (unsigned long long)w->n, (unsigned long long)w->errors,
	    (unsigned long long)w->most_busy);
	return !w->errors;
}

/* Memory for a workload goes back when it is done; after a dead device, the next reset comes first. */
static bool with_memory(struct blk *b, struct step *s, bool (*run)(struct blk *b, struct step *s))
{
	uint64_t mark = b->g->arena;
	bool good = run(b, s);

	if (!b->open && !vdev_reset(&b->dev))
		return false;
	b->g->arena = mark;
	return good;
}

static bool run_fill(struct blk *b, struct step *s)
{
	return linear(b, s, "w");
}

static bool run_verify(struct blk *b, struct step *s)
{
	return linear(b, s, "r");
}

/* After the mix: everything to the disk, then every sector once more. */
static bool check_all(struct workload *w)
{
	if (blk_has(w->b, VIRTIO_BLK_F_FLUSH) &&
	    blk_request(w->b, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, false) != VIRTIO_BLK_S_OK) {
		say("blk %u: the last flush failed\n", w->b->index);
		return false;
	}
	w->n = (w->span + w->max - 1) / w->max;
	set_ops(w, "r");
	w->next = next_linear;
	return workload_run(w);
}

static bool run_fuzz(struct blk *b, struct step *s)
{
	struct workload *w = alloc(b->g, sizeof(*w), 64);

	if (!w)
		return false;
	w->start = step_option(s, "start", 0);
	w->span = step_option(s, "span", 2048);
	if (!setup(w, b, s, step_text(s, "ops", "rwf")))
		return false;
	w->n = step_option(s, "n", 1000);
	w->discard_zero = equal(step_text(s, "discard", "any"), "zero");
	w->check = CHECK_MODEL;
	w->next = next_random;
	w->tag = alloc(b->g, w->span * sizeof(*w->tag), 64);
	if (!w->tag || !workload_alloc(w) || !workload_run(w))
		return false;
	say("blk %u fuzz: %llu reads, %llu writes, %llu flushes, %llu discards, %llu write-zeroes, %llu sectors, "
	    "%llu in flight\n",
	    b->index, (unsigned long long)w->count[OP_READ], (unsigned long long)w->count[OP_WRITE],
	    (unsigned long long)w->count[OP_FLUSH], (unsigned long long)w->count[OP_DISCARD],
	    (unsigned long long)w->count[OP_ZEROES], (unsigned long long)w->sectors, (unsigned long long)w->most_busy);
	if (!check_all(w))
		return false;
	say("blk %u fuzz: %llu errors\n", b->index, (unsigned long long)w->errors);
	return !w->errors;
}

static bool run_bench(struct blk *b, struct step *s)
{
	struct workload *w = alloc(b->g, sizeof(*w), 64);
	uint64_t begin;

	if (!w)
		return false;
	w->start = step_option(s, "start", 0);
	w->span = step_option(s, "span", b->capacity);
	if (!setup(w, b, s, equal(step_text(s, "rw", "read"), "write") ? "w" : "r"))
		return false;
	w->max = step_option(s, "bs", 4096) / SECTOR;
	w->odd = step_option(s, "seq", 0);
	w->n = step_option(s, "n", 10000);
	w->check = CHECK_NONE;
	w->next = next_bench;
	if (!w->max || w->max > w->span || !workload_alloc(w))
		return false;
	begin = ticks();
	if (!workload_run(w))
		return false;
	say("blk %u bench: %llu requests of %llu bytes, %llu ticks, %llu errors\n", b->index, (unsigned long long)w->n,
	    (unsigned long long)w->max * SECTOR, (unsigned long long)(ticks() - begin), (unsigned long long)w->errors);
	return !w->errors;
}

bool workload_fill(struct blk *b, struct step *s)
{
	return with_memory(b, s, run_fill);
}

bool workload_verify(struct blk *b, struct step *s)
{
	return with_memory(b, s, run_verify);
}

bool workload_fuzz(struct blk *b, struct step *s)
{
	return with_memory(b, s, run_fuzz);
}

bool workload_bench(struct blk *b, struct step *s)
{
	return with_memory(b, s, run_bench);
}
