/* inherited.c: what whoever started Mayfly has opened for it: a file, socket or TAP called "fd:N" instead of by name.
 */
#include "inherited.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "fd:"

static struct {
	enum { ALL, NOTED, STARTED, NONE } stage;
	uint64_t open[INHERITED_FDS / 64], kept[INHERITED_FDS / 64];
} inherited;

static bool has(const uint64_t *set, int fd)
{
	return set[fd / 64] >> fd % 64 & 1;
}

static bool is_open(int fd)
{
	return fd >= INHERITED_FIRST && fd < INHERITED_FDS && (inherited.stage == ALL || has(inherited.open, fd));
}

/* ---- by name ---- */

bool inherited_is_name(const char *name)
{
	return strncmp(name, PREFIX, strlen(PREFIX)) == 0;
}

int inherited_number(const char *name)
{
	const char *digits = name + strlen(PREFIX);
	size_t len;

	if (!inherited_is_name(name))
		return -1;
	len = strspn(digits, "0123456789");
	return len > 0 && len < 10 && !digits[len] ? (int)strtol(digits, NULL, 10) : -1;
}

static int not_there(int fd, const char *where, struct error *err)
{
	if (inherited.stage == NONE)
		return error_set(err, -EBADF, "%s: a copy has no descriptors of the first one's (needs a path)", where);
	if (fd < 0)
		return error_set(err, -EINVAL, "%s: no number of a descriptor (needs \"fd:N\")", where);
	if (inherited.stage == STARTED)
		return error_set(err, -EBADF, "%s: %s (a running microVM has those of --allow-fd alone)", where,
				 strerror(EBADF));
	return error_set(err, -EBADF, "%s: %s (needs a descriptor from %d to %d that is open when Mayfly starts)",
			 where, strerror(EBADF), INHERITED_FIRST, INHERITED_FDS - 1);
}

int inherited_open(const char *name, const char *where, struct error *err)
{
	const int number = inherited_number(name);
	int fd = is_open(number) ? fcntl(number, F_DUPFD_CLOEXEC, INHERITED_FIRST) : -1;

	if (fd < 0 && is_open(number) && errno != EBADF)
		return error_set(err, -errno, "%s: %s", where, strerror(errno));
	if (fd < 0)
		return not_there(number, where, err);
	(void)fcntl(number, F_SETFD, FD_CLOEXEC);
	return fd;
}

int inherited_open_file(const char *name, int access, const char *where, struct error *err)
{
	static const char *const what[] = {
		[O_RDONLY] = "reading", [O_WRONLY] = "writing", [O_RDWR] = "reading and writing"
	};
	int fd = inherited_open(name, where, err), flags;

	if (fd < 0)
		return fd;
	flags = fcntl(fd, F_GETFL);
	/* O_APPEND writes at the end whatever the offset is; O_DIRECT wants all aligned as the disk has it. */
	if (flags >= 0 && !(flags & (O_PATH | O_DIRECT)) && (access == O_RDONLY || !(flags & O_APPEND)) &&
	    ((flags & O_ACCMODE) == O_RDWR || (flags & O_ACCMODE) == access))
		return fd;
	close(fd);
	return error_set(err, -EBADF, "%s: is not open for that (needs to be open for %s, without %sO_DIRECT)", where,
			 what[access], access == O_RDONLY ? "" : "O_APPEND and ");
}

/* ---- which there are ---- */

void inherited_note(nfds_t at_once)
{
	struct pollfd fds[INHERITED_FDS];
	nfds_t from, n, i;

	inherited.stage = NOTED;
	memset(inherited.open, 0, sizeof(inherited.open));
	/* poll() tells which are open in one call for all. */
	for (from = INHERITED_FIRST; from < INHERITED_FDS && at_once; from += n) {
		n = INHERITED_FDS - from < at_once ? INHERITED_FDS - from : at_once;
		for (i = 0; i < n; i++)
			fds[i] = (struct pollfd){ .fd = (int)(from + i) };
		if (poll(fds, n, 0) < 0)
			continue;
		for (i = 0; i < n; i++) {
			if (!(fds[i].revents & POLLNVAL))
				inherited.open[fds[i].fd / 64] |= 1ull << fds[i].fd % 64;
		}
	}
}

void inherited_claim(int fd)
{
	if (is_open(fd))
		inherited.open[fd / 64] &= ~(1ull << fd % 64);
}

int inherited_keep(int fd)
{
	if (!is_open(fd))
		return -EBADF;
	inherited.kept[fd / 64] |= 1ull << fd % 64;
	return 0;
}

void inherited_close(void)
{
	unsigned int i;
	uint64_t left;

	for (i = 0; i < INHERITED_FDS / 64; i++) {
		for (left = inherited.open[i] & ~inherited.kept[i]; left; left &= left - 1)
			close((int)i * 64 + __builtin_ctzll(left));
		inherited.open[i] &= inherited.kept[i];
	}
	if (inherited.stage != NONE)
		inherited.stage = STARTED;
}

void inherited_forget(void)
{
	memset(inherited.open, 0, sizeof(inherited.open));
	inherited.stage = NONE;
}
