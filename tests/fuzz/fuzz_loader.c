/* fuzz_loader.c: kernels and initrds that lie: ELF and bzImage, from scratch or as patches of one that is right. */
#include <asm/bootparam.h>
#include <linux/elf.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"
#include "fuzz.h"

#define MIB        (1ull << 20)
#define IMAGE_SIZE 0x9000u
#define MAX_CMD    2200u

enum { KIND_MASK = 3, WITH_INITRD = 4, WITH_LONG_CMDLINE = 8, WITH_HOLE = 16 };
enum { KIND_RAW, KIND_ELF, KIND_BZIMAGE };

static uint8_t image[IMAGE_SIZE];
static int kernel_fd = -1, initrd_fd = -1;

/* Text with a PVH note and data with BSS. */
static void build_elf(void)
{
	struct elf64_hdr *h = (struct elf64_hdr *)image;
	struct elf64_phdr *p = (struct elf64_phdr *)(image + sizeof(*h));
	static const uint32_t note[] = { 4, 4, 18, 0x6e6558, 0x100020 }; /* "Xen" */

	*h = (struct elf64_hdr){ .e_ident = ELFMAG "\2\1\1",
				 .e_type = ET_EXEC,
				 .e_machine = EM_X86_64,
				 .e_entry = MIB,
				 .e_phoff = sizeof(*h),
				 .e_phentsize = sizeof(*p),
				 .e_phnum = 3 };
	p[0] = (struct elf64_phdr){
		.p_type = PT_LOAD, .p_offset = 0x1000, .p_paddr = MIB, .p_filesz = 0x2005, .p_memsz = 0x2005
	};
	p[1] = (struct elf64_phdr){ .p_type = PT_LOAD,
				    .p_flags = PF_W,
				    .p_offset = 0x5000,
				    .p_paddr = MIB + 0x4000,
				    .p_filesz = 0x1064,
				    .p_memsz = 0x9000 };
	p[2] = (struct elf64_phdr){ .p_type = PT_NOTE, .p_offset = 0x800, .p_filesz = sizeof(note), .p_align = 4 };
	memcpy(image + 0x800, note, sizeof(note));
}

static void build_bzimage(void)
{
	const struct setup_header setup = {
		.setup_sects = 7,
		.syssize = 0x800,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb,
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 2 * MIB,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = 0x400,
		.payload_length = 0x7c00,
		.pref_address = 16 * MIB,
		.init_size = 4 * MIB,
	};

	memcpy(image + 0x1f1, &setup, sizeof(setup));
}

/* Bytes over bytes: where, how many, which. The end of the input is the end of the patches. */
static void patch(struct input *in)
{
	while (in->left) {
		/* Headers lie in the first 4 KiB, and are what counts. */
		size_t at = take16(in) % 0x1000, len = 1 + take8(in) % 16;

		take_bytes(in, image + at, len);
	}
}

static size_t build(struct input *in, uint8_t how)
{
	size_t size = IMAGE_SIZE;

	memset(image, 0, sizeof(image));
	if (how & 0x80)
		size = take16(in) % IMAGE_SIZE;
	switch (how & KIND_MASK) {
	case KIND_ELF:
		build_elf();
		patch(in);
		break;
	case KIND_BZIMAGE:
		build_bzimage();
		patch(in);
		break;
	default:
		size = take_bytes(in, image, in->left < IMAGE_SIZE ? in->left : IMAGE_SIZE);
	}
	return size;
}

static void fill(int fd, const void *bytes, size_t len)
{
	CHECK(ftruncate(fd, 0) == 0);
	CHECK(pwrite(fd, bytes, len, 0) == (ssize_t)len);
}

/* What boot_load says has to be true of the memory that it filled. */
static void check(const struct guest_memory *gm, const struct boot_entry *entry, bool with_initrd, size_t initrd_size,
		  const char *cmdline)
{
	const char *written = gm_at(gm, BOOT_CMDLINE_GPA, strlen(cmdline) + 1);

	CHECK(gm_at(gm, entry->entry_gpa, 1) && entry->entry_gpa >= BOOT_HIGH_GPA);
	CHECK(entry->entry_gpa < entry->kernel_end);
	CHECK(written && strcmp(written, cmdline) == 0);
	CHECK(entry->params_gpa == (entry->protocol == BOOT_PVH ? BOOT_PVH_INFO_GPA : BOOT_PARAMS_GPA));
	if (!with_initrd)
		return;
	CHECK(entry->initrd_size == initrd_size && entry->initrd_gpa % 4096 == 0);
	CHECK(entry->initrd_gpa >= entry->kernel_end && entry->initrd_gpa < GM_HOLE_START);
	CHECK(gm_at(gm, entry->initrd_gpa, entry->initrd_size));
	CHECK(memcmp(gm_at(gm, entry->initrd_gpa, initrd_size), image, initrd_size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct event_loop loop;
	static char cmdline[MAX_CMD];
	struct input in = { data, size };
	uint8_t how = take8(&in);
	const bool with_initrd = how & WITH_INITRD;
	struct boot_images images = { .kernel_path = "/kernel", .cmdline = cmdline, .acpi_rsdp_gpa = BOOT_ACPI_GPA };
	struct boot_entry entry = { 0 };
	struct error err = { 0 };
	struct guest_memory gm;
	size_t len, initrd_len;
	int ret;

	fuzz_begin(&loop);
	if (kernel_fd < 0) {
		kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
		initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
		fuzz_begin(&loop);
	}
	fuzz_file("/kernel", kernel_fd);
	fuzz_file("/initrd", initrd_fd);
	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[how & WITH_LONG_CMDLINE ? take16(&in) % MAX_CMD : 40] = '\0';
	initrd_len = with_initrd ? take16(&in) % IMAGE_SIZE : 0;
	len = build(&in, how);
	fill(kernel_fd, image, len);
	if (with_initrd)
		images.initrd_path = "/initrd";
	fill(initrd_fd, image, initrd_len);
	/* With RAM on both sides of the hole: 3 GiB of nothing cost no more than 32 MiB of it. */
	CHECK(gm_create(&gm, how & WITH_HOLE ? 3072 + 16 : 32, HUGE_PAGES_NONE, &err) == 0);
	ret = boot_load(&gm, &images, &entry, &err);
	CHECK(ret <= 0);
	if (ret)
		CHECK(strncmp(err.message, "boot-source.", 12) == 0);
	else
		check(&gm, &entry, with_initrd, initrd_len, cmdline);
	gm_destroy(&gm);
	fuzz_end(&loop);
	return 0;
}
