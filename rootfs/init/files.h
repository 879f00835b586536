/* files.h: files below the container's root, whose names and links are its own affair and lead nowhere else. */
#ifndef MAYFLY_FILES_H
#define MAYFLY_FILES_H

#include <stddef.h>
#include <sys/types.h>

#include "agent.h"

/*
 * root_open - open path below the directory root, where also absolute names and links begin; "magic" links of /proc are
 * refused As openat with O_CLOEXEC; -1 with errno set. A FIFO or a terminal does not make it wait.
 */
int root_open(int root, const char *path, int flags, mode_t mode);

/* root_parent - open the folder of path, O_PATH; *name is its last part, in path. -1: errno, EINVAL when there is no
 * such part. */
int root_parent(int root, const char *path, const char **name);

/* root_make_folders - as mkdir -p, mode 0755. 0 or a negative errno. */
int root_make_folders(int root, const char *path);

/* root_read - a regular file of at most max bytes, in memory that the caller frees, with a 0 behind it. NULL: errno. */
char *root_read(int root, const char *path, size_t max, size_t *len);

/* root_write - a small file of the system: replaced in one step, mode 0644. 0 or a negative errno. */
int root_write(int root, const char *path, const char *text);

/* A file under another name until it is complete. */
struct new_file {
	int folder, fd;
	const char *name;
	char temporary[32];
};

/* new_file_open, new_file_commit, new_file_drop - 0 or a negative errno; after open, one of the other two ends it. */
int new_file_open(struct new_file *file, int root, const char *path);
int new_file_commit(struct new_file *file);
void new_file_drop(struct new_file *file);

/* write_stream - 0 or a negative errno. */
int write_stream(int fd, const void *data, size_t len);

/* write_setting - one of the kernel's files below /proc; one that is not there is passed over. */
void write_setting(const char *path, const char *text);

/* read_setting - what such a file says, as text that ends; returns its length, 0 where there is no such file. */
size_t read_setting(const char *path, char *text, size_t size);

/* tar_unpack - take DATA frames that are a tar archive, and make its entries below the directory root. 0, or err is
 * set. owner: of every file, or -1 for what the archive says. */
int tar_unpack(struct connection *c, int root, uid_t uid, gid_t gid, struct error *err);

/* tar_pack - send what the open directory `folder` holds (or with name, that entry alone) as DATA frames, without the
 * last, empty one. */
int tar_pack(struct connection *c, int folder, const char *name);

#endif
