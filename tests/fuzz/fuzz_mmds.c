/* fuzz_mmds.c: a hostile guest of the metadata service: frames, TCP segments and HTTP requests in any order and shape.
 */
#include "mmds_fixture.h"

#include "fuzz.h"

#define CLIENTS 8u

static struct client clients[CLIENTS];

/* Text that requests are made of, so that few bytes of input say much. */
static const char *const words[] = {
	"GET /",
	"key",
	"list/0",
	" HTTP/1.1\r\n",
	"\r\n",
	"PUT /latest/api/token HTTP/1.1\r\n",
	"X-metadata-token-ttl-seconds: 60\r\n",
	"X-metadata-token: ",
	"Accept: application/json\r\n",
	"Content-Length: ",
	"5\r\n",
	"hello",
	"Expect: 100-continue\r\n",
	"Transfer-Encoding: chunked\r\n",
	"X-Forwarded-For: a\r\n",
	"Connection: close\r\n",
	"/latest/meta-data/",
	"HEAD /key HTTP/1.0\r\n\r\n",
	"GET http://169.254.169.254/key HTTP/1.1\r\nHost: a\r\n\r\n",
	"%2e%2e//",
};
#define NR_WORDS (sizeof(words) / sizeof(words[0]))

static size_t take_text(struct input *in, char *text, size_t size)
{
	size_t len = 0, n;
	uint8_t word;

	while (in->left && (word = take8(in)) != 0) {
		if (word < NR_WORDS + 1) {
			n = strlen(words[word - 1]);
			if (len + n > size)
				break;
			memcpy(text + len, words[word - 1], n);
			len += n;
		} else if (len < size) {
			text[len++] = (char)word;
		}
	}
	return len;
}

static void segment(struct input *in, struct client *c)
{
	uint8_t flags = take8(in), shape = take8(in), frame[8192];
	char text[1400];
	size_t len = shape & 1 ? take_text(in, text, sizeof(text)) : 0, size;

	c->window = shape & 2 ? take16(in) : c->window;
	if (shape & 4)
		c->seq += (uint32_t)(int8_t)take8(in);
	if (shape & 8)
		c->ack += (uint32_t)(int8_t)take8(in);
	size = make_segment(frame, c, flags & 0x3f, text, len);
	if (shape & 16) /* some byte of its headers is wrong */
		frame[12 + take8(in) % 42] ^= take8(in);
	if (shape & 32)
		size -= take8(in) % size;
	send_frame(frame, size < ETH_HLEN ? ETH_HLEN : size);
	if (!(shape & 64))
		c->seq += (uint32_t)len + !!(flags & (SYN | FIN));
}

static void raw(struct input *in)
{
	static const uint8_t service_mac[ETH_ALEN] = MMDS_MAC;
	static const uint8_t arp_head[] = { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };
	uint8_t frame[256] = { 0 }, shape = take8(in);
	size_t len = ETH_HLEN + take_bytes(in, frame + ETH_HLEN, shape & 0x7f);

	memcpy(frame, service_mac, sizeof(service_mac));
	memcpy(frame + ETH_ALEN, guest_mac, sizeof(guest_mac));
	frame[12] = 8;
	if (shape & 0x80)
		memcpy(frame + 12, arp_head, sizeof(arp_head));
	send_frame(frame, len);
}

/* The next segment, with whatever else is sent before it checked and thrown away; false: there is nothing more. */
static bool next_of_tcp(struct segment *s)
{
	uint8_t bytes[1514];
	size_t len;

	while ((len = mmds_stack_to_guest(stack, bytes, sizeof(bytes)))) {
		const struct frame f = { .head = bytes, .head_len = len };

		CHECK(len <= sizeof(bytes));
		check_frame(bytes, len);
		if (bytes[13] == 0x06)
			continue; /* ARP */
		CHECK(frame_read_tcp(&f, len, s) == FRAME_TCP);
		return true;
	}
	return false;
}

/* Takes what the service sends to client i (or to whoever); mostly acknowledges it in order. */
static void take(uint8_t how)
{
	unsigned int n = 1 + (how & 7), i;
	struct segment s;

	while (n-- && next_of_tcp(&s)) {
		for (i = 0; i < CLIENTS; i++) {
			if (clients[i].port != s.port)
				continue;
			clients[i].ack = s.seq + (uint32_t)s.len + !!(s.flags & (SYN | FIN));
			if (how & 8)
				send_raw(&clients[i], ACK, NULL, 0);
		}
	}
}

static void step(struct input *in)
{
	uint8_t op = take8(in);
	struct client *c = &clients[(op >> 3) % CLIENTS];

	switch (op & 7) {
	case 0:
	case 1:
		segment(in, c);
		break;
	case 2:
		take(take8(in));
		break;
	case 3:
		raw(in);
		break;
	case 4:
		pass_ms((uint64_t)take8(in) * (op & 64 ? 1000 : 10));
		break;
	case 5:
		mmds->version = op & 64 ? MMDS_V2 : MMDS_V1;
		mmds->imds_compat = op & 128;
		break;
	case 6:
		*c = (struct client){ .port = (uint16_t)(1000 + (op >> 3) + (op & 64 ? take8(in) : 0)),
				      .seq = 1000,
				      .window = 65535 };
		break;
	default: /* a whole handshake */
		send_raw(c, SYN, NULL, 0);
		c->seq++;
		take(8);
	}
}

/* Whatever came before, once its connections have timed out there is room for a new client. */
static void expect_alive(void)
{
	struct segment s;

	while (next_of_tcp(&s))
		;
	mmds->version = MMDS_V1;
	mmds->imds_compat = false;
	pass_ms(1000000);
	while (next_of_tcp(&s))
		;
	expect_service(40000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	unsigned int i;

	CHECK(start(NULL) == 0);
	for (i = 0; i < CLIENTS; i++)
		clients[i] = (struct client){ .port = (uint16_t)(1000 + i), .seq = 1000, .window = 65535 };
	for (i = 0; i < 300 && in.left; i++)
		step(&in);
	expect_alive();
	end(NULL);
	return 0;
}
