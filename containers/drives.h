/* drives.h: what becomes a disk of the machine: the image, volumes, scratch. None leaves a file behind that was made
 * for it. */
#ifndef MAYFLY_CONTAINERS_DRIVES_H
#define MAYFLY_CONTAINERS_DRIVES_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"
#include "options.h"
#include "places.h"

#define DRIVES_MAX 16 /* of a machine */

struct drive {
	int fd;
	bool read_only;
	const char *target; /* where the guest mounts it; NULL: the image, or scratch */
	bool is_scratch;
};

struct drives {
	struct drive drive[DRIVES_MAX];
	unsigned int nr;
};

/* drives_image - the image is always the first. Takes the descriptor. */
void drives_image(struct drives *drives, int fd);

/*
 * drives_open - what -v and --scratch say: folders become images, volumes are made when there is none of the name
 * Files that are made here have no name and end with the last descriptor. Disks that are written to are locked: -EBUSY
 * when another machine has one. Cuts the options' strings up.
 */
int drives_open(struct drives *drives, const struct options *options, const struct places *places, struct error *err);

void drives_close(struct drives *drives);

/* drives_make_ext4 - make the open file a sparse, empty ext4 file system of size bytes. */
int drives_make_ext4(int fd, uint64_t size, bool journal, struct error *err);

/*
 * drives_make_erofs - an image of what is in the folder source now, owners and modes kept, in a file without a name
 * without: an option of mkfs.erofs that says what is left out, or NULL. Returns a descriptor, or an error.
 */
int drives_make_erofs(const char *source, const char *without, const struct places *places, struct error *err);

/* drives_prune - remove disks that were being made when their maker was killed. */
void drives_prune(const struct places *places);

/* drives_is_disk - whether the file is an EROFS (*writable false) or ext4 image. */
bool drives_is_disk(int fd, bool *writable);

#endif
