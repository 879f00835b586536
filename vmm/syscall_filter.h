/* syscall_filter.h: the seccomp filters that confine each thread (policies: vmm/seccomp/). */
#ifndef MAYFLY_SYSCALL_FILTER_H
#define MAYFLY_SYSCALL_FILTER_H

#include "error.h"
#include "seccomp/filter_file.h"

/*
 * seccomp_use - have seccomp_install install the filters of a file that mayfly-seccompiler wrote; NULL: the built-in
 * ones Also makes SIGSYS write the log line that names a blocked call, and end the process. Main thread, before any
 * other exists. 0 or -errno with a sentence. Without this call seccomp_install does nothing (--no-seccomp, unit tests).
 */
int seccomp_use(const char *path, struct error *err);

/*
 * seccomp_install - confine the calling thread, and all it starts from now on; for ever
 * Filters stack: a call has to pass every one that was installed. 0 or -errno with a sentence; the thread is as it was.
 */
int seccomp_install(enum filter_thread thread, struct error *err);

/* seccomp_state - "default", "custom" or "off". */
const char *seccomp_state(void);

/* seccomp_forked - what the filters say of "this process" is about this one from now on. In a process that was forked,
 * while it has one thread. */
void seccomp_forked(void);

#endif
