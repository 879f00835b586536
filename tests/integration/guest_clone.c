/* guest_clone.c: is the random number generator reseeded before a program runs again in what might be a clone? */
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE      0xe0000
#define ID_OFFSET 0xff0

static const volatile uint64_t *map_id(void)
{
	int fd = open("/dev/mem", O_RDONLY);
	char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, PAGE);

	return page == MAP_FAILED ? NULL : (const volatile uint64_t *)(void *)(page + ID_OFFSET);
}

/* Whether the kernel has said so since the last time. */
static int was_reseeded(int kmsg)
{
	char line[2048];
	ssize_t n;
	int found = 0;

	while ((n = read(kmsg, line, sizeof(line) - 1)) > 0) {
		line[n] = '\0';
		found |= strstr(line, "reseeded due to virtual machine fork") != NULL;
	}
	return found;
}

/* guest_clone CPU N: on that CPU, never sleeping, wait for N changes of the ID and say what had come before each. */
int main(int argc, char **argv)
{
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK), n = argc > 2 ? atoi(argv[2]) : 0;
	const volatile uint64_t *id = map_id();
	cpu_set_t cpu;
	uint64_t last, now;

	CPU_ZERO(&cpu);
	CPU_SET((size_t)(argc > 1 ? atoi(argv[1]) : 0), &cpu);
	if (!id || kmsg < 0 || sched_setaffinity(0, sizeof(cpu), &cpu)) {
		perror("guest_clone");
		return 1;
	}
	was_reseeded(kmsg);
	last = *id;
	dprintf(1, "clone: watching\n");
	for (int i = 1; i <= n; i++, last = now) {
		while ((now = *id) == last)
			;
		dprintf(1, "clone: %d %s\n", i, was_reseeded(kmsg) ? "reseeded" : "unchanged");
	}
	return 0;
}
