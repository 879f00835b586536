/* test_containers_relay.c: whatever bytes a guest sends in place of frames, the tool ends the conversation and nothing
 * else. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "containers/relay.h"

#define ROUNDS 4000

struct fixture {
	struct relay relay;
	int guest, out[2];
};

static void open_all(struct fixture *f)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(pipe2(f->out, O_NONBLOCK), 0);
	f->guest = pair[1];
	f->relay = (struct relay){ .agent = agent_adopt(pair[0]), .in = -1, .out = f->out[1], .err = f->out[1] };
	assert_non_null(f->relay.agent);
}

static void close_all(struct fixture *f)
{
	agent_hang_up(f->relay.agent);
	close(f->guest);
	close(f->out[0]);
	close(f->out[1]);
}

static void say(struct fixture *f, enum frame_type type, const char *payload, size_t len)
{
	uint8_t header[FRAME_HEADER];

	frame_header(header, type, len);
	assert_int_equal(write(f->guest, header, sizeof(header)), sizeof(header));
	assert_int_equal(write(f->guest, payload, len), len);
}

/* What relay_step says as soon as it says anything; 0 when nothing more happens. */
static int run(struct fixture *f, struct error *err)
{
	struct pollfd fds[RELAY_FDS];
	char drain[65536];
	unsigned int nr;
	int ret = 0;

	do {
		nr = relay_watch(&f->relay, fds);
		if (poll(fds, nr, 0) <= 0)
			break;
		ret = relay_step(&f->relay, fds, nr, err);
		while (read(f->out[0], drain, sizeof(drain)) > 0)
			;
	} while (!ret);
	return ret;
}

static void a_command_and_its_end(void **state)
{
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	open_all(&f);
	say(&f, FRAME_REPLY, "ok=1\0pid=7", 11);
	assert_int_equal(run(&f, &err), 0);
	assert_true(f.relay.started);
	say(&f, FRAME_STDOUT, "words", 5);
	say(&f, FRAME_STDERR, "more", 4);
	say(&f, FRAME_STDOUT, "", 0);
	say(&f, FRAME_EXIT, "signal=9", 9);
	assert_int_equal(run(&f, &err), 1);
	assert_int_equal(f.relay.code, 137);
	close_all(&f);
}

static void one_frame(enum frame_type type, const char *payload, size_t len, bool started, int wanted, int code)
{
	struct error err = { 0 };
	struct fixture f;

	open_all(&f);
	f.relay.started = started;
	say(&f, type, payload, len);
	assert_int_equal(run(&f, &err), wanted);
	if (wanted == 1)
		assert_int_equal(f.relay.code, code);
	else
		assert_true(err.message[0]);
	close_all(&f);
}

static void frames(void **state)
{
	(void)state;
	one_frame(FRAME_EXIT, "code=0", 7, true, 1, 0);
	one_frame(FRAME_EXIT, "code=255", 9, true, 1, 255);
	one_frame(FRAME_EXIT, "code=256", 9, true, -EPROTO, 0);
	one_frame(FRAME_EXIT, "code=-1", 8, true, -EPROTO, 0);
	one_frame(FRAME_EXIT, "signal=65", 10, true, -EPROTO, 0);
	one_frame(FRAME_EXIT, "signal=0", 9, true, -EPROTO, 0);
	one_frame(FRAME_EXIT, "code=0", 6, true, -EPROTO, 0);
	one_frame(FRAME_EXIT, "", 0, true, -EPROTO, 0);
	one_frame(FRAME_EXIT, "code=0", 7, false, -EPROTO, 0);
	one_frame(FRAME_STDOUT, "x", 1, false, -EPROTO, 0);
	one_frame(FRAME_REPLY, "ok=1", 5, true, -EPROTO, 0);
	one_frame(FRAME_DATA, "x", 1, true, -EPROTO, 0);
	one_frame(FRAME_REPLY, "", 0, false, -EPROTO, 0);
	one_frame(FRAME_REPLY, "error=no", 9, false, -EREMOTEIO, 0);
}

static void the_exit_status_of_a_refusal(void **state)
{
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	open_all(&f);
	say(&f, FRAME_REPLY, "error=\x1b[2Jno\0code=127", 22);
	assert_int_equal(run(&f, &err), -EREMOTEIO);
	assert_true(f.relay.refused);
	assert_int_equal(f.relay.code, 127);
	assert_string_equal(err.message, "\\x1b[2Jno");
	close_all(&f);
}

/* A guest that never stops: there is an end to each step, and with it time for everything else. */
static void frames_without_end(void **state)
{
	uint8_t many[1000 * FRAME_HEADER];
	struct error err = { 0 };
	struct pollfd fds[RELAY_FDS];
	unsigned int i;
	struct fixture f;
	int left = 0;

	(void)state;
	open_all(&f);
	f.relay.started = true;
	for (i = 0; i < sizeof(many); i += FRAME_HEADER)
		frame_header(many + i, FRAME_STDOUT, 0);
	assert_int_equal(write(f.guest, many, sizeof(many)), sizeof(many));
	assert_int_equal(poll(fds, relay_watch(&f.relay, fds), 0), 1);
	assert_int_equal(relay_step(&f.relay, fds, 1, &err), 0);
	assert_int_equal(ioctl(f.relay.agent->fd, FIONREAD, &left), 0);
	assert_true(left > 0);
	assert_int_equal(run(&f, &err), 0);
	close_all(&f);
}

/* What it has said before waits for a slow reader, and nobody turns in a circle meanwhile. */
static void a_guest_that_is_gone(void **state)
{
	char bytes[4096] = { 0 };
	struct pollfd fds[RELAY_FDS];
	struct error err = { 0 };
	unsigned int i, nr;
	struct fixture f;

	(void)state;
	open_all(&f);
	f.relay.started = true;
	while (write(f.out[1], bytes, sizeof(bytes)) > 0)
		;
	say(&f, FRAME_STDOUT, "the last word", 13);
	assert_int_equal(poll(fds, relay_watch(&f.relay, fds), 0), 1);
	assert_int_equal(relay_step(&f.relay, fds, 1, &err), 0);
	assert_true(f.relay.pending);
	close(f.guest);
	f.guest = -1;
	relay_signal(&f.relay, 15);
	for (i = 0; i < 3; i++) {
		nr = relay_watch(&f.relay, fds);
		if (poll(fds, nr, 0) == 0)
			break;
		assert_int_equal(relay_step(&f.relay, fds, nr, &err), 0);
	}
	assert_true(i < 3);
	assert_int_equal(run(&f, &err), 0);
	while (read(f.out[0], bytes, sizeof(bytes)) > 0)
		;
	assert_int_equal(run(&f, &err), -EPIPE);
	close_all(&f);
}

/* A guest that waits for its last words to be taken hears now and then that somebody is there. */
static void a_slow_reader(void **state)
{
	char bytes[4096] = { 0 };
	struct pollfd fds[RELAY_FDS];
	struct error err = { 0 };
	struct fixture f;
	unsigned int nr;
	int i;

	(void)state;
	open_all(&f);
	f.relay.started = true;
	assert_int_equal(relay_timeout(&f.relay), -1);
	while (write(f.out[1], bytes, sizeof(bytes)) > 0)
		;
	say(&f, FRAME_STDOUT, "the last word", 13);
	for (i = 0; i < 3; i++) {
		nr = relay_watch(&f.relay, fds);
		assert_true(poll(fds, nr, 0) >= 0);
		assert_int_equal(relay_step(&f.relay, fds, nr, &err), 0);
	}
	assert_true(f.relay.pending && relay_timeout(&f.relay) > 0 && relay_timeout(&f.relay) < 5000);
	assert_int_equal(recv(f.guest, bytes, sizeof(bytes), MSG_DONTWAIT), -1);
	f.relay.said_at -= relay_timeout(&f.relay);
	fds[0].revents = fds[1].revents = 0;
	assert_int_equal(relay_step(&f.relay, fds, 2, &err), 0);
	assert_int_equal(recv(f.guest, bytes, sizeof(bytes), MSG_DONTWAIT), FRAME_HEADER + 14);
	assert_memory_equal(bytes + FRAME_HEADER, "rows=0\0cols=0", 14);
	close_all(&f);
}

/* Good frames with bytes exchanged, in pieces. The same every time. */
static void mutations(void **state)
{
	static const char good[] =
		"\x0b\0\0\0\x02\0\0\0ok=1\0pid=77\0\x05\0\0\0\x04\0\0\0words\0\0\0\0\x04\0\0\0\x04\0\0\0\x05\0\0\0more"
		"\x07\0\0\0\x08\0\0\0code=3\0";
	char bytes[sizeof(good)];
	unsigned int round, n, seed = 1;
	int ret;

	(void)state;
	for (round = 0; round < ROUNDS; round++) {
		struct error err = { 0 };
		struct fixture f;
		size_t at, part;

		open_all(&f);
		f.relay.started = round & 1;
		memcpy(bytes, good, sizeof(good));
		for (n = (unsigned int)rand_r(&seed) % 5; n > 0; n--)
			bytes[(size_t)rand_r(&seed) % sizeof(good)] = (char)rand_r(&seed);
		ret = 0;
		for (at = 0; at < sizeof(good) && !ret; at += part) {
			part = 1 + (size_t)rand_r(&seed) % 30;
			part = part < sizeof(good) - at ? part : sizeof(good) - at;
			assert_int_equal(write(f.guest, bytes + at, part), part);
			ret = run(&f, &err);
		}
		assert_true(ret >= 0 || err.message[0]);
		close_all(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_command_and_its_end),
		cmocka_unit_test(frames),
		cmocka_unit_test(the_exit_status_of_a_refusal),
		cmocka_unit_test(frames_without_end),
		cmocka_unit_test(a_guest_that_is_gone),
		cmocka_unit_test(a_slow_reader),
		cmocka_unit_test(mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
