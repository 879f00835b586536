/* filter_file.h: the file that mayfly-seccompiler writes: one BPF program for each kind of thread, ready to install. */
#ifndef MAYFLY_SECCOMP_FILTER_FILE_H
#define MAYFLY_SECCOMP_FILTER_FILE_H

#include <stdint.h>

#define FILTER_FILE_MAGIC   "MAYFLYBP" /* 8 bytes, no NUL */
#define FILTER_FILE_VERSION 3u

/*
 * What stands in a program for the process that installs it, whose id is not known when it is compiled. No process has
 * this id (the highest is 2^22), and no constant this value.
 */
#define FILTER_SELF 0x5e1f5e1fu

/* A microVM's threads, in the order of the programs. */
enum filter_thread {
	FILTER_STARTUP,  /* the main thread from its first moment, and what it starts: on top of this come the others */
	FILTER_VMM,      /* the main thread once the guest runs: API, devices */
	FILTER_SNAPSHOT, /* that instead where --allow-path lets it write snapshots */
	FILTER_FORK,     /* that instead where --allow-fork lets it be copied */
	FILTER_COPIES, /* the process that makes the copies, and each of them before its guest runs: in place of startup
			*/
	FILTER_VCPU,   /* a vCPU */
	FILTER_BLOCK_IO,    /* a drive's I/O where the host denies io_uring */
	FILTER_WORKING_SET, /* what a loaded guest touches first: recorded, prefetched */
	FILTER_THREADS,
};

#define FILTER_THREAD_NAMES "startup", "vmm", "snapshot", "fork", "copies", "vcpu", "block_io", "working_set"

/* All in the byte order of the machine; the struct sock_filters of each program follow, one after the other. */
struct filter_file {
	char magic[8];
	uint32_t version;
	uint32_t arch;               /* AUDIT_ARCH_* */
	uint32_t nr[FILTER_THREADS]; /* instructions of each program */
};

#endif
