/* host_cpuid.h: which CPU features KVM supports, asked for while the rest of start-up goes on. */
#ifndef MAYFLY_HOST_CPUID_H
#define MAYFLY_HOST_CPUID_H

#include <pthread.h>
#include <stdbool.h>

#include "error.h"
#include "x86/x86.h"

/*
 * KVM_GET_SUPPORTED_CPUID executes some 75 CPUID instructions, each of which traps where the host is itself a guest:
 * 0.48 ms of a start-up of 1.4 on such a host. It needs nothing but /dev/kvm, so it has a thread of its own meanwhile.
 */
struct host_cpuid {
	pthread_t thread;
	bool begun;   /* ever */
	bool started; /* and not waited for yet */
	int ret;      /* 0 or -errno */
	struct error err;
	struct cpuid_table table;
};

/* host_cpuid_begin - start asking; once, before host_cpuid_wait. Cannot fail: then host_cpuid_wait asks itself. */
void host_cpuid_begin(struct host_cpuid *host);

/*
 * host_cpuid_wait - until host->table is filled; 0 or -errno with a sentence. The thread that began
 * Called again, it asks again: what it returned before has been made to fit one guest since.
 */
int host_cpuid_wait(struct host_cpuid *host, struct error *err);

#endif
