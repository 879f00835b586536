/* tail.h: the last of what a process has said, for the sentence about its end. */
#ifndef MAYFLY_CONTAINERS_TAIL_H
#define MAYFLY_CONTAINERS_TAIL_H

#include <stdbool.h>
#include <stddef.h>

#define TAIL_SIZE 8192

struct tail {
	char text[TAIL_SIZE];
	size_t len;
	bool has_oom; /* the guest's kernel has killed somebody for want of memory */
};

/* tail_read - take what can be read from fd without waiting, and forget what is older. False: its end, and fd is
 * closed. */
bool tail_read(struct tail *tail, int fd);

/* tail_find - the last line with word in it, made printable, in dst. False: there is none. */
bool tail_find(const struct tail *tail, const char *word, char *dst, size_t size);

#endif
