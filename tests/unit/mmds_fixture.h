/* mmds_fixture.h: a guest's end of the metadata service's network: makes and reads frames, on a clock of its own. */
#ifndef MAYFLY_MMDS_FIXTURE_H
#define MAYFLY_MMDS_FIXTURE_H

#include "unit.h"

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metrics.h"
#include "mmds/frame.h"
#include "mmds/stack.h"

#define SERVICE_IP 0xa9fea9feu
#define GUEST_IP   0xa9fe0102u
#define MS         1000000ull
#define HEAD_MAX   128u
#define FIN        TCP_FLAG_BIT_FIN
#define SYN        TCP_FLAG_BIT_SYN
#define RST        TCP_FLAG_BIT_RST
#define PSH        TCP_FLAG_BIT_PSH
#define ACK        TCP_FLAG_BIT_ACK

static uint64_t clock_ns;
static struct event_loop timers; /* only its list of timers is used */
static struct mmds *mmds;
static struct mmds_stack *stack;
static unsigned int told; /* calls of ready() */
static const uint8_t guest_mac[ETH_ALEN] = { 0xaa, 0xfc, 0, 0, 0, 1 };

static uint64_t fake_clock(void)
{
	return clock_ns;
}

static void on_ready(void *opaque)
{
	assert_ptr_equal(opaque, &told);
	told++;
}

static void put_data(const char *text)
{
	json_t *data = json_loads(text, JSON_DECODE_ANY, NULL);
	struct error err;

	assert_non_null(data);
	assert_int_equal(mmds_store_put(&mmds->store, data, &err), 0);
	json_decref(data);
}

static int start(void **state)
{
	struct error err;

	(void)state;
	clock_ns = 5000 * MS;
	told = 0;
	assert_int_equal(mmds_create(&mmds, 1 << 20, &err), 0);
	mmds->now_ns = fake_clock;
	mmds->tokens.start_ns = clock_ns;
	put_data("{\"key\":\"value\",\"list\":[1]}");
	return mmds_stack_create(&stack, mmds, SERVICE_IP, &timers, on_ready, &told, &err);
}

static int end(void **state)
{
	(void)state;
	mmds_stack_destroy(stack);
	assert_null(timers.timers);
	mmds_destroy(mmds);
	return 0;
}

/* Lets ms pass, with whatever is due on the way. */
static inline void pass_ms(uint64_t ms)
{
	const uint64_t until = clock_ns + ms * MS;
	struct event_timer *timer;

	while ((timer = timers.timers) && timer->deadline_ns <= until) {
		clock_ns = timer->deadline_ns > clock_ns ? timer->deadline_ns : clock_ns;
		event_loop_disarm(&timers, timer);
		timer->expired(timer);
	}
	clock_ns = until;
}

/* ---- frames to the service ---- */

/* As the network device hands them over. */
static bool send_frame(const void *frame, size_t len)
{
	const size_t head = len < HEAD_MAX ? len : HEAD_MAX;
	const struct iovec rest = { (uint8_t *)(uintptr_t)frame + head, len - head };

	return mmds_stack_from_guest(stack, frame, head, &rest, 1, len);
}

/* One end of a connection: its port and what comes next in each direction. */
struct client {
	uint16_t port;
	uint32_t seq, ack;
	uint16_t window;
};

static size_t make_segment(uint8_t *frame, const struct client *c, uint8_t flags, const void *data, size_t len)
{
	static const uint8_t service_mac[ETH_ALEN] = MMDS_MAC;
	const struct segment s = {
		.peer = { .ip = htonl(SERVICE_IP), .port = htons(80) },
		.port = c->port,
		.seq = c->seq,
		.ack = flags & ACK ? c->ack : 0,
		.flags = flags,
		.window = c->window,
		.mss = 1460,
		.len = len,
	};
	size_t size = frame_write_tcp(frame, guest_mac, htonl(GUEST_IP), &s, data);

	memcpy(frame, service_mac, ETH_ALEN);
	/* Partial, as with checksum offload: nobody may look at it. */
	memset(frame + ETH_HLEN + sizeof(struct iphdr) + offsetof(struct tcphdr, check), 0x5a, 2);
	return size;
}

/* Sends without counting it in c->seq. */
static void send_raw(const struct client *c, uint8_t flags, const void *data, size_t len)
{
	uint8_t frame[8192];

	assert_true(send_frame(frame, make_segment(frame, c, flags, data, len)));
}

static void send_data(struct client *c, const char *text)
{
	send_raw(c, ACK | PSH, text, strlen(text));
	c->seq += (uint32_t)strlen(text);
}

/* ---- frames from the service ---- */

static uint16_t ones_sum(const uint8_t *at, size_t len, uint32_t total)
{
	for (size_t i = 0; i < len; i++)
		total += i % 2 ? at[i] : (uint32_t)at[i] << 8;
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

/* Everything that must hold of a frame, whatever it is for. */
static void check_frame(const uint8_t *frame, size_t len)
{
	const uint8_t *ip = frame + ETH_HLEN;
	static const uint8_t service_mac[ETH_ALEN] = MMDS_MAC;

	assert_in_range(len, ETH_HLEN + 28, 1514);
	assert_memory_equal(frame + ETH_ALEN, service_mac, ETH_ALEN);
	if (frame[12] == 0x08 && frame[13] == 0x06)
		return;
	assert_int_equal(frame[12] << 8 | frame[13], ETH_P_IP);
	assert_int_equal(ip[0], 0x45);
	assert_int_equal(ip[8], 1); /* the answer goes no further than the guest */
	assert_int_equal(ip[2] << 8 | ip[3], len - ETH_HLEN);
	assert_int_equal(ones_sum(ip, 20, 0), 0xffff);
	assert_int_equal(ones_sum(ip + 20, len - 34, ones_sum(ip + 12, 8, (uint32_t)(6 + len - 34))), 0xffff);
}

/* The next segment; its data goes to data. false: there is none. */
static bool next_segment(struct segment *s, uint8_t *data)
{
	uint8_t frame[1514];
	size_t len = mmds_stack_to_guest(stack, frame, sizeof(frame));
	const struct frame f = { .head = frame, .head_len = len };

	if (len == 0)
		return false;
	check_frame(frame, len);
	assert_int_equal(frame_read_tcp(&f, len, s), FRAME_TCP);
	if (data)
		frame_copy(&f, s->payload, data, s->len);
	return true;
}

static void expect_nothing(void)
{
	struct segment s;

	assert_false(next_segment(&s, NULL));
}

/* A segment with exactly these flags and without data. */
static struct segment expect(uint8_t flags)
{
	struct segment s = { 0 };

	assert_true(next_segment(&s, NULL));
	assert_int_equal(s.flags, flags);
	assert_int_equal(s.len, 0);
	return s;
}

/* A client after the handshake. */
static struct client open_client(uint16_t port, uint16_t window)
{
	struct client c = { .port = port, .seq = 1000, .window = window };
	struct segment s;

	send_raw(&c, SYN, NULL, 0);
	s = expect(SYN | ACK);
	assert_int_equal(s.ack, c.seq + 1);
	c.seq++;
	c.ack = s.seq + 1;
	send_raw(&c, ACK, NULL, 0);
	expect_nothing();
	return c;
}

/* Takes what comes next, all in order, acknowledging each segment. Returns the bytes; text is NUL-terminated. */
static inline size_t receive(struct client *c, char *text, size_t size)
{
	struct segment s;
	uint8_t data[1514];
	size_t n = 0;

	while (next_segment(&s, data)) {
		assert_int_equal(s.seq, c->ack);
		assert_true(n + s.len < size);
		memcpy(text + n, data, s.len);
		n += s.len;
		c->ack += (uint32_t)s.len + !!(s.flags & FIN);
		if (s.len || s.flags & FIN)
			send_raw(c, ACK, NULL, 0);
	}
	text[n] = '\0';
	return n;
}

#define GET_KEY "GET /key HTTP/1.1\r\n\r\n"

/* The service still works: a new client is answered. */
static inline void expect_service(uint16_t port)
{
	struct client c = open_client(port, 65535);
	char text[1024];

	send_data(&c, GET_KEY);
	receive(&c, text, sizeof(text));
	assert_non_null(strstr(text, "HTTP/1.1 200 OK\r\n"));
	assert_non_null(strstr(text, "\r\n\r\nvalue"));
}

#endif
