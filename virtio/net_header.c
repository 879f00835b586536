/* net_header.c: does a vnet header of the guest only ask for checksums where TCP and UDP have theirs? */
#include <endian.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <string.h>

#include "net_internal.h"

#define MAX_VLAN_TAGS   2
#define VLAN_TAG_LEN    4u
#define MAX_IPV6_EXTRAS 4

/* The head of a frame: bytes [at, len) are not parsed yet. */
struct cursor {
	const uint8_t *head;
	size_t len, at;
};

static bool have(const struct cursor *c, size_t n)
{
	return c->at <= c->len && n <= c->len - c->at;
}

static uint16_t be16_at(const struct cursor *c, size_t offset)
{
	uint16_t value;

	memcpy(&value, c->head + c->at + offset, sizeof(value));
	return be16toh(value);
}

/* Ethertype of what follows the Ethernet header and VLAN tags, where the cursor is then; 0: head too short. */
static uint16_t skip_ethernet(struct cursor *c)
{
	uint16_t type;
	unsigned int tags = 0;

	if (!have(c, ETH_HLEN))
		return 0;
	type = be16_at(c, offsetof(struct ethhdr, h_proto));
	c->at += ETH_HLEN;
	while ((type == ETH_P_8021Q || type == ETH_P_8021AD) && tags++ < MAX_VLAN_TAGS) {
		if (!have(c, VLAN_TAG_LEN))
			return 0;
		type = be16_at(c, 2);
		c->at += VLAN_TAG_LEN;
	}
	return type;
}

/* Protocol of the transport header, where the cursor is then; -1: none that could be found. */
static int skip_ipv4(struct cursor *c)
{
	struct iphdr ip;

	if (!have(c, sizeof(ip)))
		return -1;
	memcpy(&ip, c->head + c->at, sizeof(ip));
	if (ip.version != 4 || ip.ihl < 5)
		return -1;
	c->at += (size_t)ip.ihl * 4;
	return ip.protocol;
}

static int skip_ipv6(struct cursor *c)
{
	struct ip6_hdr ip;
	unsigned int i;
	int next;

	if (!have(c, sizeof(ip)))
		return -1;
	memcpy(&ip, c->head + c->at, sizeof(ip));
	if (ip.ip6_vfc >> 4 != 6)
		return -1;
	next = ip.ip6_nxt;
	c->at += sizeof(ip);
	for (i = 0; i < MAX_IPV6_EXTRAS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			return next;
		if (!have(c, sizeof(struct ip6_ext)))
			return -1;
		next = c->head[c->at];
		c->at += ((size_t)c->head[c->at + 1] + 1) * 8;
	}
	return -1;
}

/*
 * With NEEDS_CSUM the host writes a checksum to csum_start + csum_offset after the frame has been looked at, and the
 * guest can make that checksum any value: pointed at an address or a port it would change what a filter has just
 * allowed. So both must be what the headers say. A GSO frame without NEEDS_CSUM is against 5.1.6.2.1, and hosts find
 * its headers in their own ways.
 */
bool net_header_honest(const struct virtio_net_hdr_v1 *hdr, const uint8_t *head, size_t head_len)
{
	struct cursor c = { .head = head, .len = head_len };
	size_t checksum;
	int protocol;

	if (!(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return hdr->gso_type == VIRTIO_NET_HDR_GSO_NONE;
	switch (skip_ethernet(&c)) {
	case ETH_P_IP:
		protocol = skip_ipv4(&c);
		break;
	case ETH_P_IPV6:
		protocol = skip_ipv6(&c);
		break;
	default:
		return false;
	}
	if (protocol == IPPROTO_TCP)
		checksum = offsetof(struct tcphdr, th_sum);
	else if (protocol == IPPROTO_UDP)
		checksum = offsetof(struct udphdr, uh_sum);
	else
		return false;
	return have(&c, checksum + 2) && le16toh(hdr->csum_start) == c.at && le16toh(hdr->csum_offset) == checksum;
}
