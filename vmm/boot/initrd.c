/* initrd.c: place an initial RAM disk at the top of low memory. */
#include <errno.h>

#include "boot/image.h"

int initrd_load(struct guest_memory *gm, const char *path, const struct boot_kernel *kernel, struct boot_entry *entry,
		struct error *err)
{
	uint64_t limit = gm->region[0].size;
	uint64_t bottom = (kernel->end + BOOT_PAGE - 1) / BOOT_PAGE * BOOT_PAGE;
	struct boot_file file;
	uint64_t room;
	int ret;

	ret = boot_file_open(&file, "boot-source.initrd_path", path, err);
	if (ret)
		return ret;
	/* Low memory only, below the kernel's own limit, and on whole pages, so that it can be mapped. */
	if (limit > kernel->initrd_limit)
		limit = kernel->initrd_limit;
	limit -= limit % BOOT_PAGE;
	room = limit > bottom ? limit - bottom : 0;
	if (file.size > room) {
		ret = boot_fail(
			&file, err, -ENOMEM,
			"is %llu bytes long and %llu are free between the kernel's end (0x%llx) and 0x%llx; raise "
			"machine-config.mem_size_mib or use a smaller initrd",
			(unsigned long long)file.size, (unsigned long long)room, (unsigned long long)bottom,
			(unsigned long long)limit);
	} else {
		entry->initrd_size = file.size;
		entry->initrd_gpa = (limit - file.size) / BOOT_PAGE * BOOT_PAGE;
		ret = boot_file_load(&file, gm, entry->initrd_gpa, 0, file.size, GM_MAP, err);
	}
	boot_file_close(&file);
	return ret;
}
