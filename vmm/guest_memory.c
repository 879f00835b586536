/* guest_memory.c: map the guest's RAM, register it with KVM, and turn guest addresses into pointers. */
#include "guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB       ((uint64_t)1 << 20)
#define HUGE_SIZE (2 * MIB)
#define GM_MAX_MIB \
	((uint64_t)4 << 20) /* 4 TiB, CONFIG_MAX_MEM_MIB: room in a 47-bit address space and in KVM's slots */

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "guest sizes are used as host sizes");

static const char FREE_HUGE_PAGES[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/* How many 2 MiB pages the host has left, or -1 when it does not say. Only for the error sentence. */
static long long free_huge_pages(void)
{
	char text[32] = "";
	int fd = open(FREE_HUGE_PAGES, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? strtoll(text, NULL, 10) : -1;
}

static int map_failed(uint64_t size, enum huge_pages huge, int errnum, struct error *err)
{
	if (huge == HUGE_PAGES_2M)
		return error_set(err, -ENOMEM,
				 "machine-config.huge_pages: 2M needs %" PRIu64
				 " free huge pages of 2 MiB and the host has %lld (%s; raise "
				 "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)",
				 size / HUGE_SIZE, free_huge_pages(), strerror(errnum));
	return error_set(err, -ENOMEM,
			 "machine-config.mem_size_mib: %" PRIu64
			 ": %s (the host would not map that much; see ulimit -v and vm.overcommit_memory)",
			 size / MIB, strerror(errnum));
}

/* Reserve size bytes; base is where guest address 0 goes, on a 2 MiB boundary if pages are to be transparently huge. */
static int reserve(struct guest_memory *gm, uint64_t size, enum huge_pages huge, uint8_t **base, struct error *err)
{
	/* A hugetlb mapping without reservation would succeed and then SIGBUS at the first page that is not there. */
	int flags = huge == HUGE_PAGES_2M ? MAP_HUGETLB | MAP_HUGE_2MB : MAP_NORESERVE;
	uint64_t slack = huge == HUGE_PAGES_2M ? 0 : HUGE_SIZE;
	void *map = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (map == MAP_FAILED)
		return map_failed(size, huge, errno, err);
	gm->reservation = map;
	gm->reservation_size = size + slack;
	*base = (uint8_t *)map + (slack ? -(uintptr_t)map % HUGE_SIZE : 0);
	/* Without the kernel's support (-EINVAL) small pages serve as well: transparent means best effort. */
	if (huge == HUGE_PAGES_TRANSPARENT)
		(void)madvise(*base, size, MADV_HUGEPAGE);
	return 0;
}

int gm_create(struct guest_memory *gm, uint64_t mem_size_mib, enum huge_pages huge, struct error *err)
{
	uint64_t size = mem_size_mib * MIB;
	uint64_t low = size < GM_HOLE_START ? size : GM_HOLE_START;
	uint8_t *base = NULL;
	int ret;

	*gm = (struct guest_memory){ .small_pages = huge != HUGE_PAGES_2M,
				     .huge = huge == HUGE_PAGES_2M,
				     .source_fd = -1 };
	if (!mem_size_mib || mem_size_mib > GM_MAX_MIB)
		return error_set(err, -EINVAL, "machine-config.mem_size_mib: %" PRIu64 ": must be from 1 to %" PRIu64,
				 mem_size_mib, GM_MAX_MIB);
	if (huge == HUGE_PAGES_2M && size % HUGE_SIZE)
		return error_set(err, -EINVAL,
				 "machine-config.mem_size_mib: %" PRIu64
				 ": must be even when machine-config.huge_pages is 2M",
				 mem_size_mib);
	ret = reserve(gm, size, huge, &base, err);
	if (ret)
		return ret;
	gm->size = size;
	gm->region[gm->nr_regions++] = (struct gm_region){ .gpa = 0, .size = low, .hva = base };
	if (size > low)
		gm->region[gm->nr_regions++] =
			(struct gm_region){ .gpa = GM_HOLE_END, .size = size - low, .hva = base + low };
	return 0;
}

void gm_destroy(struct guest_memory *gm)
{
	if (gm->reservation)
		munmap(gm->reservation, gm->reservation_size);
	if (gm->dirty)
		munmap(gm->dirty, gm->size / GM_PAGE / 8);
	if (gm->source_fd > 0)
		close(gm->source_fd);
	*gm = (struct guest_memory){ .source_fd = -1 };
}

int gm_register(const struct guest_memory *gm, int vm_fd, struct error *err)
{
	for (unsigned int i = 0; i < gm->nr_regions; i++) {
		const struct gm_region *r = &gm->region[i];
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.flags = gm->dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
			.guest_phys_addr = r->gpa,
			.memory_size = r->size,
			.userspace_addr = (uintptr_t)r->hva,
		};

		if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return error_set(err, -errno,
					 "machine-config.mem_size_mib: KVM refused %" PRIu64
					 " MiB at guest address 0x%" PRIx64 ": %s",
					 r->size / MIB, r->gpa, strerror(errno));
	}
	return 0;
}

void *gm_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < gm->nr_regions; i++) {
		const struct gm_region *r = &gm->region[i];
		uint64_t offset = gpa - r->gpa;

		if (gpa >= r->gpa && offset < r->size)
			return len <= r->size - offset ? r->hva + offset : NULL;
	}
	return NULL;
}

int gm_read(const struct guest_memory *gm, uint64_t gpa, void *dst, size_t len)
{
	const void *src = gm_at(gm, gpa, len);

	if (!src)
		return -EFAULT;
	if (len)
		memcpy(dst, src, len);
	return 0;
}

int gm_write(const struct guest_memory *gm, uint64_t gpa, const void *src, size_t len)
{
	void *dst = gm_at(gm, gpa, len);

	if (!dst)
		return -EFAULT;
	gm_written(gm, dst, len);
	if (len)
		memcpy(dst, src, len);
	return 0;
}

/* Copy file bytes; a file that ends early is -EIO, as if it had been cut since its size was read. */
static int copy_in(uint8_t *dst, int fd, uint64_t offset, uint64_t len, struct error *err)
{
	while (len) {
		ssize_t n = pread(fd, dst, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, -errno, "cannot read %" PRIu64 " bytes at offset %" PRIu64 ": %s", len,
					 offset, strerror(errno));
		if (n == 0)
			return error_set(err, -EIO, "the file ends at offset %" PRIu64 ", %" PRIu64 " bytes too early",
					 offset, len);
		dst += n;
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/* Show whole file pages at dst. Some file systems cannot map; then a copy does. */
static int map_in(struct guest_memory *gm, uint64_t gpa, uint8_t *dst, int fd, uint64_t offset, uint64_t len,
		  struct error *err)
{
	uint64_t start = gpa < GM_HOLE_END ? gpa : gpa - (GM_HOLE_END - GM_HOLE_START);

	if (gm->nr_mapped == GM_MAX_MAPPED ||
	    mmap(dst, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) ==
		    MAP_FAILED)
		return copy_in(dst, fd, offset, len, err);
	gm->mapped[gm->nr_mapped++] = (struct gm_mapped){ .start = start, .end = start + len };
	return 0;
}

int gm_load_file(struct guest_memory *gm, uint64_t gpa, int fd, uint64_t file_size, uint64_t offset, uint64_t len,
		 enum gm_load how, struct error *err)
{
	const uint64_t page = GM_PAGE;
	uint8_t *dst = gm_at(gm, gpa, len);
	uint64_t head, body;
	int ret;

	if (!dst)
		return error_set(err, -EFAULT,
				 "%" PRIu64 " bytes at guest address 0x%" PRIx64 " are outside the guest's RAM", len,
				 gpa);
	if (offset > file_size || len > file_size - offset)
		return error_set(err, -EIO,
				 "bytes %" PRIu64 " + %" PRIu64 " lie past the end of the file (%" PRIu64 " bytes)",
				 offset, len, file_size);
	/* hva and gpa agree modulo the page size: every region starts on a page in both. */
	head = -gpa % page;
	if (how == GM_COPY || !gm->small_pages || gpa % page != offset % page || len < head + page)
		return copy_in(dst, fd, offset, len, err);
	body = (len - head) / page * page;
	ret = copy_in(dst, fd, offset, head, err);
	if (!ret)
		ret = map_in(gm, gpa + head, dst + head, fd, offset + head, body, err);
	if (!ret)
		ret = copy_in(dst + head + body, fd, offset + head + body, len - head - body, err);
	return ret;
}
