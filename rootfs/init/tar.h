/* tar.h: the format of a tar archive: ustar, with the longer names of pax and GNU tar. */
#ifndef MAYFLY_TAR_H
#define MAYFLY_TAR_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define TAR_BLOCK       512
#define TAR_MAX_RECORDS 65536 /* bytes of the long names and the like of one entry */

struct tar_header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[6], version[2],
		user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};

struct tar_entry {
	char type; /* as in the header: '0' file, '1' link, '2' symbolic link, '5' folder, '6' FIFO, … */
	char name[PATH_MAX], link[PATH_MAX];
	int64_t size, mtime;
	mode_t mode;
	uid_t uid;
	gid_t gid;
};

/*
 * tar_parse - read a header block into an entry, of which records that came before may have set a part
 * 1: an entry; 0: a block of zeros, the end; -1: no tar archive, or a number that is none.
 */
int tar_parse(const struct tar_header *h, struct tar_entry *e);

/* tar_records - take from a pax header (type 'x') or a GNU long name ('L', 'K') what it says of the next entry. False:
 * broken. */
bool tar_records(char type, char *data, size_t len, struct tar_entry *e);

/* tar_name_ok - a name that stays below where it starts: not absolute, no part "..", not empty. */
bool tar_name_ok(const char *name);

/* tar_format - the header blocks of an entry, a pax header first where needed. Returns their length, 0 when they do not
 * fit. */
size_t tar_format(const struct tar_entry *e, char *out, size_t size);

#endif
