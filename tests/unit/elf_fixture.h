/* elf_fixture.h: a small but complete ELF kernel, to be loaded as it is or spoilt first. */
#ifndef MAYFLY_ELF_FIXTURE_H
#define MAYFLY_ELF_FIXTURE_H

#include "boot_fixture.h"

#include <linux/elf.h>

#define PAGE        4096u
#define MIB         (1ull << 20)
#define FIELD       "boot-source.kernel_image_path: "
#define TEXT_GPA    (1 * MIB)
#define DATA_GPA    (TEXT_GPA + 4 * PAGE)
#define NOTE_OFFSET 0x800u /* inside the first page of the file, behind the headers */

/* Text of two and a bit pages, data with BSS, and a PVH note. */
struct image {
	union {
		struct {
			struct elf64_hdr hdr;
			struct elf64_phdr phdr[4];
		};
		uint8_t bytes[8 * PAGE];
	};
	size_t len;
};

enum { TEXT, DATA, NOTE, SPARE };

static inline void put_note(struct image *im, uint32_t namesz, uint32_t descsz, uint32_t type, const char *name,
			    uint64_t value)
{
	struct elf64_note note = { .n_namesz = namesz, .n_descsz = descsz, .n_type = type };
	uint8_t *at = im->bytes + NOTE_OFFSET + 24; /* behind another note */
	struct elf64_note other = { .n_namesz = 5, .n_descsz = 4, .n_type = 18 };

	memcpy(im->bytes + NOTE_OFFSET, &other, sizeof(other));
	memcpy(im->bytes + NOTE_OFFSET + 12, "Xend\0\0\0", 8);
	memcpy(at, &note, sizeof(note));
	memcpy(at + 12, name, 4);
	memcpy(at + 16, &value, 8);
	im->phdr[NOTE].p_filesz = im->phdr[NOTE].p_memsz = 24 + 16 + 8;
}

static inline void build(struct image *im)
{
	memset(im, 0, sizeof(*im));
	im->len = sizeof(im->bytes);
	memset(im->bytes + PAGE, 0x90, sizeof(im->bytes) - PAGE);
	memcpy(im->hdr.e_ident, ELFMAG "\2\1\1", 7);
	im->hdr.e_type = ET_EXEC;
	im->hdr.e_machine = EM_X86_64;
	im->hdr.e_version = 1;
	im->hdr.e_entry = TEXT_GPA + 0x10;
	im->hdr.e_phoff = offsetof(struct image, phdr);
	im->hdr.e_ehsize = sizeof(im->hdr);
	im->hdr.e_phentsize = sizeof(im->phdr[0]);
	im->hdr.e_phnum = 3;
	im->phdr[TEXT] = (struct elf64_phdr){ .p_type = PT_LOAD,
					      .p_offset = PAGE,
					      .p_paddr = TEXT_GPA,
					      .p_filesz = 2 * PAGE + 5,
					      .p_memsz = 2 * PAGE + 5 };
	im->phdr[DATA] = (struct elf64_phdr){ .p_type = PT_LOAD,
					      .p_offset = 5 * PAGE,
					      .p_paddr = DATA_GPA,
					      .p_filesz = PAGE + 100,
					      .p_memsz = 9 * PAGE };
	im->phdr[NOTE] = (struct elf64_phdr){ .p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_align = 4 };
	put_note(im, 4, 4, 18, "Xen", TEXT_GPA + 0x20);
}

static inline int load_image(const struct image *im, struct guest_memory *gm, uint64_t mib, const char *initrd,
			     const char *cmdline, struct boot_entry *entry, struct error *err)
{
	struct memory_file f = file_create(im->bytes, im->len);
	int ret = load(gm, mib, f.path, initrd, cmdline, entry, err);

	file_close(&f);
	return ret;
}

#endif
