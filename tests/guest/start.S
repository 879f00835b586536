/*
 * start.S: from the boot protocol to CPL 3 in as few CPL 0 instructions as possible.
 *
 * Some KVM hosts have no hardware virtualization underneath and emulate every CPL 0 instruction, while CPL 3 runs
 * natively. So everything that can be data is data: page tables, GDT, TSS, IDT and even the frame that iretq pops are
 * laid out by the assembler, and CPL 0 only loads registers that point at them.
 */
#include "layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY	18
#define CR4_PAE		0x20
#define CR0_PE_PG	0x80000001
#define MSR_EFER	0xc0000080
#define EFER_LME	0x100

/*
 * Every port is allowed twice, by IOPL 3 and by the TSS: KVM on PVM drops IOPL when it emulates the iretq, and honours
 * the bitmap.
 */
#define RFLAGS_IOPL3	0x3002		/* interrupts off */
#define TSS_SIZE	(0x68 + 8192 + 1)

#define PAGE_TABLE	0x07		/* present, writable, user */
#define PAGE_LARGE	0x87		/* the same, 2 MiB */

#ifdef GUEST_PVH
	.section .note.pvh, "a", @note
	.align	4
	.long	2f - 1f, 4f - 3f, XEN_ELFNOTE_PHYS32_ENTRY
1:	.asciz	"Xen"
2:	.align	4
3:	.long	entry_pvh
4:	.align	4
#endif

/* Exception stubs: 16 bytes each from STUBS_ADDR, so that gate n's address is STUBS_ADDR + 16 n. */
	.section .stubs, "ax"
	.code64
	.set	vector, 0
	.rept	VECTORS
	.balign	STUB_SIZE
	/* The vectors for which the CPU pushes no error code get a zero in its place. */
	.if	!((vector >= 10 && vector <= 14) || vector == 8 || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	pushq	$0
	.endif
	pushq	$vector
	jmp	trap
	.set	vector, vector + 1
	.endr

	.section .tables, "aw"
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* SEL_CODE0: 64-bit */
	.quad	0x00cf93000000ffff	/* SEL_DATA0 */
	.quad	0x00cff3000000ffff	/* SEL_DATA3 */
	.quad	0x00affb000000ffff	/* SEL_CODE3: 64-bit */
	/* SEL_TSS: base split over four fields, present, available 64-bit TSS. */
	.word	TSS_SIZE - 1, TSS_ADDR & 0xffff
	.byte	(TSS_ADDR >> 16) & 0xff, 0x89, 0, TSS_ADDR >> 24
	.quad	0
gdt_end:
	.org	TSS_OFFSET
tss:
	.long	0
	.quad	stack0_top		/* rsp0: where CPL 3 lands when it faults */
	.fill	0x66 - 12, 1, 0
	.word	0x68			/* where the I/O bitmap starts */
	.fill	8192, 1, 0		/* CPL 3 may use every port */
	.byte	0xff
	.balign	16
idt:
	.set	vector, 0
	.rept	VECTORS
	.word	(STUBS_ADDR & 0xffff) + vector * STUB_SIZE, SEL_CODE0
	.byte	0
	.byte	0x8e			/* interrupt gate */
	.word	STUBS_ADDR >> 16
	.quad	0
	.set	vector, vector + 1
	.endr
idt_end:
	.balign	8
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt
	.balign	8
idt_pointer:
	.word	idt_end - idt - 1
	.quad	idt
	.balign	8
no_idt_pointer:
	.word	0
	.quad	0
	.balign	8
first_frame:				/* what the first iretq pops */
	.quad	main_cpl3
	.quad	SEL_CODE3
	.quad	RFLAGS_IOPL3
	.quad	stack3_top
	.quad	SEL_DATA3

/* 0 … 4 GiB, one to one, 2 MiB pages, CPL 3 may do everything. */
	.section .pages, "aw"
	.balign	4096
pml4:
	.quad	pdpt + PAGE_TABLE
	.fill	511, 8, 0
pdpt:
	.quad	pd + PAGE_TABLE
	.quad	pd + 0x1000 + PAGE_TABLE
	.quad	pd + 0x2000 + PAGE_TABLE
	.quad	pd + 0x3000 + PAGE_TABLE
	.fill	508, 8, 0
pd:
	.set	page, 0
	.rept	4 * 512
	.quad	page * 0x200000 + PAGE_LARGE
	.set	page, page + 1
	.endr

	.text
/* PVH: 32-bit protected mode, paging off, %ebx = struct hvm_start_info. */
	.code32
	.globl	entry_pvh
entry_pvh:
	movl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	movl	$EFER_LME, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$CR0_PE_PG, %eax
	movl	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$SEL_CODE0, $1f
	.code64
1:	movl	$ENTERED_PVH, %edi
	movl	%ebx, %esi
	jmp	drop

/* 64-bit boot protocol: long mode, somebody else's identity map, %rsi = struct boot_params. */
	.globl	entry_linux64
entry_linux64:
	movl	$pml4, %eax
	movq	%rax, %cr3
	lgdt	gdt_pointer
	movl	$ENTERED_LINUX64, %edi
drop:
	lidt	idt_pointer
	movl	$SEL_TSS, %eax
	ltr	%ax
	movl	$first_frame, %esp
	iretq

/* From here CPL 3, %edi = how, %rsi = boot information, %rsp 16-byte aligned. */
main_cpl3:
	cld
	call	guest_main
	ud2

/*
 * void service(int what) - ask CPL 0 for what CPL 3 cannot do; does not return. An undefined instruction at a known
 * address is the call: "int n" is one of the instructions that KVM on PVM cannot emulate.
 */
	.globl	service
service:
	ud2

/*
 * CPUID at CPL 0, registers in and out as the instruction has them. At CPL 3 a KVM without hardware virtualization
 * cannot catch it, and the host's processor answers.
 */
	.globl	cpuid_service
cpuid_service:
	ud2
cpuid_done:
	ret

/* CPL 0 again, for a fault or a service. On the stack: vector, error code, rip, cs, rflags, rsp, ss. */
trap:
	testb	$3, 24(%rsp)
	jz	crash			/* a fault in CPL 0: nothing sensible is left to do */
	cmpq	$service, 16(%rsp)
	je	serve
	cmpq	$cpuid_service, 16(%rsp)
	je	serve_cpuid
	/* Report from CPL 3: fault_report(vector, error, rip, address) on a fresh stack. */
	popq	%rdi
	popq	%rsi
	movq	(%rsp), %rdx
	movq	%cr2, %rcx
	movq	$fault_report, (%rsp)
	movq	$stack3_top - 8, 24(%rsp)
	iretq
serve_cpuid:
	addq	$16, %rsp
	movq	$cpuid_done, (%rsp)
	cpuid
	iretq
serve:
	cmpl	$SERVICE_IDLE, %edi
	jne	crash
1:	hlt
	jmp	1b
crash:
	lidt	no_idt_pointer
	ud2

/*
 * The second vCPU: copied to AP_ADDR, entered in real mode at its first byte, cs = AP_ADDR / 16. Straight to long mode and CPL 3, as above.
 * Without a TSS: it never leaves CPL 3 again, a fault there ends the machine.
 */
	.section .rodata
	.code16
	.globl	ap_start, ap_end
ap_start:
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	ap_gdt_pointer - ap_start
	movl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	movl	$EFER_LME, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$CR0_PE_PG, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_CODE0, $ap_long
	.balign	8
ap_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_end:

	.text
	.code64
ap_long:
	movl	$ap_frame, %esp
	iretq
ap_cpl3:
	cld
	call	smp_main
	ud2

	.section .tables, "aw"
	.balign	8
ap_frame:
	.quad	ap_cpl3
	.quad	SEL_CODE3
	.quad	2
	.quad	ap_stack_top
	.quad	SEL_DATA3

	.section .bss.stacks, "aw", @nobits
	.balign	16
	.skip	AP_STACK
ap_stack_top:
	.balign	16
	.skip	4096
stack0_top:
	.skip	65536
stack3_top:

	.section .note.GNU-stack, "", @progbits
