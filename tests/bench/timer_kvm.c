/* timer_kvm.c: asks the kernel's own tracing when a guest was first entered, and how often it left. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "timer.h"

#define TRACEFS  "/sys/kernel/tracing"
#define INSTANCE TRACEFS "/instances/mayfly-bench"
#define KVM_STAT "/sys/kernel/debug/kvm"

static int put(const char *name, const char *value)
{
	char path[256];
	int fd, ret = 0;

	snprintf(path, sizeof(path), INSTANCE "/%s", name);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* Only the first events matter: a small buffer that keeps the oldest, so that later entries cost next to nothing. */
int kvm_trace_start(void)
{
	int ret;

	mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	if (mkdir(INSTANCE, 0700) && errno != EEXIST)
		return -errno;
	ret = put("trace_clock", "mono");
	ret = ret ? ret : put("options/overwrite", "0");
	ret = ret ? ret : put("buffer_size_kb", "4");
	ret = ret ? ret : put("trace", "\n");
	ret = ret ? ret : put("events/kvm/kvm_entry/enable", "1");
	return ret ? ret : put("tracing_on", "1");
}

/* " comm-pid [cpu] flags  12.345678: kvm_entry: …", times in microseconds. */
uint64_t kvm_trace_first(void)
{
	uint64_t first = 0, at;
	char line[512];
	FILE *f;

	put("tracing_on", "0");
	f = fopen(INSTANCE "/trace", "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		char *event = strstr(line, ": kvm_entry:");
		unsigned long long s, us;

		if (!event)
			continue;
		*event = '\0';
		event = strrchr(line, ' ');
		if (!event || sscanf(event, "%llu.%llu", &s, &us) != 2)
			continue;
		at = s * 1000000000ull + us * 1000;
		if (!first || at < first)
			first = at;
	}
	fclose(f);
	return first;
}

void kvm_trace_stop(void)
{
	put("events/kvm/kvm_entry/enable", "0");
	rmdir(INSTANCE);
}

static uint64_t read_number(const char *dir, const char *name)
{
	char path[512], text[32] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), KVM_STAT "/%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? strtoull(text, NULL, 10) : 0;
}

/* One directory per machine, named PID-FD; one per vCPU inside, whose figures the machine's file adds up. */
void kvm_exits(pid_t pid, struct exits *out)
{
	DIR *dir = opendir(KVM_STAT);
	struct dirent *d;
	char prefix[32];

	*out = (struct exits){ 0 };
	if (!dir)
		return;
	snprintf(prefix, sizeof(prefix), "%d-", (int)pid);
	while ((d = readdir(dir))) {
		if (strncmp(d->d_name, prefix, strlen(prefix)))
			continue;
		out->all += read_number(d->d_name, "exits");
		out->io += read_number(d->d_name, "io_exits");
		out->mmio += read_number(d->d_name, "mmio_exits");
		out->halt += read_number(d->d_name, "halt_exits");
		out->page_faults += read_number(d->d_name, "pf_taken");
	}
	closedir(dir);
}
