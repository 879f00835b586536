/* places.h: where instances, data and Mayfly's own files are on this host. */
#ifndef MAYFLY_CONTAINERS_PLACES_H
#define MAYFLY_CONTAINERS_PLACES_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "error.h"

#define PLACE_MAX 1024 /* bytes of these folders' paths, so that there is room behind them in any path */

struct places {
	uid_t uid;
	gid_t gid;
	int state; /* the folder of instances: nobody else may enter it */
	char state_path[PLACE_MAX];
	char data_path[PLACE_MAX]; /* images, volumes; made when first needed */
	char programs[PLACE_MAX];  /* the folder of this program */
};

/*
 * places_open - find the folders and open that of instances, which is made if there is none
 * Root: /run/mayfly and /var/lib/mayfly. Others: $XDG_RUNTIME_DIR/mayfly where that is theirs, else /tmp/mayfly-UID,
 * and $XDG_DATA_HOME/mayfly, else ~/.local/share/mayfly. A folder that belongs to someone else, or that others may
 * write to, is refused. Returns 0 or a negative errno with the sentence.
 */
int places_open(struct places *places, struct error *err);

/*
 * places_file - path of a file that is installed with Mayfly: near names it in the build folder (or the folder of this
 * program), installed below PREFIX. what is its name in the sentence. -ENOENT says where it was looked for.
 */
int places_file(const struct places *places, const char *near, const char *installed, const char *what,
		char out[PATH_MAX], struct error *err);

/* places_data - open the folder called name below the data folder, making both. Returns a descriptor or an error. */
int places_data(const struct places *places, const char *name, struct error *err);

#endif
