/* timer_memory.c: a process's memory besides guest RAM, from its smaps. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timer.h"

#define MAX_MAPPINGS 8192

struct mapping {
	uint64_t start, end;
	uint64_t rss, pss, private_clean, private_dirty;
	bool anonymous;
	bool excluded; /* a file that the caller says is the guest's */
	bool guest;
};

struct map_list {
	struct mapping *at;
	size_t nr;
};

static bool is_excluded(const struct plan *plan, const char *path)
{
	for (unsigned int i = 0; i < plan->nr_exclude; i++) {
		if (!strcmp(plan->exclude[i], path))
			return true;
	}
	return false;
}

/* "start-end perms offset device inode   path": begins a mapping. False for the lines of figures below it. */
static bool parse_header(const struct plan *plan, const char *line, struct mapping *m)
{
	unsigned long long start, end;
	int path = 0;

	if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %n", &start, &end, &path) != 2)
		return false;
	*m = (struct mapping){ .start = start, .end = end };
	m->anonymous = !path || !line[path];
	m->excluded = m->guest = !m->anonymous && is_excluded(plan, line + path);
	return true;
}

static void parse_figure(const char *line, struct mapping *m)
{
	unsigned long long kb;

	if (sscanf(line, "Rss: %llu", &kb) == 1)
		m->rss = kb;
	else if (sscanf(line, "Pss: %llu", &kb) == 1)
		m->pss = kb;
	else if (sscanf(line, "Private_Clean: %llu", &kb) == 1)
		m->private_clean = kb;
	else if (sscanf(line, "Private_Dirty: %llu", &kb) == 1)
		m->private_dirty = kb;
}

static int read_maps(const struct plan *plan, pid_t pid, struct map_list *list)
{
	char path[64], line[4352];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (list->nr < MAX_MAPPINGS && parse_header(plan, line, &list->at[list->nr]))
			list->nr++;
		else if (list->nr)
			parse_figure(line, &list->at[list->nr - 1]);
	}
	fclose(f);
	return list->nr ? 0 : -ESRCH;
}

/*
 * Guest RAM is an anonymous mapping of its size or more. Where a kernel image or an initrd is mapped over part of it,
 * what is left lies right before and right after that file's mapping.
 */
static void mark_guest(const struct plan *plan, struct map_list *list)
{
	uint64_t ram = plan->ram_mib << 20;

	for (size_t i = 0; i < list->nr; i++) {
		struct mapping *m = &list->at[i];

		if (ram && m->end - m->start >= ram)
			m->guest = true;
		if (!m->excluded)
			continue;
		if (i && m[-1].anonymous && m[-1].end == m->start)
			m[-1].guest = true;
		if (i + 1 < list->nr && m[1].anonymous && m[1].start == m->end)
			m[1].guest = true;
	}
}

static unsigned int count_threads(pid_t pid)
{
	unsigned int n = 0;
	struct dirent *d;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return 0;
	while ((d = readdir(dir)))
		n += d->d_name[0] != '.';
	closedir(dir);
	return n;
}

int memory_read(const struct plan *plan, pid_t pid, struct memory *out)
{
	struct map_list list = { .at = calloc(MAX_MAPPINGS, sizeof(*list.at)) };
	int ret;

	if (!list.at)
		return -ENOMEM;
	ret = read_maps(plan, pid, &list);
	mark_guest(plan, &list);
	*out = (struct memory){ .threads = count_threads(pid) };
	for (size_t i = 0; i < list.nr; i++) {
		const struct mapping *m = &list.at[i];

		if (m->guest) {
			out->guest += m->rss;
			continue;
		}
		out->rss += m->rss;
		out->pss += m->pss;
		out->private_clean += m->private_clean;
		out->private_dirty += m->private_dirty;
	}
	free(list.at);
	return ret;
}
