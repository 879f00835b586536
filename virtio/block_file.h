/* block_file.h: the host file or block device behind a drive. */
#ifndef MAYFLY_VIRTIO_BLOCK_FILE_H
#define MAYFLY_VIRTIO_BLOCK_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

struct block_overlay;

#define BLOCK_SECTOR_SIZE 512u

/* Counted, because requests in flight keep the old file open when a drive gets a new one. Loop thread only. */
struct block_file {
	int fd;
	unsigned int refs;
	uint64_t sectors;              /* capacity, in 512-byte sectors */
	bool no_zero_range;            /* seen: the host cannot zero a range without writing it */
	struct block_overlay *overlay; /* where writes go instead, see block_overlay.h; owned; NULL: to fd */
};

/* A path of the configuration (or "fd:N", see inherited.h), and what it may name: for sentences. */
struct block_place {
	const char *drive_id, *field, *path;
	const char *kind; /* "file", "file or block device" */
	bool may_be_device;
};

/*
 * block_place_open - open(2) for a disk's file (new ones get mode 0600), which a FIFO or device file does not make hang
 * Returns a descriptor, or a negative errno with a sentence that begins with "drives[ID].FIELD: PATH: ".
 */
int block_place_open(const struct block_place *place, int flags, struct error *err);

/*
 * block_file_open - open a regular file or block device; *out has one reference
 * Errors are sentences that begin with "drives[ID].path_on_host: ".
 */
int block_file_open(struct block_file **out, const char *drive_id, const char *path, bool read_only, struct error *err);

/* block_file_measure - look at the file's size again; 0 or a negative errno, with sectors unchanged then. */
int block_file_measure(struct block_file *file, const char *drive_id, struct error *err);

struct block_file *block_file_get(struct block_file *file);
void block_file_put(struct block_file *file);

#endif
