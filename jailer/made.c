/* made.c: what was made on the host so far, so that a jail that fails leaves nothing. */
#include "made.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "place.h"

static void take_back(int dir, const char *path, bool is_dir)
{
	const char *slash = strrchr(path, '/');
	char parent[PATH_MAX];
	int fd = -1;

	if (slash) {
		snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
		fd = place_openat(dir, parent, O_PATH | O_DIRECTORY);
		if (fd < 0)
			return;
		dir = fd;
		path = slash + 1;
	}
	(void)unlinkat(dir, path, is_dir ? AT_REMOVEDIR : 0);
	if (fd >= 0)
		close(fd);
}

int made_add(struct made *made, int dir, const char *path, bool is_dir)
{
	char *copy = made->count < MADE_MAX ? strdup(path) : NULL;

	if (!copy) {
		take_back(dir, path, is_dir);
		return -ENOMEM;
	}
	made->item[made->count++] = (struct made_item){ .dir = dir, .path = copy, .is_dir = is_dir };
	return 0;
}

int made_changed(struct made *made, int dir, const struct stat *before)
{
	if (made->count == MADE_MAX)
		return -ENOMEM;
	made->item[made->count++] = (struct made_item){ .dir = dir, .before = *before };
	return 0;
}

void made_undo(struct made *made)
{
	while (made->count) {
		struct made_item *item = &made->item[--made->count];

		if (item->path) {
			take_back(item->dir, item->path, item->is_dir);
			free(item->path);
		} else {
			(void)fchown(item->dir, item->before.st_uid, item->before.st_gid);
			(void)fchmod(item->dir, item->before.st_mode & 07777);
		}
	}
}
