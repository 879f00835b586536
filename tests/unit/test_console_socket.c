/* test_console_socket.c: the ring of the console's socket, and terminals that read it fast, late, slowly or never. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "console_socket.h"

static struct event_loop loop;
static struct console_socket *cs;
static char dir[] = "/tmp/mayfly-console-XXXXXX", path[64];
static uint8_t typed[64];
static size_t nr_typed, room;

static size_t input(void *opaque, const uint8_t *data, size_t n)
{
	assert_ptr_equal(opaque, &loop);
	n = n < room ? n : room;
	memcpy(typed + nr_typed, data, n);
	nr_typed += n;
	room -= n;
	return n;
}

static void stop(struct event_timer *timer)
{
	(void)timer;
	event_loop_stop(&loop);
}

/* Whatever is ready now is served; timers come after it. */
static void serve(void)
{
	struct event_timer timer = { .expired = stop };
	unsigned int i;

	for (i = 0; i < 4; i++) {
		loop.stop = false;
		event_loop_arm(&loop, &timer, 1);
		event_loop_run(&loop);
	}
}

static int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, path, strlen(path) + 1);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	serve();
	return fd;
}

static int setup(void **state)
{
	struct error err = { 0 };

	(void)state;
	strcpy(dir, "/tmp/mayfly-console-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(event_loop_init(&loop, &err), 0);
	assert_int_equal(console_socket_create(&cs, path, &loop, input, &loop, &err), 0);
	nr_typed = 0;
	room = sizeof(typed);
	return 0;
}

static int teardown(void **state)
{
	struct stat st;

	(void)state;
	console_socket_destroy(cs);
	assert_int_equal(lstat(path, &st), -1);
	event_loop_destroy(&loop);
	return rmdir(dir);
}

/* Bytes first, first + 1, … of a stream that counts modulo 251, so that every piece shows where it is from. */
static void print(uint64_t first, size_t n)
{
	uint8_t *data = malloc(n);
	size_t i;

	for (i = 0; i < n; i++)
		data[i] = (uint8_t)((first + i) % 251);
	console_socket_output(cs, data, n);
	free(data);
}

/* Reads what there is; it must be the stream from byte `from` on. Returns how much it was. */
static size_t expect_from(int fd, uint64_t from)
{
	static uint8_t data[4 * CONSOLE_SOCKET_RING];
	size_t len = 0, i;
	ssize_t n;

	do {
		serve();
		n = recv(fd, data + len, sizeof(data) - len, MSG_DONTWAIT);
		len += n > 0 ? (size_t)n : 0;
	} while (n > 0);
	for (i = 0; i < len; i++) {
		if (data[i] != (from + i) % 251)
			fail_msg("byte %zu is %u", i, data[i]);
	}
	return len;
}

static void early_and_late(void **state)
{
	int early = dial(), late;

	(void)state;
	print(0, 1000);
	assert_int_equal(expect_from(early, 0), 1000);
	late = dial();
	assert_int_equal(expect_from(late, 0), 1000);
	print(1000, 10);
	assert_int_equal(expect_from(early, 1000), 10);
	assert_int_equal(expect_from(late, 1000), 10);
	close(early);
	print(1010, 10);
	assert_int_equal(expect_from(late, 1010), 10);
	close(late);
}

/* Only the last of it is kept, wherever the ring's end falls. */
static void only_the_last(void **state)
{
	uint64_t at = 0;
	unsigned int i;
	int fd;

	(void)state;
	for (i = 0; i < 7; i++) {
		print(at, CONSOLE_SOCKET_RING / 2 + 777 * i);
		at += CONSOLE_SOCKET_RING / 2 + 777 * i;
	}
	fd = dial();
	assert_int_equal(expect_from(fd, at - CONSOLE_SOCKET_RING), CONSOLE_SOCKET_RING);
	print(at, 3 * CONSOLE_SOCKET_RING);
	at += 3ull * CONSOLE_SOCKET_RING;
	close(fd);
	fd = dial();
	assert_int_equal(expect_from(fd, at - CONSOLE_SOCKET_RING), CONSOLE_SOCKET_RING);
	close(fd);
}

/* It misses the middle: first what its socket took, then, after a gap, the last ring of it. */
static void who_does_not_read(void **state)
{
	const uint64_t total = 32ull * CONSOLE_SOCKET_RING;
	static uint8_t data[4096];
	uint64_t at, got = 0;
	int fd = dial();
	ssize_t n;

	(void)state;
	for (at = 0; at < total; at += 1024)
		print(at, 1024);
	do {
		serve();
		n = recv(fd, data, sizeof(data), MSG_DONTWAIT);
		got += n > 0 ? (uint64_t)n : 0;
		if (n > 0 && got <= CONSOLE_SOCKET_RING)
			assert_int_equal(data[n - 1], (got - 1) % 251);
	} while (n > 0);
	assert_true(got >= 2 * CONSOLE_SOCKET_RING && got < total);
	print(total, 5);
	serve();
	assert_int_equal(recv(fd, data, sizeof(data), 0), 5);
	assert_int_equal(data[4], (total + 4) % 251);
	close(fd);
}

/* What the guest has no room for stays with the sender; nothing is lost or turned round. */
static void input_waits_for_room(void **state)
{
	int fd = dial();

	(void)state;
	room = 3;
	assert_int_equal(write(fd, "abcdefgh", 8), 8);
	serve();
	assert_int_equal(nr_typed, 3);
	serve();
	assert_int_equal(nr_typed, 3);
	room = 2;
	console_socket_wants_input(cs);
	serve();
	assert_int_equal(nr_typed, 5);
	/* One that leaves takes along what it typed last. */
	room = 10;
	console_socket_wants_input(cs);
	serve();
	assert_memory_equal(typed, "abcdefgh", 8);
	close(fd);
	serve();
}

/* A client that leaves while it may not type is noticed, and its place is free again. */
static void places(void **state)
{
	int fd[CONSOLE_SOCKET_CLIENTS], extra, i;
	char byte;

	(void)state;
	for (i = 0; i < CONSOLE_SOCKET_CLIENTS; i++)
		fd[i] = dial();
	extra = dial();
	assert_int_equal(recv(extra, &byte, 1, 0), 0);
	close(extra);
	room = 0;
	assert_int_equal(write(fd[1], "x", 1), 1);
	serve();
	close(fd[1]);
	serve();
	fd[1] = dial();
	print(0, 3);
	assert_int_equal(expect_from(fd[1], 0), 3);
	for (i = 0; i < CONSOLE_SOCKET_CLIENTS; i++)
		close(fd[i]);
	serve();
}

static void path_is_taken(void **state)
{
	struct console_socket *other = NULL;
	struct error err = { 0 };

	(void)state;
	assert_true(console_socket_create(&other, path, &loop, input, &loop, &err) < 0);
	assert_non_null(strstr(err.message, "serial.serial_socket_path: "));
	assert_null(other);
	close(dial());
	serve();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(early_and_late),       TEST(only_the_last), TEST(who_does_not_read),
		TEST(input_waits_for_room), TEST(places),        TEST(path_is_taken),
	};

	return cmocka_run_group_tests_name("console_socket", tests, NULL, NULL);
}
