/* guest_memory.h: the only way to reach the guest's RAM. */
#ifndef MAYFLY_GUEST_MEMORY_H
#define MAYFLY_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

/* x86: RAM below 3 GiB, devices from 3 GiB to 4 GiB, the rest of RAM above 4 GiB (design.md, 3). */
#define GM_HOLE_START  0xC0000000ull
#define GM_HOLE_END    0x100000000ull
#define GM_MAX_REGIONS 2
#define GM_MAX_MAPPED  16
#define GM_PAGE        4096ull /* x86: what mmap, KVM's dirty log and the guest count in */

enum huge_pages { HUGE_PAGES_NONE, HUGE_PAGES_TRANSPARENT, HUGE_PAGES_2M };

struct gm_region {
	uint64_t gpa;  /* first guest physical address, bytes */
	uint64_t size; /* bytes */
	uint8_t *hva;  /* where it is mapped here */
};

/* A part of RAM that shows a file: bytes from the start of RAM, the gap below 4 GiB not counted. */
struct gm_mapped {
	uint64_t start, end;
};

/* Whoever is told that this process is about to write bytes [start, end) of RAM, counted as above. Loop thread. */
struct gm_watcher {
	void (*before_write)(void *opaque, uint64_t start, uint64_t end);
	void *opaque;
};

/* Regions sorted by gpa, never overlapping, and adjacent in this process. Immutable once created, so any thread may
 * read it. */
struct guest_memory {
	struct gm_region region[GM_MAX_REGIONS];
	unsigned int nr_regions;
	uint64_t size;     /* bytes in all regions */
	bool small_pages;  /* false: hugetlbfs pages, or shared, over which no file can be mapped */
	bool shared;       /* still MAP_SHARED, so that source_fd has all that is written */
	bool is_brought;   /* a page that is not here yet comes from a page-fault handler (snapshot/uffd.h) */
	void *reservation; /* the one mapping behind all regions */
	uint64_t reservation_size;
	struct gm_mapped mapped[GM_MAX_MAPPED]; /* besides, RAM is zeros that nobody has touched, or anonymous */
	unsigned int nr_mapped;
	int source_fd; /* the file that all of RAM shows or showed first, whose holes are zeros, too; ours. -1: none */
	uint64_t *dirty; /* a bit for each page that this process has written; NULL: nobody asks */
	/* NULL: nobody. While there is one, a vCPU may wait for the loop's thread inside KVM_RUN, and that must not
	 * wait for the vCPU: as KVM_IOEVENTFD does (SRCU). */
	const struct gm_watcher *watcher;
	bool huge; /* pages of hugetlbfs */
};

/*
 * gm_create - map mem_size_mib MiB of private, unreserved guest RAM; nothing is touched
 * HUGE_PAGES_2M takes its pages from the host's pool at once (a fault without a page would be a SIGBUS later), so the
 * size must be a multiple of 2 MiB. Returns 0, or -EINVAL or -ENOMEM with a sentence that begins with the field.
 * gm_destroy unmaps it. Start-up thread only.
 */
/*@ requires \valid(gm) && (err == \null || \valid(err));
    ensures made: \result == 0 ==> 1 <= gm->nr_regions <= GM_MAX_REGIONS && gm->region[0].gpa == 0;
    ensures refused: \result != 0 ==> (\result == -EINVAL || \result == -ENOMEM) && gm->nr_regions == 0; */
int gm_create(struct guest_memory *gm, uint64_t mem_size_mib, enum huge_pages huge, struct error *err);
/*@ requires \valid(gm);
    ensures gm->nr_regions == 0 && gm->reservation == \null; */
void gm_destroy(struct guest_memory *gm);

/*
 * gm_share - keep all of RAM in a memfd, source_fd, with `tail` bytes behind it, until gm_freeze
 * Right after gm_create. 0 or a negative errno with a sentence. Start-up thread only.
 */
/*@ requires \valid(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_share(struct guest_memory *gm, uint64_t tail, struct error *err);

/*
 * gm_adopt - make all of RAM be the first bytes of fd, a memfd that nobody else writes to and that is gm's from now on,
 * until gm_freeze
 * Right after gm_create, with small pages. 0 or a negative errno with a sentence. Start-up thread only.
 */
/*@ requires \valid(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_adopt(struct guest_memory *gm, int fd, struct error *err);

/*
 * gm_freeze - from now on fd keeps what RAM is at this moment, for others to map, and what is written here is ours
 * alone fd is gm's memfd, or one that holds a copy of RAM; it becomes source_fd, and is sealed. Nothing may be in
 * flight, no vCPU in the guest. 0 or a negative errno with a sentence. Loop thread.
 */
/*@ requires \valid(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_freeze(struct guest_memory *gm, int fd, struct error *err);

/*
 * gm_track - from now on note what this process writes; before gm_register, which has KVM note what the guest does
 * 0 or -ENOMEM with a sentence. Start-up thread only.
 */
/*@ requires \valid(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_track(struct guest_memory *gm, struct error *err);

/*
 * gm_written - bytes [hva, hva + len), which gm_at has returned, are about to be written other than by gm_write
 * Any thread until a vCPU runs, then the loop's alone, as gm_write: vCPU threads do not write RAM.
 */
/*@ requires \valid_read(gm) && gm->nr_regions <= GM_MAX_REGIONS; */
void gm_written(const struct guest_memory *gm, const void *hva, uint64_t len);

/* gm_register - hand every region to KVM as a memory slot. Must come before the irqchip (design.md, 3). */
/*@ requires \valid_read(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_register(const struct guest_memory *gm, int vm_fd, struct error *err);

/*
 * gm_at - host address of guest bytes [gpa, gpa + len)
 * Returns NULL unless the whole range lies in one region. The bytes belong to the guest and may change at any
 * time: copy before you decide on them. Any thread; no lock. len 0 is valid anywhere inside a region.
 */
/*@ requires \valid_read(gm) && gm->nr_regions <= GM_MAX_REGIONS;
    ensures ours: \result == \null || \valid((char *)\result + (0 .. len - 1)); */
void *gm_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len);

/* gm_read, gm_write - copy len bytes; 0, or -EFAULT with nothing copied. */
/*@ requires \valid_read(gm) && gm->nr_regions <= GM_MAX_REGIONS;
    requires room: len == 0 || \valid((char *)dst + (0 .. len - 1));
    ensures copied: \result == 0 ==> len == 0 || \initialized((char *)dst + (0 .. len - 1));
    ensures known: \result == 0 || \result == -EFAULT; */
int gm_read(const struct guest_memory *gm, uint64_t gpa, void *dst, size_t len);
/*@ requires \valid_read(gm) && gm->nr_regions <= GM_MAX_REGIONS;
    requires there: len == 0 || \valid_read((char *)src + (0 .. len - 1));
    ensures known: \result == 0 || \result == -EFAULT; */
int gm_write(const struct guest_memory *gm, uint64_t gpa, const void *src, size_t len);

enum gm_load {
	GM_MAP,  /* show the file's own pages: for what the guest reads, or touches little of */
	GM_COPY, /* for what the guest writes anyway */
};

/*
 * gm_load_file - make guest bytes [gpa, gpa + len) show file bytes [offset, offset + len) of fd
 * Whole pages are mapped MAP_PRIVATE from the file (shared between microVMs until written, no copy) where gpa and
 * offset agree modulo the page size and RAM has small pages; unaligned heads and tails, and everything otherwise,
 * is copied. No byte outside the range changes. The range must lie in RAM (-EFAULT) and in the file (-EIO: file too
 * short). file_size is what fstat said of fd, in bytes; fd may be closed afterwards. Start-up thread only.
 *
 * A mapped file has to stay as it is while the microVM runs: pages that the guest has not written yet show what is
 * written to the file, and if it is cut short, reading them is a SIGBUS here and -EFAULT from KVM_RUN for the guest.
 * Replace a kernel by rename(2), never in place.
 */
/*@ requires \valid_read(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_load_file(struct guest_memory *gm, uint64_t gpa, int fd, uint64_t file_size, uint64_t offset, uint64_t len,
		 enum gm_load how, struct error *err);

/*
 * gm_restore - make all of RAM show the first bytes of a memory file, as gm_load_file would
 * fd, as long as the file is whole, becomes gm's. 0 or a negative errno with a sentence. Start-up thread only.
 */
/*@ requires \valid(gm) && gm->nr_regions <= GM_MAX_REGIONS && (err == \null || \valid(err));
    ensures \result <= 0; */
int gm_restore(struct guest_memory *gm, int fd, uint64_t file_size, struct error *err);

#endif
