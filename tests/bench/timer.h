/* timer.h: what the parts of the benchmark timer share. */
#ifndef BENCH_TIMER_H
#define BENCH_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_EXCLUDE 16
#define LINE_SIZE   512

/* What to measure, from the command line. Strings belong to argv. */
struct plan {
	unsigned int runs;
	unsigned int warmup;
	double timeout;         /* seconds for one run */
	const char *marker;     /* NULL: until the process ends */
	bool wait;              /* after the marker, wait for the process instead of killing it */
	bool both;              /* look for the marker on stderr as well */
	bool pty;               /* a terminal instead of pipes */
	unsigned int settle_ms; /* between marker and a look at memory */
	bool memory;
	bool kvm;
	uint64_t ram_mib; /* size of guest RAM, to leave it out of memory figures */
	const char *exclude[MAX_EXCLUDE];
	unsigned int nr_exclude;
	const char *json; /* file to append one line of JSON to, "-": stdout, NULL: a table for people */
	char **command;
	const char *program; /* command[0], found in PATH */
};

/* Kilobytes, guest RAM left out. */
struct memory {
	uint64_t pss;
	uint64_t rss;
	uint64_t private_clean;
	uint64_t private_dirty;
	uint64_t guest; /* resident guest RAM, for information */
	unsigned int threads;
};

/* How often the guest left, in all and for some of the reasons; 0 where debugfs does not say. */
struct exits {
	uint64_t all;
	uint64_t io;
	uint64_t mmio;
	uint64_t halt;
	uint64_t page_faults;
};

/* One run. Times in nanoseconds since just before exec, 0 when it did not come to that. */
struct outcome {
	uint64_t marker;
	uint64_t gone;
	uint64_t first_entry; /* first KVM_RUN that entered the guest */
	struct exits exits;   /* of the guest, up to the marker */
	int status;           /* as from a shell: exit code, or 128 + signal */
	bool timed_out;
	struct memory memory;
	char line[LINE_SIZE]; /* from the marker to the end of its line */
	char tail[LINE_SIZE]; /* the last output, for when something went wrong */
};

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t now_ns(void);

/*
 * run_once - start the command, watch it, end it
 * Returns 0, or -errno when it could not be started. Whatever the command does is in *out. No process is left behind.
 */
int run_once(const struct plan *plan, struct outcome *out);

/* memory_read - what process pid uses besides guest RAM. Returns 0 or -errno. */
int memory_read(const struct plan *plan, pid_t pid, struct memory *out);

/*
 * kvm_trace_start - have the kernel note when the guest is first entered; needs root and tracefs. 0 or -errno.
 * kvm_trace_first - nanoseconds of CLOCK_MONOTONIC of that event since the last kvm_trace_start, 0 if there was none.
 * kvm_trace_stop - undo it; harmless when nothing was started.
 * kvm_exits - add up the exits so far of the machines of process pid.
 */
int kvm_trace_start(void);
uint64_t kvm_trace_first(void);
void kvm_trace_stop(void);
void kvm_exits(pid_t pid, struct exits *out);

#endif
