/* elf.c: load an ELF vmlinux; its PVH note, if there is one, says where to start, its header otherwise. */
#include <errno.h>
#include <linux/elf.h>
#include <string.h>

#include "boot/image.h"

#define MAX_PHDRS                64u
#define MAX_NOTES_SIZE           65536u     /* a vmlinux has half a KiB */
#define NOTE_WINDOW              4096u      /* how much of a note segment is read at once */
#define XEN_ELFNOTE_PHYS32_ENTRY 18u        /* xen/interface/elfnote.h: 32-bit entry point of a PVH guest */
#define LINUX_ALIGNMENT          0x1000000u /* setup_header.kernel_alignment of an x86-64 vmlinux */

struct elf_image {
	const struct boot_file *file;
	struct elf64_hdr hdr;
	struct elf64_phdr phdr[MAX_PHDRS];
};

static int check_header(const struct elf_image *elf, struct error *err)
{
	const struct elf64_hdr *h = &elf->hdr;
	const struct boot_file *f = elf->file;

	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB)
		return boot_fail(f, err, -ENOEXEC,
				 "is not a 64-bit little-endian ELF file; an x86-64 vmlinux is needed");
	if (h->e_machine != EM_X86_64)
		return boot_fail(f, err, -ENOEXEC, "is built for ELF machine %u; x86-64 (%u) is needed", h->e_machine,
				 EM_X86_64);
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return boot_fail(f, err, -ENOEXEC, "is an ELF file of type %u; an executable (%u or %u) is needed",
				 h->e_type, ET_EXEC, ET_DYN);
	if (h->e_phentsize != sizeof(struct elf64_phdr))
		return boot_fail(f, err, -ENOEXEC, "has program headers of %u bytes; ELF64 has %zu", h->e_phentsize,
				 sizeof(struct elf64_phdr));
	if (!h->e_phnum || h->e_phnum > MAX_PHDRS)
		return boot_fail(f, err, -ENOEXEC, "has %u program headers; 1 to %u are accepted", h->e_phnum,
				 MAX_PHDRS);
	return 0;
}

/* Headers come from the page that was read already, or cost one more read when they lie elsewhere. */
static int read_headers(struct elf_image *elf, const uint8_t *head, size_t head_len, struct error *err)
{
	size_t len;
	int ret;

	if (head_len < sizeof(elf->hdr))
		return boot_fail(elf->file, err, -ENOEXEC, "is cut short: %zu bytes cannot hold an ELF header",
				 head_len);
	memcpy(&elf->hdr, head, sizeof(elf->hdr));
	ret = check_header(elf, err);
	if (ret)
		return ret;
	len = elf->hdr.e_phnum * sizeof(elf->phdr[0]);
	if (elf->hdr.e_phoff <= head_len && len <= head_len - elf->hdr.e_phoff) {
		memcpy(elf->phdr, head + elf->hdr.e_phoff, len);
		return 0;
	}
	return boot_file_read(elf->file, elf->hdr.e_phoff, elf->phdr, len, err);
}

static bool is_load(const struct elf64_phdr *p)
{
	return p->p_type == PT_LOAD && (p->p_memsz || p->p_filesz);
}

static int check_segment(const struct elf_image *elf, const struct guest_memory *gm, unsigned int i, struct error *err)
{
	const struct elf64_phdr *p = &elf->phdr[i];
	const struct boot_file *f = elf->file;

	if (p->p_filesz > p->p_memsz)
		return boot_fail(f, err, -ENOEXEC, "segment %u has 0x%llx bytes in the file but only 0x%llx in memory",
				 i, p->p_filesz, p->p_memsz);
	if (p->p_offset > f->size || p->p_filesz > f->size - p->p_offset)
		return boot_fail(f, err, -ENOEXEC,
				 "is cut short: segment %u needs 0x%llx bytes at offset 0x%llx and the file has 0x%llx",
				 i, p->p_filesz, p->p_offset, (unsigned long long)f->size);
	if (p->p_paddr < BOOT_HIGH_GPA)
		return boot_fail(
			f, err, -ENOEXEC,
			"segment %u starts at 0x%llx; the first MiB is taken by boot data (link at 0x%x or above)", i,
			p->p_paddr, BOOT_HIGH_GPA);
	if (p->p_memsz > UINT64_MAX - p->p_paddr)
		return boot_fail(f, err, -ENOEXEC, "segment %u wraps round: 0x%llx bytes at 0x%llx", i, p->p_memsz,
				 p->p_paddr);
	if (!gm_at(gm, p->p_paddr, p->p_memsz))
		return boot_fail(f, err, -ENOMEM,
				 "segment %u (0x%llx bytes at 0x%llx) is outside the guest's RAM of %llu MiB; raise "
				 "machine-config.mem_size_mib",
				 i, p->p_memsz, p->p_paddr, (unsigned long long)(gm->size >> 20));
	for (unsigned int j = 0; j < i; j++) {
		const struct elf64_phdr *q = &elf->phdr[j];

		if (is_load(q) && p->p_paddr < q->p_paddr + q->p_memsz && q->p_paddr < p->p_paddr + p->p_memsz)
			return boot_fail(f, err, -ENOEXEC, "segments %u and %u overlap at 0x%llx", j, i,
					 p->p_paddr > q->p_paddr ? p->p_paddr : q->p_paddr);
	}
	return 0;
}

/* All checks come before the first byte is loaded: what is refused leaves guest memory untouched. */
static int check_segments(const struct elf_image *elf, const struct guest_memory *gm, struct error *err)
{
	unsigned int loads = 0;
	int ret;

	for (unsigned int i = 0; i < elf->hdr.e_phnum; i++) {
		if (!is_load(&elf->phdr[i]))
			continue;
		ret = check_segment(elf, gm, i, err);
		if (ret)
			return ret;
		loads++;
	}
	return loads ? 0 : boot_fail(elf->file, err, -ENOEXEC, "has no segment to load");
}

/* Fresh guest memory is zero, so what a segment has beyond its file bytes (BSS) needs no work. */
static int load_segments(const struct elf_image *elf, struct guest_memory *gm, uint64_t *end, struct error *err)
{
	int ret;

	for (unsigned int i = 0; i < elf->hdr.e_phnum; i++) {
		const struct elf64_phdr *p = &elf->phdr[i];

		if (!is_load(p))
			continue;
		if (p->p_filesz) {
			ret = boot_file_load(elf->file, gm, p->p_paddr, p->p_offset, p->p_filesz,
					     p->p_flags & PF_W ? GM_COPY : GM_MAP, err);
			if (ret)
				return ret;
		}
		if (p->p_paddr + p->p_memsz > *end)
			*end = p->p_paddr + p->p_memsz;
	}
	return 0;
}

static uint64_t align_up(uint64_t value, uint64_t to)
{
	return (value + to - 1) / to * to;
}

/* Part of a note segment, as read from the file. */
struct window {
	uint8_t bytes[NOTE_WINDOW];
	uint64_t start, len; /* where in the segment; both are 0 at first */
};

/* Make [pos, pos + len) of the segment visible. The caller has checked that the segment has it, and len is small. */
static const uint8_t *look(struct window *w, const struct elf_image *elf, const struct elf64_phdr *p, uint64_t pos,
			   uint64_t len, struct error *err)
{
	if (pos < w->start || pos + len > w->start + w->len) {
		w->start = pos;
		w->len = p->p_filesz - pos < NOTE_WINDOW ? p->p_filesz - pos : NOTE_WINDOW;
		if (boot_file_read(elf->file, p->p_offset + pos, w->bytes, w->len, err))
			return NULL;
	}
	return w->bytes + (pos - w->start);
}

/*
 * Walk one note segment. Each step moves on by at least a note header, and the segment's size is bounded, so the walk
 * ends whatever the notes say. Returns 1 when the PVH note was found, 0 when not.
 */
static int find_pvh_note(const struct elf_image *elf, const struct elf64_phdr *p, uint64_t *entry, struct error *err)
{
	const uint64_t align = p->p_align == 8 ? 8 : 4;
	struct window window = { .start = 0 };
	struct elf64_note note;

	for (uint64_t pos = 0, value; pos < p->p_filesz && p->p_filesz - pos >= sizeof(note) + 4;
	     pos = align_up(value + note.n_descsz, align)) {
		const uint8_t *bytes = look(&window, elf, p, pos, sizeof(note) + 4, err);

		if (!bytes)
			return -EIO;
		memcpy(&note, bytes, sizeof(note));
		value = pos + align_up(sizeof(note) + note.n_namesz, align);
		if (value + note.n_descsz > p->p_filesz)
			return boot_fail(elf->file, err, -ENOEXEC, "has a note that reaches past its segment");
		if (note.n_type != XEN_ELFNOTE_PHYS32_ENTRY || note.n_namesz != 4 ||
		    memcmp(bytes + sizeof(note), "Xen", 4) != 0)
			continue;
		/* 32 bits, which some tools store as 64. */
		if (note.n_descsz != 4 && note.n_descsz != 8)
			return boot_fail(elf->file, err, -ENOEXEC, "has a PVH note of %u bytes; 4 or 8 are accepted",
					 note.n_descsz);
		bytes = look(&window, elf, p, value, note.n_descsz, err);
		if (!bytes)
			return -EIO;
		*entry = 0;
		memcpy(entry, bytes, note.n_descsz);
		return 1;
	}
	return 0;
}

static int find_pvh_entry(const struct elf_image *elf, uint64_t *entry, struct error *err)
{
	int ret;

	for (unsigned int i = 0; i < elf->hdr.e_phnum; i++) {
		const struct elf64_phdr *p = &elf->phdr[i];

		if (p->p_type != PT_NOTE)
			continue;
		if (p->p_offset > elf->file->size || p->p_filesz > elf->file->size - p->p_offset)
			return boot_fail(elf->file, err, -ENOEXEC, "is cut short: note segment %u lies past its end",
					 i);
		if (p->p_filesz > MAX_NOTES_SIZE)
			return boot_fail(elf->file, err, -ENOEXEC,
					 "has a note segment of %llu bytes; at most %u are accepted", p->p_filesz,
					 MAX_NOTES_SIZE);
		ret = find_pvh_note(elf, p, entry, err);
		if (ret)
			return ret;
	}
	return 0;
}

static int check_entry(const struct elf_image *elf, const struct boot_kernel *kernel, struct error *err)
{
	const char *what = kernel->protocol == BOOT_PVH ? "PVH entry" : "entry";

	for (unsigned int i = 0; i < elf->hdr.e_phnum; i++) {
		const struct elf64_phdr *p = &elf->phdr[i];

		if (is_load(p) && kernel->entry_gpa >= p->p_paddr && kernel->entry_gpa - p->p_paddr < p->p_filesz)
			goto found;
	}
	return boot_fail(elf->file, err, -ENOEXEC, "%s 0x%llx is in no segment (it must be a physical address)", what,
			 (unsigned long long)kernel->entry_gpa);
found:
	if (kernel->protocol == BOOT_PVH && kernel->entry_gpa > UINT32_MAX)
		return boot_fail(elf->file, err, -ENOEXEC,
				 "PVH entry 0x%llx is above 4 GiB, where 32-bit code cannot start",
				 (unsigned long long)kernel->entry_gpa);
	return 0;
}

int elf_load(struct guest_memory *gm, const struct boot_file *file, const uint8_t *head, size_t head_len,
	     struct boot_kernel *kernel, struct error *err)
{
	struct elf_image elf = { .file = file };
	int ret;

	ret = read_headers(&elf, head, head_len, err);
	if (!ret)
		ret = check_segments(&elf, gm, err);
	if (ret)
		return ret;
	*kernel = (struct boot_kernel){
		.protocol = BOOT_LINUX64,
		.entry_gpa = elf.hdr.e_entry,
		.initrd_limit = GM_HOLE_START,
		.cmdline_max = BOOT_CMDLINE_MAX,
		/* What a boot loader would have found in the bzImage (boot.rst, "The real-mode kernel header"). */
		.setup = { .boot_flag = 0xaa55,
			   .header = 0x53726448, /* "HdrS" */
			   .version = 0x020c,
			   .loadflags = LOADED_HIGH,
			   .kernel_alignment = LINUX_ALIGNMENT,
			   .cmdline_size = BOOT_CMDLINE_MAX },
	};
	ret = find_pvh_entry(&elf, &kernel->entry_gpa, err);
	if (ret < 0)
		return ret;
	if (ret)
		kernel->protocol = BOOT_PVH;
	ret = check_entry(&elf, kernel, err);
	if (ret)
		return ret;
	return load_segments(&elf, gm, &kernel->end, err);
}
