/* race.c: runs a virtio target while another thread writes to rings and buffers, as a guest's second vCPU can. */
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "driver.h"

#define INPUT_MAX 1024u
#define BURST     64u /* writes between two looks at whether to go on */

int __real_clock_gettime(clockid_t clock, struct timespec *ts);

/* Held by the racer for a burst, so that who says "no more" knows that there is none. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool racing; /* guarded by lock */
static _Atomic bool over;
static unsigned long writes; /* the racer's own, until it was joined */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Values as they stand in descriptors and rings: right, almost right, and anything. */
static void write_somewhere(uint64_t *seed)
{
	const uint64_t random = next_random(seed), value = random >> 32;
	/* Rings and tables mostly: they are read first. */
	const uint64_t gpa = random % (random & 0x700 ? DRIVER_DATA_GPA : 0x100000) & ~7ull;
	void *at = driver_guest(gpa);

	switch (random >> 60) {
	case 0 ... 3: /* address */
		atomic_store_explicit((_Atomic uint64_t *)at, value & 0xffff8, memory_order_relaxed);
		break;
	case 4 ... 7: /* length, flags, next */
		atomic_store_explicit((_Atomic uint64_t *)at,
				      (value & 0xfff) | (value & 0x7f) << 48 | (value & 7) << 32, memory_order_relaxed);
		break;
	case 8 ... 11:
		atomic_store_explicit((_Atomic uint16_t *)at, value & 0xff, memory_order_relaxed);
		break;
	case 12 ... 14:
		atomic_store_explicit((_Atomic uint32_t *)at, (uint32_t)value & 0x1ffff, memory_order_relaxed);
		break;
	default:
		atomic_store_explicit((_Atomic uint64_t *)at, value << 32 | value, memory_order_relaxed);
	}
}

static void *racer(void *arg)
{
	uint64_t seed = 0x9e3779b97f4a7c15ull;
	unsigned int i;

	(void)arg;
	while (!over) {
		pthread_mutex_lock(&lock);
		for (i = 0; racing && i < BURST; i++, writes++)
			write_somewhere(&seed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void set_racing(bool on)
{
	pthread_mutex_lock(&lock);
	racing = on;
	pthread_mutex_unlock(&lock);
}

/* ---- inputs ---- */

static uint8_t (*inputs)[INPUT_MAX];
static size_t *lengths;
static unsigned int nr_inputs;

static void read_inputs(const char *folder)
{
	const struct dirent *entry;
	char path[4096];
	DIR *dir = opendir(folder);
	FILE *f;

	CHECK(dir);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		inputs = realloc(inputs, (nr_inputs + 1) * sizeof(*inputs));
		lengths = realloc(lengths, (nr_inputs + 1) * sizeof(*lengths));
		CHECK(inputs && lengths);
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		f = fopen(path, "rb");
		if (!f)
			continue; /* merged away meanwhile */
		lengths[nr_inputs] = fread(inputs[nr_inputs], 1, INPUT_MAX, f);
		nr_inputs++;
		fclose(f);
	}
	closedir(dir);
	CHECK(nr_inputs);
}

/* An input with a few bytes changed: many ways through the device, all of them raced. */
static void run_one(uint64_t *seed)
{
	unsigned int which = (unsigned int)(next_random(seed) % nr_inputs), changes;
	uint8_t bytes[INPUT_MAX];

	memcpy(bytes, inputs[which], sizeof(bytes));
	for (changes = next_random(seed) % 4; changes && lengths[which]; changes--)
		bytes[next_random(seed) % lengths[which]] = (uint8_t)next_random(seed);
	LLVMFuzzerTestOneInput(bytes, lengths[which]);
}

static double now(void)
{
	struct timespec ts;

	__real_clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* race SECONDS FOLDER: inputs of the target from FOLDER. */
int main(int argc, char **argv)
{
	unsigned long runs = 0;
	uint64_t seed = 1;
	pthread_t thread;
	double end;

	CHECK(argc == 3);
	read_inputs(argv[2]);
	LLVMFuzzerInitialize(&argc, &argv);
	driver_set_racing = set_racing;
	CHECK(pthread_create(&thread, NULL, racer, NULL) == 0);
	for (end = now() + atof(argv[1]); now() < end; runs++)
		run_one(&seed);
	over = true;
	pthread_join(thread, NULL);
	printf("%lu runs, %lu writes by the racer\n", runs, writes);
	return runs && writes ? 0 : 1;
}
