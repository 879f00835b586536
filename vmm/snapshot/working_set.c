/* working_set.c: which pages a loaded guest touches first, written down by one load and brought ahead by the next. */
#include "snapshot/working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jail.h"
#include "lazy_memory.h"
#include "log.h"
#include "retry.h"
#include "snapshot/uffd.h"
#include "syscall_filter.h"
#include "text.h"
#include "worker.h"
#include "write_all.h"

#define AT_ONCE    16 /* faults taken by one read */
#define STEP_PAGES 32 /* 128 KiB: as much as every file system reads ahead in one go, and nobody waits long for */
#define ENTRIES    (GM_PAGE / 4) /* read from a list in one go */

_Static_assert(sizeof(struct working_set_header) == 40, "no holes");

struct working_set {
	const struct guest_memory *gm;
	uint64_t nr_pages; /* of RAM */
	uint8_t memory_id[STATE_ID_SIZE];
	int memory_fd, list_fd, wake_fd, uffd; /* all ours; -1: none */
	pthread_t thread;
	bool has_thread;
	_Atomic bool stop;
	_Atomic bool complete; /* nothing is noted any more */

	/* of a recorder */
	sem_t confined;
	struct error err;    /* why it could not be */
	const uint8_t *file; /* RAM as it is in the memory file */
	uint32_t *list;      /* room for all pages */
	uint32_t nr;
	bool written;

	/* of a prefetcher */
	uint64_t list_size; /* bytes of the file */
	uint64_t *wanted;   /* a bit for each page */

	char path[]; /* of the list */
};

/* ---- both ---- */

static struct working_set *create(const struct working_set_source *source, const struct guest_memory *gm)
{
	const size_t room = strlen(source->path) + sizeof(WORKING_SET_SUFFIX);
	struct working_set *ws = calloc(1, sizeof(*ws) + room);

	if (!ws)
		return NULL;
	ws->gm = gm;
	ws->nr_pages = gm->size / GM_PAGE;
	memcpy(ws->memory_id, source->memory_id, sizeof(ws->memory_id));
	snprintf(ws->path, room, "%s" WORKING_SET_SUFFIX, source->path);
	/* RAM may leave its file while we still read it. */
	ws->memory_fd = fcntl(source->fd, F_DUPFD_CLOEXEC, 0);
	ws->list_fd = ws->wake_fd = ws->uffd = -1;
	sem_init(&ws->confined, 0, 0);
	return ws;
}

static void wake(struct working_set *ws)
{
	const uint64_t one = 1;

	/* The counter cannot reach its limit. */
	while (ws->wake_fd >= 0 && write(ws->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void working_set_complete(struct working_set *ws)
{
	if (ws && !atomic_exchange(&ws->complete, true))
		wake(ws);
}

void working_set_end(struct working_set *ws)
{
	const int fds[] = { ws ? ws->memory_fd : -1, ws ? ws->list_fd : -1, ws ? ws->wake_fd : -1, ws ? ws->uffd : -1 };
	unsigned int i;

	if (!ws)
		return;
	atomic_store(&ws->stop, true);
	wake(ws);
	if (ws->has_thread)
		pthread_join(ws->thread, NULL);
	for (i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	if (ws->file)
		munmap((void *)(uintptr_t)ws->file, ws->gm->size);
	if (ws->list)
		munmap(ws->list, ws->nr_pages * sizeof(*ws->list));
	if (ws->wanted)
		munmap(ws->wanted, ws->nr_pages / 8);
	sem_destroy(&ws->confined);
	free(ws);
}

/* The first thing of either thread. */
static int confine(struct error *err)
{
	log_thread_name("working_set");
	/* The main thread's jail comes later, and holds the threads made after it. */
	jail_helper();
	return seccomp_install(FILTER_WORKING_SET, err);
}

/* ---- recording: the list ---- */

static int write_settled(int fd, const void *data, size_t len, off_t offset)
{
	int ret = write_all(fd, data, len, offset);

	return ret || fsync(fd) == 0 ? ret : -errno;
}

static void write_list_if_due(struct working_set *ws)
{
	struct working_set_header head = { .version = WORKING_SET_VERSION, .nr = ws->nr };
	const size_t size = ws->nr * sizeof(*ws->list);
	int ret;

	if (ws->written || !atomic_load(&ws->complete))
		return;
	memcpy(head.magic, WORKING_SET_MAGIC, sizeof(head.magic));
	memcpy(head.memory_id, ws->memory_id, sizeof(head.memory_id));
	head.crc = crc64(crc64(0, &head, offsetof(struct working_set_header, crc)), ws->list, size);
	ret = ftruncate(ws->list_fd, 0) ? -errno : write_settled(ws->list_fd, ws->list, size, sizeof(head));
	if (!ret)
		ret = write_settled(ws->list_fd, &head, sizeof(head), 0);
	if (ret)
		log_warn("the working set is not in %s: %s", text_path_shown(ws->path), strerror(-ret));
	else
		log_info("the working set, %u pages, is in %s", ws->nr, text_path_shown(ws->path));
	ws->written = true;
}

/* ---- recording: pages ---- */

/* Behind RAM, a whole memory file has data. So where there is none up to the end, it was cut short since. */
static bool is_hole(const struct working_set *ws, uint64_t at)
{
	return lseek(ws->memory_fd, (off_t)at, SEEK_DATA) >= (off_t)(at + GM_PAGE);
}

/* 0, also if it is there already; or a negative errno. *is_new: this was us. */
static int bring(const struct working_set *ws, uint64_t at, bool hole, bool *is_new)
{
	const uintptr_t to = (uintptr_t)ws->gm->region[0].hva + at;
	struct uffdio_zeropage zero = { .range = { .start = to, .len = GM_PAGE } };
	struct uffdio_copy copy = { .dst = to, .src = (uintptr_t)ws->file + at, .len = GM_PAGE };
	int ret;

	do
		ret = hole ? ioctl(ws->uffd, UFFDIO_ZEROPAGE, &zero) : ioctl(ws->uffd, UFFDIO_COPY, &copy);
	while (ret < 0 && errno == EAGAIN);
	*is_new = !ret;
	/* ENOENT: a copy of this microVM was made, so that RAM comes from elsewhere now. */
	return ret && errno != EEXIST && errno != ENOENT ? -errno : 0;
}

/* As it is with a file that is mapped: whoever wants the page cannot have it. A page of zeros would be worse. */
static void make_unreadable(const struct working_set *ws, uint64_t at, int why)
{
	uint8_t *page = ws->gm->region[0].hva + at;
	struct uffdio_range range = { .start = (uintptr_t)page, .len = GM_PAGE };

	log_error_limited("the memory file cannot be read at %llu: %s", (unsigned long long)at, strerror(-why));
	(void)mprotect(page, GM_PAGE, PROT_NONE);
	(void)ioctl(ws->uffd, UFFDIO_WAKE, &range);
}

static void on_fault(struct working_set *ws, uint64_t address)
{
	const uint64_t at = (address - (uintptr_t)ws->gm->region[0].hva) / GM_PAGE * GM_PAGE;
	const bool hole = is_hole(ws, at);
	bool is_new;
	int ret = bring(ws, at, hole, &is_new);

	if (ret)
		make_unreadable(ws, at, ret);
	else if (is_new && !hole && ws->nr < ws->nr_pages && !atomic_load(&ws->complete))
		ws->list[ws->nr++] = (uint32_t)(at / GM_PAGE);
}

static void serve(struct working_set *ws)
{
	struct uffd_msg msg[AT_ONCE];
	ssize_t n = read(ws->uffd, msg, sizeof(msg));
	size_t i;

	for (i = 0; n > 0 && i < (size_t)n / sizeof(msg[0]); i++) {
		if (msg[i].event == UFFD_EVENT_PAGEFAULT)
			on_fault(ws, msg[i].arg.pagefault.address);
	}
}

/* It never waits for anybody, and touches no RAM of the guest: everybody else may wait for it. */
static void *record(void *arg)
{
	struct working_set *ws = arg;
	struct pollfd fds[] = { { .fd = ws->wake_fd, .events = POLLIN }, { .fd = ws->uffd, .events = POLLIN } };
	int ret = confine(&ws->err);
	uint64_t count;

	sem_post(&ws->confined);
	while (!ret && !atomic_load(&ws->stop)) {
		if (poll(fds, sizeof(fds) / sizeof(fds[0]), -1) > 0 && fds[1].revents)
			serve(ws);
		if (fds[0].revents && read(ws->wake_fd, &count, sizeof(count)) > 0)
			write_list_if_due(ws);
	}
	if (!ret)
		write_list_if_due(ws);
	return NULL;
}

/* ---- recording: the beginning ---- */

static int list_failed(const struct working_set *ws, int code, const char *why, struct error *err)
{
	return error_set(err, code, "snapshot.record_working_set: %s: %s", text_path_shown(ws->path), why);
}

/* Not emptied yet: if this load fails, what was there is as good as before. */
static int open_list(struct working_set *ws, struct error *err)
{
	const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	struct stat st;

	ws->list_fd = RETRY_INTERRUPTED(open(ws->path, flags, 0600));
	if (ws->list_fd < 0)
		return error_set(err, -errno,
				 "snapshot.record_working_set: %s: %s (the list goes beside the memory file, where uid "
				 "%u has to be allowed to write)",
				 text_path_shown(ws->path), strerror(errno), (unsigned int)geteuid());
	if (fstat(ws->list_fd, &st) || !S_ISREG(st.st_mode))
		return list_failed(ws, -EINVAL, "this is no regular file", err);
	if (flock(ws->list_fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
		return list_failed(ws, -EBUSY, "another microVM records it (wait for its end)", err);
	return 0;
}

static int take_pages(struct working_set *ws, struct error *err)
{
	void *file = mmap(NULL, ws->gm->size, PROT_READ, MAP_PRIVATE, ws->memory_fd, 0);

	if (file == MAP_FAILED)
		return error_set(err, -errno, "snapshot.record_working_set: the memory file: %s", strerror(errno));
	ws->file = file;
	ws->list = lazy_alloc(ws->nr_pages * sizeof(*ws->list));
	ws->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!ws->list || ws->wake_fd < 0)
		return error_set(err, -ENOMEM, "snapshot.record_working_set: no memory for the list");
	ws->uffd = uffd_begin(ws->gm, err);
	return ws->uffd < 0 ? ws->uffd : 0;
}

static int start_recorder(struct working_set *ws, struct error *err)
{
	int ret = worker_start(&ws->thread, "working_set", record, ws);

	if (ret)
		return error_set(err, ret, "snapshot.record_working_set: its thread: %s", strerror(-ret));
	ws->has_thread = true;
	/* Who touches a page next would wait for it for ever if it cannot be confined, and so may not bring any. */
	while (sem_wait(&ws->confined))
		;
	*err = ws->err;
	return err->code;
}

int working_set_record(struct working_set **out, const struct working_set_source *source, struct guest_memory *gm,
		       struct error *err)
{
	struct working_set *ws = create(source, gm);
	int ret;

	if (!ws)
		return error_set(err, -ENOMEM, "snapshot.record_working_set: no memory");
	if (!gm->small_pages)
		ret = error_set(err, -EINVAL, "machine-config.huge_pages: 2M does not go with record_working_set");
	else
		ret = open_list(ws, err);
	if (!ret)
		ret = take_pages(ws, err);
	if (!ret)
		ret = start_recorder(ws, err);
	if (ret) {
		working_set_end(ws);
		return ret;
	}
	gm->source_fd = source->fd;
	gm->mapped[0] = (struct gm_mapped){ .start = 0, .end = gm->size };
	gm->nr_mapped = 1;
	*out = ws;
	return 0;
}

/* ---- prefetching: the list ---- */

static bool read_at(int fd, void *data, size_t len, off_t offset)
{
	return RETRY_INTERRUPTED(pread(fd, data, len, offset)) == (ssize_t)len;
}

/* NULL: `wanted` has all of it; or what is wrong. Nothing of the file is believed. */
static const char *read_list(struct working_set *ws)
{
	static const char not_whole[] = "is no whole list (still being recorded, or never finished?)";
	struct working_set_header head;
	uint32_t page[ENTRIES];
	uint64_t crc, done, i, n;

	if (!read_at(ws->list_fd, &head, sizeof(head), 0) ||
	    memcmp(head.magic, WORKING_SET_MAGIC, sizeof(head.magic)) != 0 || head.version != WORKING_SET_VERSION)
		return not_whole;
	if (memcmp(head.memory_id, ws->memory_id, sizeof(head.memory_id)) != 0)
		return "is of another memory file";
	if (head.nr > ws->nr_pages || ws->list_size != sizeof(head) + head.nr * sizeof(page[0]))
		return not_whole;
	crc = crc64(0, &head, offsetof(struct working_set_header, crc));
	for (done = 0; done < head.nr; done += n) {
		n = head.nr - done < ENTRIES ? head.nr - done : ENTRIES;
		if (!read_at(ws->list_fd, page, n * sizeof(page[0]), (off_t)(sizeof(head) + done * sizeof(page[0]))))
			return not_whole;
		crc = crc64(crc, page, n * sizeof(page[0]));
		for (i = 0; i < n; i++) {
			if (page[i] >= ws->nr_pages)
				return "names a page that RAM does not have";
			ws->wanted[page[i] / 64] |= 1ull << page[i] % 64;
		}
	}
	return crc == head.crc ? NULL : not_whole;
}

/* ---- prefetching: pages ---- */

static bool read_ahead(const struct working_set *ws, uint64_t at, uint64_t len)
{
	return readahead(ws->memory_fd, (off_t)at, len) == 0;
}

/* Before Linux 5.14 this is EINVAL, and the first half will have to do. */
static bool populate(const struct working_set *ws, uint64_t at, uint64_t len)
{
	return madvise(ws->gm->region[0].hva + at, len, MADV_POPULATE_READ) == 0;
}

static bool is_wanted(const struct working_set *ws, uint64_t page)
{
	return page < ws->nr_pages && ws->wanted[page / 64] >> page % 64 & 1;
}

/* What is wanted, in the order of the file, a few pages at a time. */
static void for_each_run(const struct working_set *ws, bool (*step)(const struct working_set *, uint64_t, uint64_t))
{
	uint64_t page = 0, nr;

	while (page < ws->nr_pages && !atomic_load(&ws->stop)) {
		if (page % 64 == 0 && !ws->wanted[page / 64]) {
			page += 64;
			continue;
		}
		for (nr = 0; nr < STEP_PAGES && is_wanted(ws, page + nr); nr++)
			;
		if (nr && !step(ws, page * GM_PAGE, nr * GM_PAGE))
			return;
		page += nr ? nr : 1;
	}
}

static void *prefetch(void *arg)
{
	struct working_set *ws = arg;
	struct error err = { 0 };
	const char *wrong = confine(&err) ? err.message : read_list(ws);

	if (wrong) {
		log_warn("%s %s: no page is prefetched", text_path_shown(ws->path), wrong);
	} else {
		for_each_run(ws, read_ahead);
		for_each_run(ws, populate);
	}
	(void)munmap(ws->wanted, ws->nr_pages / 8);
	ws->wanted = NULL;
	return NULL;
}

static int start_prefetcher(struct working_set *ws)
{
	struct stat st;

	if (fstat(ws->list_fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	ws->list_size = (uint64_t)st.st_size;
	ws->wanted = lazy_alloc(ws->nr_pages / 8);
	return ws->wanted ? worker_start(&ws->thread, "working_set", prefetch, ws) : -ENOMEM;
}

void working_set_prefetch(struct working_set **out, const struct working_set_source *source,
			  const struct guest_memory *gm)
{
	char path[PATH_MAX + sizeof(WORKING_SET_SUFFIX)];
	struct working_set *ws;
	int fd, ret = -ENOMEM;

	/* Large pages were read all at once, and RAM shows no file. */
	if (!gm->small_pages)
		return;
	snprintf(path, sizeof(path), "%s" WORKING_SET_SUFFIX, source->path);
	fd = RETRY_INTERRUPTED(open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
	if (fd < 0 && errno == ENOENT)
		return;
	ws = fd < 0 ? NULL : create(source, gm);
	if (fd < 0)
		ret = -errno;
	if (ws) {
		ws->list_fd = fd;
		ret = start_prefetcher(ws);
		ws->has_thread = !ret;
	} else if (fd >= 0) {
		close(fd);
	}
	if (!ret) {
		*out = ws;
		return;
	}
	log_warn("%s: %s: no page is prefetched", text_path_shown(path), strerror(-ret));
	working_set_end(ws);
}
