/* process.c: what /proc says of processes. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The beginning of a file as a string, "" when it cannot be read. */
static bool read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, text, size - 1);

	if (fd >= 0)
		close(fd);
	text[len < 0 ? 0 : len] = '\0';
	return len >= 0;
}

bool process_is(pid_t pid, const char *name)
{
	char path[32], text[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	if (!read_file(path, text, sizeof(text)))
		return false;
	text[strcspn(text, "\n")] = '\0';
	return strcmp(text, name) == 0;
}

unsigned long process_flags(pid_t pid)
{
	char path[32], text[512], *at;
	int field;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	(void)read_file(path, text, sizeof(text));
	/* The seventh after the name in parentheses. */
	at = strrchr(text, ')');
	for (field = 0; at && field < 7; field++)
		at = strchr(at + 1, ' ');
	return at ? strtoul(at, NULL, 10) : 0;
}

bool process_children(char *text, size_t size)
{
	char *last;

	if (!process_proc_is_ours()) {
		errno = ESRCH;
		return false;
	}
	if (!read_file("/proc/thread-self/children", text, size))
		return false;
	/* Half a number would be somebody else's. */
	last = strrchr(text, ' ');
	if (last)
		last[1] = '\0';
	else
		text[0] = '\0';
	return true;
}

bool process_proc_is_ours(void)
{
	char text[16];
	ssize_t len = readlink("/proc/self", text, sizeof(text) - 1);

	text[len < 0 ? 0 : len] = '\0';
	return strtol(text, NULL, 10) == getpid();
}
