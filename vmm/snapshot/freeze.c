/* freeze.c: a paused microVM as two sealed files in memory, for any number of others to begin with. */
#include "snapshot/freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "snapshot/create.h"
#include "snapshot/memory_file.h"
#include "snapshot/memory_save.h"
#include "write_all.h"

static int failed(const char *what, struct error *err)
{
	return error_set(err, -errno, "fork: %s: %s", what, strerror(errno));
}

static int write_file(int fd, const void *data, size_t len, uint64_t offset, struct error *err)
{
	int ret = write_all(fd, data, len, (off_t)offset);

	return ret ? error_set(err, ret, "fork: a file in memory: %s", strerror(-ret)) : 0;
}

/* It has run since RAM became a private copy: all that it holds goes to a new file. */
static int copy_memory(struct machine *m, int *fd, struct error *err)
{
	const struct board *board = machine_board(m);
	struct memory_save save;
	int ret;

	*fd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0 || ftruncate(*fd, (off_t)(board->memory.size + MEMORY_TRAILER_SIZE)))
		return failed("a file in memory", err);
	ret = memory_save_begin(&save, &board->memory, board->kvm.vm_fd, *fd, false, err);
	if (ret)
		return ret;
	do
		ret = memory_save_turn(&save, err);
	while (ret > 0);
	/* This is no snapshot that a diff could be on top of. */
	memory_save_end(&save, true);
	return ret;
}

static int freeze_memory(struct machine *m, const uint8_t id[STATE_ID_SIZE], struct error *err)
{
	struct guest_memory *gm = &machine_board(m)->memory;
	struct memory_trailer trailer = { .kind = MEMORY_FULL, .size = gm->size };
	int fd = gm->source_fd, ret = 0;

	if (!gm->shared)
		ret = copy_memory(m, &fd, err);
	memcpy(trailer.id, id, sizeof(trailer.id));
	memory_trailer_seal(&trailer);
	if (!ret)
		ret = write_file(fd, &trailer, sizeof(trailer), gm->size, err);
	if (!ret)
		ret = gm_freeze(gm, fd, err);
	if (ret && fd >= 0 && fd != gm->source_fd)
		close(fd);
	return ret;
}

static int freeze_state(struct machine *m, const char *config, const uint8_t id[STATE_ID_SIZE], int *fd,
			struct error *err)
{
	struct state_writer w = { 0 };
	int ret = snapshot_state(m, config, id, &w, err);

	*fd = -1;
	if (!ret) {
		*fd = memfd_create("microvm-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		ret = *fd < 0 ? failed("a file in memory", err) : write_file(*fd, w.data, w.len, 0, err);
	}
	if (!ret && fcntl(*fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW))
		ret = failed("F_SEAL_WRITE", err);
	state_free(&w);
	if (ret && *fd >= 0)
		close(*fd);
	return ret;
}

int machine_freeze(struct machine *m, const char *config, struct frozen *out, struct error *err)
{
	uint8_t id[STATE_ID_SIZE];
	int ret;

	if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
		return error_set(err, -EIO, "fork: no random numbers for an id");
	ret = freeze_memory(m, id, err);
	if (!ret)
		ret = freeze_state(m, config, id, &out->state_fd, err);
	out->memory_fd = machine_board(m)->memory.source_fd;
	return ret;
}
