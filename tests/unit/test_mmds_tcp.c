/* test_mmds_tcp.c: connections of the metadata service: in order, and with everything that can go wrong on the way. */
#include "mmds_fixture.h"

/* A response of about size bytes at /large. */
static void put_large(size_t size)
{
	char *text = malloc(size + 32);
	size_t at = (size_t)sprintf(text, "{\"key\":\"value\",\"large\":\"");

	for (size_t i = 0; i < size; i++)
		text[at + i] = (char)('a' + i * i % 26);
	strcpy(text + at + size, "\"}");
	put_data(text);
	free(text);
}

#define GET_LARGE "GET /large HTTP/1.1\r\n\r\n"

static void request_is_answered_and_connection_ends(void **state)
{
	struct client c = open_client(1234, 65535);
	char text[1024];

	(void)state;
	assert_true(told > 0);
	send_data(&c, GET_KEY);
	receive(&c, text, sizeof(text));
	assert_string_equal(
		text, "HTTP/1.1 200 OK\r\nServer: Mayfly\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\n"
		      "Content-Length: 5\r\n\r\nvalue");
	send_raw(&c, FIN | ACK, NULL, 0);
	c.seq++;
	assert_int_equal(expect(FIN | ACK).ack, c.seq);
	c.ack++;
	send_raw(&c, ACK, NULL, 0);
	expect_nothing();
	/* Gone: whoever still sends is told. */
	send_raw(&c, ACK, "x", 1);
	assert_int_equal(expect(RST).seq, c.ack);
	pass_ms(600000);
	expect_nothing();
}

static void service_closes_first_when_asked(void **state)
{
	struct client c = open_client(1234, 65535), ahead;
	char text[1024];

	(void)state;
	send_data(&c, "GET /key HTTP/1.0\r\n\r\nGET /key HTTP/1.0\r\n\r\n");
	receive(&c, text, sizeof(text));
	assert_non_null(strstr(text, "HTTP/1.0 200 OK\r\n"));
	assert_null(strstr(text + 5, "HTTP/1.0 "));
	/* What comes after the end is acknowledged and not read. */
	send_data(&c, "more");
	assert_int_equal(expect(ACK).ack, c.seq);
	ahead = c;
	ahead.seq += 10;
	send_raw(&ahead, ACK, "later", 5);
	assert_int_equal(expect(ACK).ack, c.seq);
	send_raw(&c, FIN | ACK, NULL, 0);
	assert_int_equal(expect(ACK).ack, c.seq + 1);
	send_raw(&c, FIN | ACK, NULL, 0); /* our last ACK was lost */
	expect(RST);
}

static void lost_syn_ack_is_repeated_then_given_up(void **state)
{
	struct client c = { .port = 99, .seq = 0xffffffff, .window = 1000 };
	const uint64_t created = metrics.mmds_connections_created, destroyed = metrics.mmds_connections_destroyed;
	uint64_t wait = 250, total = 0;
	struct segment first;

	(void)state;
	send_raw(&c, SYN, NULL, 0);
	first = expect(SYN | ACK);
	assert_int_equal(first.mss, 1460);
	assert_int_equal(first.ack, 0); /* the sequence wrapped */
	for (int i = 0; i < 5; i++, wait *= 2) {
		pass_ms(wait - 1);
		expect_nothing();
		pass_ms(1);
		assert_int_equal(expect(SYN | ACK).seq, first.seq);
		expect_nothing();
		total += wait;
	}
	assert_in_range(total, 5000, 10000);
	pass_ms(10000);
	expect(RST | ACK);
	expect_nothing();
	assert_int_equal(metrics.mmds_connections_created, created + 1);
	assert_int_equal(metrics.mmds_connections_destroyed, destroyed + 1);
}

static void repeated_syn_gets_the_same_answer(void **state)
{
	struct client c = { .port = 99, .seq = 7, .window = 1000 };
	struct segment s;

	(void)state;
	send_raw(&c, SYN, NULL, 0);
	s = expect(SYN | ACK);
	send_raw(&c, SYN, NULL, 0);
	assert_int_equal(expect(SYN | ACK).seq, s.seq);
	expect_nothing();
	/* Not what we said: no connection. */
	c.seq = 8;
	c.ack = s.seq + 2;
	send_raw(&c, ACK, NULL, 0);
	assert_int_equal(expect(RST).seq, c.ack);
	c.ack = s.seq + 1;
	send_raw(&c, ACK, NULL, 0);
	/* Established; a SYN now is a challenge, and only its sender's RST ends the connection. */
	c.seq = 12345;
	send_raw(&c, SYN, NULL, 0);
	s = expect(ACK);
	assert_int_equal(s.ack, 8);
	c.seq = s.ack;
	send_raw(&c, RST, NULL, 0);
	expect_nothing();
	expect_service(99);
}

/* Half of them unacknowledged for ever, and a table that is never larger than it may be. */
static void full_table_makes_room_for_new_clients(void **state)
{
	struct client c = { .seq = 1000, .window = 65535 };

	(void)state;
	for (uint16_t i = 0; i < 48; i++) {
		if (i % 2) {
			open_client((uint16_t)(2000 + i), 65535);
		} else {
			c.port = (uint16_t)(2000 + i);
			send_raw(&c, SYN, NULL, 0);
			expect(SYN | ACK);
		}
	}
	c.port = 3000;
	send_raw(&c, SYN, NULL, 0);
	expect_nothing();
	pass_ms(2000);
	for (struct segment s; next_segment(&s, NULL);)
		;
	send_raw(&c, SYN, NULL, 0);
	assert_int_equal(expect(RST | ACK).port, 2000); /* the oldest */
	assert_int_equal(expect(SYN | ACK).port, 3000);
}

static void window_is_never_exceeded(void **state)
{
	struct client c = open_client(1234, 5000);
	const uint32_t start_seq = c.ack;
	struct segment s;
	uint32_t sent = 0;

	(void)state;
	put_large(20000);
	send_data(&c, GET_LARGE);
	while (next_segment(&s, NULL)) {
		assert_int_equal(s.seq, start_seq + sent);
		sent += (uint32_t)s.len;
		assert_true(sent <= 5000);
	}
	assert_in_range(sent, 5000 - 1459, 5000);
	/* A part is acknowledged, the window ends where it ended: not a byte more. */
	c.ack += 1460;
	c.window = 5000 - 1460;
	send_raw(&c, ACK, NULL, 0);
	for (; next_segment(&s, NULL); sent += (uint32_t)s.len)
		assert_true(s.seq + s.len <= start_seq + 5000);
	/* The window does not shrink below what is on its way; an old segment does not bring the old window back. */
	c.ack += sent - 1460;
	c.window = 65535;
	send_raw(&c, ACK, NULL, 0);
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.seq, start_seq + sent);
}

static void closed_window_is_probed(void **state)
{
	struct client c = open_client(1234, 0);
	char *text = malloc(70000);
	uint64_t wait = 250;
	struct segment s;

	(void)state;
	put_large(60000);
	send_data(&c, GET_LARGE);
	assert_int_equal(expect(ACK).seq, c.ack);
	for (int i = 0; i < 4; i++, wait *= 2) {
		pass_ms(wait);
		assert_true(next_segment(&s, NULL));
		assert_int_equal(s.len, 1);
		assert_int_equal(s.seq, c.ack);
		expect_nothing();
		send_raw(&c, ACK, NULL, 0); /* not taken, still closed */
		expect_nothing();
	}
	/* It opens: all of it comes, from the first byte, without another timer. */
	c.window = 65535;
	send_raw(&c, ACK, NULL, 0);
	receive(&c, text, 70000);
	assert_non_null(strstr(text, "Content-Length: 60000\r\n"));
	assert_int_equal(strlen(strstr(text, "\r\n\r\n") + 4), 60000);
	free(text);
}

static void window_closed_for_ever_ends_the_connection(void **state)
{
	struct client c = open_client(1234, 0);
	struct segment s = { 0 };
	unsigned int probes = 0;

	(void)state;
	put_large(60000);
	send_data(&c, GET_LARGE);
	expect(ACK);
	for (unsigned int second = 0; second < 120 && !(s.flags & RST); second++) {
		pass_ms(1000);
		while (next_segment(&s, NULL) && !(s.flags & RST)) {
			probes++;
			send_raw(&c, ACK, NULL, 0);
		}
	}
	assert_true(s.flags & RST);
	assert_in_range(probes, 5, 20);
	expect_service(1235);
}

static void lost_segments_are_repeated(void **state)
{
	struct client c = open_client(1234, 65535);
	struct segment s;
	uint32_t first;

	(void)state;
	put_large(10000);
	send_data(&c, GET_LARGE);
	assert_true(next_segment(&s, NULL)); /* lost */
	first = s.seq;
	while (next_segment(&s, NULL))
		;
	/* Two duplicates mean nothing yet, the third one does. */
	send_raw(&c, ACK, NULL, 0);
	send_raw(&c, ACK, NULL, 0);
	expect_nothing();
	send_raw(&c, ACK, NULL, 0);
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.seq, first);
	assert_int_equal(s.len, 1460);
	expect_nothing(); /* one at a time after a loss */
	/* It is lost, too: the timer sends it again, twice as late each time. */
	for (uint64_t wait = 250; wait <= 2000; wait *= 2) {
		pass_ms(wait);
		assert_true(next_segment(&s, NULL));
		assert_int_equal(s.seq, first);
		expect_nothing();
	}
	/* The hole is filled, the rest had arrived. */
	c.ack = first + 10000;
	send_raw(&c, ACK, NULL, 0);
	while (next_segment(&s, NULL))
		assert_int_equal(s.seq, c.ack);
	pass_ms(200);
	expect_nothing();
}

/* As after a pause of the guest: all of it was lost, and it is not all sent at once again. */
static void timer_repeats_one_segment_first(void **state)
{
	struct client c = open_client(1234, 65535);
	struct segment s;
	uint32_t first;

	(void)state;
	put_large(10000);
	send_data(&c, GET_LARGE);
	assert_true(next_segment(&s, NULL));
	first = s.seq;
	while (next_segment(&s, NULL))
		;
	pass_ms(250);
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.seq, first);
	expect_nothing();
	/* It arrives: now two. */
	c.ack = s.seq + (uint32_t)s.len;
	send_raw(&c, ACK, NULL, 0);
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.seq, c.ack);
	assert_true(next_segment(&s, NULL));
	expect_nothing();
}

/* What was not sent cannot have arrived. */
static void acknowledgement_of_the_future_is_not_believed(void **state)
{
	struct client c = open_client(1234, 65535), liar;
	struct segment s;

	(void)state;
	put_large(10000);
	send_data(&c, GET_LARGE);
	assert_true(next_segment(&s, NULL));
	liar = c;
	liar.ack += 9000;
	send_raw(&liar, ACK, NULL, 0);
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.seq, c.ack + 1460);
	liar.ack = c.ack + 100000;
	send_raw(&liar, ACK, NULL, 0);
	while (next_segment(&s, NULL))
		;
	pass_ms(250);
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.seq, c.ack);
}

/* The window that counts is that of the newest segment, in whatever order they come. */
static void late_segment_does_not_bring_its_window_back(void **state)
{
	struct client c = open_client(1234, 65535), newer;
	struct segment s;

	(void)state;
	put_large(10000);
	newer = c;
	newer.seq += (uint32_t)strlen(GET_LARGE);
	newer.window = 1;
	send_raw(&newer, ACK, NULL, 0);
	expect_nothing();
	send_data(&c, GET_LARGE); /* was sent before, with a window of 65535 */
	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.len, 1);
	expect_nothing();
}

static void replies_to_nobody_are_bounded(void **state)
{
	struct client c = { .port = 1, .ack = 77 };
	struct segment s;
	unsigned int replies = 0;

	(void)state;
	for (int i = 0; i < 1000; i++, c.port++)
		send_raw(&c, ACK, NULL, 0);
	for (; next_segment(&s, NULL); replies++) {
		assert_int_equal(s.flags, RST);
		assert_int_equal(s.seq, 77);
		assert_int_equal(s.port, replies + 1);
	}
	assert_int_equal(replies, 32);
	expect_service(5);
}

static void silent_guest_is_given_up(void **state)
{
	struct client c = open_client(1234, 65535);
	struct segment s = { 0 };
	unsigned int frames = 0;

	(void)state;
	send_data(&c, GET_KEY);
	for (unsigned int second = 0; second < 120 && !(s.flags & RST); second++) {
		pass_ms(1000);
		while (next_segment(&s, NULL) && !(s.flags & RST))
			frames++;
	}
	assert_true(s.flags & RST);
	assert_in_range(frames, 5, 15);
	assert_null(timers.timers); /* nothing left to wait for */
}

static void guest_that_takes_no_frames_is_given_up(void **state)
{
	const uint64_t destroyed = metrics.mmds_connections_destroyed;
	struct client c = open_client(1234, 65535);

	(void)state;
	send_data(&c, GET_KEY);
	pass_ms(120000);
	assert_int_equal(metrics.mmds_connections_destroyed, destroyed + 1);
	expect(RST | ACK);
}

static void idle_connection_is_closed(void **state)
{
	struct client c = open_client(1234, 65535);
	char text[1024];

	(void)state;
	pass_ms(59000);
	expect_nothing();
	send_data(&c, GET_KEY);
	receive(&c, text, sizeof(text));
	pass_ms(59000);
	expect_nothing();
	pass_ms(1000);
	assert_int_equal(expect(FIN | ACK).seq, c.ack);
	c.ack++;
	send_raw(&c, ACK, NULL, 0);
	/* The guest never closes its side. */
	pass_ms(5000);
	expect_nothing();
	assert_null(timers.timers);
	send_raw(&c, ACK, "x", 1);
	expect(RST);
}

static void segments_out_of_order_and_overlapping(void **state)
{
	static const char request[] = "GET /key HTTP/1.1\r\nX: y\r\n\r\n";
	const size_t len = sizeof(request) - 1;
	struct client c = open_client(1234, 65535), at = c;
	char text[1024];

	(void)state;
	/* The end first: not kept, and we say what we miss. */
	at.seq = c.seq + 10;
	send_raw(&at, ACK, request + 10, len - 10);
	assert_int_equal(expect(ACK).ack, c.seq);
	send_raw(&c, ACK, request, 10);
	assert_int_equal(expect(ACK).ack, c.seq + 10);
	send_raw(&c, ACK, request, 10); /* twice */
	assert_int_equal(expect(ACK).ack, c.seq + 10);
	/* All of it: the new part is taken from the middle. */
	send_raw(&c, ACK, request, len - 1);
	assert_int_equal(expect(ACK).ack, c.seq + len - 1);
	/* Far outside of the window. */
	at.seq = c.seq + 100000;
	send_raw(&at, ACK, request, 5);
	assert_int_equal(expect(ACK).ack, c.seq + len - 1);
	at.seq = c.seq - 100000;
	send_raw(&at, ACK, request, 5);
	assert_int_equal(expect(ACK).ack, c.seq + len - 1);
	at.seq = c.seq + (uint32_t)len - 1;
	send_raw(&at, ACK, "\n", 1);
	c.seq += (uint32_t)len;
	receive(&c, text, sizeof(text));
	assert_non_null(strstr(text, "\r\n\r\nvalue"));
}

static void more_than_the_offered_window_is_cut(void **state)
{
	struct client c = open_client(1234, 65535);
	char flood[6000], text[1024];
	struct segment s;

	(void)state;
	memset(flood, 'x', sizeof(flood));
	memcpy(flood, "GET /", 5);
	send_raw(&c, ACK, flood, sizeof(flood));
	assert_true(next_segment(&s, (uint8_t *)text));
	assert_int_equal(s.ack, c.seq + 3840); /* MMDS_REQUEST_MAX */
	assert_memory_equal(text, "HTTP/1.1 431 ", 13);
}

static void reset_in_every_state(void **state)
{
	static const char *const names[] = { "SYN received", "established", "answering", "we closed", "guest closed" };
	char text[1024];

	(void)state;
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const uint64_t destroyed = metrics.mmds_connections_destroyed;
		struct client c = { .port = (uint16_t)(500 + i), .seq = 1000, .window = 65535 };
		struct client off;

		if (i == 0) {
			send_raw(&c, SYN, NULL, 0);
			c.ack = expect(SYN | ACK).seq + 1;
			c.seq++;
		} else {
			c = open_client(c.port, 65535);
		}
		if (i == 2 || i == 3)
			send_data(&c, i == 2 ? GET_KEY : "GET /key HTTP/1.0\r\n\r\n");
		if (i == 3)
			receive(&c, text, sizeof(text));
		if (i == 4) {
			send_raw(&c, FIN | ACK, NULL, 0);
			c.seq++;
			expect(FIN | ACK);
		}
		/* Somebody's guess: outside of the window it is nothing, inside it is asked about. */
		off = c;
		off.seq = c.seq - 1;
		send_raw(&off, RST, NULL, 0);
		off.seq = c.seq + 60000;
		send_raw(&off, RST, NULL, 0);
		assert_int_equal(metrics.mmds_connections_destroyed, destroyed);
		off.seq = c.seq + 1;
		send_raw(&off, RST, NULL, 0);
		assert_int_equal(metrics.mmds_connections_destroyed, destroyed);
		for (struct segment s; next_segment(&s, NULL);)
			;
		send_raw(&c, RST, NULL, 0);
		if (metrics.mmds_connections_destroyed != destroyed + 1)
			fail_msg("RST did not end the connection in state \"%s\"", names[i]);
		expect_nothing();
	}
	assert_true(stack != NULL);
	pass_ms(600000);
	expect_nothing();
}

/* 64 KiB of answers nobody takes, then the others wait, then they are served. */
static void answers_in_memory_are_bounded(void **state)
{
	struct client c[8];
	unsigned int served = 0;
	struct segment s;
	char *text = malloc(70000);

	(void)state;
	put_large(60000);
	for (uint16_t i = 0; i < 8; i++) {
		c[i] = open_client((uint16_t)(700 + i), 1);
		send_data(&c[i], GET_LARGE);
		while (next_segment(&s, NULL))
			served += s.len == 1;
	}
	assert_int_equal(served, 2);
	for (uint16_t i = 0; i < 2; i++)
		send_raw(&c[i], RST, NULL, 0);
	while (next_segment(&s, NULL))
		served += s.len == 1;
	assert_int_equal(served, 4);
	for (uint16_t i = 2; i < 8; i++) {
		c[i].ack += 1;
		c[i].window = 65535;
		send_raw(&c[i], ACK, NULL, 0);
		while (next_segment(&s, (uint8_t *)text)) {
			struct client *of = &c[s.port - 700];

			of->ack = s.seq + (uint32_t)s.len;
			of->window = 65535;
			send_raw(of, ACK, NULL, 0);
		}
	}
	for (uint16_t i = 2; i < 8; i++) {
		send_data(&c[i], GET_KEY);
		receive(&c[i], text, 70000);
		assert_non_null(strstr(text, "\r\n\r\nvalue"));
	}
	free(text);
}

static void small_frames_and_small_segments(void **state)
{
	struct client c = open_client(1234, 65535);
	uint8_t frame[1514];
	size_t len, total = 0;

	(void)state;
	send_data(&c, GET_KEY);
	assert_int_equal(mmds_stack_to_guest(stack, frame, 53), 0);
	while ((len = mmds_stack_to_guest(stack, frame, 60)) > 0) {
		check_frame(frame, len);
		assert_in_range(len, 54, 60);
		total += len - 54;
	}
	assert_int_equal(total, strlen("HTTP/1.1 200 OK\r\nServer: Mayfly\r\nConnection: keep-alive\r\n"
				       "Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nvalue"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(request_is_answered_and_connection_ends, start, end),
		cmocka_unit_test_setup_teardown(service_closes_first_when_asked, start, end),
		cmocka_unit_test_setup_teardown(lost_syn_ack_is_repeated_then_given_up, start, end),
		cmocka_unit_test_setup_teardown(repeated_syn_gets_the_same_answer, start, end),
		cmocka_unit_test_setup_teardown(full_table_makes_room_for_new_clients, start, end),
		cmocka_unit_test_setup_teardown(window_is_never_exceeded, start, end),
		cmocka_unit_test_setup_teardown(closed_window_is_probed, start, end),
		cmocka_unit_test_setup_teardown(window_closed_for_ever_ends_the_connection, start, end),
		cmocka_unit_test_setup_teardown(lost_segments_are_repeated, start, end),
		cmocka_unit_test_setup_teardown(timer_repeats_one_segment_first, start, end),
		cmocka_unit_test_setup_teardown(acknowledgement_of_the_future_is_not_believed, start, end),
		cmocka_unit_test_setup_teardown(late_segment_does_not_bring_its_window_back, start, end),
		cmocka_unit_test_setup_teardown(replies_to_nobody_are_bounded, start, end),
		cmocka_unit_test_setup_teardown(silent_guest_is_given_up, start, end),
		cmocka_unit_test_setup_teardown(guest_that_takes_no_frames_is_given_up, start, end),
		cmocka_unit_test_setup_teardown(idle_connection_is_closed, start, end),
		cmocka_unit_test_setup_teardown(segments_out_of_order_and_overlapping, start, end),
		cmocka_unit_test_setup_teardown(more_than_the_offered_window_is_cut, start, end),
		cmocka_unit_test_setup_teardown(reset_in_every_state, start, end),
		cmocka_unit_test_setup_teardown(answers_in_memory_are_bounded, start, end),
		cmocka_unit_test_setup_teardown(small_frames_and_small_segments, start, end),
	};

	return cmocka_run_group_tests_name("mmds_tcp", tests, NULL, NULL);
}
