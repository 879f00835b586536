/* processes.c: who belongs to the container, and names of signals. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define MAX_DEPTH 4096 /* of a process tree that changes while we look */

static const char signals[] =
	"0 HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT "
	"STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

int word_number(const char *list, const char *word, size_t len)
{
	for (int i = 0; *list; i++) {
		size_t n = strcspn(list, " ");

		if (n == len && !memcmp(list, word, n))
			return i;
		list += n + (list[n] == ' ');
	}
	return -1;
}

int signal_number(const char *text)
{
	int base = 0, n;
	char end;

	if (sscanf(text, "%3d%c", &n, &end) == 1 && isdigit(*text))
		return n > 0 && n <= 64 ? n : -1;
	if (!strncmp(text, "SIG", 3))
		text += 3;
	/* The kernel's first real-time signals belong to the C library; what programs call RTMIN is 34. */
	if (!strncmp(text, "RTMIN+", 6))
		base = 34;
	else if (!strncmp(text, "RTMAX-", 6))
		base = 64;
	if (base)
		return sscanf(text + 6, "%2d%c", &n, &end) == 1 && n >= 0 && n <= 30 ? base + (base == 34 ? n : -n)
										     : -1;
	n = word_number(signals, text, strlen(text));
	return n ? n : -1;
}

/* /proc/PID/stat behind the name: "S PPID …", with the name in comm. False when there is no such process. */
static bool read_stat(pid_t pid, char *stat, size_t size)
{
	char path[40];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, stat, size - 1);
	close(fd);
	stat[n > 0 ? n : 0] = '\0';
	return n > 0 && strrchr(stat, ')');
}

static pid_t parent_of(const char *stat)
{
	pid_t parent = 0;

	sscanf(strrchr(stat, ')'), ") %*c %d", &parent);
	return parent;
}

/* The agent's own processes run the program that we run. (None of the container's can: it is not in its root.) */
static bool is_agent(pid_t pid)
{
	struct stat ours, theirs;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	return pid == getpid() || (!stat(path, &theirs) && !stat("/proc/self/exe", &ours) &&
				   theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev);
}

bool processes_include(const struct agent *agent, pid_t pid)
{
	char stat[512];
	pid_t at = pid;

	if (pid <= 1 || pid == agent->pid || is_agent(pid))
		return false;
	for (int depth = 0; depth < MAX_DEPTH && at > 1 && read_stat(at, stat, sizeof(stat)); depth++) {
		at = parent_of(stat);
		if (at == agent->pid)
			return true;
	}
	return false;
}

void processes_each(const struct agent *agent, void (*with)(pid_t pid, const char *stat, void *data), void *data)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char stat[512];

	while (proc && (entry = readdir(proc))) {
		pid_t pid = isdigit(*entry->d_name) ? (pid_t)strtol(entry->d_name, NULL, 10) : 0;

		if (pid && processes_include(agent, pid) && read_stat(pid, stat, sizeof(stat)))
			with(pid, stat, data);
	}
	if (proc)
		closedir(proc);
}

static void kill_one(pid_t pid, const char *stat, void *data)
{
	(void)stat;
	kill(pid, *(int *)data);
}

void processes_kill(const struct agent *agent, int signal)
{
	processes_each(agent, kill_one, &signal);
}

void status_fields(struct field_buffer *b, int status)
{
	if (WIFSIGNALED(status))
		field_add_number(b, "signal", WTERMSIG(status));
	else
		field_add_number(b, "code", WEXITSTATUS(status));
}
