/* boot.c: tell the kernel's format, and load kernel, initrd and parameters in order. */
#include "boot/boot.h"

#include <errno.h>
#include <linux/elf.h>
#include <string.h>

#include "boot/image.h"

#define MZ_MAGIC_OFFSET 0x1fe /* boot_flag 0xaa55, then a jump, then "HdrS" (boot.rst) */
#define HDRS_OFFSET     0x202

static bool is_bzimage(const uint8_t *head, size_t len)
{
	return len >= HDRS_OFFSET + 4 && head[MZ_MAGIC_OFFSET] == 0x55 && head[MZ_MAGIC_OFFSET + 1] == 0xaa &&
	       !memcmp(head + HDRS_OFFSET, "HdrS", 4);
}

/* What people give by mistake gets its name. */
static const char *describe_other(const uint8_t *head, size_t len)
{
	if (len >= 2 && head[0] == 0x1f && head[1] == 0x8b)
		return " (it is gzip-compressed: unpack it first)";
	if (len >= 4 && !memcmp(head, "\x28\xb5\x2f\xfd", 4))
		return " (it is zstd-compressed: unpack it first)";
	if (len >= 6 && !memcmp(head,
				"\xfd"
				"7zXZ",
				6))
		return " (it is xz-compressed: unpack it first)";
	if (len >= 60 && !memcmp(head + 56, "ARM\x64", 4))
		return " (it is a kernel for arm64)";
	return "";
}

static int load_by_format(struct guest_memory *gm, const struct boot_file *file, struct boot_kernel *kernel,
			  struct error *err)
{
	uint8_t head[BOOT_HEAD_SIZE];
	size_t len = file->size < sizeof(head) ? (size_t)file->size : sizeof(head);
	int ret = boot_file_read(file, 0, head, len, err);

	if (ret)
		return ret;
	if (len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG))
		return elf_load(gm, file, head, len, kernel, err);
	if (is_bzimage(head, len))
		return bzimage_load(gm, file, head, len, kernel, err);
	return boot_fail(file, err, -ENOEXEC, "is neither an ELF vmlinux nor a bzImage%s", describe_other(head, len));
}

static int load_kernel(struct guest_memory *gm, const char *path, struct boot_kernel *kernel, struct error *err)
{
	struct boot_file file;
	int ret = boot_file_open(&file, "boot-source.kernel_image_path", path, err);

	if (ret)
		return ret;
	ret = load_by_format(gm, &file, kernel, err);
	if (!ret && kernel->protocol == BOOT_LINUX64 && kernel->end > BOOT_IDENTITY_SIZE)
		ret = boot_fail(&file, err, -ENOEXEC,
				"reaches up to 0x%llx; the 64-bit boot protocol's page tables end at 0x%llx",
				(unsigned long long)kernel->end, BOOT_IDENTITY_SIZE);
	boot_file_close(&file);
	return ret;
}

int boot_load(struct guest_memory *gm, const struct boot_images *img, struct boot_entry *out, struct error *err)
{
	struct boot_kernel kernel = { 0 };
	int ret;

	*out = (struct boot_entry){ 0 };
	ret = load_kernel(gm, img->kernel_path, &kernel, err);
	if (ret)
		return ret;
	out->protocol = kernel.protocol;
	out->entry_gpa = kernel.entry_gpa;
	out->kernel_end = kernel.end;
	if (img->initrd_path) {
		ret = initrd_load(gm, img->initrd_path, &kernel, out, err);
		if (ret)
			return ret;
	}
	return params_write(gm, img, &kernel, out, err);
}
