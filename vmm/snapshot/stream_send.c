/* stream_send.c: sends a microVM to another process, most of it while the guest runs. */
#include "snapshot/stream_send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "retry.h"
#include "snapshot/create.h"
#include "snapshot/memory_save.h"
#include "snapshot/stream.h"

#define CHUNK       (16ull << 20) /* bytes of RAM looked at in one go */
#define TURN        (4ull << 20)  /* bytes sent before others have their turn */
#define TURN_LOOKED (1ull << 25)  /* or bytes of RAM gone through: the guest runs, whose devices wait that long */
#define SILENCE_NS  60000000000ull
#define DOWNTIME_US 100000u /* what is left is sent at once when it takes no longer */
#define MAX_ROUNDS  30u

enum phase { SEND_RAM, SEND_STATE, SEND_END, SEND_NOTHING };

/* Returned where there is more to do and nothing to send. */
#define ROUND_OVER 1

struct sender {
	struct machine_waiter waiter; /* first */
	struct machine *machine;
	struct guest_memory *gm;
	struct stream_client client;
	struct stream_report report;
	struct event_fd ev;
	struct event_timer silence;
	uint8_t id[STATE_ID_SIZE];
	bool is_live;   /* the guest runs between rounds */
	bool last;      /* of the rounds */
	bool is_saving; /* save has begun */
	bool is_given_up;
	enum phase phase;
	struct memory_save save;
	uint64_t at;        /* bytes of RAM that this round is done with */
	uint64_t chunk_end; /* wanted is about the CHUNK before it */
	uint8_t wanted[CHUNK / GM_PAGE];
	uint64_t round_bytes; /* of RAM, in this round */
	uint64_t sent_before; /* report.bytes when it began */
	uint64_t began_ns;    /* this round */
	uint64_t pause_ns;    /* the pause that it began with was asked for */
	struct state_writer state;
	struct iovec out[2]; /* what is on its way */
	union {
		struct stream_header header;
		struct stream_part part;
	} head; /* out[0] */
};

/* ---- the end ---- */

static void finish(struct sender *s, int ret, const struct error *err)
{
	const struct stream_client client = s->client;
	struct stream_report report = s->report;

	if (s->last && s->is_live)
		report.downtime_us = (event_loop_now_ns() - s->pause_ns) / 1000;
	event_loop_disarm(machine_loop(s->machine), &s->silence);
	event_loop_watch(machine_loop(s->machine), &s->ev, 0);
	/* An inherited one is open elsewhere, too, and whoever reads waits for this. */
	(void)shutdown(s->ev.fd, SHUT_WR);
	close(s->ev.fd);
	if (s->is_saving)
		memory_save_end(&s->save, false);
	state_free(&s->state);
	/* What was written since the last snapshot is not known any more. */
	machine_forget_saved(s->machine);
	machine_saved(s->machine, NULL);
	if (ret && s->is_live)
		(void)machine_resume(s->machine, NULL);
	free(s);
	client.done(client.opaque, ret, &report, err);
}

/* ---- what comes next ---- */

static void put(struct sender *s, size_t head_size, const void *data, size_t len)
{
	s->out[0] = (struct iovec){ &s->head, head_size };
	s->out[1] = (struct iovec){ (void *)(uintptr_t)data, len };
}

static void put_part(struct sender *s, enum stream_part_type type, uint64_t at, uint64_t len, const void *data)
{
	s->head.part = (struct stream_part){ .type = type, .at = at, .len = len };
	put(s, sizeof(s->head.part), data, data ? len : 0);
}

static bool is_wanted(const struct sender *s, uint64_t at)
{
	return s->wanted[(at % CHUNK) / GM_PAGE] & 1;
}

static bool is_zero(const struct sender *s, uint64_t at)
{
	return memory_save_is_zero(s->gm->region[0].hva + at);
}

/* The next pages that are alike: wanted, and all zeros or not. False: the chunk has no more. */
static bool next_run(struct sender *s)
{
	uint64_t begin;
	bool zeros;

	while (s->at < s->chunk_end && !is_wanted(s, s->at))
		s->at += GM_PAGE;
	if (s->at == s->chunk_end)
		return false;
	begin = s->at;
	zeros = is_zero(s, begin);
	do
		s->at += GM_PAGE;
	while (s->at < s->chunk_end && s->at - begin < STREAM_PART_MAX && is_wanted(s, s->at) &&
	       is_zero(s, s->at) == zeros);
	s->round_bytes += s->at - begin;
	/* In the first round nothing has been sent that they could take the place of. */
	if (!zeros)
		put_part(s, STREAM_PAGES, begin, s->at - begin, s->gm->region[0].hva + begin);
	else if (s->report.rounds > 1)
		put_part(s, STREAM_ZEROS, begin, s->at - begin, NULL);
	return true;
}

static int next_of_ram(struct sender *s, struct error *err)
{
	if (next_run(s))
		return 0;
	if (s->at == s->gm->size) {
		memory_save_end(&s->save, false);
		s->is_saving = false;
		if (!s->last)
			return ROUND_OVER;
		s->phase = SEND_STATE;
		return 0;
	}
	s->chunk_end = s->gm->size - s->at < CHUNK ? s->gm->size : s->at + CHUNK;
	memset(s->wanted, 0, sizeof(s->wanted));
	return memory_save_choose(&s->save, s->at, s->chunk_end, s->wanted, err);
}

static int next_is_state(struct sender *s, struct error *err)
{
	char *config = s->client.config(s->client.opaque);
	int ret = config ? snapshot_state(s->machine, config, s->id, &s->state, err)
			 : error_set(err, -ENOMEM, "the stream: no memory");

	free(config);
	if (ret)
		return ret;
	put_part(s, STREAM_STATE, 0, s->state.len, s->state.data);
	s->phase = SEND_END;
	return 0;
}

static int next(struct sender *s, struct error *err)
{
	switch (s->phase) {
	case SEND_RAM:
		return next_of_ram(s, err);
	case SEND_STATE:
		return next_is_state(s, err);
	case SEND_END:
		put_part(s, STREAM_END, 0, 0, NULL);
		s->phase = SEND_NOTHING;
		return 0;
	case SEND_NOTHING:
	default:
		return 0;
	}
}

/* ---- sending ---- */

static bool is_sent(const struct sender *s)
{
	return !s->out[0].iov_len && !s->out[1].iov_len;
}

static int send_some(struct sender *s, uint64_t *sent, struct error *err)
{
	const struct msghdr msg = { .msg_iov = s->out, .msg_iovlen = 2 };
	ssize_t n = RETRY_INTERRUPTED(sendmsg(s->ev.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL));
	size_t part;
	unsigned int i;

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	if (n < 0)
		return error_set(err, -errno, "the stream: %s%s", strerror(errno),
				 errno == ENOTSOCK ? " (needs a connected stream socket)" : "");
	*sent += (size_t)n;
	s->report.bytes += (size_t)n;
	for (i = 0; i < 2; i++) {
		part = (size_t)n < s->out[i].iov_len ? (size_t)n : s->out[i].iov_len;
		s->out[i].iov_base = (char *)s->out[i].iov_base + part;
		s->out[i].iov_len -= part;
		n -= (ssize_t)part;
	}
	return 0;
}

static void on_silence(struct event_timer *timer)
{
	struct error err;

	error_set(&err, -ETIMEDOUT, "the stream: the other side took nothing for %llu s", SILENCE_NS / 1000000000);
	finish(timer->opaque, err.code, &err);
}

/* ---- rounds ---- */

/* What a device has in flight is noted before it is written, and could be sent in between: so each round begins with a
 * pause, as short as it gets. */
static void begin_round(struct sender *s)
{
	event_loop_watch(machine_loop(s->machine), &s->ev, 0);
	event_loop_disarm(machine_loop(s->machine), &s->silence);
	s->pause_ns = event_loop_now_ns();
	machine_pause(s->machine, &s->waiter);
}

/* Is it time to stop the guest? bytes are left. How fast they go is told by what the round before sent, of which pages
 * of zeros are next to nothing. */
static bool few_left(const struct sender *s, uint64_t bytes)
{
	const uint64_t took_us = (s->pause_ns - s->began_ns) / 1000, sent = s->report.bytes - s->sent_before;

	if (s->report.rounds < 2)
		return false;
	/* They will not become fewer, or are sent in no time. */
	return s->report.rounds == MAX_ROUNDS || bytes > s->round_bytes / 4 * 3 ||
	       (unsigned __int128)bytes * took_us < (unsigned __int128)sent * DOWNTIME_US;
}

static void give_up(struct sender *s)
{
	struct error err;

	error_set(&err, -ECANCELED, "the stream: given up, because the microVM was to go on");
	finish(s, err.code, &err);
}

static void on_paused(struct machine_waiter *waiter)
{
	struct sender *s = (struct sender *)(void *)waiter;
	struct error err = { 0 };
	int ret;

	if (s->is_given_up) {
		give_up(s);
		return;
	}
	/* Another who waited for the pause has resumed it already. */
	if (machine_state(s->machine) != MACHINE_PAUSED) {
		begin_round(s);
		return;
	}
	ret = memory_save_begin(&s->save, s->gm, machine_board(s->machine)->kvm.vm_fd, -1, s->report.rounds > 0, &err);
	if (ret) {
		finish(s, ret, &err);
		return;
	}
	s->is_saving = true;
	s->report.rounds++;
	s->last = !s->is_live || few_left(s, memory_save_left(&s->save));
	machine_save_in_background(s->machine, !s->last);
	if (!s->last)
		(void)machine_resume(s->machine, NULL);
	s->began_ns = s->pause_ns;
	s->sent_before = s->report.bytes;
	s->at = s->chunk_end = s->round_bytes = 0;
	event_loop_watch(machine_loop(s->machine), &s->ev, EPOLLOUT);
	event_loop_arm(machine_loop(s->machine), &s->silence, event_loop_now_ns() + SILENCE_NS);
}

static void on_ready(struct event_fd *ev, uint32_t events)
{
	struct sender *s = ev->opaque;
	struct error err = { 0 };
	const uint64_t looked = s->at;
	uint64_t sent = 0;
	int ret = 0;

	(void)events;
	while (!ret && sent < TURN && s->at - looked < TURN_LOOKED && !(is_sent(s) && s->phase == SEND_NOTHING))
		ret = is_sent(s) ? next(s, &err) : send_some(s, &sent, &err);
	if (sent)
		event_loop_arm(machine_loop(s->machine), &s->silence, event_loop_now_ns() + SILENCE_NS);
	if (ret == ROUND_OVER)
		begin_round(s);
	else if (ret && ret != -EAGAIN)
		finish(s, ret, &err);
	else if (is_sent(s) && s->phase == SEND_NOTHING)
		finish(s, 0, NULL);
}

/* ---- the beginning ---- */

static int check(struct machine *m, struct error *err)
{
	if (!machine_jail(m)->may_write)
		return error_set(err, -EPERM,
				 "a running microVM is not sent (start Mayfly with --allow-path or --allow-fd)");
	/* Whoever asked for that pause is to find it paused. */
	if (machine_state(m) == MACHINE_PAUSING)
		return error_set(err, -EBUSY, "the microVM is being paused (wait for that answer first)");
	if (machine_state(m) == MACHINE_PAUSED || machine_board(m)->memory.dirty)
		return 0;
	return error_set(err, -EINVAL,
			 "the microVM runs, and nobody notes what it writes (pause it first, or start it with "
			 "track_dirty_pages)");
}

static int prepare(struct sender *s, struct machine *m, int fd, const struct stream_client *client, struct error *err)
{
	struct stream_header *header = &s->head.header;

	s->machine = m;
	s->gm = &machine_board(m)->memory;
	s->client = *client;
	s->waiter.done = on_paused;
	s->ev = (struct event_fd){ .fd = fd, .ready = on_ready, .opaque = s };
	s->silence = (struct event_timer){ .expired = on_silence, .opaque = s };
	s->is_live = machine_state(m) != MACHINE_PAUSED;
	if (getrandom(s->id, sizeof(s->id), 0) != (ssize_t)sizeof(s->id))
		return error_set(err, -EIO, "no random numbers for the stream's id");
	*header = (struct stream_header){ .version = STREAM_VERSION, .memory_size = s->gm->size };
	memcpy(header->magic, STREAM_MAGIC, sizeof(header->magic));
	memcpy(header->id, s->id, sizeof(header->id));
	put(s, sizeof(*header), NULL, 0);
	return 0;
}

int stream_send(struct sender **out, struct machine *m, int fd, const struct stream_client *client, struct error *err)
{
	struct sender *s = calloc(1, sizeof(*s));
	uint64_t sent = 0;
	int ret;

	if (!s)
		return error_set(err, -ENOMEM, "the stream: no memory");
	ret = check(m, err);
	if (!ret)
		ret = prepare(s, m, fd, client, err);
	if (!ret)
		ret = machine_begin_live_save(m, err);
	if (ret) {
		free(s);
		return ret;
	}
	/* What is no socket, or not connected, shows at once. */
	ret = send_some(s, &sent, err);
	if (ret && ret != -EAGAIN) {
		machine_saved(m, NULL);
		free(s);
		return ret;
	}
	*out = s;
	begin_round(s);
	return 0;
}

void stream_give_up(struct sender *s)
{
	s->is_given_up = true;
	/* Else the machine has its waiter. */
	if (s->is_saving || s->phase != SEND_RAM)
		give_up(s);
}
