/* jailer_start.c: starts a command N times, one after the other or all at once, and says what that took. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORD_SIZE 4096

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

/* CPU time of all children that ended, and of their children that they waited for, in µs. */
static double cpu(void)
{
	struct rusage usage;

	getrusage(RUSAGE_CHILDREN, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* "@" in a word becomes the number of the start: each jail has a name of its own. */
static char **numbered(char **words, int number)
{
	static char *argv[64], text[64][WORD_SIZE];
	unsigned int i;

	for (i = 0; words[i] && i < 63; i++) {
		const char *at = strchr(words[i], '@');

		argv[i] = words[i];
		if (!at)
			continue;
		snprintf(text[i], WORD_SIZE, "%.*s%d%s", (int)(at - words[i]), words[i], number, at + 1);
		argv[i] = text[i];
	}
	argv[i] = NULL;
	return argv;
}

static int reap(void)
{
	int status;

	return wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

/* jailer_start N once|together FIRST COMMAND...: prints µs of CPU and of time for each start. */
int main(int argc, char **argv)
{
	char *no_env[] = { NULL };
	int i, n, failed = 0;
	double begun;
	pid_t pid;

	if (argc < 5)
		return 2;
	n = atoi(argv[1]);
	begun = now();
	for (i = 0; i < n; i++) {
		if (posix_spawn(&pid, argv[4], NULL, NULL, numbered(argv + 4, atoi(argv[3]) + i), no_env))
			return 2;
		if (strcmp(argv[2], "once") == 0)
			failed += reap();
	}
	for (i = 0; i < n && strcmp(argv[2], "once") != 0; i++)
		failed += reap();
	printf("%.1f %.1f\n", cpu() / n, (now() - begun) / n);
	return failed ? 1 : 0;
}
