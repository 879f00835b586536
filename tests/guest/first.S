/*
 * first.S: a guest of five instructions, for timing exec → first guest instruction and exec → reset → gone. It writes
 * 'F' to the serial port and asks the i8042 for a reset. Entered in 32-bit mode (PVH) or in long mode: the encodings
 * are the same in both, so both protocols share one entry point.
 */
#define XEN_ELFNOTE_PHYS32_ENTRY	18

	.section .note.pvh, "a", @note
	.align	4
	.long	2f - 1f, 4f - 3f, XEN_ELFNOTE_PHYS32_ENTRY
1:	.asciz	"Xen"
2:	.align	4
3:	.long	first
4:	.align	4

	.text
	.globl	first
first:
	movw	$0x3f8, %dx
	movb	$'F', %al
	outb	%al, %dx
	movb	$0xfe, %al
1:	outb	%al, $0x64
	jmp	1b

	.section .note.GNU-stack, "", @progbits
