/* stream_receive.c: takes in a microVM that another process sends, as two files in memory. */
#include "snapshot/stream_receive.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config.h"
#include "guest_memory.h"
#include "retry.h"
#include "snapshot/memory_file.h"
#include "snapshot/stream.h"

#define SILENCE_NS 60000000000ull

/* A file in memory, mapped here. */
struct landing {
	int fd; /* -1: none */
	uint8_t *map;
	size_t size;
};

struct receiver {
	struct event_loop *loop;
	struct event_fd ev;
	struct event_timer silence;
	stream_received_fn *done;
	void *opaque;
	struct landing memory, state;
	struct stream_header header;
	struct stream_part part;
	bool has_header, is_over;
	uint64_t ram_size;
	uint8_t *to; /* where what comes next goes, */
	size_t left; /* and how much of it */
};

/* ---- files in memory ---- */

static int land(struct landing *l, const char *name, size_t size, struct error *err)
{
	void *map = MAP_FAILED;

	l->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (l->fd >= 0 && ftruncate(l->fd, (off_t)size) == 0)
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, l->fd, 0);
	if (map == MAP_FAILED)
		return error_set(err, -errno, "the stream: %zu bytes for the %s: %s", size, name, strerror(errno));
	l->map = map;
	l->size = size;
	return 0;
}

static void leave(struct landing *l)
{
	if (l->map)
		munmap(l->map, l->size);
	l->map = NULL;
}

/* ---- the end ---- */

static void finish(struct receiver *r, int ret, const struct error *err)
{
	const struct stream_received received = { .state_fd = r->state.fd, .memory_fd = r->memory.fd };
	stream_received_fn *done = r->done;
	void *opaque = r->opaque;

	event_loop_disarm(r->loop, &r->silence);
	event_loop_remove(r->loop, &r->ev);
	close(r->ev.fd);
	leave(&r->memory);
	leave(&r->state);
	if (ret && r->memory.fd >= 0)
		close(r->memory.fd);
	if (ret && r->state.fd >= 0)
		close(r->state.fd);
	free(r);
	done(opaque, ret, &received, err);
}

static int refuse(const char *why, struct error *err)
{
	return error_set(err, -EINVAL, "the stream: %s (needs what PUT /snapshot/create sends)", why);
}

static void on_silence(struct event_timer *timer)
{
	struct error err;

	error_set(&err, -ETIMEDOUT, "the stream: the other side sent nothing for %llu s", SILENCE_NS / 1000000000);
	finish(timer->opaque, err.code, &err);
}

/* ---- what has come ---- */

static void expect(struct receiver *r, void *to, size_t len)
{
	r->to = to;
	r->left = len;
}

static int take_header(struct receiver *r, struct error *err)
{
	const struct stream_header *h = &r->header;
	const uint64_t mib = 1 << 20;

	if (memcmp(h->magic, STREAM_MAGIC, sizeof(h->magic)) != 0)
		return refuse("what comes is no microVM", err);
	if (h->version != STREAM_VERSION)
		return error_set(err, -ENOTSUP, "the stream: version %u (needs %u)", h->version, STREAM_VERSION);
	if (h->memory_size % mib || h->memory_size / mib < CONFIG_MIN_MEM_MIB ||
	    h->memory_size / mib > CONFIG_MAX_MEM_MIB)
		return refuse("RAM of a size that no microVM has", err);
	r->has_header = true;
	r->ram_size = h->memory_size;
	return land(&r->memory, "memory", r->ram_size + MEMORY_TRAILER_SIZE, err);
}

static bool is_in_ram(const struct receiver *r)
{
	const struct stream_part *p = &r->part;

	return p->len && p->len <= STREAM_PART_MAX && p->at % GM_PAGE == 0 && p->len % GM_PAGE == 0 &&
	       p->at <= r->ram_size && p->len <= r->ram_size - p->at;
}

static int take_part(struct receiver *r, struct error *err)
{
	const struct stream_part part = r->part;

	expect(r, &r->part, sizeof(r->part));
	if (part.zero)
		return refuse("a part with something where nothing is to be", err);
	if (part.type == STREAM_END) {
		r->is_over = true;
		return r->state.fd >= 0 ? 0 : refuse("it ends without a state", err);
	}
	if (r->state.fd >= 0)
		return refuse("something follows the state", err);
	if (part.type == STREAM_STATE) {
		if (!part.len || part.len > STATE_MAX)
			return refuse("a state of a size that none has", err);
		if (land(&r->state, "state", part.len, err))
			return err->code;
		expect(r, r->state.map, part.len);
		return 0;
	}
	if (part.type != STREAM_PAGES && part.type != STREAM_ZEROS)
		return refuse("a part of an unknown type", err);
	if (!is_in_ram(r))
		return refuse("pages that are not in RAM", err);
	if (part.type == STREAM_PAGES)
		expect(r, r->memory.map + part.at, part.len);
	/* Written, 24 bytes of the stream would take a MiB here. */
	else if (fallocate(r->memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)part.at, (off_t)part.len))
		return error_set(err, -errno, "the stream: pages of zeros: %s", strerror(errno));
	return 0;
}

/* All that was expected is there. */
static int take(struct receiver *r, struct error *err)
{
	int ret;

	if (r->has_header && r->to == (uint8_t *)(&r->part + 1))
		return take_part(r, err);
	ret = r->has_header ? 0 : take_header(r, err);
	expect(r, &r->part, sizeof(r->part));
	return ret;
}

static void seal(const struct receiver *r)
{
	struct memory_trailer trailer = { .kind = MEMORY_FULL, .size = r->ram_size };

	memcpy(trailer.id, r->header.id, sizeof(trailer.id));
	memory_trailer_seal(&trailer);
	memcpy(r->memory.map + r->ram_size, &trailer, sizeof(trailer));
}

/* Bytes that came, 0 if none did for now, or a negative errno with a sentence. */
static ssize_t take_some(struct receiver *r, struct error *err)
{
	ssize_t n = RETRY_INTERRUPTED(read(r->ev.fd, r->to, r->left));

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n < 0)
		return error_set(err, -errno, "the stream: %s", strerror(errno));
	if (n == 0)
		return error_set(err, -EPIPE, "the stream: it is cut short (what the sender says may tell why)");
	r->to += n;
	r->left -= (size_t)n;
	return n;
}

/* A pipe of somebody else's may not be set to O_NONBLOCK: what is there is read, and no more. */
static void on_ready(struct event_fd *ev, uint32_t events)
{
	struct receiver *r = ev->opaque;
	struct error err = { 0 };
	ssize_t n = take_some(r, &err);

	(void)events;
	if (n >= 0 && !r->left && take(r, &err))
		n = err.code;
	if (n < 0)
		finish(r, (int)n, &err);
	else if (r->is_over) {
		seal(r);
		finish(r, 0, NULL);
	} else {
		event_loop_arm(r->loop, &r->silence, event_loop_now_ns() + SILENCE_NS);
	}
}

int stream_receive(struct event_loop *loop, int fd, stream_received_fn *done, void *opaque, struct error *err)
{
	struct receiver *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return error_set(err, -ENOMEM, "the stream: no memory");
	r->loop = loop;
	r->ev = (struct event_fd){ .fd = fd, .ready = on_ready, .opaque = r };
	r->silence = (struct event_timer){ .expired = on_silence, .opaque = r };
	r->done = done;
	r->opaque = opaque;
	r->memory.fd = r->state.fd = -1;
	expect(r, &r->header, sizeof(r->header));
	ret = event_loop_add(loop, &r->ev, EPOLLIN);
	if (!ret)
		return 0;
	free(r);
	return error_set(err, ret, "the stream: %s (needs a socket or a pipe)", strerror(-ret));
}
