/* made.h: what was made on the host so far, so that a jail that fails leaves nothing. */
#ifndef MAYFLY_JAILER_MADE_H
#define MAYFLY_JAILER_MADE_H

#include <stdbool.h>
#include <sys/stat.h>

#define MADE_MAX 256

struct made {
	unsigned int count;
	struct made_item {
		int dir;    /* not owned */
		char *path; /* below dir; NULL: dir was there before and gets back its owner and mode */
		bool is_dir;
		struct stat before;
	} item[MADE_MAX];
};

/* made_add - path below dir is new. Returns 0, or -ENOMEM, having removed it again. */
int made_add(struct made *made, int dir, const char *path, bool is_dir);

/* made_changed - owner and mode of the directory were what before says. Returns 0 or -ENOMEM. */
int made_changed(struct made *made, int dir, const struct stat *before);

/* made_undo - take everything back, the last first. What cannot be removed any more is left. */
void made_undo(struct made *made);

#endif
