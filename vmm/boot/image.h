/* image.h: what the parts of boot/ tell each other: an open image file, and a kernel that was loaded from one. */
#ifndef MAYFLY_BOOT_IMAGE_H
#define MAYFLY_BOOT_IMAGE_H

#include <asm/bootparam.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot.h"
#include "error.h"
#include "guest_memory.h"

#define BOOT_PAGE      4096u
#define BOOT_HEAD_SIZE 4096u /* read first of every kernel: holds the headers of both formats */

/* A regular file, open for reading. Its size was read once; whatever the file says is checked against that. */
struct boot_file {
	int fd;
	uint64_t size;     /* bytes */
	const char *field; /* configuration field, for sentences */
	const char *path;
};

/* A kernel in guest memory. */
struct boot_kernel {
	enum boot_protocol protocol;
	uint64_t entry_gpa;
	uint64_t end;              /* gpa after everything the kernel uses before it reads its memory map */
	uint64_t initrd_limit;     /* gpa that the end of the initrd must not pass */
	uint32_t cmdline_max;      /* bytes without the NUL */
	struct setup_header setup; /* for boot_params: the bzImage's own, or ours for an ELF kernel */
};

/* boot_file_open - open path, which must be a regular file with something in it; -errno with a sentence otherwise. */
int boot_file_open(struct boot_file *file, const char *field, const char *path, struct error *err);
void boot_file_close(struct boot_file *file);

/* boot_file_read - exactly len bytes at offset; -EIO with a sentence when the file has fewer. */
int boot_file_read(const struct boot_file *file, uint64_t offset, void *dst, size_t len, struct error *err);

/* boot_file_load - gm_load_file, with a sentence that names the file. */
int boot_file_load(const struct boot_file *file, struct guest_memory *gm, uint64_t gpa, uint64_t offset, uint64_t len,
		   enum gm_load how, struct error *err);

/* boot_fail - error_set with "field: path: " in front; returns code. */
int boot_fail(const struct boot_file *file, struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * elf_load, bzimage_load - check a kernel whose first head_len bytes are head, put it into guest memory, describe it
 * 0, or -ENOEXEC (not a kernel we can start), -ENOMEM (does not fit the guest's RAM), -EIO (cannot be read).
 */
int elf_load(struct guest_memory *gm, const struct boot_file *file, const uint8_t *head, size_t head_len,
	     struct boot_kernel *kernel, struct error *err);
int bzimage_load(struct guest_memory *gm, const struct boot_file *file, const uint8_t *head, size_t head_len,
		 struct boot_kernel *kernel, struct error *err);

/* initrd_load - as high as kernel and RAM below 3 GiB allow, on a page; fills in initrd_gpa and initrd_size. */
int initrd_load(struct guest_memory *gm, const char *path, const struct boot_kernel *kernel, struct boot_entry *entry,
		struct error *err);

/* params_write - command line, and boot_params or hvm_start_info with the memory map; fills in params_gpa. */
int params_write(struct guest_memory *gm, const struct boot_images *img, const struct boot_kernel *kernel,
		 struct boot_entry *entry, struct error *err);

#endif
