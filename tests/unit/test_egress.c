/* test_egress.c: frames of every kind against an egress policy, and what tries to get around it. */
#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_dump.h"
#include "config_json.h"
#include "egress.h"
#include "json.h"

#define MAC "\x06\x00\xac\x10\x00\x02"

static const uint8_t mac[6] = MAC;

struct frame {
	uint8_t byte[256];
	size_t len;
};

static void add(struct frame *f, const void *data, size_t len)
{
	assert_true(f->len + len <= sizeof(f->byte));
	memcpy(f->byte + f->len, data, len);
	f->len += len;
}

static struct frame ethernet(const char *source, uint16_t type)
{
	struct frame f = { .len = 0 };
	uint8_t t[2] = { (uint8_t)(type >> 8), (uint8_t)type };

	add(&f, "\x02\x00\x00\x00\x00\x01", 6);
	add(&f, source, 6);
	add(&f, t, 2);
	return f;
}

/* An IPv4 packet with 8 bytes of payload whose first four are the ports. */
static struct frame ipv4(const char *src, const char *dst, uint8_t protocol, uint16_t port)
{
	struct frame f = ethernet(MAC, 0x0800);
	uint8_t ip[20] = { 0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol };
	uint8_t l4[8] = { 0x30, 0x39, (uint8_t)(port >> 8), (uint8_t)port };

	assert_int_equal(inet_pton(AF_INET, src, ip + 12), 1);
	assert_int_equal(inet_pton(AF_INET, dst, ip + 16), 1);
	add(&f, ip, sizeof(ip));
	add(&f, l4, sizeof(l4));
	return f;
}

static struct frame ipv6(const char *src, const char *dst, uint8_t next, const void *payload, size_t len)
{
	struct frame f = ethernet(MAC, 0x86dd);
	uint8_t ip[40] = { 0x60, 0, 0, 0, 0, (uint8_t)len, next, 255 };

	assert_int_equal(inet_pton(AF_INET6, src, ip + 8), 1);
	assert_int_equal(inet_pton(AF_INET6, dst, ip + 24), 1);
	add(&f, ip, sizeof(ip));
	add(&f, payload, len);
	return f;
}

static struct frame arp(const char *sender_mac, const char *sender)
{
	struct frame f = ethernet(MAC, 0x0806);
	uint8_t body[28] = { 0, 1, 8, 0, 6, 4, 0, 1 };

	memcpy(body + 8, sender_mac, 6);
	assert_int_equal(inet_pton(AF_INET, sender, body + 14), 1);
	add(&f, body, sizeof(body));
	return f;
}

static struct net_config policy(const char *text)
{
	struct json_where where = { .name = "egress" };
	struct net_config net = { .mac_given = true };
	struct error err = { 0 };
	json_t *json;

	memcpy(net.guest_mac, mac, 6);
	assert_int_equal(json_parse(text, strlen(text), "test", &json, &err), 0);
	if (config_read_egress(json, &where, &net, &err))
		fail_msg("%s: %s", text, err.message);
	json_decref(json);
	return net;
}

static void judge(const struct net_config *net, const struct frame *f, enum egress_verdict verdict)
{
	/* On the heap, so that a byte read too far is seen. */
	size_t len = f->len < 128 ? f->len : 128;
	uint8_t *head = malloc(len ? len : 1);

	memcpy(head, f->byte, len);
	assert_int_equal(egress_judge(&net->egress, net->guest_mac, head, len), verdict);
	free(head);
}

#define STRICT                                                                                                      \
	"{\"anti_spoof\":true,\"addresses\":[\"10.0.0.2\",\"2001:db8::2\"],\"block_link_local\":true,\"default\":"  \
	"\"Deny\",\"allow\":[{\"cidr\":\"93.184.0.0/16\",\"protocol\":\"tcp\",\"port\":443},{\"cidr\":\"8.8.8.8\"," \
	"\"protocol\":\"udp\",\"port\":\"53-54\"},{\"cidr\":\"2001:db8:1::/48\"},{\"cidr\":\"10.0.0.0/24\","        \
	"\"protocol\":\"icmp\"}]}"

static void rules(void **state)
{
	static const struct {
		const char *dst;
		uint8_t protocol;
		uint16_t port;
		enum egress_verdict verdict;
	} cases[] = {
		{ "93.184.1.1", IPPROTO_TCP, 443, EGRESS_PASS },
		{ "93.184.1.1", IPPROTO_TCP, 444, EGRESS_DENIED },
		{ "93.184.1.1", IPPROTO_UDP, 443, EGRESS_DENIED },
		{ "93.185.0.0", IPPROTO_TCP, 443, EGRESS_DENIED },
		{ "93.183.255.255", IPPROTO_TCP, 443, EGRESS_DENIED },
		{ "8.8.8.8", IPPROTO_UDP, 53, EGRESS_PASS },
		{ "8.8.8.8", IPPROTO_UDP, 54, EGRESS_PASS },
		{ "8.8.8.8", IPPROTO_UDP, 55, EGRESS_DENIED },
		{ "8.8.8.9", IPPROTO_UDP, 53, EGRESS_DENIED },
		{ "10.0.0.255", IPPROTO_ICMP, 0, EGRESS_PASS },
		{ "10.0.1.0", IPPROTO_ICMP, 0, EGRESS_DENIED },
		{ "10.0.0.1", IPPROTO_TCP, 22, EGRESS_DENIED },
		{ "169.254.169.254", IPPROTO_TCP, 80, EGRESS_LINK_LOCAL },
		{ "169.254.0.1", IPPROTO_UDP, 53, EGRESS_LINK_LOCAL },
		{ "168.63.129.16", IPPROTO_TCP, 80, EGRESS_LINK_LOCAL },
	};
	struct net_config net = policy(STRICT);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct frame f = ipv4("10.0.0.2", cases[i].dst, cases[i].protocol, cases[i].port);

		judge(&net, &f, cases[i].verdict);
	}
}

static void sources(void **state)
{
	struct net_config net = policy(STRICT);
	struct frame f = ipv4("10.0.0.3", "93.184.1.1", IPPROTO_TCP, 443);

	(void)state;
	judge(&net, &f, EGRESS_SPOOFED);
	f = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 443);
	f.byte[11] ^= 1;
	judge(&net, &f, EGRESS_SPOOFED);
	/* Without an address yet: nothing but a question for one, and that only where a rule allows it. */
	f = ipv4("0.0.0.0", "93.184.1.1", IPPROTO_TCP, 443);
	judge(&net, &f, EGRESS_SPOOFED);
	f = ipv4("0.0.0.0", "255.255.255.255", IPPROTO_UDP, 67);
	f.byte[34] = 0;
	f.byte[35] = 68;
	judge(&net, &f, EGRESS_DENIED);
	net.egress.default_deny = false;
	judge(&net, &f, EGRESS_PASS);

	f = arp(MAC, "10.0.0.2");
	judge(&net, &f, EGRESS_PASS);
	f = arp(MAC, "0.0.0.0");
	judge(&net, &f, EGRESS_PASS);
	f = arp(MAC, "10.0.0.1");
	judge(&net, &f, EGRESS_SPOOFED);
	f = arp("\x06\x00\x00\x00\x00\x09", "10.0.0.2");
	judge(&net, &f, EGRESS_SPOOFED);
	f.len--;
	judge(&net, &f, EGRESS_UNREADABLE);
}

static void neighbours(void **state)
{
	struct net_config net = policy(STRICT);
	uint8_t icmp[24] = { 135 }, option[8] = { 1, 1, 0x06, 0x00, 0xac, 0x10, 0x00, 0x02 }, long_one[80] = { 135 };
	struct frame f;

	(void)state;
	f = ipv6("::", "ff02::1:ff00:2", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_PASS);
	/* From the link-local address that belongs to the MAC, and from no other. */
	f = ipv6("fe80::400:acff:fe10:2", "fe80::2", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_PASS);
	f = ipv6("fe80::1", "fe80::2", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_SPOOFED);
	/* What others are told to send the answers to. */
	f = ipv6("::", "ff02::1:ff00:2", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	add(&f, option, sizeof(option));
	f.byte[19] += sizeof(option);
	judge(&net, &f, EGRESS_PASS);
	f.byte[f.len - 1] ^= 1;
	judge(&net, &f, EGRESS_SPOOFED);
	f.byte[f.len - 8] = 14; /* a nonce may hold anything */
	judge(&net, &f, EGRESS_PASS);
	f.byte[f.len - 7] = 0;
	judge(&net, &f, EGRESS_SPOOFED);
	/* An option behind what can be seen. */
	long_one[24] = 14;
	long_one[25] = 7;
	f = ipv6("::", "ff02::1:ff00:2", IPPROTO_ICMPV6, long_one, sizeof(long_one));
	judge(&net, &f, EGRESS_SPOOFED);
	f = ipv6("2001:db8::3", "fe80::2", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_SPOOFED);
	/* It must not carry data to somebody far away. */
	f = ipv6("2001:db8::2", "2001:db8:2::1", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_DENIED);
	/* Claiming somebody else's address, or to be the router. */
	icmp[0] = 136;
	inet_pton(AF_INET6, "2001:db8::2", icmp + 8);
	f = ipv6("2001:db8::2", "ff02::1", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_PASS);
	inet_pton(AF_INET6, "2001:db8::1", icmp + 8);
	f = ipv6("2001:db8::2", "ff02::1", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_SPOOFED);
	icmp[0] = 134;
	f = ipv6("fe80::1", "ff02::1", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_SPOOFED);
	icmp[0] = 137;
	f = ipv6("2001:db8::2", "2001:db8:1::1", IPPROTO_ICMPV6, icmp, sizeof(icmp));
	judge(&net, &f, EGRESS_SPOOFED);
}

static void ways_around(void **state)
{
	static const uint8_t hop_by_hop_tcp[16] = { IPPROTO_TCP, 0, 1, 4, 0, 0, 0, 0, 0x30, 0x39, 0, 80 };
	static const uint8_t routing[32] = { IPPROTO_TCP, 2, 0, 1 };
	struct net_config net = policy(STRICT);
	struct frame f = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 443);

	(void)state;
	/* Behind a tag, or of a kind that nobody can read here. */
	f = ethernet(MAC, 0x8100);
	add(&f, "\x00\x01\x08\x00", 4);
	judge(&net, &f, EGRESS_UNREADABLE);
	f = ethernet(MAC, 0x88cc);
	judge(&net, &f, EGRESS_UNREADABLE);
	/* The port lies in the padding, the true one would come with the next fragment. */
	f = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 443);
	f.byte[17] = 20;
	f.byte[20] = 0x20;
	judge(&net, &f, EGRESS_DENIED);
	/* A later fragment passes where a first one could, and nowhere else. */
	f = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 1);
	f.byte[21] = 1;
	judge(&net, &f, EGRESS_PASS);
	f = ipv4("10.0.0.2", "93.185.1.1", IPPROTO_TCP, 443);
	f.byte[21] = 1;
	judge(&net, &f, EGRESS_DENIED);
	/* A source route: the header's destination is only the first stop. */
	f = ethernet(MAC, 0x0800);
	add(&f, "\x46\x00\x00\x20\x00\x00\x00\x00\x40\x06\x00\x00\x0a\x00\x00\x02\x5d\xb8\x01\x01\x83\x04\x04\x00", 24);
	add(&f, "\x30\x39\x01\xbb\x00\x00\x00\x00", 8);
	judge(&net, &f, EGRESS_UNREADABLE);
	f.byte[34] = 1; /* no-operations instead */
	f.byte[35] = f.byte[36] = 1;
	judge(&net, &f, EGRESS_PASS);

	f = ipv6("2001:db8::2", "2001:db8:1::1", IPPROTO_HOPOPTS, hop_by_hop_tcp, sizeof(hop_by_hop_tcp));
	judge(&net, &f, EGRESS_PASS);
	f = ipv6("2001:db8::2", "2001:db8:1::1", IPPROTO_ROUTING, routing, sizeof(routing));
	judge(&net, &f, EGRESS_UNREADABLE);
	/* An IPv4 address in IPv6 clothes. */
	f = ipv6("2001:db8::2", "::ffff:93.184.1.1", IPPROTO_TCP, hop_by_hop_tcp + 8, 8);
	judge(&net, &f, EGRESS_UNREADABLE);
	net = policy("{\"default\":\"Deny\",\"allow\":[{\"cidr\":\"::/0\"}],\"block_link_local\":true}");
	f = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 443);
	judge(&net, &f, EGRESS_DENIED);
	f = ipv6("2001:db8::2", "64:ff9b::a9fe:a9fe", IPPROTO_TCP, hop_by_hop_tcp + 8, 8);
	judge(&net, &f, EGRESS_LINK_LOCAL);
	f = ipv6("2001:db8::2", "fd20:ce::254", IPPROTO_TCP, hop_by_hop_tcp + 8, 8);
	judge(&net, &f, EGRESS_LINK_LOCAL);
	f = ipv6("2001:db8::2", "2002:6464:64c8::1", IPPROTO_TCP, hop_by_hop_tcp + 8, 8);
	judge(&net, &f, EGRESS_LINK_LOCAL);
	f = ipv6("2001:db8::2", "fd00:ec2::254", IPPROTO_TCP, hop_by_hop_tcp + 8, 8);
	judge(&net, &f, EGRESS_LINK_LOCAL);
	f = ipv6("2001:db8::2", "fe80::9", IPPROTO_TCP, hop_by_hop_tcp + 8, 8);
	judge(&net, &f, EGRESS_LINK_LOCAL);
}

/* Every frame of every length, cut anywhere and with every byte wrong in turn: a verdict, and no byte read too far. */
static void damaged(void **state)
{
	static const uint8_t fragment[24] = { IPPROTO_DSTOPTS, 0, 0, 0, 0, 0, 0, 1, IPPROTO_TCP };
	struct net_config net = policy(STRICT);
	struct frame frames[4];
	size_t i, at, len;
	unsigned int value;

	(void)state;
	frames[0] = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 443);
	frames[1] = ipv6("2001:db8::2", "2001:db8:1::1", IPPROTO_FRAGMENT, fragment, sizeof(fragment));
	frames[2] = arp(MAC, "10.0.0.2");
	frames[3] = ipv6("2001:db8::2", "ff02::1", IPPROTO_ICMPV6, "\x88", 1);
	for (i = 0; i < 4; i++) {
		for (len = 0; len <= frames[i].len; len++) {
			for (at = 0; at < len; at++) {
				for (value = 0; value < 256; value += 5) {
					uint8_t *head = malloc(len);

					memcpy(head, frames[i].byte, len);
					head[at] = (uint8_t)value;
					assert_in_range(egress_judge(&net.egress, mac, head, len), EGRESS_PASS,
							EGRESS_UNREADABLE);
					free(head);
				}
			}
		}
	}
}

static void nothing_asked(void **state)
{
	struct net_config net = policy("{}");

	(void)state;
	assert_false(egress_active(&net.egress));
	net = policy("{\"default\":\"Deny\"}");
	assert_true(egress_active(&net.egress));
}

static void refused(void **state)
{
	static const struct {
		const char *json, *says;
	} cases[] = {
		{ "[]", "egress: [...] is a list (needs an object" },
		{ "{\"default\":\"No\"}", "egress.default: \"No\" is not known (needs one of \"Allow\", \"Deny\")" },
		{ "{\"default\":1}", "egress.default: 1 is a number" },
		{ "{\"addresses\":[\"10.0.0\"]}", "egress.addresses[0]: \"10.0.0\" is not known (needs an IPv4 or" },
		{ "{\"addresses\":[1]}", "egress.addresses[0]: 1 is a number" },
		{ "{\"addresses\":[\"::1\",\"::1\",\"::1\",\"::1\",\"::1\",\"::1\",\"::1\",\"::1\",\"::1\"]}",
		  "egress.addresses: 9 elements are too many (at most 8)" },
		{ "{\"allow\":[{}]}", "egress.allow[0].cidr: is missing" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.1/8\"}]}", "egress.allow[0].cidr: \"10.0.0.1/8\" is not known" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/33\"}]}", "egress.allow[0].cidr: \"10.0.0.0/33\" is not known" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/\"}]}", "egress.allow[0].cidr: \"10.0.0.0/\" is not known" },
		{ "{\"allow\":[{\"cidr\":\"::ffff:1.2.3.4\"}]}", "egress.allow[0].cidr: " },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/8\",\"port\":80}]}", "egress.allow[0].port: only TCP and UDP" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/8\",\"protocol\":\"tcp\",\"port\":0}]}",
		  "egress.allow[0].port: not a port" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/8\",\"protocol\":\"tcp\",\"port\":\"9-8\"}]}", "not a port" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/8\",\"protocol\":\"tcp\",\"port\":65536}]}", "not a port" },
		{ "{\"allow\":[{\"cidr\":\"10.0.0.0/8\",\"protocol\":\"sctp\"}]}",
		  "egress.allow[0].protocol: \"sctp\"" },
		{ "{\"deny\":[]}", "egress: unknown key \"deny\" (accepted: anti_spoof, addresses" },
	};
	struct json_where where = { .name = "egress" };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct net_config net = { .mac_given = true };
		struct error err = { 0 };
		json_t *json;

		assert_int_equal(json_parse(cases[i].json, strlen(cases[i].json), "test", &json, &err), 0);
		assert_int_not_equal(config_read_egress(json, &where, &net, &err), 0);
		if (!strstr(err.message, cases[i].says))
			fail_msg("%s\n  said: %s\n  expected: %s", cases[i].json, err.message, cases[i].says);
		json_decref(json);
	}
}

/* A patch that names one thing must not open another. */
static void patched(void **state)
{
	static const char rules_only[] = "{\"allow\":[{\"cidr\":\"1.1.1.1\"}]}",
			  open_all[] = "{\"anti_spoof\":false,\"block_link_local\":false,\"default\":\"Allow\"}";
	struct json_where where = { .name = "egress" };
	struct net_config net = policy(STRICT);
	struct error err = { 0 };
	json_t *json;
	struct frame f;

	(void)state;
	assert_int_equal(json_parse(rules_only, sizeof(rules_only) - 1, "test", &json, &err), 0);
	assert_int_equal(config_patch_egress(json, &where, &net, &err), 0);
	json_decref(json);
	assert_int_equal(net.egress.nr_rules, 1);
	assert_int_equal(net.egress.nr_addresses, 2);
	f = ipv4("10.0.0.2", "1.1.1.1", IPPROTO_TCP, 80);
	judge(&net, &f, EGRESS_PASS);
	f = ipv4("10.0.0.2", "93.184.1.1", IPPROTO_TCP, 443);
	judge(&net, &f, EGRESS_DENIED);
	f = ipv4("10.0.0.3", "1.1.1.1", IPPROTO_TCP, 80);
	judge(&net, &f, EGRESS_SPOOFED);
	assert_int_equal(json_parse(open_all, sizeof(open_all) - 1, "test", &json, &err), 0);
	assert_int_equal(config_patch_egress(json, &where, &net, &err), 0);
	json_decref(json);
	assert_false(egress_active(&net.egress));
}

/* What GET shows is what PUT took. */
static void round_trip(void **state)
{
	struct net_config net = policy(STRICT), again;
	json_t *json = config_dump_egress(&net.egress);
	char *text = json_dumps(json, 0);

	(void)state;
	again = policy(text);
	assert_memory_equal(&again.egress, &net.egress, sizeof(net.egress));
	json_decref(json);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules),       cmocka_unit_test(sources), cmocka_unit_test(neighbours),
		cmocka_unit_test(ways_around), cmocka_unit_test(damaged), cmocka_unit_test(nothing_asked),
		cmocka_unit_test(refused),     cmocka_unit_test(patched), cmocka_unit_test(round_trip),
	};

	return cmocka_run_group_tests_name("egress", tests, NULL, NULL);
}
