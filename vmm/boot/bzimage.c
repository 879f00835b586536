/* bzimage.c: load a bzImage for the 64-bit boot protocol (Documentation/arch/x86/boot.rst); the guest decompresses it.
 */
#include <errno.h>
#include <string.h>

#include "boot/image.h"

#define SETUP_OFFSET    0x1f1u /* setup_header in the file and in boot_params */
#define SETUP_END_BYTE  0x201u /* header length as the jump over it: it ends at 0x202 + this byte */
#define SECTOR          512u
#define OLD_SETUP_SECTS 4u      /* what setup_sects 0 means */
#define ENTRY64_OFFSET  0x200u  /* boot.rst, "64-bit boot protocol" */
#define PROTOCOL_MIN    0x020cu /* 2.12: xloadflags */
#define MIB             (1ull << 20)
#define SYSSIZE_UNIT    16u

_Static_assert(offsetof(struct boot_params, hdr) == SETUP_OFFSET, "boot_params holds the header where the file does");

/* Where the parts of the file are, and where they go; everything checked against the file's and the RAM's size. */
struct bzimage {
	struct setup_header setup;
	uint64_t offset; /* of the protected-mode kernel in the file */
	uint64_t size;   /* of it */
	uint64_t gpa;    /* where it is loaded and unpacks to */
};

static int check_setup(const struct boot_file *f, const struct setup_header *s, struct error *err)
{
	if (s->version < PROTOCOL_MIN)
		return boot_fail(f, err, -ENOEXEC, "speaks boot protocol %u.%02u; 2.12 (Linux 3.8) or later is needed",
				 s->version >> 8, s->version & 0xff);
	if (!(s->xloadflags & XLF_KERNEL_64))
		return boot_fail(f, err, -ENOEXEC, "has no 64-bit entry point; an x86-64 bzImage is needed");
	if (!(s->loadflags & LOADED_HIGH))
		return boot_fail(f, err, -ENOEXEC, "is a zImage, which loads below 1 MiB; a bzImage is needed");
	if (s->pref_address < BOOT_HIGH_GPA || s->pref_address % BOOT_PAGE)
		return boot_fail(f, err, -ENOEXEC, "asks for load address 0x%llx; it must be a page at 0x%x or above",
				 s->pref_address, BOOT_HIGH_GPA);
	if (s->relocatable_kernel &&
	    (s->kernel_alignment < BOOT_PAGE || s->kernel_alignment & (s->kernel_alignment - 1)))
		return boot_fail(f, err, -ENOEXEC,
				 "has kernel alignment 0x%x; it must be a power of two of at least a page",
				 s->kernel_alignment);
	return 0;
}

static int read_setup(struct bzimage *bz, const struct boot_file *f, const uint8_t *head, size_t head_len,
		      struct error *err)
{
	size_t end, len;

	if (head_len < SETUP_OFFSET + sizeof(bz->setup))
		return boot_fail(f, err, -ENOEXEC, "is cut short: %zu bytes cannot hold a kernel header", head_len);
	end = SETUP_END_BYTE + 1u + head[SETUP_END_BYTE];
	len = end - SETUP_OFFSET;
	if (len < offsetof(struct setup_header, handover_offset))
		return boot_fail(f, err, -ENOEXEC, "has a header of %zu bytes, too short for boot protocol 2.12", len);
	if (len > sizeof(bz->setup))
		len = sizeof(bz->setup);
	memcpy(&bz->setup, head + SETUP_OFFSET, len);
	return check_setup(f, &bz->setup, err);
}

/* The three sizes that the header claims, against the file's and each other. */
static int check_sizes(struct bzimage *bz, const struct boot_file *f, struct error *err)
{
	const struct setup_header *s = &bz->setup;
	uint64_t sectors = s->setup_sects ? s->setup_sects : OLD_SETUP_SECTS;

	bz->offset = (sectors + 1) * SECTOR; /* the boot sector comes first */
	bz->size = (uint64_t)s->syssize * SYSSIZE_UNIT;
	if (bz->offset >= f->size || bz->size > f->size - bz->offset + (SYSSIZE_UNIT - 1))
		return boot_fail(
			f, err, -ENOEXEC,
			"is cut short: its header promises %llu bytes after the first %llu and the file has %llu",
			(unsigned long long)bz->size, (unsigned long long)bz->offset, (unsigned long long)f->size);
	/* syssize counts in paragraphs: the last one may be incomplete. */
	if (bz->size > f->size - bz->offset)
		bz->size = f->size - bz->offset;
	if (bz->size <= ENTRY64_OFFSET)
		return boot_fail(f, err, -ENOEXEC, "has a kernel of %llu bytes, too short for the entry point at 0x%x",
				 (unsigned long long)bz->size, ENTRY64_OFFSET);
	if (!s->payload_length || s->payload_offset > bz->size || s->payload_length > bz->size - s->payload_offset)
		return boot_fail(f, err, -ENOEXEC, "claims %u bytes of compressed kernel at %u of %llu",
				 s->payload_length, s->payload_offset, (unsigned long long)bz->size);
	if (s->init_size < bz->size)
		return boot_fail(f, err, -ENOEXEC, "claims to unpack within %u bytes but is %llu bytes long",
				 s->init_size, (unsigned long long)bz->size);
	return 0;
}

/* boot.rst, init_size: the kernel needs [runtime start, + init_size) before it can look at the memory map. */
static int place(struct bzimage *bz, const struct guest_memory *gm, const struct boot_file *f, struct error *err)
{
	const struct setup_header *s = &bz->setup;
	uint64_t align = s->relocatable_kernel ? s->kernel_alignment : 1;
	unsigned long long end;

	if (s->pref_address > GM_HOLE_START)
		return boot_fail(f, err, -ENOEXEC, "asks for load address 0x%llx; RAM for kernels ends at 0x%llx",
				 s->pref_address, GM_HOLE_START);
	bz->gpa = (s->pref_address + align - 1) / align * align;
	end = bz->gpa + s->init_size;
	if (!gm_at(gm, bz->gpa, s->init_size))
		return boot_fail(f, err, -ENOMEM,
				 "needs RAM up to 0x%llx (%llu MiB) to unpack itself and the guest has %llu MiB; raise "
				 "machine-config.mem_size_mib",
				 end, (end + MIB - 1) / MIB, gm->size / MIB);
	return 0;
}

int bzimage_load(struct guest_memory *gm, const struct boot_file *file, const uint8_t *head, size_t head_len,
		 struct boot_kernel *kernel, struct error *err)
{
	struct bzimage bz = { .setup = { 0 } };
	int ret;

	ret = read_setup(&bz, file, head, head_len, err);
	if (!ret)
		ret = check_sizes(&bz, file, err);
	if (!ret)
		ret = place(&bz, gm, file, err);
	if (!ret)
		ret = boot_file_load(file, gm, bz.gpa, bz.offset, bz.size, GM_MAP, err);
	if (ret)
		return ret;
	*kernel = (struct boot_kernel){
		.protocol = BOOT_LINUX64,
		.entry_gpa = bz.gpa + ENTRY64_OFFSET,
		.end = bz.gpa + bz.setup.init_size,
		.initrd_limit = (uint64_t)bz.setup.initrd_addr_max + 1, /* the field names the last usable byte */
		.cmdline_max = bz.setup.cmdline_size,
		.setup = bz.setup,
	};
	kernel->setup.code32_start = (uint32_t)bz.gpa;
	return 0;
}
