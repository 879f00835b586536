/* test_fork_server.c: the process that makes copies, asked for what Mayfly itself never asks. */
#include "unit.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fork_server.h"

#define PATIENCE_MS 20000

static int confine_nothing(void *opaque, int fd, struct error *err)
{
	(void)opaque;
	(void)fd;
	(void)err;
	return 0;
}

/* It says that it runs, and ends. */
static int copy_nothing(void *opaque, json_t *wanted, int state_fd, int memory_fd, int report_fd)
{
	(void)opaque;
	(void)wanted;
	(void)state_fd;
	(void)memory_fd;
	return write(report_fd, "\n", 1) != 1;
}

static int start(void **state)
{
	static int fd;
	struct error err = { 0 };

	*state = &fd;
	return fork_server_start(&fd, confine_nothing, copy_nothing, NULL, &err);
}

static int stop(void **state)
{
	close(*(int *)*state);
	return wait(NULL) < 0;
}

/* A request with nr descriptors, all of them `fd`. */
static void ask(int server, const char *text, size_t len, int fd, unsigned int nr)
{
	union {
		char bytes[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (char *)(uintptr_t)text, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	unsigned int i;

	assert_in_range(nr, 0, 8);
	if (nr) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(nr * sizeof(int));
		for (i = 0; i < nr; i++)
			memcpy(CMSG_DATA(&control.align) + i * sizeof(int), &fd, sizeof(int));
	}
	assert_int_equal(sendmsg(server, &msg, MSG_NOSIGNAL), len);
}

static json_t *answer(int server, struct error *err)
{
	struct pollfd ready = { .fd = server, .events = POLLIN };

	assert_int_equal(poll(&ready, 1, PATIENCE_MS), 1);
	return fork_server_answer(server, err);
}

/* Whoever reads a pipe is told of its end when nobody has the other side any more. */
static void is_refused_and_forgotten(int server, const char *text, size_t len, unsigned int nr)
{
	struct error err = { 0 };
	struct pollfd end;
	int pipe_fd[2];

	assert_int_equal(pipe(pipe_fd), 0);
	ask(server, text, len, pipe_fd[1], nr);
	close(pipe_fd[1]);
	assert_null(answer(server, &err));
	assert_int_not_equal(strlen(err.message), 0);
	end = (struct pollfd){ .fd = pipe_fd[0], .events = POLLIN };
	assert_int_equal(poll(&end, 1, PATIENCE_MS), 1);
	assert_true(end.revents & POLLHUP);
	close(pipe_fd[0]);
}

static void malformed_requests_leave_no_descriptors(void **state)
{
	static char too_long[FORK_PACKET_SIZE + 1];
	const int server = *(int *)*state;
	static const char good[] = "[{\"id\":\"a\"}]", *const bad[] = { "{}", "[]", "nonsense", "[" };
	struct error err = { 0 };
	unsigned int i;
	json_t *pids;

	/* So that it takes so much. */
	assert_int_equal(setsockopt(server, SOL_SOCKET, SO_SNDBUF, &(int){ 1 << 20 }, sizeof(int)), 0);
	memset(too_long, '[', sizeof(too_long));
	for (i = 0; i <= 8; i++) {
		if (i != 2)
			is_refused_and_forgotten(server, good, strlen(good), i);
		is_refused_and_forgotten(server, too_long, sizeof(too_long), i);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		is_refused_and_forgotten(server, bad[i], strlen(bad[i]), 2);
	/* And it serves. */
	ask(server, good, strlen(good), server, 2);
	pids = answer(server, &err);
	assert_int_equal(json_array_size(pids), 1);
	json_decref(pids);
}

static void as_many_as_are_wanted(void **state)
{
	const int server = *(int *)*state;
	json_t *wanted = json_array(), *pids;
	struct error err = { 0 };
	size_t i;

	for (i = 0; i < 100; i++)
		json_array_append_new(wanted, json_pack("{s:s}", "id", "x"));
	assert_int_equal(fork_server_ask(server, wanted, server, server, &err), 0);
	pids = answer(server, &err);
	assert_int_equal(json_array_size(pids), 100);
	json_decref(pids);
	json_decref(wanted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(malformed_requests_leave_no_descriptors, start, stop),
		cmocka_unit_test_setup_teardown(as_many_as_are_wanted, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
