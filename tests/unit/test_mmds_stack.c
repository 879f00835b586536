/* test_mmds_stack.c: which frames the metadata service takes, and frames made to break it. */
#include "mmds_fixture.h"

struct arp_frame {
	struct ethhdr eth;
	uint16_t hardware, protocol;
	uint8_t hardware_len, protocol_len;
	uint16_t operation;
	uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
} __attribute__((packed));

static struct arp_frame arp_request(void)
{
	return (struct arp_frame){
		.eth = { .h_dest = { 255, 255, 255, 255, 255, 255 },
			 .h_source = { 0xaa, 0xfc, 0, 0, 0, 1 },
			 .h_proto = htons(ETH_P_ARP) },
		.hardware = htons(1),
		.protocol = htons(ETH_P_IP),
		.hardware_len = 6,
		.protocol_len = 4,
		.operation = htons(1),
		.sender_mac = { 0xaa, 0xfc, 0, 0, 0, 1 },
		.sender_ip = { 169, 254, 1, 2 },
		.target_ip = { 169, 254, 169, 254 },
	};
}

static void arp_requests_are_answered(void **state)
{
	struct arp_frame request = arp_request(), reply;
	uint8_t frame[1514], padded[60] = { 0 };

	(void)state;
	/* Padded to the smallest Ethernet frame, as real ones are. */
	memcpy(padded, &request, sizeof(request));
	assert_true(send_frame(padded, sizeof(padded)));
	assert_int_equal(told, 1);
	assert_int_equal(mmds_stack_to_guest(stack, frame, sizeof(frame)), sizeof(reply));
	memcpy(&reply, frame, sizeof(reply));
	assert_memory_equal(reply.eth.h_dest, guest_mac, 6);
	assert_memory_equal(reply.eth.h_source, ((uint8_t[])MMDS_MAC), 6);
	assert_memory_equal(reply.sender_mac, ((uint8_t[])MMDS_MAC), 6);
	assert_memory_equal(reply.sender_ip, request.target_ip, 4);
	assert_memory_equal(reply.target_mac, guest_mac, 6);
	assert_memory_equal(reply.target_ip, request.sender_ip, 4);
	assert_int_equal(ntohs(reply.operation), 2);
	assert_int_equal(mmds_stack_to_guest(stack, frame, sizeof(frame)), 0);
	/* A flood without anybody listening is not remembered in full. */
	for (int i = 0; i < 1000; i++)
		assert_true(send_frame(&request, sizeof(request)));
	for (int i = 0; i < 8; i++)
		assert_int_equal(mmds_stack_to_guest(stack, frame, sizeof(frame)), sizeof(reply));
	assert_int_equal(mmds_stack_to_guest(stack, frame, sizeof(frame)), 0);
}

/* About our address but no request that can be answered: taken all the same, so that nobody outside answers. */
static void odd_arp_is_swallowed(void **state)
{
	struct arp_frame odd[5];
	uint8_t frame[1514];

	(void)state;
	for (int i = 0; i < 5; i++)
		odd[i] = arp_request();
	odd[0].hardware = htons(6);
	odd[1].protocol = htons(0x86dd);
	odd[2].hardware_len = 8;
	odd[3].protocol_len = 16;
	odd[4].operation = htons(2);
	for (int i = 0; i < 5; i++) {
		assert_true(send_frame(&odd[i], sizeof(odd[i])));
		assert_int_equal(mmds_stack_to_guest(stack, frame, sizeof(frame)), 0);
	}
}

static void frames_of_others_are_left_alone(void **state)
{
	struct arp_frame arp = arp_request();
	struct client c = { .port = 1, .seq = 1, .window = 100 };
	uint8_t frame[1514] = { 0 };
	const uint64_t bad = metrics.mmds_rx_bad_eth, accepted = metrics.mmds_rx_accepted;
	size_t len = make_segment(frame, &c, SYN, NULL, 0);

	(void)state;
	for (size_t cut = 0; cut < 34; cut++)
		assert_false(send_frame(frame, cut));
	assert_int_equal(metrics.mmds_rx_bad_eth, bad + 14);
	for (size_t cut = 0; cut < sizeof(arp); cut++)
		assert_false(send_frame(&arp, cut));
	arp.target_ip[3] ^= 1;
	assert_false(send_frame(&arp, sizeof(arp)));
	frame[ETH_HLEN + 19] ^= 1; /* the destination's last byte */
	assert_false(send_frame(frame, len));
	frame[ETH_HLEN + 19] ^= 1;
	frame[12] = 0x86, frame[13] = 0xdd;
	assert_false(send_frame(frame, len));
	frame[12] = 0x81, frame[13] = 0;
	assert_false(send_frame(frame, len));
	assert_int_equal(told, 0);
	assert_int_equal(metrics.mmds_rx_accepted, accepted);
	expect_nothing();
}

/* Addressed to us, so taken; but answered is none of them. */
static void malformed_packets_are_swallowed(void **state)
{
	struct client c = { .port = 1, .seq = 1, .window = 100 };
	static const struct {
		const char *what;
		unsigned int at, value;
	} cases[] = {
		{ "version 6", 14, 0x65 },
		{ "header of 16 bytes", 14, 0x44 },
		{ "header longer than the packet", 14, 0x4f },
		{ "total length 0", 17, 0 },
		{ "total length below the header's", 17, 19 },
		{ "TCP header cut", 17, 39 },
		{ "total length beyond the frame", 16, 1 },
		{ "more fragments", 20, 0x20 },
		{ "fragment offset", 21, 1 },
		{ "UDP", 23, 17 },
		{ "ICMP", 23, 1 },
		{ "TCP header of 16 bytes", 46, 0x40 },
		{ "TCP header of 0 bytes", 46, 0x00 },
		{ "TCP header longer than the packet", 46, 0xf0 },
		{ "no flags", 47, 0 },
	};
	uint8_t frame[200], broken[200];
	const size_t len = make_segment(frame, &c, SYN, NULL, 0);

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const uint64_t err = metrics.mmds_rx_accepted_err, odd = metrics.mmds_rx_accepted_unusual;
		struct segment s;

		memcpy(broken, frame, len);
		broken[cases[i].at] = (uint8_t)cases[i].value;
		if (!send_frame(broken, len))
			fail_msg("%s: sent on", cases[i].what);
		if (next_segment(&s, NULL) && !(s.flags & RST))
			fail_msg("%s: answered", cases[i].what);
		if (i + 1 < sizeof(cases) / sizeof(cases[0]) &&
		    metrics.mmds_rx_accepted_err + metrics.mmds_rx_accepted_unusual != err + odd + 1)
			fail_msg("%s: not counted", cases[i].what);
	}
	/* Padding behind the packet is none of its business. */
	memset(frame + len, 0xff, 20);
	assert_true(send_frame(frame, len + 20));
	expect(SYN | ACK);
}

static void strange_options(void **state)
{
	static const uint8_t options[][4] = {
		{ 2, 0, 0, 0 },  { 2, 1, 0, 0 }, { 2, 5, 0, 0 },   { 2, 255, 0, 0 }, { 1, 1, 1, 2 },
		{ 1, 1, 1, 99 }, { 0, 2, 4, 5 }, { 99, 2, 99, 3 }, { 2, 4, 0, 0 },   { 2, 4, 0, 1 },
	};
	struct client c = { .port = 1, .seq = 1, .window = 65535 };
	uint8_t frame[200];

	(void)state;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		struct segment s;
		unsigned int segments = 0;

		c.port++;
		c.seq = 1;
		make_segment(frame, &c, SYN, NULL, 0);
		memcpy(frame + 54, options[i], 4);
		assert_true(send_frame(frame, 58));
		c.ack = expect(SYN | ACK).seq + 1;
		c.seq++;
		send_data(&c, GET_KEY);
		while (next_segment(&s, NULL))
			segments++;
		assert_in_range(segments, 1, 2); /* a response of 120 bytes: not one for each byte of it */
		send_raw(&c, RST, NULL, 0);
	}
}

/* However the frame is cut into head and guest memory, what arrives is the same. */
static void frames_in_any_pieces(void **state)
{
	static const char request[] = "GET /key HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: application/json\r\n"
				      "User-Agent: something longer than the head of the frame\r\n\r\n";
	struct client c = open_client(1234, 65535);
	uint8_t frame[400];
	char text[1024];

	(void)state;
	for (size_t head = 42; head < 128; head++) {
		const size_t len = make_segment(frame, &c, ACK, request, sizeof(request) - 1);
		const size_t first = head % 7, second = (len - head) / 2; /* first: within the headers, often */
		uint8_t *copy = malloc(head);
		const struct iovec rest[4] = {
			{ frame + head, first },
			{ NULL, 0 },
			{ frame + head + first, second },
			{ frame + head + first + second, len - head - first - second },
		};

		memcpy(copy, frame, head);
		memset(frame, 0xee, head); /* only the copy is to be looked at */
		assert_true(mmds_stack_from_guest(stack, copy, head, rest, 4, len));
		free(copy);
		c.seq += sizeof(request) - 1;
		receive(&c, text, sizeof(text));
		assert_non_null(strstr(text, "\r\n\r\n\"value\""));
	}
}

/* ---- what nobody would send on purpose ---- */

static uint64_t seed = 2463534242u;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Takes some of the frames that wait; each must be whole. Remembers what a port was told, so that answers fit. */
static void take_some(struct client *clients, unsigned int count)
{
	uint8_t frame[1514];
	struct segment s;
	size_t len;

	for (uint64_t n = next_random() % 4; n; n--) {
		len = mmds_stack_to_guest(stack, frame, 58 + next_random() % 1456);
		const struct frame f = { .head = frame, .head_len = len };

		if (len == 0)
			return;
		check_frame(frame, len);
		if (frame[13] == 0x06)
			continue;
		assert_int_equal(frame_read_tcp(&f, len, &s), FRAME_TCP);
		if (s.port < count)
			clients[s.port].ack = s.seq + (uint32_t)s.len + !!(s.flags & (SYN | FIN));
		if (s.port < count && s.flags & ACK)
			clients[s.port].seq = s.ack;
	}
}

/* A hostile peer that knows the connections: right numbers most of the time, then something else is wrong. */
static void mutated_frames(void **state)
{
	static const char *const data[] = {
		GET_KEY, "GET /large HTTP/1.1\r\nAccept: application/json\r\n\r\n", "GET /", "\r\n",
		"PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 5\r\n\r\n"
	};
	static const uint8_t flags[] = { SYN,       ACK, ACK,       ACK | PSH, ACK | PSH, ACK | PSH,
					 FIN | ACK, RST, RST | ACK, SYN | ACK, 0xff };
	const uint64_t created = metrics.mmds_connections_created, destroyed = metrics.mmds_connections_destroyed;
	const uint64_t sent = metrics.mmds_tx_frames;
	struct client clients[64] = { 0 };
	uint8_t frame[8192], *exact;
	char *large = malloc(30100);

	(void)state;
	memset(large, 'x', 30100);
	memcpy(large, "{\"key\":\"value\",\"large\":\"", 24);
	strcpy(large + 30000, "\"}");
	put_data(large);
	for (int i = 0; i < 100000; i++) {
		const uint16_t port = (uint16_t)(next_random() % 64);
		struct client *c = &clients[port];
		const char *text = data[next_random() % 5];
		const uint8_t flag = flags[next_random() % sizeof(flags)];
		size_t len, head;

		c->port = port;
		c->window = next_random() % 3 ? 65535 : (uint16_t)(next_random() % 4000);
		len = make_segment(frame, c, flag, text, flag & PSH ? strlen(text) : 0);
		if (next_random() % 3 == 0)
			for (uint64_t n = 1 + next_random() % 3; n; n--)
				frame[next_random() % len] = (uint8_t)next_random();
		if (next_random() % 16 == 0)
			len = next_random() % (len + 1);
		/* Each part ends where its memory ends. */
		exact = malloc(len + 1);
		memcpy(exact, frame, len);
		head = len < HEAD_MAX ? len : HEAD_MAX;
		const struct iovec rest = { exact + head, len - head };
		uint8_t *copy = malloc(head + 1);

		memcpy(copy, exact, head);
		mmds_stack_from_guest(stack, copy, head, &rest, 1, len);
		free(copy);
		free(exact);
		take_some(clients, 64);
		if (next_random() % 64 == 0)
			pass_ms(next_random() % 3000);
	}
	free(large);
	/* It got somewhere, and works on for those who behave. */
	assert_true(metrics.mmds_connections_created > created + 1000);
	assert_true(metrics.mmds_tx_frames > sent + 20000);
	pass_ms(600000);
	for (struct segment s; next_segment(&s, NULL);)
		;
	pass_ms(600000);
	for (struct segment s; next_segment(&s, NULL);)
		;
	assert_int_equal(metrics.mmds_connections_created - created, metrics.mmds_connections_destroyed - destroyed);
	expect_service(5000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(arp_requests_are_answered, start, end),
		cmocka_unit_test_setup_teardown(odd_arp_is_swallowed, start, end),
		cmocka_unit_test_setup_teardown(frames_of_others_are_left_alone, start, end),
		cmocka_unit_test_setup_teardown(malformed_packets_are_swallowed, start, end),
		cmocka_unit_test_setup_teardown(strange_options, start, end),
		cmocka_unit_test_setup_teardown(mutated_frames, start, end),
		cmocka_unit_test_setup_teardown(frames_in_any_pieces, start, end),
	};

	return cmocka_run_group_tests_name("mmds_stack", tests, NULL, NULL);
}
