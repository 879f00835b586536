/* test_queue_race.c: driver and device on two threads, to see that no kick and no interrupt is ever lost. */
#include "unit.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vring.h"

struct ring_fixture {
	struct guest_memory gm;
	struct virtqueue vq;
	struct driver_ring ring;
	struct iovec iov[VIRTQUEUE_MAX_SIZE];
	struct vq_chain chain;
};

/* Driver and device on two CPUs, each asleep unless the other rings: one lost kick or interrupt and both sleep for
 * ever. */
#define PAIRS 100000u

struct pair {
	struct ring_fixture *f;
	int kick, call;
	bool event_idx;
	unsigned int kicks, calls;
};

static bool sleep_on(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t v;

	return poll(&p, 1, 10000) == 1 && read(fd, &v, sizeof(v)) == sizeof(v);
}

static void ring_bell(int fd, unsigned int *count)
{
	const uint64_t one = 1;

	*count += 1;
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void *device_side(void *arg)
{
	struct pair *p = arg;
	struct ring_fixture *f = p->f;
	unsigned int done = 0;

	while (done < PAIRS) {
		int ret = vq_pop(&f->vq, &f->chain);

		if (ret < 0)
			return (void *)"broken ring";
		if (ret) {
			vq_push(&f->vq, f->chain.head, done++);
			/* Sometimes one by one, sometimes a batch. */
			if (done % 7 && done < PAIRS)
				continue;
		}
		if (vq_should_interrupt(&f->vq))
			ring_bell(p->call, &p->calls);
		if (!ret && done < PAIRS && !sleep_on(p->kick))
			return (void *)"the device missed a kick";
	}
	return NULL;
}

static void driver_kick(struct pair *p, uint16_t old)
{
	struct driver_ring *r = &p->f->ring;
	uint16_t event;

	if (old == r->avail_idx)
		return;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (p->event_idx) {
		event = __atomic_load_n((uint16_t *)(void *)&r->used->ring[r->size], __ATOMIC_RELAXED);
		if (!vring_need_event(event, r->avail_idx, old))
			return;
	} else if (__atomic_load_n(&r->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) {
		return;
	}
	ring_bell(p->kick, &p->kicks);
}

/* Mostly spin, so that both sides look at an empty ring at the same moment; sleep when nothing comes. */
static const char *await_used(struct pair *p, unsigned int seen, unsigned int spins)
{
	struct driver_ring *r = &p->f->ring;

	while (spins--) {
		if (driver_used_idx(r) != (uint16_t)seen)
			return NULL;
	}
	__atomic_store_n(driver_used_event(r), (uint16_t)seen, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (driver_used_idx(r) == (uint16_t)seen && !sleep_on(p->call))
		return "the driver missed an interrupt";
	return NULL;
}

static const char *driver_side(struct pair *p)
{
	struct driver_ring *r = &p->f->ring;
	unsigned int sent = 0, seen = 0, seed = 1;
	const char *says = NULL;

	while (seen < PAIRS && !says) {
		uint16_t old = r->avail_idx;
		unsigned int n;

		seed = seed * 1664525 + 1013904223;
		/* The device has just pushed and is about to find the ring empty: offer at about that moment. */
		for (n = seed >> 12 & 0xFF; n; n--)
			__asm__ volatile("" ::: "memory");
		for (n = 1 + (seed >> 30); n && sent < PAIRS && sent - seen < r->size; n--)
			driver_offer(r, (uint16_t)(sent++ % r->size));
		driver_kick(p, old);
		/* Three times out of four until everything is back, so that the device finds the ring empty again and
		 * again. */
		do {
			says = await_used(p, seen, seed & 0x700 ? 100000 : seed >> 20);
			for (; driver_used_idx(r) != (uint16_t)seen; seen++) {
				if (r->used->ring[seen % r->size].len != seen)
					return "used ring entry out of order";
			}
		} while (!says && seen != sent && seed >> 8 & 3);
	}
	return says;
}

static void run_pair(struct ring_fixture *f, bool event_idx)
{
	struct pair p = { .f = f, .event_idx = event_idx };
	void *device_says;
	const char *driver_says;
	pthread_t thread;
	unsigned int i;

	f->vq.event_idx = event_idx;
	for (i = 0; i < 16; i++)
		driver_desc(&f->ring, i, VRING_DATA_GPA + i, 1, 0, 0);
	p.kick = eventfd(0, EFD_CLOEXEC);
	p.call = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&thread, NULL, device_side, &p), 0);
	driver_says = driver_side(&p);
	pthread_join(thread, &device_says);
	close(p.kick);
	close(p.call);
	if (driver_says || device_says)
		fail_msg("%s", driver_says ? driver_says : (const char *)device_says);
	/* Neither side was silent, and both saved something. */
	assert_in_range(p.kicks, 1, PAIRS - 1);
	assert_in_range(p.calls, 1, PAIRS - 1);
}

static void both_ways(bool event_idx)
{
	struct ring_fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	assert_non_null(f);
	assert_int_equal(gm_create(&f->gm, 4, HUGE_PAGES_NONE, &err), 0);
	driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
	f->chain.iov = f->iov;
	f->chain.iov_max = VIRTQUEUE_MAX_SIZE;
	run_pair(f, event_idx);
	gm_destroy(&f->gm);
	free(f);
}

static void test_no_lost_wakeups_event_idx(void **state)
{
	(void)state;
	both_ways(true);
}

static void test_no_lost_wakeups_flags(void **state)
{
	(void)state;
	both_ways(false);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_lost_wakeups_event_idx),
		cmocka_unit_test(test_no_lost_wakeups_flags),
	};

	return cmocka_run_group_tests_name("queue_race", tests, NULL, NULL);
}
