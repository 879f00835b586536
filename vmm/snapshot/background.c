/* background.c: writes RAM as it was at a pause while the guest runs on. */
#include "snapshot/background.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lazy_memory.h"
#include "log.h"
#include "snapshot/uffd.h"

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13) /* Linux 6.4 */
#endif

#define BLOCK          (64ull << 10)  /* saved around a page that is about to be written */
#define TURN_PAUSED    (4ull << 20)   /* bytes of one turn while the guest waits */
#define TURN_RUNNING   (256ull << 10) /* and while it runs, whose devices wait that long */
#define TURN_LOOKED    (64ull << 20)  /* and looked at */
#define RUN_COST       (4 * GM_PAGE)  /* what a run costs a turn besides its bytes */
#define CHOSEN         (16ull << 20)  /* bytes of RAM looked at in one go, at the pause */
#define FAULTS_AT_ONCE 16

/* ---- the userfaultfd ---- */

/* The kernel refuses features that it does not have, and takes the next try. */
static int agree_on_features(struct background *b)
{
	static const uint64_t shared = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	const uint64_t tries[] = { shared | UFFD_FEATURE_WP_UNPOPULATED, shared, UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	unsigned int i;

	/* Where nothing was swapped out, what is not there was never touched, and is left alone. */
	for (i = memory_save_host_swaps() ? 0 : 1; i < sizeof(tries) / sizeof(tries[0]); i++) {
		struct uffdio_api api = { .api = UFFD_API, .features = tries[i] };

		if (ioctl(b->faults.fd, UFFDIO_API, &api))
			continue;
		b->guards_missing = tries[i] & UFFD_FEATURE_WP_UNPOPULATED;
		b->guards_shared = tries[i] & UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
		return 0;
	}
	return -errno;
}

void background_open(struct background *b)
{
	b->faults.fd = uffd_open();
	b->open_code = b->faults.fd < 0 ? b->faults.fd : agree_on_features(b);
	b->is_open = b->faults.fd >= 0;
}

void background_close(struct background *b)
{
	if (b->is_open)
		close(b->faults.fd);
	b->is_open = false;
}

static uint64_t address(const struct background *b, uint64_t at)
{
	return (uintptr_t)b->gm->region[0].hva + at;
}

static int watch(const struct background *b, const struct gm_mapped *part)
{
	struct uffdio_register reg = {
		.range = { .start = address(b, part->start), .len = part->end - part->start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(b->faults.fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

static int protect(const struct background *b, uint64_t start, uint64_t end, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = address(b, start), .len = end - start },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(b->faults.fd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

/* Everything before `end` is as if it had never been protected, and nobody waits there; the kernel wakes no one by
 * itself. */
static void unwatch(struct background *b, uint64_t end)
{
	unsigned int i;

	for (i = 0; i < b->nr_guarded; i++) {
		struct gm_mapped *part = &b->guarded[i];
		uint64_t to = end < part->end ? end : part->end;
		struct uffdio_range range = { .start = address(b, part->start), .len = to - part->start };

		if (to <= part->start)
			continue;
		(void)ioctl(b->faults.fd, UFFDIO_UNREGISTER, &range);
		(void)ioctl(b->faults.fd, UFFDIO_WAKE, &range);
		part->start = to;
	}
}

/* ---- pages ---- */

static bool is_left(const struct background *b, uint64_t at)
{
	return b->left[at / GM_PAGE / 64] >> at / GM_PAGE % 64 & 1;
}

/* The first run of pages in [at, end) that are left, of most bytes; false: there is none. */
static bool next_run(const struct background *b, uint64_t at, uint64_t end, uint64_t most, struct gm_mapped *run)
{
	while (at < end && !is_left(b, at))
		at += at % (64 * GM_PAGE) == 0 && !b->left[at / GM_PAGE / 64] ? 64 * GM_PAGE : GM_PAGE;
	if (at >= end)
		return false;
	*run = (struct gm_mapped){ .start = at, .end = at };
	while (run->end < end && run->end - at < most && is_left(b, run->end))
		run->end += GM_PAGE;
	return true;
}

/* First the file has it, then it may be written. */
static int save_run(struct background *b, const struct gm_mapped *run)
{
	uint64_t page;
	int ret = memory_save_pages(b->save, run->start, run->end, &b->err);

	for (page = run->start / GM_PAGE; !ret && page < run->end / GM_PAGE; page++)
		b->left[page / 64] &= ~(1ull << page % 64);
	return ret;
}

static int allow_writes(struct background *b, uint64_t start, uint64_t end)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < b->nr_guarded && !ret; i++) {
		const struct gm_mapped *part = &b->guarded[i];
		uint64_t from = start < part->start ? part->start : start, to = end < part->end ? end : part->end;

		if (from < to)
			ret = protect(b, from, to, false);
	}
	return ret ? error_set(&b->err, ret, "UFFDIO_WRITEPROTECT: %s", strerror(-ret)) : 0;
}

/* Nothing may wait for a page that is never saved: the guest goes on, and the snapshot does not. */
static void give_up(struct background *b)
{
	unwatch(b, b->gm->size);
	b->gm->watcher = NULL;
	event_loop_watch(b->loop, &b->faults, 0);
}

static void save_around(struct background *b, uint64_t start, uint64_t end)
{
	struct gm_mapped run;
	int ret = 0;

	start = start / BLOCK * BLOCK;
	end = (end + BLOCK - 1) / BLOCK * BLOCK;
	if (end > b->gm->size)
		end = b->gm->size;
	while (!ret && next_run(b, start, end, UINT64_MAX, &run))
		ret = save_run(b, &run);
	if (!ret)
		ret = allow_writes(b, start, end);
	if (ret)
		give_up(b);
}

/* ---- who writes ---- */

static void on_device_write(void *opaque, uint64_t start, uint64_t end)
{
	struct background *b = opaque;
	struct gm_mapped run;

	if (next_run(b, start / GM_PAGE * GM_PAGE, end, GM_PAGE, &run))
		save_around(b, run.start, end);
}

static void on_faults(struct event_fd *ev, uint32_t events)
{
	struct background *b = ev->opaque;
	struct uffd_msg msg[FAULTS_AT_ONCE];
	ssize_t n = read(ev->fd, msg, sizeof(msg));
	size_t i;

	(void)events;
	for (i = 0; n > 0 && i < (size_t)n / sizeof(msg[0]) && !b->err.code; i++) {
		uint64_t at = msg[i].arg.pagefault.address - address(b, 0);

		if (msg[i].event == UFFD_EVENT_PAGEFAULT && at < b->gm->size)
			save_around(b, at, at + 1);
	}
}

/* ---- begin, turns, end ---- */

/* Anonymous memory, and that of a microVM that may be forked; not what shows a file, which the kernel cannot. */
static void list_guarded(struct background *b)
{
	const struct guest_memory *gm = b->gm;
	const struct gm_mapped *next;
	uint64_t at = 0;
	unsigned int i;

	b->nr_guarded = 0;
	b->unguarded = 0;
	if (gm->shared && b->guards_shared) {
		b->guarded[b->nr_guarded++] = (struct gm_mapped){ .start = 0, .end = gm->size };
		b->unguarded = gm->nr_mapped;
		return;
	}
	while (at < gm->size) {
		next = NULL;
		for (i = 0; i < gm->nr_mapped; i++) {
			if (gm->mapped[i].end > at && (!next || gm->mapped[i].start < next->start))
				next = &gm->mapped[i];
		}
		if (!next || next->start > at)
			b->guarded[b->nr_guarded++] =
				(struct gm_mapped){ .start = at, .end = next ? next->start : gm->size };
		at = next ? next->end : gm->size;
	}
}

static int choose(struct background *b, struct error *err)
{
	uint8_t wanted[CHOSEN / GM_PAGE];
	uint64_t at, end, page;
	int ret = 0;

	for (at = 0; at < b->gm->size && !ret; at = end) {
		end = b->gm->size - at < CHOSEN ? b->gm->size : at + CHOSEN;
		memset(wanted, 0, sizeof(wanted));
		ret = memory_save_choose(b->save, at, end, wanted, err);
		for (page = at / GM_PAGE; page < end / GM_PAGE; page++)
			b->left[page / 64] |= (uint64_t)(wanted[page - at / GM_PAGE] & 1) << page % 64;
	}
	return ret;
}

/* All at once where what is there is what is left; else nothing but that, so that what is protected is always left. */
static int protect_left(const struct background *b, const struct gm_mapped *part)
{
	struct gm_mapped run = { .end = part->start };
	int ret = 0;

	if (!(b->save->diff && b->save->dirty) && !b->gm->shared)
		return protect(b, part->start, part->end, true);
	while (!ret && next_run(b, run.end, part->end, UINT64_MAX, &run))
		ret = protect(b, run.start, run.end, true);
	return ret;
}

static int check(const struct background *b, const struct memory_save *save, struct error *err)
{
	if (!b->is_open || b->open_code)
		return error_set(err, b->open_code ? b->open_code : -ENOSYS,
				 "snapshot.background: userfaultfd: %s (needs Linux 5.7, and read and write access to "
				 "/dev/userfaultfd or vm.unprivileged_userfaultfd = 1)",
				 strerror(b->open_code ? -b->open_code : ENOSYS));
	if (b->gm->is_brought)
		return error_set(err, -EINVAL,
				 "snapshot.background: a page-fault handler brings this microVM's memory (leave it "
				 "out)");
	if (b->gm->huge)
		return error_set(err, -EINVAL,
				 "snapshot.background: not with machine-config.huge_pages 2M (leave it out)");
	if (save->swaps && !b->guards_missing)
		return error_set(err, -EINVAL,
				 "snapshot.background: the host swaps, which needs Linux 6.4, and swap that is on when "
				 "Mayfly starts (leave it out)");
	return 0;
}

int background_begin(struct background *b, struct event_loop *loop, struct guest_memory *gm, struct memory_save *save,
		     struct error *err)
{
	unsigned int i;
	int ret;

	b->loop = loop;
	b->gm = gm;
	b->save = save;
	b->err = (struct error){ 0 };
	ret = check(b, save, err);
	if (ret)
		return ret;
	b->left = lazy_alloc(gm->size / GM_PAGE / 8);
	if (!b->left)
		return error_set(err, -ENOMEM, "no memory for the list of pages");
	b->is_begun = true;
	list_guarded(b);
	b->at = b->unguarded < gm->nr_mapped ? gm->mapped[0].start : 0;
	/* Watched first: from then on nobody makes a huge page of what is there and what is not. */
	for (i = 0; i < b->nr_guarded && !ret; i++)
		ret = watch(b, &b->guarded[i]);
	if (!ret)
		ret = choose(b, err);
	for (i = 0; i < b->nr_guarded && !ret; i++)
		ret = protect_left(b, &b->guarded[i]);
	if (ret) {
		background_end(b);
		return err->code ? ret : error_set(err, ret, "snapshot.background: userfaultfd: %s", strerror(-ret));
	}
	b->faults.ready = on_faults;
	b->faults.opaque = b;
	event_loop_watch(loop, &b->faults, EPOLLIN);
	b->watcher = (struct gm_watcher){ .before_write = on_device_write, .opaque = b };
	gm->watcher = &b->watcher;
	return 0;
}

bool background_may_resume(const struct background *b)
{
	return b->unguarded == b->gm->nr_mapped;
}

/* A turn's worth of [b->at, end); true: it is not all. */
static bool save_some(struct background *b, uint64_t end, uint64_t budget)
{
	uint64_t seen = end - b->at < TURN_LOOKED ? end : b->at + TURN_LOOKED, spent = 0;
	struct gm_mapped run;

	while (spent < budget && next_run(b, b->at, seen, budget - spent, &run)) {
		if (save_run(b, &run)) {
			give_up(b);
			return true;
		}
		b->at = run.end;
		spent += run.end - run.start + RUN_COST;
	}
	if (!spent)
		b->at = seen;
	return b->at < end;
}

int background_turn(struct background *b, struct error *err)
{
	const struct guest_memory *gm = b->gm;
	bool more = true;

	if (!b->err.code && !background_may_resume(b)) {
		if (!save_some(b, gm->mapped[b->unguarded].end, TURN_PAUSED))
			b->at = ++b->unguarded < gm->nr_mapped ? gm->mapped[b->unguarded].start : 0;
	} else if (!b->err.code) {
		more = save_some(b, gm->size, TURN_RUNNING);
		unwatch(b, b->at);
	}
	if (!b->err.code)
		return more;
	*err = b->err;
	return err->code;
}

void background_end(struct background *b)
{
	if (!b->is_begun)
		return;
	give_up(b);
	munmap(b->left, b->gm->size / GM_PAGE / 8);
	b->left = NULL;
	b->is_begun = false;
}
