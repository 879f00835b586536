/* egress.h: which of a guest's frames may leave it. */
#ifndef MAYFLY_VIRTIO_EGRESS_H
#define MAYFLY_VIRTIO_EGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EGRESS_MAX_ADDRESSES 8
#define EGRESS_MAX_RULES     64

/* IPv4 addresses are kept as IPv4-mapped IPv6 (::ffff:a.b.c.d, RFC 4291, 2.5.5.2), so that one comparison serves both.
 */
struct egress_address {
	uint8_t byte[16];
};

struct egress_rule {
	struct egress_address net;
	uint8_t prefix;                 /* bits of net that count, 0..128; an IPv4 prefix plus 96 */
	uint8_t protocol;               /* IPPROTO_*, 0: any (IPPROTO_ICMP: ICMPv6, too) */
	uint16_t port_first, port_last; /* destination; 0..65535: any. TCP and UDP only */
};

struct egress_config {
	bool anti_spoof; /* only guest_mac and the addresses below as sources, in ARP and neighbour discovery, too */
	bool block_link_local; /* nothing to 169.254.0.0/16, fe80::/10 and the clouds' metadata services */
	bool default_deny;     /* nothing but what a rule allows, ARP and neighbour discovery */
	struct egress_address address[EGRESS_MAX_ADDRESSES];
	unsigned int nr_addresses;
	struct egress_rule rule[EGRESS_MAX_RULES];
	unsigned int nr_rules;
};

enum egress_verdict {
	EGRESS_PASS,
	EGRESS_SPOOFED,    /* a source that is not the guest's */
	EGRESS_LINK_LOCAL, /* towards a blocked address */
	EGRESS_DENIED,     /* no rule allows it */
	EGRESS_UNREADABLE, /* cannot be judged: malformed, tagged, source-routed, or of an unknown kind */
};

/* egress_active - does cfg ask for anything at all? */
bool egress_active(const struct egress_config *cfg);

/*
 * egress_judge - may this frame leave?
 * head is a private copy of the frame's first head_len bytes: what is judged is what will be sent. Whatever does not
 * show itself within them is EGRESS_UNREADABLE. Any thread; no memory, no state.
 */
enum egress_verdict egress_judge(const struct egress_config *cfg, const uint8_t mac[6], const void *head,
				 size_t head_len);

#endif
