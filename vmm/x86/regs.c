/* regs.c: the state in which the first vCPU enters the kernel: descriptor and page tables, registers. */
#include <asm/processor-flags.h>
#include <errno.h>

#include "x86/x86.h"

/* Selectors that the 64-bit boot protocol asks for (boot.rst: __BOOT_CS, __BOOT_DS). */
#define BOOT_CS 0x10
#define BOOT_DS 0x18

#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

#define PAGE_PRESENT_WRITE 0x3u
#define PAGE_LARGE         0x80u
#define LARGE_PAGE         (2u << 20)

/* Segment types: Intel SDM 3A, 3.4.5.1 and 3.5; accessed already, so that the CPU need not write to the GDT. */
#define TYPE_CODE     0xb
#define TYPE_DATA     0x3
#define TYPE_TSS_BUSY 0xb

_Static_assert(BOOT_IDENTITY_SIZE == 512ull * LARGE_PAGE, "one page directory maps the identity range");

static struct kvm_segment code_segment(enum boot_protocol protocol)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = BOOT_CS,
		.type = TYPE_CODE,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = protocol == BOOT_LINUX64,
		.db = protocol == BOOT_PVH,
	};
}

static struct kvm_segment data_segment(void)
{
	return (struct kvm_segment){
		.limit = 0xffffffff, .selector = BOOT_DS, .type = TYPE_DATA, .present = 1, .s = 1, .g = 1, .db = 1
	};
}

/* The descriptor of a segment with base 0 and limit 4 GiB, as the CPU would load it from memory. */
static uint64_t descriptor(const struct kvm_segment *s)
{
	uint64_t low = 0x0000ffff;
	uint64_t access = s->type | (uint64_t)s->s << 4 | (uint64_t)s->dpl << 5 | (uint64_t)s->present << 7;
	uint64_t flags = 0xf | (uint64_t)s->l << 5 | (uint64_t)s->db << 6 | (uint64_t)s->g << 7;

	return low | access << 40 | flags << 48;
}

static int write_page_tables(struct guest_memory *gm)
{
	/* Three pages in a row; the guest is not running yet. */
	uint64_t *pml4 = gm_at(gm, BOOT_PAGE_TABLES_GPA, 3 * UINT64_C(4096));

	if (!pml4)
		return -EFAULT;
	pml4[0] = (BOOT_PAGE_TABLES_GPA + 0x1000) | PAGE_PRESENT_WRITE;
	pml4[512] = (BOOT_PAGE_TABLES_GPA + 0x2000) | PAGE_PRESENT_WRITE;
	for (unsigned int i = 0; i < 512; i++)
		pml4[1024 + i] = (uint64_t)i * LARGE_PAGE | PAGE_PRESENT_WRITE | PAGE_LARGE;
	return 0;
}

int x86_tables_write(struct guest_memory *gm, enum boot_protocol protocol, struct error *err)
{
	struct kvm_segment code = code_segment(protocol), data = data_segment();
	uint64_t gdt[4] = { [BOOT_CS / 8] = descriptor(&code), [BOOT_DS / 8] = descriptor(&data) };
	int ret = gm_write(gm, BOOT_GDT_GPA, gdt, sizeof(gdt));

	if (!ret && protocol == BOOT_LINUX64)
		ret = write_page_tables(gm);
	return ret ? error_set(err, ret, "machine-config.mem_size_mib: no RAM for the descriptor and page tables") : 0;
}

void x86_boot_regs(struct kvm_regs *regs, const struct boot_entry *entry)
{
	*regs = (struct kvm_regs){ .rip = entry->entry_gpa, .rsp = BOOT_STACK_GPA, .rflags = X86_EFLAGS_FIXED };
	if (entry->protocol == BOOT_PVH)
		regs->rbx = entry->params_gpa;
	else
		regs->rsi = entry->params_gpa;
}

void x86_boot_sregs(struct kvm_sregs *sregs, const struct boot_entry *entry)
{
	sregs->cs = code_segment(entry->protocol);
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data_segment();
	/* VMX refuses to enter without a usable TR: busy, 32 or 64 bits. */
	sregs->tr = (struct kvm_segment){ .limit = 0x67, .type = TYPE_TSS_BUSY, .present = 1 };
	sregs->ldt = (struct kvm_segment){ .unusable = 1 };
	sregs->gdt = (struct kvm_dtable){ .base = BOOT_GDT_GPA, .limit = 4 * 8 - 1 };
	sregs->idt = (struct kvm_dtable){ 0 };
	/* Outright, not or-ed: reset leaves the caches off (CD, NW). */
	sregs->cr0 = X86_CR0_PE | X86_CR0_ET;
	sregs->cr3 = 0;
	sregs->cr4 = 0;
	sregs->efer = 0;
	if (entry->protocol == BOOT_LINUX64) {
		sregs->cr0 |= X86_CR0_PG;
		sregs->cr3 = BOOT_PAGE_TABLES_GPA;
		sregs->cr4 = X86_CR4_PAE;
		sregs->efer = EFER_LME | EFER_LMA;
	}
}
