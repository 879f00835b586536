/* event_loop.c: epoll, a sorted list of timers and a queue of posted work, served by one thread. */
#include "event_loop.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "retry.h"

#define NS_PER_MS 1000000ull

uint64_t event_loop_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

int event_loop_init(struct event_loop *loop, struct error *err)
{
	struct epoll_event wake = { .events = EPOLLIN, .data.ptr = NULL };
	int ret;

	memset(loop, 0, sizeof(*loop));
	loop->works_tail = &loop->works;
	loop->wake_fd = -1;
	pthread_mutex_init(&loop->lock, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		goto fail;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		goto fail;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &wake) == 0)
		return 0;
fail:
	ret = error_set(err, -errno, "event loop: %s", strerror(errno));
	event_loop_destroy(loop);
	return ret;
}

void event_loop_destroy(struct event_loop *loop)
{
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	loop->epoll_fd = loop->wake_fd = -1;
	pthread_mutex_destroy(&loop->lock);
}

static int control(struct event_loop *loop, int op, struct event_fd *ev, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = ev };

	return epoll_ctl(loop->epoll_fd, op, ev->fd, &e) ? -errno : 0;
}

int event_loop_add(struct event_loop *loop, struct event_fd *ev, uint32_t events)
{
	return control(loop, EPOLL_CTL_ADD, ev, events);
}

int event_loop_modify(struct event_loop *loop, struct event_fd *ev, uint32_t events)
{
	return control(loop, EPOLL_CTL_MOD, ev, events);
}

void event_loop_remove(struct event_loop *loop, struct event_fd *ev)
{
	unsigned int i;

	control(loop, EPOLL_CTL_DEL, ev, 0);
	/* An event of this descriptor may already be in the batch being served. */
	for (i = 0; i < loop->nr_batch; i++) {
		if (loop->batch[i].data.ptr == ev)
			loop->batch[i].events = 0;
	}
}

void event_loop_watch(struct event_loop *loop, struct event_fd *ev, uint32_t events)
{
	if (ev->events == events)
		return;
	if (!events)
		event_loop_remove(loop, ev);
	else
		(void)control(loop, ev->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, ev, events);
	ev->events = events;
}

void event_loop_arm(struct event_loop *loop, struct event_timer *timer, uint64_t deadline_ns)
{
	struct event_timer **at = &loop->timers;

	event_loop_disarm(loop, timer);
	timer->deadline_ns = deadline_ns;
	timer->armed = true;
	while (*at && (*at)->deadline_ns <= deadline_ns)
		at = &(*at)->next;
	timer->next = *at;
	*at = timer;
}

void event_loop_disarm(struct event_loop *loop, struct event_timer *timer)
{
	struct event_timer **at = &loop->timers;

	if (!timer->armed)
		return;
	while (*at != timer)
		at = &(*at)->next;
	*at = timer->next;
	timer->armed = false;
}

void event_loop_post(struct event_loop *loop, struct event_work *work)
{
	bool wake = false;

	pthread_mutex_lock(&loop->lock);
	if (!work->queued) {
		wake = !loop->works;
		work->queued = true;
		work->next = NULL;
		*loop->works_tail = work;
		loop->works_tail = &work->next;
	}
	pthread_mutex_unlock(&loop->lock);
	if (wake) {
		const uint64_t one = 1;

		/* Fails only when the counter is full, and then the loop is awake anyway. */
		(void)!RETRY_INTERRUPTED(write(loop->wake_fd, &one, sizeof(one)));
	}
}

void event_loop_cancel(struct event_loop *loop, struct event_work *work)
{
	struct event_work **at;

	pthread_mutex_lock(&loop->lock);
	if (work->queued) {
		for (at = &loop->taken; *at && *at != work; at = &(*at)->next)
			;
		for (at = *at ? at : &loop->works; *at != work; at = &(*at)->next)
			;
		*at = work->next;
		if (loop->works_tail == &work->next)
			loop->works_tail = at;
		work->queued = false;
	}
	pthread_mutex_unlock(&loop->lock);
}

static struct event_work *take_works(struct event_loop *loop)
{
	struct event_work *first;

	pthread_mutex_lock(&loop->lock);
	first = loop->works;
	loop->works = NULL;
	loop->works_tail = &loop->works;
	pthread_mutex_unlock(&loop->lock);
	return first;
}

/* Only what is there now: what is posted meanwhile waits for the next turn, or a guest could keep the loop to itself.
 */
static void run_works(struct event_loop *loop)
{
	struct event_work *work;
	uint64_t count;

	(void)!read(loop->wake_fd, &count, sizeof(count));
	loop->taken = take_works(loop);
	while ((work = loop->taken) != NULL && !loop->stop) {
		pthread_mutex_lock(&loop->lock);
		loop->taken = work->next;
		work->queued = false; /* from here on it can be posted again */
		pthread_mutex_unlock(&loop->lock);
		work->run(work);
	}
}

static void run_timers(struct event_loop *loop)
{
	struct event_timer *timer;
	uint64_t now;

	if (!loop->timers)
		return;
	now = event_loop_now_ns();
	while (!loop->stop && (timer = loop->timers) && timer->deadline_ns <= now) {
		event_loop_disarm(loop, timer);
		timer->expired(timer);
	}
}

/* ms until the first timer, rounded up so that it has expired when epoll returns; -1: no timer. */
static int wait_ms(const struct event_loop *loop)
{
	uint64_t now, ms;

	if (!loop->timers)
		return -1;
	now = event_loop_now_ns();
	if (loop->timers->deadline_ns <= now)
		return 0;
	ms = (loop->timers->deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS;
	return ms > 3600000 ? 3600000 : (int)ms;
}

void event_loop_run(struct event_loop *loop)
{
	unsigned int i;
	int n;

	while (!loop->stop) {
		n = epoll_wait(loop->epoll_fd, loop->batch, EVENT_LOOP_BATCH, wait_ms(loop));
		loop->nr_batch = n > 0 ? (unsigned int)n : 0;
		for (i = 0; i < loop->nr_batch && !loop->stop; i++) {
			struct event_fd *ev = loop->batch[i].data.ptr;

			if (!ev)
				run_works(loop);
			else if (loop->batch[i].events)
				ev->ready(ev, loop->batch[i].events);
		}
		run_timers(loop);
	}
}

void event_loop_stop(struct event_loop *loop)
{
	loop->stop = true;
}
