/* memory_save.c: writes the guest's RAM to a memory file, a little at a time. */
#include "snapshot/memory_save.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "lazy_memory.h"
#include "snapshot/memory_file.h"
#include "write_all.h"

#define CHUNK       (16ull << 20) /* bytes looked at in one go */
#define CHUNK_PAGES (CHUNK / GM_PAGE)
/* Of one turn: what takes a few milliseconds. */
#define TURN_WRITTEN (4ull << 20)
#define TURN_LOOKED  (1ull << 30)

/* A chunk of RAM, and which of its pages are to be looked at. */
struct chunk {
	uint64_t start, end; /* bytes of RAM */
	uint8_t *wanted;
};

/* ---- which pages ---- */

static void add_bits(uint64_t *to, const uint64_t *from, uint64_t nr_pages)
{
	uint64_t i;

	for (i = 0; i < nr_pages / 64; i++)
		to[i] |= from[i];
}

/* What the guest (by KVM) and devices (by gm_written) have written since this was asked last. A MiB is 256 pages, so
 * regions fill whole words. */
static int collect_dirty(struct memory_save *s, int vm_fd, struct error *err)
{
	const uint64_t nr_pages = s->gm->size / GM_PAGE;
	uint64_t done = 0;
	unsigned int i;

	s->dirty = lazy_alloc(nr_pages / 8);
	if (!s->dirty)
		return error_set(err, -ENOMEM, "no memory for the list of pages");
	for (i = 0; i < s->gm->nr_regions; i++) {
		struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = s->dirty + done / 64 };

		if (ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
			return error_set(err, -errno, "KVM_GET_DIRTY_LOG: %s", strerror(errno));
		done += s->gm->region[i].size / GM_PAGE;
	}
	add_bits(s->dirty, s->gm->dirty, nr_pages);
	memset(s->gm->dirty, 0, nr_pages / 8);
	return 0;
}

static void want(struct chunk *c, uint64_t start, uint64_t end)
{
	uint64_t page;

	for (page = start < c->start ? c->start : start; page < end && page < c->end; page += GM_PAGE)
		c->wanted[(page - c->start) / GM_PAGE] = 1;
}

/* Pages that show a file hold something even if nobody has looked at them, but for the holes of a memory file. */
static void want_mapped(const struct memory_save *s, struct chunk *c, const struct gm_mapped *mapped)
{
	uint64_t at = mapped->start < c->start ? c->start : mapped->start;
	uint64_t end = mapped->end < c->end ? mapped->end : c->end;
	off_t data, hole;

	if (s->gm->source_fd < 0) {
		want(c, at, end);
		return;
	}
	while (at < end) {
		data = lseek(s->gm->source_fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return;
		hole = data < 0 ? -1 : lseek(s->gm->source_fd, data, SEEK_HOLE);
		if (hole < 0) {
			/* A file system that does not tell. */
			want(c, at, end);
			return;
		}
		want(c, (uint64_t)data / GM_PAGE * GM_PAGE, (uint64_t)hole);
		at = (uint64_t)hole;
	}
}

static int choose_pages(const struct memory_save *s, struct chunk *c, struct error *err)
{
	uint64_t first = c->start / GM_PAGE, nr = (c->end - c->start) / GM_PAGE, i;

	if (s->dirty && s->diff) {
		for (i = 0; i < nr; i++)
			c->wanted[i] = s->dirty[(first + i) / 64] >> (first + i) % 64 & 1;
		return 0;
	}
	/* In anonymous memory, a page that is neither here nor swapped out was never touched. */
	if (mincore(s->gm->region[0].hva + c->start, c->end - c->start, c->wanted) < 0)
		return error_set(err, -errno, "mincore: %s", strerror(errno));
	/* What a handler has not brought yet is not zeros, but as in the base of a diff. */
	if (s->swaps || (s->gm->is_brought && !s->diff))
		memset(c->wanted, 1, nr);
	for (i = 0; i < s->gm->nr_mapped; i++)
		want_mapped(s, c, &s->gm->mapped[i]);
	return 0;
}

int memory_save_choose(const struct memory_save *s, uint64_t start, uint64_t end, uint8_t *wanted, struct error *err)
{
	return choose_pages(s, &(struct chunk){ .start = start, .end = end, .wanted = wanted }, err);
}

/* ---- writing them ---- */

bool memory_save_is_zero(const uint8_t *page)
{
	const uint64_t *word = (const uint64_t *)(const void *)page, *end = word + GM_PAGE / sizeof(*word);
	uint64_t any = 0;

	/* musl's memcmp goes byte by byte, which takes eight times as long. */
	for (; word < end && !any; word += 8)
		any = word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7];
	return !any;
}

static int write_out(const struct memory_save *s, uint64_t at, uint64_t end, struct error *err)
{
	int ret = write_all(s->fd, s->gm->region[0].hva + at, end - at, (off_t)at);

	return ret ? error_set(err, ret, "the memory file: %s", strerror(-ret)) : 0;
}

static void note_pages(const struct memory_save *s, uint64_t at, uint64_t end)
{
	uint64_t page;

	for (page = at / GM_PAGE; s->bitmap && page < end / GM_PAGE; page++)
		s->bitmap[page / 8] |= (uint8_t)(1u << page % 8);
}

int memory_save_pages(struct memory_save *s, uint64_t at, uint64_t end, struct error *err)
{
	uint64_t run;
	int ret = 0;

	while (at < end && !ret) {
		for (run = at; run < end && (s->diff || !memory_save_is_zero(s->gm->region[0].hva + run));
		     run += GM_PAGE)
			;
		if (run > at)
			ret = write_out(s, at, run, err);
		note_pages(s, at, run);
		at = run > at ? run : run + GM_PAGE;
	}
	return ret;
}

static bool is_wanted(const struct chunk *c, uint64_t at)
{
	return at < c->end && c->wanted[(at - c->start) / GM_PAGE] & 1;
}

/* As many runs of pages as a turn may write; *written counts them. */
static int save_chunk(struct memory_save *s, const struct chunk *c, uint64_t *written, struct error *err)
{
	uint64_t run;
	int ret = 0;

	while (s->at < c->end && *written < TURN_WRITTEN && !ret) {
		for (run = s->at; is_wanted(c, run) && run - s->at < TURN_WRITTEN; run += GM_PAGE)
			;
		ret = memory_save_pages(s, s->at, run, err);
		*written += run - s->at;
		s->at = run > s->at ? run : run + GM_PAGE;
	}
	return ret;
}

int memory_save_turn(struct memory_save *s, struct error *err)
{
	uint64_t looked = s->at, written = 0;
	uint8_t wanted[CHUNK_PAGES];
	struct chunk c = { .wanted = wanted };
	int ret = 0;

	while (!ret && s->at < s->gm->size && written < TURN_WRITTEN && s->at - looked < TURN_LOOKED) {
		c.start = s->at;
		c.end = s->gm->size - c.start < CHUNK ? s->gm->size : c.start + CHUNK;
		memset(wanted, 0, sizeof(wanted));
		ret = choose_pages(s, &c, err);
		if (!ret)
			ret = save_chunk(s, &c, &written, err);
	}
	if (ret)
		return ret;
	return s->at < s->gm->size;
}

/* ---- begin and end ---- */

bool memory_save_host_swaps(void)
{
	struct sysinfo host;

	return sysinfo(&host) < 0 || host.totalswap;
}

int memory_save_begin(struct memory_save *s, const struct guest_memory *gm, int vm_fd, int fd, bool diff,
		      struct error *err)
{
	int ret;

	*s = (struct memory_save){ .gm = gm, .fd = fd, .diff = diff };
	s->swaps = memory_save_host_swaps();
	if (diff) {
		s->bitmap = lazy_alloc(memory_bitmap_size(gm->size));
		if (!s->bitmap)
			return error_set(err, -ENOMEM, "no memory for the list of pages");
	}
	if (!gm->dirty)
		return 0;
	ret = collect_dirty(s, vm_fd, err);
	if (ret)
		memory_save_end(s, true);
	return ret;
}

uint64_t memory_save_left(const struct memory_save *s)
{
	uint64_t words = s->dirty ? s->gm->size / GM_PAGE / 64 : 0, pages = 0, i;

	for (i = 0; i < words; i++)
		pages += (uint64_t)__builtin_popcountll(s->dirty[i]);
	return pages * GM_PAGE;
}

void memory_save_end(struct memory_save *s, bool given_up)
{
	const uint64_t nr_pages = s->gm->size / GM_PAGE;

	if (s->bitmap)
		munmap(s->bitmap, memory_bitmap_size(s->gm->size));
	s->bitmap = NULL;
	if (!s->dirty)
		return;
	if (given_up)
		add_bits(s->gm->dirty, s->dirty, nr_pages);
	munmap(s->dirty, nr_pages / 8);
	s->dirty = NULL;
}
