/* create.c: writes a snapshot of a paused microVM, so that at no moment a wrong one can be found. */
#include "snapshot/create.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "inherited.h"
#include "retry.h"
#include "snapshot/cpu_check.h"
#include "snapshot/memory_file.h"
#include "snapshot/memory_save.h"
#include "snapshot/state.h"
#include "text.h"
#include "write_all.h"

/*
 * Memory first, then the state that names it: between the two renames the old state is beside memory that is not its
 * own, which a load finds out by the id. The files carry a name of their own until then; should we be killed (an
 * orderly end removes them), that is what is left, for the next snapshot of that name to remove.
 */
#define NEW_SUFFIX ".new"

/* Brought to the disk in one go while the guest runs, whose devices wait that long. */
#define SETTLED_AT_ONCE (1ll << 20)

struct new_file {
	const char *what; /* "mem_file_path" */
	const char *path; /* where it goes */
	bool is_given;    /* that is "fd:N": whoever gave it puts it in place */
	bool has_begun;   /* what it held is gone */
	char new_path[PATH_MAX + sizeof(NEW_SUFFIX)];
	int fd;        /* -1: not there */
	int folder_fd; /* -1: not open */
};

struct job {
	struct machine *machine;
	struct snapshot_request request;
	struct new_file state, memory;
	struct state_writer writer;
	struct memory_save save;
	struct memory_trailer trailer;
	struct event_work work;
	bool may_resume; /* it was told so */
	bool is_saved;   /* all of RAM is in the file, of which the first bytes have settled */
	off_t settled;
	struct snapshot_progress progress;
};

/* ---- files ---- */

static int file_failed(const struct new_file *file, int code, struct error *err)
{
	return error_set(err, code, "snapshot.%s: %s: %s", file->what, text_path_shown(file->path), strerror(-code));
}

/* What a folder holds is on the disk once the folder is, too; a refusal of that comes before anything is written. */
static int open_folder(struct new_file *file, struct error *err)
{
	char folder[PATH_MAX];

	text_folder(folder, file->path);
	/* Not O_DIRECTORY, which the filter takes for a part of O_TMPFILE: there is a file in it by now. */
	file->folder_fd = RETRY_INTERRUPTED(open(folder, O_RDONLY | O_CLOEXEC));
	if (file->folder_fd < 0)
		return error_set(err, -errno,
				 "snapshot.%s: %s: its folder: %s (needs to be readable by uid %u, so that the name of "
				 "the file can be brought to the disk)",
				 file->what, text_path_shown(file->path), strerror(errno), (unsigned int)geteuid());
	return 0;
}

/* A regular file, and not the one that the guest's RAM shows, which would be gone with it. */
static int check_given(const struct new_file *file, int ram_fd, struct error *err)
{
	struct stat st, ram;

	if (fstat(file->fd, &st))
		return file_failed(file, -errno, err);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "snapshot.%s: %s: is no regular file", file->what, file->path);
	if (ram_fd >= 0 && fstat(ram_fd, &ram) == 0 && st.st_dev == ram.st_dev && st.st_ino == ram.st_ino)
		return error_set(
			err, -EINVAL,
			"snapshot.%s: %s: is the file that this microVM's memory is loaded from (needs another)",
			file->what, file->path);
	return 0;
}

static int take_file(struct new_file *file, int ram_fd, struct error *err)
{
	char where[32 + TEXT_PATH_ROOM];

	snprintf(where, sizeof(where), "snapshot.%s: %s", file->what, text_path_shown(file->path));
	file->fd = inherited_open_file(file->path, O_WRONLY, where, err);
	file->is_given = true;
	return file->fd < 0 ? file->fd : check_given(file, ram_fd, err);
}

static int make_file(struct new_file *file, const char *what, const char *path, int ram_fd, struct error *err)
{
	const int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;

	file->what = what;
	file->path = path;
	if (inherited_is_name(path))
		return take_file(file, ram_fd, err);
	snprintf(file->new_path, sizeof(file->new_path), "%s" NEW_SUFFIX, path);
	file->fd = RETRY_INTERRUPTED(open(file->new_path, flags, 0600));
	if (file->fd < 0 && errno == EEXIST && unlink(file->new_path) == 0)
		file->fd = RETRY_INTERRUPTED(open(file->new_path, flags, 0600));
	if (file->fd < 0 && (errno == EACCES || errno == EPERM))
		return error_set(err, -errno,
				 "snapshot.%s: %s: %s (a running microVM writes only below the folders that Mayfly "
				 "was started with as --allow-path, and where uid %u may)",
				 what, text_path_shown(path), strerror(errno), (unsigned int)geteuid());
	return file->fd < 0 ? file_failed(file, -errno, err) : open_folder(file, err);
}

static bool is_same(const struct new_file *one, const struct new_file *other)
{
	struct stat a, b;

	return fstat(one->fd, &a) == 0 && fstat(other->fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* From here on nothing is left of what a given file held: what is not written are holes. */
static int begin_file(struct new_file *file, uint64_t size, struct error *err)
{
	file->has_begun = true;
	if ((file->is_given && ftruncate(file->fd, 0)) || (size && ftruncate(file->fd, (off_t)size)))
		return file_failed(file, -errno, err);
	return 0;
}

static int write_file(const struct new_file *file, const void *data, size_t len, uint64_t offset, struct error *err)
{
	int ret = write_all(file->fd, data, len, (off_t)offset);

	return ret ? file_failed(file, ret, err) : 0;
}

static int settle_file(const struct new_file *file, struct error *err)
{
	return fsync(file->fd) ? file_failed(file, -errno, err) : 0;
}

static int put_in_place(struct new_file *file, struct error *err)
{
	if (!file->is_given && rename(file->new_path, file->path))
		return file_failed(file, -errno, err);
	close(file->fd);
	file->fd = -1;
	return 0;
}

/* A file system that has nothing to bring to a disk (some in user space) says EINVAL. */
static int settle_folder(const struct new_file *file, struct error *err)
{
	if (file->is_given || fsync(file->folder_fd) == 0 || errno == EINVAL)
		return 0;
	return error_set(err, -errno, "snapshot.%s: %s: its folder: %s", file->what, text_path_shown(file->path),
			 strerror(errno));
}

static void drop_file(struct new_file *file)
{
	if (file->folder_fd >= 0)
		close(file->folder_fd);
	if (file->fd < 0)
		return;
	/* Half a snapshot is none. */
	if (file->is_given && file->has_begun)
		(void)!ftruncate(file->fd, 0);
	close(file->fd);
	if (!file->is_given)
		(void)unlink(file->new_path);
}

/* ---- the job ---- */

static void drop_files(void *opaque)
{
	struct job *job = opaque;

	drop_file(&job->state);
	drop_file(&job->memory);
}

static void free_job(struct job *job)
{
	drop_files(job);
	state_free(&job->writer);
	free(job);
}

static void finish(struct job *job, int ret, const struct error *err)
{
	const struct snapshot_progress progress = job->progress;

	background_end(&machine_board(job->machine)->background);
	memory_save_end(&job->save, ret != 0);
	machine_saved(job->machine, ret ? NULL : job->trailer.id);
	free_job(job);
	progress.done(progress.opaque, ret, err);
}

static uint64_t bitmap_size(const struct job *job)
{
	return job->trailer.kind == MEMORY_DIFF ? memory_bitmap_size(job->trailer.size) : 0;
}

static int write_trailer(struct job *job, struct error *err)
{
	const uint64_t size = job->trailer.size, bitmap = bitmap_size(job);
	int ret = 0;

	if (bitmap) {
		job->trailer.bitmap_crc = crc64(0, job->save.bitmap, bitmap);
		ret = write_file(&job->memory, job->save.bitmap, bitmap, size, err);
	}
	memory_trailer_seal(&job->trailer);
	if (!ret)
		ret = write_file(&job->memory, &job->trailer, sizeof(job->trailer), size + bitmap, err);
	return ret ? ret : settle_file(&job->memory, err);
}

static int complete(struct job *job, struct error *err)
{
	int ret = write_trailer(job, err);

	if (!ret)
		ret = write_file(&job->state, job->writer.data, job->writer.len, 0, err);
	if (!ret)
		ret = settle_file(&job->state, err);
	if (!ret)
		ret = put_in_place(&job->memory, err);
	if (!ret)
		ret = put_in_place(&job->state, err);
	if (!ret)
		ret = settle_folder(&job->memory, err);
	return ret ? ret : settle_folder(&job->state, err);
}

/* All at once, as the fsync at the end would, takes seconds. */
static int settle_turn(struct job *job, struct error *err)
{
	const unsigned int flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
	off_t at = lseek(job->memory.fd, job->settled, SEEK_DATA);

	if (at < 0)
		return 0; /* no more, or a file system that does not tell */
	if (sync_file_range(job->memory.fd, at, SETTLED_AT_ONCE, flags))
		return file_failed(&job->memory, -errno, err);
	job->settled = at + SETTLED_AT_ONCE;
	return 1;
}

static int background_save_turn(struct job *job, struct error *err)
{
	struct background *background = &machine_board(job->machine)->background;
	int ret;

	if (background_may_resume(background) && !job->may_resume) {
		job->may_resume = true;
		machine_save_in_background(job->machine, true);
		job->progress.may_resume(job->progress.opaque);
	}
	if (job->is_saved)
		return settle_turn(job, err);
	ret = background_turn(background, err);
	if (ret)
		return ret;
	background_end(background);
	job->is_saved = true;
	return 1;
}

static void on_turn(struct event_work *work)
{
	struct job *job = work->opaque;
	struct error err = { 0 };
	int ret = job->request.background ? background_save_turn(job, &err) : memory_save_turn(&job->save, &err);

	if (ret > 0) {
		event_loop_post(machine_loop(job->machine), &job->work);
		return;
	}
	if (!ret)
		ret = complete(job, &err);
	finish(job, ret, &err);
}

/* ---- the beginning ---- */

int snapshot_state(struct machine *m, const char *config, const uint8_t memory_id[STATE_ID_SIZE],
		   struct state_writer *w, struct error *err)
{
	const struct board *board = machine_board(m);
	struct state_info info = { .memory_size = board->memory.size, .version = MAYFLY_VERSION };
	struct timespec now;
	int ret;

	clock_gettime(CLOCK_REALTIME, &now);
	info.created_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	memcpy(info.memory_id, memory_id, sizeof(info.memory_id));
	info.nr_vcpus = board->nr_vcpus;
	info.nr_transports = board->nr_transports;
	cpu_check_name(info.cpu);
	state_begin(w);
	state_put(w, STATE_INFO, 0, &info, sizeof(info));
	cpu_check_save(w);
	state_put(w, STATE_CONFIG, 0, config, strlen(config));
	ret = machine_save(m, w, err);
	return ret ? ret : state_finish(w, err);
}

static int same_files(const char *path, struct error *err)
{
	return error_set(err, -EINVAL, "snapshot.mem_file_path: %s is snapshot_path, too (needs a file of its own)",
			 text_path_shown(path));
}

static int make_files(struct job *job, struct error *err)
{
	const int ram_fd = machine_board(job->machine)->memory.source_fd;
	int ret = make_file(&job->state, "snapshot_path", job->request.state_path, ram_fd, err);

	if (!ret)
		ret = make_file(&job->memory, "mem_file_path", job->request.memory_path, ram_fd, err);
	if (!ret && is_same(&job->state, &job->memory))
		ret = same_files(job->request.memory_path, err);
	return ret ? ret : begin_file(&job->state, 0, err);
}

static int begin(struct job *job, const char *config, struct error *err)
{
	struct board *board = machine_board(job->machine);
	struct guest_memory *gm = &board->memory;
	const uint8_t *base = machine_saved_id(job->machine);
	bool diff = job->request.diff && base;
	int ret;

	job->trailer = (struct memory_trailer){ .kind = diff ? MEMORY_DIFF : MEMORY_FULL, .size = gm->size };
	if (getrandom(job->trailer.id, sizeof(job->trailer.id), 0) != (ssize_t)sizeof(job->trailer.id))
		return error_set(err, -EIO, "no random numbers for the snapshot's id");
	if (diff)
		memcpy(job->trailer.base, base, sizeof(job->trailer.base));
	ret = snapshot_state(job->machine, config, job->trailer.id, &job->writer, err);
	if (!ret)
		ret = make_files(job, err);
	if (!ret)
		ret = begin_file(&job->memory, gm->size + bitmap_size(job) + MEMORY_TRAILER_SIZE, err);
	if (!ret)
		ret = memory_save_begin(&job->save, gm, board->kvm.vm_fd, job->memory.fd, diff, err);
	if (ret || !job->request.background)
		return ret;
	ret = background_begin(&board->background, machine_loop(job->machine), gm, &job->save, err);
	if (ret)
		memory_save_end(&job->save, true);
	return ret;
}

int snapshot_create(struct machine *m, const struct snapshot_request *request, const char *config,
		    const struct snapshot_progress *progress, struct error *err)
{
	struct job *job;
	int ret;

	if (strcmp(request->state_path, request->memory_path) == 0)
		return same_files(request->memory_path, err);
	if (!machine_jail(m)->may_write)
		return error_set(err, -EPERM,
				 "a running microVM writes no files (start Mayfly with --allow-path and the folder for "
				 "snapshots, or with --allow-fd and a descriptor for each file)");
	ret = machine_begin_save(m, err);
	if (ret)
		return ret;
	job = calloc(1, sizeof(*job));
	if (!job) {
		machine_saved(m, NULL);
		return error_set(err, -ENOMEM, "no memory for a snapshot");
	}
	job->machine = m;
	job->request = *request;
	job->state.fd = job->memory.fd = -1;
	job->state.folder_fd = job->memory.folder_fd = -1;
	job->work = (struct event_work){ .run = on_turn, .opaque = job };
	job->progress = *progress;
	ret = begin(job, config, err);
	if (ret) {
		machine_saved(m, NULL);
		free_job(job);
		return ret;
	}
	machine_saving(m, drop_files, job);
	event_loop_post(machine_loop(m), &job->work);
	return 0;
}
