/* tail.c: the last of what a process has said, for the sentence about its end. */
#include "tail.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

static const char oom[] = "Out of memory: Killed process";

bool tail_read(struct tail *t, int fd)
{
	char piece[TAIL_SIZE / 2];
	size_t keep;
	ssize_t n;

	while (fd >= 0 && (n = read(fd, piece, sizeof(piece))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return true;
		keep = t->len < TAIL_SIZE - (size_t)n ? t->len : TAIL_SIZE - (size_t)n;
		memmove(t->text, t->text + t->len - keep, keep);
		memcpy(t->text + keep, piece, (size_t)n);
		t->len = keep + (size_t)n;
		t->has_oom |= memmem(t->text, t->len, oom, sizeof(oom) - 1) != NULL;
	}
	if (fd >= 0)
		close(fd);
	return false;
}

bool tail_find(const struct tail *t, const char *word, char *dst, size_t size)
{
	const char *line = t->text, *end = t->text + t->len, *found = NULL, *stop;
	size_t len = 0;

	for (; line < end; line = stop + 1) {
		stop = memchr(line, '\n', (size_t)(end - line));
		if (!stop)
			stop = end;
		if (memmem(line, (size_t)(stop - line), word, strlen(word))) {
			found = line;
			len = (size_t)(stop - line);
		}
	}
	while (len > 0 && found[len - 1] == '\r')
		len--;
	if (found)
		text_escape(dst, size, found, len);
	return found != NULL;
}
