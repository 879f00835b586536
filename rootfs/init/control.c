/* control.c: the operations that look at the container's processes or end them. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

/* signal= as a number or name, or the default. */
static int signal_field(const struct fields *f, int otherwise, int *out, struct error *err)
{
	const char *text = field_get(f, "signal");

	*out = text ? signal_number(text) : otherwise;
	return *out > 0 ? 0 : bad_field(err, f, "signal", "a signal's number or name");
}

OPERATION(op_kill)
{
	const char *text = field_get(request, "pid");
	int64_t pid = agent->shared->pid, all = 0;
	int number, fd, ret = 0;

	if (signal_field(request, SIGTERM, &number, err) || number_field(request, "all", 0, 1, &all, err))
		return err->code;
	if (all) {
		processes_kill(agent, number);
		return 0;
	}
	if (!text || (strcmp(text, "main") && field_number(request, "pid", 2, INT32_MAX, &pid)))
		return bad_field(err, request, "pid", "main or a number");
	/* By descriptor: between the look and the signal the number may become somebody else's. */
	fd = pid ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;
	if (fd < 0 || !processes_include(agent, (pid_t)pid) || syscall(SYS_pidfd_send_signal, fd, number, NULL, 0))
		ret = error_set(err, -ESRCH, "pid=%s: no such process in the container", text);
	close(fd);
	return ret;
}

OPERATION(op_stop)
{
	struct shared *shared = agent->shared;
	enum main_state state = main_wait(shared, MAIN_STARTING, -1);
	int64_t seconds = 10;
	int number;

	if (signal_field(request, shared->stop_signal > 0 ? shared->stop_signal : SIGTERM, &number, err) ||
	    number_field(request, "seconds", 0, 1000000, &seconds, err))
		return err->code;
	if (state == MAIN_NONE) {
		kill(agent->pid, SIGTERM);
		return 0;
	}
	if (state == MAIN_RUNNING) {
		kill(shared->pid, number);
		kill(shared->pid, SIGCONT); /* one that is stopped would never see it */
		state = main_wait(shared, MAIN_RUNNING, (int)seconds * 1000);
	}
	if (state == MAIN_RUNNING) {
		kill(shared->pid, SIGKILL);
		main_wait(shared, MAIN_RUNNING, -1);
	}
	status_fields(reply, shared->status);
	return 0;
}

static void list_one(pid_t pid, const char *stat_text, void *data)
{
	const char *name = strchr(stat_text, '(') + 1, *end = strrchr(stat_text, ')');
	char path[24], line[128], state = '?';
	struct stat st = { 0 };
	long long rss = 0;
	int parent = 0;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	if (stat(path, &st) || name > end)
		return;
	sscanf(end, ") %c %d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %lld", &state,
	       &parent, &rss);
	snprintf(line, sizeof(line), "%d %d %u %c %lld %.*s", pid, parent, st.st_uid, state,
		 rss * sysconf(_SC_PAGESIZE) / 1024, (int)(end - name > 64 ? 64 : end - name), name);
	field_add(data, "process", line);
}

OPERATION(op_list)
{
	reply->size -= 16; /* room to say that there were more */
	processes_each(agent, list_one, reply);
	reply->size += 16;
	if (reply->full) {
		reply->full = false;
		field_add(reply, "truncated", "1");
	}
	return 0;
}

OPERATION(op_info)
{
	static const char *const names[] = { "none", "none", "running", "ended" };
	enum main_state state = main_wait(agent->shared, MAIN_NONE, 0);
	struct timespec up;
	struct utsname u;

	uname(&u);
	clock_gettime(CLOCK_BOOTTIME, &up);
	field_add_number(reply, "version", AGENT_PROTOCOL);
	field_add(reply, "agent", MAYFLY_VERSION);
	field_add(reply, "kernel", u.release);
	field_add_number(reply, "uptime_us", (int64_t)up.tv_sec * 1000000 + up.tv_nsec / 1000);
	field_add(reply, "main", names[state]);
	if (state == MAIN_RUNNING)
		field_add_number(reply, "pid", agent->shared->pid);
	if (state == MAIN_ENDED)
		status_fields(reply, agent->shared->status);
	return 0;
}
