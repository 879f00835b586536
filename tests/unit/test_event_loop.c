/* test_event_loop.c: descriptors, timers and work from other threads. */
#include "unit.h"

#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "event_loop.h"

struct record {
	struct event_loop *loop;
	unsigned int count, order[8];
};

static struct event_loop loop;

static int start(void **state)
{
	struct error err;

	(void)state;
	return event_loop_init(&loop, &err);
}

static int end(void **state)
{
	(void)state;
	event_loop_destroy(&loop);
	return 0;
}

static void on_timer(struct event_timer *timer)
{
	struct record *r = timer->opaque;

	r->order[r->count++] = (unsigned int)(timer->deadline_ns % 1000);
	if (r->count == 3)
		event_loop_stop(r->loop);
}

static void timers_expire_in_order_of_deadline(void **state)
{
	struct record r = { .loop = &loop };
	struct event_timer t[4] = { 0 };
	uint64_t base = event_loop_now_ns() / 1000 * 1000 + 1000000;

	(void)state;
	for (unsigned int i = 0; i < 4; i++)
		t[i] = (struct event_timer){ .expired = on_timer, .opaque = &r };
	event_loop_arm(&loop, &t[0], base + 3000000 + 3);
	event_loop_arm(&loop, &t[1], base + 1000000 + 1);
	event_loop_arm(&loop, &t[2], base + 9000000 + 9);
	event_loop_arm(&loop, &t[3], base + 500000 + 5);
	event_loop_arm(&loop, &t[2], base + 2000000 + 2); /* moved */
	event_loop_disarm(&loop, &t[3]);
	event_loop_disarm(&loop, &t[3]); /* twice is harmless */
	event_loop_run(&loop);
	assert_int_equal(r.order[0], 1);
	assert_int_equal(r.order[1], 2);
	assert_int_equal(r.order[2], 3);
	assert_true(event_loop_now_ns() >= base + 3000000);
}

static void on_work(struct event_work *work)
{
	struct record *r = work->opaque;

	r->count++;
	event_loop_stop(r->loop);
}

static void *post_from_elsewhere(void *arg)
{
	event_loop_post(&loop, arg);
	event_loop_post(&loop, arg); /* queued already or run already: never lost, never a crash */
	return NULL;
}

static void work_of_another_thread_runs_here(void **state)
{
	struct record r = { .loop = &loop };
	struct event_work work = { .run = on_work, .opaque = &r };
	pthread_t thread;

	(void)state;
	pthread_create(&thread, NULL, post_from_elsewhere, &work);
	event_loop_run(&loop);
	pthread_join(thread, NULL);
	assert_int_equal(r.count, 1);
}

#define GREEDY_TURNS 100000u

static void on_greedy_work(struct event_work *work)
{
	struct record *r = work->opaque;

	if (++r->count < GREEDY_TURNS)
		event_loop_post(r->loop, work);
}

static void stop_on_ready(struct event_fd *ev, uint32_t events)
{
	(void)ev, (void)events;
	event_loop_stop(&loop);
}

/* A guest can make its device post work again and again: descriptors (signals among them) get their turn all the same.
 */
static void work_that_posts_itself_starves_nobody(void **state)
{
	struct record r = { .loop = &loop };
	struct event_work greedy = { .run = on_greedy_work, .opaque = &r };
	struct event_fd other = { .ready = stop_on_ready };
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	other.fd = fds[0];
	event_loop_post(&loop, &greedy);
	assert_int_equal(event_loop_add(&loop, &other, EPOLLIN), 0);
	event_loop_run(&loop);
	assert_in_range(r.count, 0, 10);
	close(fds[0]), close(fds[1]);
}

struct pair {
	struct event_fd a, b;
	unsigned int calls;
};

/* Each handler takes the other one out: whoever comes first, the second must not be called any more. */
static void on_ready(struct event_fd *ev, uint32_t events)
{
	struct pair *pair = ev->opaque;

	(void)events;
	pair->calls++;
	event_loop_remove(&loop, ev == &pair->a ? &pair->b : &pair->a);
	event_loop_stop(&loop);
}

static void a_removed_descriptor_is_not_served(void **state)
{
	struct pair pair = { 0 };
	struct event_work nothing = { 0 };
	int one[2], two[2];

	(void)state, (void)nothing;
	assert_int_equal(pipe(one) | pipe(two), 0);
	assert_int_equal(write(one[1], "x", 1) + write(two[1], "x", 1), 2);
	pair.a = (struct event_fd){ .fd = one[0], .ready = on_ready, .opaque = &pair };
	pair.b = (struct event_fd){ .fd = two[0], .ready = on_ready, .opaque = &pair };
	assert_int_equal(event_loop_add(&loop, &pair.a, EPOLLIN), 0);
	assert_int_equal(event_loop_add(&loop, &pair.b, EPOLLIN), 0);
	event_loop_run(&loop);
	assert_int_equal(pair.calls, 1);
	close(one[0]), close(one[1]), close(two[0]), close(two[1]);
}

static struct event_work given[4];

/* The first takes the second back, which this turn would run next; the last ends it. */
static void on_given(struct event_work *work)
{
	struct record *r = work->opaque;

	r->order[r->count++] = (unsigned int)(work - given);
	if (work == &given[0])
		event_loop_cancel(r->loop, &given[1]);
	if (work == &given[3])
		event_loop_stop(r->loop);
}

static void cancelled_work_does_not_run(void **state)
{
	struct record r = { .loop = &loop };

	(void)state;
	for (unsigned int i = 0; i < 4; i++)
		given[i] = (struct event_work){ .run = on_given, .opaque = &r };
	for (unsigned int i = 0; i < 3; i++)
		event_loop_post(&loop, &given[i]);
	event_loop_cancel(&loop, &given[2]); /* the last one: what comes after it still does */
	event_loop_cancel(&loop, &given[2]);
	memset(&given[2], 0, sizeof(given[2]));
	event_loop_post(&loop, &given[3]);
	event_loop_run(&loop);
	assert_int_equal(r.count, 2);
	assert_int_equal(r.order[0], 0);
	assert_int_equal(r.order[1], 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(timers_expire_in_order_of_deadline, start, end),
		cmocka_unit_test_setup_teardown(work_of_another_thread_runs_here, start, end),
		cmocka_unit_test_setup_teardown(work_that_posts_itself_starves_nobody, start, end),
		cmocka_unit_test_setup_teardown(a_removed_descriptor_is_not_served, start, end),
		cmocka_unit_test_setup_teardown(cancelled_work_does_not_run, start, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
