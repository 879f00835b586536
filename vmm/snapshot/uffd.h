/* uffd.h: RAM whose pages another process brings when they are first touched. */
#ifndef MAYFLY_SNAPSHOT_UFFD_H
#define MAYFLY_SNAPSHOT_UFFD_H

#include <stdbool.h>

#include "error.h"
#include "guest_memory.h"

/*
 * uffd_begin - a userfaultfd, non-blocking, that has the faults of gm, which nobody has touched yet
 * From now on a read or write of a page that is not here waits for whoever reads it. It is the caller's to close. The
 * descriptor, or a negative errno with a sentence. Start-up thread.
 */
int uffd_begin(const struct guest_memory *gm, struct error *err);

/* A page-fault handler, to which RAM was handed. */
struct uffd {
	bool is_open; /* zeroed: there is none */
	int fd;       /* the userfaultfd */
	int socket;   /* our end of the connection to the handler */
};

/*
 * uffd_hand_over - let the process that listens at path bring every page of gm, which nobody has touched yet
 * As Firecracker does (docs/snapshotting/handling-page-faults-on-snapshot-resume.md): one message with the userfaultfd
 * and a JSON list of where RAM is mapped here and where it lies in the memory file. Afterwards a read or write of a
 * page that is not here yet waits for the handler, also in this process. 0, or a negative errno with a sentence and no
 * handler. Start-up thread.
 */
int uffd_hand_over(struct uffd *u, struct guest_memory *gm, const char *path, struct error *err);

/*
 * uffd_give_up - nobody waits for the handler any longer: pages that it has not brought are zeros from now on
 * So no vCPU may run a guest's instruction after that. Harmless if there is none. Loop thread.
 */
void uffd_give_up(const struct uffd *u, const struct guest_memory *gm);

void uffd_close(struct uffd *u);

/* uffd_open - a userfaultfd for KVM's faults too, which are the kernel's, so one has to be root or the owner of the
 * device; features are not agreed on yet. -errno: the host has none for us. Start-up thread. */
int uffd_open(void);

#endif
