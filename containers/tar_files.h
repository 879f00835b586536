/* tar_files.h: files of the host made into the tar stream of a `put`, and a hostile `get` made into files of the host.
 */
#ifndef MAYFLY_CONTAINERS_TAR_FILES_H
#define MAYFLY_CONTAINERS_TAR_FILES_H

#include "agent_client.h"
#include "error.h"

/*
 * tar_send - send a file or folder and all below it as DATA frames, the last one empty
 * folder/name is where it is; `as` is what it is called in the archive ("": a folder's contents alone). Symbolic links
 * are sent as such; sockets, devices and FIFOs are left out. Returns 0 or an error.
 */
int tar_send(struct agent_client *client, int folder, const char *name, const char *as, struct error *err);

/* What was not unpacked. */
struct tar_left {
	unsigned long count;
	char first[96]; /* printable, with the reason */
};

/*
 * tar_receive - take DATA frames that are a tar archive, and make its files and folders below the directory root
 * Whatever it holds, nothing is made or changed outside of root, no link that is made leads out of it, and nothing in
 * it is setuid, a device, a FIFO or a hard link: such entries are left out. Everything belongs to the caller; the umask
 * counts. At most max bytes are taken, each entry counting as 16 KiB at least; more is -EFBIG. Returns 0 or an error,
 * after which what was unpacked before is there.
 */
int tar_receive(struct agent_client *client, int root, uint64_t max, struct tar_left *left, struct error *err);

/* The same from any source of bytes, which tests give: next returns how many there are at *bytes, 0 at the end. */
struct tar_source {
	ssize_t (*next)(struct tar_source *source, const char **bytes, struct error *err);
	void *arg;
	const char *bytes; /* what is left of the last */
	size_t len;
};
int tar_unpack_from(struct tar_source *source, int root, uint64_t max, struct tar_left *left, struct error *err);

/* tar_link_stays - whether a link at name (a name that tar_name_ok() takes) leads to something below the same root. */
bool tar_link_stays(const char *name, const char *target);

#endif
