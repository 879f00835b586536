/* event_loop.h: one thread that waits on file descriptors, timers and work handed over by vCPU threads. */
#ifndef MAYFLY_EVENT_LOOP_H
#define MAYFLY_EVENT_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "error.h"

#define EVENT_LOOP_BATCH 16

struct event_loop;

/* A watched descriptor. Owned by the caller and alive from event_loop_add to event_loop_remove. */
struct event_fd {
	int fd;
	void (*ready)(struct event_fd *ev, uint32_t epoll_events);
	void *opaque;
	uint32_t events; /* event_loop_watch's own */
};

/* A one-shot timer. Zero it before the first use. */
struct event_timer {
	void (*expired)(struct event_timer *timer);
	void *opaque;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
	bool armed;
	struct event_timer *next;
};

/* A piece of work for the loop's thread. Zero it before the first use; posting it twice before it ran runs it once. */
struct event_work {
	void (*run)(struct event_work *work);
	void *opaque;
	bool queued;
	struct event_work *next;
};

struct event_loop {
	int epoll_fd;
	int wake_fd;          /* eventfd that event_loop_post writes */
	pthread_mutex_t lock; /* guards works */
	struct event_work *works, **works_tail;
	struct event_work *taken;                   /* those of this turn that have not run yet */
	struct event_timer *timers;                 /* sorted by deadline */
	struct epoll_event batch[EVENT_LOOP_BATCH]; /* what epoll reported last */
	unsigned int nr_batch;
	bool stop;
};

int event_loop_init(struct event_loop *loop, struct error *err);
void event_loop_destroy(struct event_loop *loop);

/*
 * event_loop_add, _modify, _remove - watch fd for EPOLL* events (level-triggered unless EPOLLET is among them), watch
 * it for others, stop watching it. Loop thread only; 0 or -errno.
 */
int event_loop_add(struct event_loop *loop, struct event_fd *ev, uint32_t events);
int event_loop_modify(struct event_loop *loop, struct event_fd *ev, uint32_t events);

/* event_loop_watch - the same by what is wanted: adds, modifies or removes ev so that `events` are watched, 0: none. */
void event_loop_watch(struct event_loop *loop, struct event_fd *ev, uint32_t events);
void event_loop_remove(struct event_loop *loop, struct event_fd *ev);

/* event_loop_arm - call timer->expired once at deadline_ns (re-arming moves it); _disarm takes it back. Loop thread
 * only. */
void event_loop_arm(struct event_loop *loop, struct event_timer *timer, uint64_t deadline_ns);
void event_loop_disarm(struct event_loop *loop, struct event_timer *timer);

/* event_loop_post - run work on the loop's thread soon. Any thread; never blocks for long. */
void event_loop_post(struct event_loop *loop, struct event_work *work);

/* event_loop_cancel - take work back that did not run yet, if it was posted. Loop thread; nobody posts it meanwhile. */
void event_loop_cancel(struct event_loop *loop, struct event_work *work);

/* event_loop_run - serve until event_loop_stop. event_loop_stop: loop thread only (post a work from elsewhere). */
void event_loop_run(struct event_loop *loop);
void event_loop_stop(struct event_loop *loop);

/* event_loop_now_ns - CLOCK_MONOTONIC in ns. Any thread. */
uint64_t event_loop_now_ns(void);

#endif
