/* process.h: what /proc says of processes. */
#ifndef MAYFLY_JAILER_PROCESS_H
#define MAYFLY_JAILER_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Flags of proc(5), the kernel's PF_FORKNOEXEC and PF_KTHREAD. */
#define PROCESS_NO_EXEC       0x00000040 /* forked, and no program executed since */
#define PROCESS_KERNEL_THREAD 0x00200000

/* process_is - whether /proc/PID/comm is name. */
bool process_is(pid_t pid, const char *name);

/* process_flags - of /proc/PID/stat, 0 when that cannot be read; also of one that ended and nobody has waited for. */
unsigned long process_flags(pid_t pid);

/*
 * process_children - the PIDs of this thread's children, each with a blank behind it; "" for none
 * What does not fit is left out. False with errno when that cannot be read, or /proc numbers processes for others.
 */
bool process_children(char *text, size_t size);

/* process_proc_is_ours - whether /proc numbers processes as this process does, and not for another PID namespace. */
bool process_proc_is_ours(void);

#endif
