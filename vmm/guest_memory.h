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

enum huge_pages { HUGE_PAGES_NONE, HUGE_PAGES_TRANSPARENT, HUGE_PAGES_2M };

struct gm_region {
	uint64_t gpa;  /* first guest physical address, bytes */
	uint64_t size; /* bytes */
	uint8_t *hva;  /* where it is mapped here */
};

/* Regions sorted by gpa, never overlapping. Immutable once created, so any thread may read it. */
struct guest_memory {
	struct gm_region region[GM_MAX_REGIONS];
	unsigned int nr_regions;
	uint64_t size;     /* bytes in all regions */
	bool small_pages;  /* false: hugetlbfs pages, over which no file can be mapped */
	void *reservation; /* the one mapping behind all regions */
	uint64_t reservation_size;
};

/*
 * gm_create - map mem_size_mib MiB of private, unreserved guest RAM; nothing is touched
 * HUGE_PAGES_2M takes its pages from the host's pool at once (a fault without a page would be a SIGBUS later), so the
 * size must be a multiple of 2 MiB. Returns 0, or -EINVAL or -ENOMEM with a sentence that begins with the field.
 * gm_destroy unmaps it. Start-up thread only.
 */
int gm_create(struct guest_memory *gm, uint64_t mem_size_mib, enum huge_pages huge, struct error *err);
void gm_destroy(struct guest_memory *gm);

/* gm_register - hand every region to KVM as a memory slot. Must come before the irqchip (design.md, 3). */
int gm_register(const struct guest_memory *gm, int vm_fd, struct error *err);

/*
 * gm_at - host address of guest bytes [gpa, gpa + len)
 * Returns NULL unless the whole range lies in one region. The bytes belong to the guest and may change at any
 * time: copy before you decide on them. Any thread; no lock. len 0 is valid anywhere inside a region.
 */
void *gm_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len);

/* gm_read, gm_write - copy len bytes; 0, or -EFAULT with nothing copied. */
int gm_read(const struct guest_memory *gm, uint64_t gpa, void *dst, size_t len);
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
int gm_load_file(struct guest_memory *gm, uint64_t gpa, int fd, uint64_t file_size, uint64_t offset, uint64_t len,
		 enum gm_load how, struct error *err);

#endif
