/*
 * builtin.S: the compiled policies as they came from mayfly-seccompiler (FILTERS is that file), and the names of all system calls
 * (NAMES, made from the kernel's header).
 */
	.section .rodata
	.balign 8
	.globl seccomp_builtin, seccomp_builtin_size, seccomp_call_names, seccomp_call_names_size
	.hidden seccomp_builtin, seccomp_builtin_size, seccomp_call_names, seccomp_call_names_size
seccomp_builtin:
	.incbin FILTERS
1:	.balign 4
seccomp_builtin_size:
	.long 1b - seccomp_builtin
seccomp_call_names:
	.include NAMES
2:	.balign 4
seccomp_call_names_size:
	.long 2b - seccomp_call_names
	.section .note.GNU-stack, "", @progbits
