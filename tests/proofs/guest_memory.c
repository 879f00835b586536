/* guest_memory.c: proof of vmm/guest_memory.c: any size asked for, any address and length, a kernel that may refuse. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest_memory.h"
#include "proof.h"

#define PAGE 4096

/* ---- the host: every answer it may give ---- */

/* Where the kernel maps: on a page, here with every kind of distance to the next 2 MiB boundary. */
static const uint64_t places[] = { 0x7f0000000000, 0x7f0000001000, 0x7f00000ff000, 0x7f0000100000, 0x7f00001ff000 };

static uint64_t place;

/* What errno holds after a system call: some error's number, an old one if the call went well. */
static void set_errno(void)
{
	errno = Frama_C_interval(1, 133);
}

int error_set(struct error *err, int code, const char *fmt, ...)
{
	/*@ assert sentence: \valid_read(fmt); */
	if (err)
		err->code = code;
	return code;
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	set_errno();
	if (ANY_BOOL())
		return MAP_FAILED;
	if (flags & MAP_FIXED) {
		/*@ assert on_pages: \offset((char *)addr) % PAGE == 0 && offset % PAGE == 0 && len % PAGE == 0; */
		/*@ assert within: \valid((char *)addr + (0 .. len - 1)); */
		return addr;
	}
	return (void *)place;
}

int munmap(void *addr, size_t len)
{
	return 0;
}

int madvise(void *addr, unsigned long len, int advice)
{
	return ANY_BOOL() ? 0 : -1;
}

/* errno stays: POSIX has strerror change it only on an error number that does not exist. */
char *strerror(int number)
{
	return "what the system said";
}

int ioctl(int fd, int request, ...)
{
	set_errno();
	return ANY_BOOL() ? 0 : -1;
}

/* All, nothing (the file was cut), or an error. */
ssize_t pread(int fd, void *buf, size_t count, off_t offset)
{
	/*@ assert room: \valid((char *)buf + (0 .. count - 1)); */
	set_errno();
	if (ANY_BOOL()) {
		Frama_C_make_unknown(buf, count);
		return (ssize_t)count;
	}
	return ANY_BOOL() ? 0 : -1;
}

/* It only notes which pages are written; guest_memory_state.c has it. */
void gm_written(const struct guest_memory *gm, const void *hva, uint64_t len)
{
}

/* ---- what is proved ---- */

static const uint64_t sizes_mib[] = { 1, 2, 3, 3071, 3072, 3073, 4096, (uint64_t)4 << 20 };
static const uint64_t low_sizes[] = { MIB, GM_HOLE_START };
static const uint64_t lengths[] = { 0, 1, 2, 3, 4, 8, 12, 16, 17, 512, PAGE, MIB - 1, MIB, MIB + 1 };
/* Of files: where their bytes go, how many, and from where. RAM has MIB bytes then. */
static const uint64_t targets[] = { 0, 1, PAGE - 1, MIB - PAGE, MIB, GM_HOLE_END };
/* How many files are mapped before: none, all that fit. */
static const unsigned int mapped_before[] = { 0, GM_MAX_MAPPED };
static const uint64_t spans[] = { 0, 1, PAGE, 3 * PAGE + 1 };
static const uint64_t offsets[] = { 0, 1, PAGE - 1 };

static uint8_t *guest_ram(uint64_t size)
{
	uint8_t *ram = calloc(1, size);

	Frama_C_make_unknown((char *)ram, size);
	return ram;
}

static void make_memory(struct guest_memory *gm)
{
	uint64_t low = ANY_OF(low_sizes);

	/*@ split low; */
	*gm = (struct guest_memory){ .nr_regions = 1, .small_pages = ANY_BOOL() };
	gm->region[0] = (struct gm_region){ .gpa = 0, .size = low, .hva = guest_ram(low) };
	if (low == GM_HOLE_START) {
		gm->region[1] = (struct gm_region){ .gpa = GM_HOLE_END, .size = MIB, .hva = guest_ram(MIB) };
		gm->nr_regions = 2;
	}
}

/* Every region lies within the mapping, on a page, and together they have the size that was asked for. */
static void check_layout(const struct guest_memory *gm, uint64_t size)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < gm->nr_regions; i++) {
		uint64_t at = (uint64_t)gm->region[i].hva, map = (uint64_t)gm->reservation;

		/*@ assert within: map <= at && at + gm->region[i].size <= map + gm->reservation_size; */
		/*@ assert on_a_page: at % PAGE == 0 && gm->region[i].gpa % PAGE == 0; */
		sum += gm->region[i].size;
	}
	/*@ assert all: sum == size && gm->size == size; */
}

static void create(uint64_t mib, bool checked)
{
	enum huge_pages huge = Frama_C_interval_split(HUGE_PAGES_NONE, HUGE_PAGES_2M);
	struct guest_memory gm;
	struct error err;

	if (gm_create(&gm, mib, huge, ANY_BOOL() ? &err : NULL) == 0) {
		if (checked)
			check_layout(&gm, mib * MIB);
		/* As gm_track and gm_restore leave it, if they are asked. */
		gm.dirty = ANY_BOOL() ? (uint64_t *)place : NULL;
		gm.source_fd = ANY_BOOL() ? 5 : -1;
		gm_register(&gm, 3, &err);
	}
	gm_destroy(&gm);
}

static void copy(void)
{
	uint64_t len = ANY_OF(lengths);
	struct guest_memory gm;
	uint8_t *buffer;

	/*@ split len; */
	make_memory(&gm);
	buffer = calloc(1, len);
	if (ANY_BOOL())
		gm_read(&gm, ANY_U64(), buffer, len);
	else
		gm_write(&gm, ANY_U64(), buffer, len);
}

static void load_file(void)
{
	uint64_t gpa = ANY_OF(targets), len = ANY_OF(spans), offset = ANY_OF(offsets);
	enum gm_load how = Frama_C_interval_split(GM_MAP, GM_COPY);
	struct guest_memory gm;
	struct error err;

	/*@ split gpa; */
	/*@ split len; */
	/*@ split offset; */
	gm = (struct guest_memory){ .nr_regions = 2, .small_pages = ANY_BOOL(), .nr_mapped = ANY_OF(mapped_before) };
	gm.region[0] = (struct gm_region){ .gpa = 0, .size = MIB, .hva = guest_ram(MIB) };
	gm.region[1] = (struct gm_region){ .gpa = GM_HOLE_END, .size = MIB, .hva = guest_ram(MIB) };
	gm_load_file(&gm, gpa, 3, ANY_U64(), offset, len, how, &err);
}

int main(void)
{
	struct guest_memory gm;
	uint64_t mib;

	place = ANY_OF(places);
	switch (Frama_C_interval_split(0, 4)) {
	case 0:
		mib = ANY_OF(sizes_mib);
		/*@ split mib; */
		/*@ split place; */
		create(mib, true);
		break;
	case 1:
		create(ANY_U64(), false);
		break;
	case 2:
		copy();
		break;
	case 3:
		load_file();
		break;
	default:
		make_memory(&gm);
		return gm_at(&gm, ANY_U64(), 8) != NULL;
	}
	return 0;
}
