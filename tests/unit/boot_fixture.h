/* boot_fixture.h: files that exist only in memory, and a fresh guest to load them into. */
#ifndef MAYFLY_BOOT_FIXTURE_H
#define MAYFLY_BOOT_FIXTURE_H

#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"

struct memory_file {
	int fd;
	char path[64];
};

static inline struct memory_file file_create(const void *bytes, size_t len)
{
	struct memory_file f = { .fd = memfd_create("image", MFD_CLOEXEC) };

	assert_true(f.fd >= 0);
	if (len)
		assert_int_equal(pwrite(f.fd, bytes, len, 0), (ssize_t)len);
	snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
	return f;
}

static inline void file_resize(const struct memory_file *f, uint64_t len)
{
	assert_int_equal(ftruncate(f->fd, (off_t)len), 0);
}

static inline void file_close(struct memory_file *f)
{
	close(f->fd);
}

/* Load path (and initrd unless NULL) with cmdline into a guest of mib MiB, which the caller destroys. */
static inline int load(struct guest_memory *gm, uint64_t mib, const char *kernel, const char *initrd,
		       const char *cmdline, struct boot_entry *entry, struct error *err)
{
	struct boot_images images = {
		.kernel_path = kernel, .initrd_path = initrd, .cmdline = cmdline, .acpi_rsdp_gpa = BOOT_ACPI_GPA
	};

	*err = (struct error){ 0 };
	assert_int_equal(gm_create(gm, mib, HUGE_PAGES_NONE, err), 0);
	return boot_load(gm, &images, entry, err);
}

/* A sentence names its field and what is wrong; print it when it does not. */
static inline void expect_sentence(const struct error *err, const char *field, const char *what)
{
	if (strncmp(err->message, field, strlen(field)) != 0 || !strstr(err->message, what))
		fail_msg("\"%s\" should begin with \"%s\" and say \"%s\"", err->message, field, what);
}

/* An xorshift generator: the same sequence every time. */
static inline uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

#endif
