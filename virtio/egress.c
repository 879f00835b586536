/* egress.c: judges one Ethernet frame by its headers, and lets nothing pass that it cannot read. */
#include "egress.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>

#define IPV4_MIN_HEADER 20u
#define IPV6_HEADER     40u
#define ARP_LEN         28u /* Ethernet and IPv4 (RFC 826) */
#define MAX_EXTENSIONS  8u

/* A frame's headers while they are read. */
struct packet {
	const uint8_t *at;
	size_t left; /* bytes at `at` */
	struct egress_address src, dst;
	uint8_t protocol;
	bool fragment; /* not the first: it has no ports to look at */
	bool is_ipv6;
	bool cut; /* the packet goes on behind what is here */
};

static uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void map_ipv4(struct egress_address *out, const uint8_t *ip)
{
	static const uint8_t prefix[12] = { [10] = 0xff, [11] = 0xff };

	memcpy(out->byte, prefix, sizeof(prefix));
	memcpy(out->byte + sizeof(prefix), ip, 4);
}

static bool is_mapped(const struct egress_address *a)
{
	static const uint8_t prefix[12] = { [10] = 0xff, [11] = 0xff };

	return memcmp(a->byte, prefix, sizeof(prefix)) == 0;
}

static bool same_prefix(const struct egress_address *a, const struct egress_address *b, unsigned int bits)
{
	unsigned int bytes = bits / 8, rest = bits % 8;

	if (memcmp(a->byte, b->byte, bytes) != 0)
		return false;
	return !rest || (a->byte[bytes] ^ b->byte[bytes]) >> (8 - rest) == 0;
}

static bool is_zero(const struct egress_address *a, bool is_ipv6)
{
	static const struct egress_address zero;
	static const uint8_t zero4[4];

	return is_ipv6 ? same_prefix(a, &zero, 128) : memcmp(a->byte + 12, zero4, 4) == 0;
}

static bool is_own(const struct egress_config *cfg, const struct egress_address *a)
{
	unsigned int i;

	for (i = 0; i < cfg->nr_addresses; i++) {
		if (memcmp(&cfg->address[i], a, sizeof(*a)) == 0)
			return true;
	}
	return false;
}

static bool is_ipv6_link_local(const struct egress_address *a)
{
	return a->byte[0] == 0xfe && (a->byte[1] & 0xc0) == 0x80;
}

/* Where clouds keep credentials, and what else is only for the host itself. */
static bool is_blocked(const struct egress_address *a)
{
	static const struct egress_rule blocked[] = {
		{ .net = { { [10] = 0xff, 0xff, 169, 254 } }, .prefix = 112 },
		{ .net = { { 0xfe, 0x80 } }, .prefix = 10 },
		{ .net = { { [10] = 0xff, 0xff, 168, 63, 129, 16 } }, .prefix = 128 },               /* Azure */
		{ .net = { { [10] = 0xff, 0xff, 100, 100, 100, 200 } }, .prefix = 128 },             /* Alibaba */
		{ .net = { { 0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, 0x54 } }, .prefix = 128 },         /* AWS */
		{ .net = { { 0xfd, 0x20, 0x00, 0xce, [14] = 0x02, 0x54 } }, .prefix = 128 },         /* Google */
		{ .net = { { 0xfd, 0x00, 0x00, 0xc1, [12] = 169, 254, 169, 254 } }, .prefix = 128 }, /* Oracle */
		/* The IPv4 ones through NAT64 (RFC 6052) and 6to4 (RFC 3056). */
		{ .net = { { 0x00, 0x64, 0xff, 0x9b, [12] = 169, 254 } }, .prefix = 112 },
		{ .net = { { 0x00, 0x64, 0xff, 0x9b, [12] = 168, 63, 129, 16 } }, .prefix = 128 },
		{ .net = { { 0x00, 0x64, 0xff, 0x9b, [12] = 100, 100, 100, 200 } }, .prefix = 128 },
		{ .net = { { 0x20, 0x02, 169, 254 } }, .prefix = 32 },
		{ .net = { { 0x20, 0x02, 168, 63, 129, 16 } }, .prefix = 48 },
		{ .net = { { 0x20, 0x02, 100, 100, 100, 200 } }, .prefix = 48 },
	};
	unsigned int i;

	for (i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++) {
		if (same_prefix(a, &blocked[i].net, blocked[i].prefix))
			return true;
	}
	return false;
}

/* ---- reading ---- */

/* What lies behind the packet's own length is padding, and says nothing. */
static void bound(struct packet *p, size_t len)
{
	p->cut = p->left < len;
	p->left = p->cut ? p->left : len;
}

static bool skip(struct packet *p, size_t len)
{
	if (p->left < len)
		return false;
	p->at += len;
	p->left -= len;
	return true;
}

/* RFC 791, 3.1: loose and strict source routes make the address that counts another than the one in the header. */
static bool has_source_route(const uint8_t *options, size_t len)
{
	size_t i = 0;

	while (i < len && options[i] != 0) {
		if (options[i] == 131 || options[i] == 137)
			return true;
		if (options[i] == 1) {
			i++;
			continue;
		}
		if (i + 1 >= len || options[i + 1] < 2)
			return true; /* malformed: treated alike */
		i += options[i + 1];
	}
	return false;
}

static bool read_ipv4(struct packet *p)
{
	const uint8_t *ip = p->at;
	size_t header;
	uint16_t offset;

	if (p->left < IPV4_MIN_HEADER || ip[0] >> 4 != 4)
		return false;
	header = (size_t)(ip[0] & 0x0f) * 4;
	if (header < IPV4_MIN_HEADER || p->left < header || be16(ip + 2) < header)
		return false;
	if (has_source_route(ip + IPV4_MIN_HEADER, header - IPV4_MIN_HEADER))
		return false;
	offset = be16(ip + 6) & 0x1fff;
	p->fragment = offset != 0;
	p->protocol = ip[9];
	map_ipv4(&p->src, ip + 12);
	map_ipv4(&p->dst, ip + 16);
	bound(p, be16(ip + 2));
	return skip(p, header);
}

/* RFC 8200, 4: one extension header. A routing header makes the address that counts another than the one shown. */
static bool skip_extension(struct packet *p)
{
	uint8_t next = p->left ? p->at[0] : 0;
	size_t len;

	if (p->left < 8 || p->protocol == IPPROTO_ROUTING)
		return false;
	if (p->protocol == IPPROTO_FRAGMENT) {
		p->fragment = be16(p->at + 2) & 0xfff8;
		len = 8;
	} else if (p->protocol == IPPROTO_AH) {
		len = (p->at[1] + (size_t)2) * 4;
	} else {
		len = (p->at[1] + (size_t)1) * 8;
	}
	p->protocol = next;
	return skip(p, len);
}

static bool is_extension(uint8_t protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH || protocol == IPPROTO_DSTOPTS;
}

static bool read_ipv6(struct packet *p)
{
	unsigned int n;

	if (p->left < IPV6_HEADER || p->at[0] >> 4 != 6)
		return false;
	p->is_ipv6 = true;
	p->protocol = p->at[6];
	memcpy(p->src.byte, p->at + 8, 16);
	memcpy(p->dst.byte, p->at + 24, 16);
	/* A mapped address is never on the wire (RFC 4291, 2.5.5.2), and would pass for an IPv4 one here. */
	if (is_mapped(&p->src) || is_mapped(&p->dst))
		return false;
	bound(p, IPV6_HEADER + be16(p->at + 4));
	(void)skip(p, IPV6_HEADER);
	/* After the fragment header of a later fragment there is only payload. */
	for (n = 0; is_extension(p->protocol) && !p->fragment; n++) {
		if (n == MAX_EXTENSIONS || !skip_extension(p))
			return false;
	}
	return true;
}

/* ---- judging ---- */

static enum egress_verdict judge_arp(const struct egress_config *cfg, const uint8_t mac[6], const struct packet *p)
{
	static const uint8_t ethernet_ipv4[6] = { 0, 1, 0x08, 0, 6, 4 };
	struct egress_address sender;

	if (p->left < ARP_LEN || memcmp(p->at, ethernet_ipv4, sizeof(ethernet_ipv4)) != 0)
		return EGRESS_UNREADABLE;
	map_ipv4(&sender, p->at + 14);
	if (!cfg->anti_spoof)
		return EGRESS_PASS;
	if (memcmp(p->at + 8, mac, 6) != 0)
		return EGRESS_SPOOFED;
	/* 0.0.0.0 asks whether an address is free (RFC 5227). */
	return is_own(cfg, &sender) || is_zero(&sender, false) ? EGRESS_PASS : EGRESS_SPOOFED;
}

/* Which no router sends on: the link-local scope, and its groups. */
static bool stays_on_link(const struct egress_address *a)
{
	return is_ipv6_link_local(a) || (a->byte[0] == 0xff && (a->byte[1] & 0x0f) == 2);
}

/*
 * RFC 4861: what a host sends to find its neighbours; RFC 3810: and to join their groups. It passes every policy, so it
 * must not be a way to reach anybody else.
 */
static bool is_neighbour_discovery(const struct packet *p)
{
	if (!p->is_ipv6 || p->fragment || p->protocol != IPPROTO_ICMPV6 || !p->left || !stays_on_link(&p->dst))
		return false;
	switch (p->at[0]) {
	case ND_ROUTER_SOLICIT:
	case ND_NEIGHBOR_SOLICIT:
	case ND_NEIGHBOR_ADVERT:
	case MLD_LISTENER_REPORT:
	case MLD_LISTENER_REDUCTION:
	case 143: /* MLDv2 report */
		return true;
	default:
		return false;
	}
}

/* RFC 4291, appendix A: the link-local address that a host makes of its MAC. Any other has to be in `addresses`. */
static bool is_own_link_local(const struct egress_address *a, const uint8_t mac[6])
{
	const struct egress_address own = { { 0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4],
					      mac[5] } };

	return same_prefix(a, &own, 128);
}

/* An advertisement says whose address it is: it must be the guest's own. */
static bool advertises_other(const struct egress_config *cfg, const uint8_t mac[6], const struct packet *p)
{
	struct egress_address target;

	if (p->at[0] != ND_NEIGHBOR_ADVERT)
		return false;
	if (p->left < sizeof(struct nd_neighbor_advert))
		return true;
	memcpy(target.byte, p->at + 8, sizeof(target.byte));
	return !is_own(cfg, &target) && !is_own_link_local(&target, mac);
}

/* RFC 4861, 4.6.1: the options that tell others which MAC belongs to an address; all must be there to be read. */
static bool names_other_mac(const uint8_t mac[6], const struct packet *p)
{
	size_t at =
		p->at[0] == ND_ROUTER_SOLICIT ? sizeof(struct nd_router_solicit) : sizeof(struct nd_neighbor_solicit);

	if (p->at[0] != ND_ROUTER_SOLICIT && p->at[0] != ND_NEIGHBOR_SOLICIT && p->at[0] != ND_NEIGHBOR_ADVERT)
		return false;
	while (at < p->left) {
		const uint8_t *option = p->at + at;
		size_t len = at + 1 < p->left ? (size_t)option[1] * 8 : 0;

		if (!len || len > p->left - at)
			return true;
		if ((option[0] == ND_OPT_SOURCE_LINKADDR || option[0] == ND_OPT_TARGET_LINKADDR) &&
		    memcmp(option + 2, mac, ETH_ALEN) != 0)
			return true;
		at += len;
	}
	return at != p->left || p->cut;
}

static bool is_dhcp_request(const struct packet *p)
{
	return !p->is_ipv6 && !p->fragment && p->protocol == IPPROTO_UDP && p->left >= 4 && be16(p->at) == 68 &&
	       be16(p->at + 2) == 67;
}

static bool is_spoofed(const struct egress_config *cfg, const uint8_t mac[6], const struct packet *p)
{
	/* Only a router sends these. */
	if (p->is_ipv6 && p->protocol == IPPROTO_ICMPV6 && !p->fragment && p->left &&
	    (p->at[0] == ND_ROUTER_ADVERT || p->at[0] == ND_REDIRECT))
		return true;
	if (is_neighbour_discovery(p)) {
		if (advertises_other(cfg, mac, p) || names_other_mac(mac, p))
			return true;
		if (is_zero(&p->src, true) || is_own_link_local(&p->src, mac))
			return false;
	}
	if (!p->is_ipv6 && is_zero(&p->src, false))
		return !is_dhcp_request(p);
	return !is_own(cfg, &p->src);
}

static bool protocol_fits(const struct egress_rule *rule, const struct packet *p)
{
	uint8_t protocol = p->is_ipv6 && p->protocol == IPPROTO_ICMPV6 ? IPPROTO_ICMP : p->protocol;

	return !rule->protocol || rule->protocol == protocol;
}

/* A later fragment is of no use without the first, which has the ports and was judged by them. */
static bool port_fits(const struct egress_rule *rule, const struct packet *p)
{
	uint16_t port;

	if ((rule->port_first == 0 && rule->port_last == 65535) || p->fragment)
		return true;
	if ((p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) || p->left < 4)
		return false;
	port = be16(p->at + 2);
	return port >= rule->port_first && port <= rule->port_last;
}

static bool is_allowed(const struct egress_config *cfg, const struct packet *p)
{
	unsigned int i;

	for (i = 0; i < cfg->nr_rules; i++) {
		const struct egress_rule *rule = &cfg->rule[i];

		if (is_mapped(&rule->net) != p->is_ipv6 && same_prefix(&p->dst, &rule->net, rule->prefix) &&
		    protocol_fits(rule, p) && port_fits(rule, p))
			return true;
	}
	return false;
}

static enum egress_verdict judge_ip(const struct egress_config *cfg, const uint8_t mac[6], const struct packet *p)
{
	if (cfg->anti_spoof && is_spoofed(cfg, mac, p))
		return EGRESS_SPOOFED;
	if (is_neighbour_discovery(p))
		return EGRESS_PASS;
	if (cfg->block_link_local && is_blocked(&p->dst))
		return EGRESS_LINK_LOCAL;
	return cfg->default_deny && !is_allowed(cfg, p) ? EGRESS_DENIED : EGRESS_PASS;
}

bool egress_active(const struct egress_config *cfg)
{
	return cfg->anti_spoof || cfg->block_link_local || cfg->default_deny;
}

enum egress_verdict egress_judge(const struct egress_config *cfg, const uint8_t mac[6], const void *head,
				 size_t head_len)
{
	struct packet p = { .at = head, .left = head_len };
	const struct ethhdr *eth = head;

	if (!skip(&p, ETH_HLEN))
		return EGRESS_UNREADABLE;
	if (cfg->anti_spoof && memcmp(eth->h_source, mac, ETH_ALEN) != 0)
		return EGRESS_SPOOFED;
	switch (be16(p.at - 2)) {
	case ETH_P_ARP:
		return judge_arp(cfg, mac, &p);
	case ETH_P_IP:
		return read_ipv4(&p) ? judge_ip(cfg, mac, &p) : EGRESS_UNREADABLE;
	case ETH_P_IPV6:
		return read_ipv6(&p) ? judge_ip(cfg, mac, &p) : EGRESS_UNREADABLE;
	default:
		return EGRESS_UNREADABLE;
	}
}
