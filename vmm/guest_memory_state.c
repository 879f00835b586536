/* guest_memory_state.c: RAM that comes from a file, that others begin with, and of which somebody asks what was
 * written. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest_memory.h"
#include "lazy_memory.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define HUGE_PAGE   (2ull << 20)
#define HUGE_WITHIN (64ull << 20)

/* ---- what was written ---- */

int gm_track(struct guest_memory *gm, struct error *err)
{
	/* 1 MiB of RAM is 32 bytes here, so there is no rest. */
	gm->dirty = lazy_alloc(gm->size / GM_PAGE / 8);
	return gm->dirty ? 0 : error_set(err, -ENOMEM, "machine-config.track_dirty_pages: no memory");
}

void gm_written(const struct guest_memory *gm, const void *hva, uint64_t len)
{
	uint64_t start, page, last;

	if (!len || (!gm->dirty && !gm->watcher))
		return;
	start = (uint64_t)((const uint8_t *)hva - gm->region[0].hva);
	if (start >= gm->size || len > gm->size - start)
		return;
	if (gm->watcher)
		gm->watcher->before_write(gm->watcher->opaque, start, start + len);
	if (!gm->dirty)
		return;
	last = (start + len - 1) / GM_PAGE;
	for (page = start / GM_PAGE; page <= last; page++)
		__atomic_fetch_or(&gm->dirty[page / 64], 1ull << page % 64, __ATOMIC_RELAXED);
}

/* ---- files ---- */

int gm_restore(struct guest_memory *gm, int fd, uint64_t file_size, struct error *err)
{
	uint64_t offset = 0;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < gm->nr_regions && !ret; i++) {
		ret = gm_load_file(gm, gm->region[i].gpa, fd, file_size, offset, gm->region[i].size, GM_MAP, err);
		offset += gm->region[i].size;
	}
	if (!ret)
		gm->source_fd = fd;
	return ret;
}

/* All of RAM shows fd, in the order of a memory file. Where it fails, RAM may be partly the one and partly the other:
 * both hold the same bytes. */
static int map_all(struct guest_memory *gm, int fd, int flags, struct error *err)
{
	uint64_t offset = 0;
	unsigned int i;

	for (i = 0; i < gm->nr_regions; i++) {
		const struct gm_region *r = &gm->region[i];

		if (mmap(r->hva, r->size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd,
			 (off_t)offset) == MAP_FAILED)
			return error_set(err, -errno, "guest memory: %s", strerror(errno));
		gm->mapped[i] = (struct gm_mapped){ .start = offset, .end = offset + r->size };
		offset += r->size;
	}
	gm->nr_mapped = gm->nr_regions;
	return 0;
}

int gm_adopt(struct guest_memory *gm, int fd, struct error *err)
{
	int ret = map_all(gm, fd, MAP_SHARED, err);

	if (ret)
		return ret;
	gm->source_fd = fd;
	gm->shared = true;
	gm->small_pages = false;
	return 0;
}

int gm_share(struct guest_memory *gm, uint64_t tail, struct error *err)
{
	int fd, ret;

	if (!gm->small_pages)
		return error_set(err, -EINVAL, "machine-config.huge_pages: 2M does not go with --allow-fork");
	fd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)(gm->size + tail)))
		ret = error_set(err, -errno, "guest memory: %s", strerror(errno));
	else
		ret = gm_adopt(gm, fd, err);
	if (ret && fd >= 0)
		close(fd);
	return ret;
}

/*
 * Where 2 MiB have no hole they become one page, as far as the host can: what copies read there is one fault then, not
 * hundreds. Only where a guest's kernel lies, so that the pause for it (each range is copied) stays short.
 */
static void make_huge(const struct guest_memory *gm, int fd)
{
	const uint64_t most = gm->region[0].size < HUGE_WITHIN ? gm->region[0].size : HUGE_WITHIN;
	uint64_t at;

	for (at = 0; at + HUGE_PAGE <= most; at += HUGE_PAGE)
		if (lseek(fd, (off_t)at, SEEK_HOLE) >= (off_t)(at + HUGE_PAGE))
			(void)madvise(gm->region[0].hva + at, HUGE_PAGE, MADV_COLLAPSE);
}

int gm_freeze(struct guest_memory *gm, int fd, struct error *err)
{
	int ret = map_all(gm, fd, MAP_PRIVATE, err);

	if (ret)
		return ret;
	make_huge(gm, fd);
	/* The kernel agrees only where nobody can write to it any more. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW))
		return error_set(err, -errno, "guest memory: F_SEAL_WRITE: %s", strerror(errno));
	if (gm->source_fd >= 0 && gm->source_fd != fd)
		close(gm->source_fd);
	gm->source_fd = fd;
	gm->shared = gm->is_brought = false;
	return 0;
}
