/* words.h: limits as people write them (256M, 150%, /srv:rbps=10M), made into what cgroups take. */
#ifndef MAYFLY_JAILER_WORDS_H
#define MAYFLY_JAILER_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CPU_PERIOD_US 100000

enum io_kind { IO_RBPS, IO_WBPS, IO_RIOPS, IO_WIOPS, IO_KINDS };

/* Bytes or operations in a second, read or written; 0: no limit. */
struct io_limit {
	const char *path; /* a file or directory on the disk, or the disk itself */
	uint64_t most[IO_KINDS];
};

/* The names of the four, as cgroup v2 has them: rbps, wbps, riops, wiops. */
extern const char *const io_names[IO_KINDS];

/* words_number - decimal digits alone; false for anything else and for what does not fit. */
bool words_number(const char *text, uint64_t *out);

/* words_size - a number above 0 with K, M, G or T (powers of 1024) or without. */
bool words_size(const char *text, uint64_t *out);

/* words_cpu - a percentage of one CPU, 1% to 1000000%, as µs in each CPU_PERIOD_US. */
bool words_cpu(const char *text, uint64_t *out);

/* words_io - PATH:rbps=SIZE,wbps=SIZE,riops=N,wiops=N with at least one of them, each once. Cuts text up. */
bool words_io(char *text, struct io_limit *out);

#endif
