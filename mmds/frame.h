/* frame.h: Ethernet, IPv4 and TCP headers of frames to and from the guest. */
#ifndef MAYFLY_MMDS_FRAME_H
#define MAYFLY_MMDS_FRAME_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FRAME_TCP_HEADERS (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr)) /* ours have no options but MSS */
#define FRAME_TCP_MSS     (ETH_DATA_LEN - sizeof(struct iphdr) - sizeof(struct tcphdr))

/* A frame from the guest: head was copied out of its memory, rest still lies there and may change at any time. */
struct frame {
	const uint8_t *head;
	size_t head_len;
	const struct iovec *rest;
	unsigned int nr_rest;
};

/* Who a packet comes from or goes to; addresses and port in network byte order. */
struct peer {
	uint8_t mac[ETH_ALEN];
	__be32 ip;
	__be16 port;
};

#define TCP_FLAG_BIT_FIN 0x01u
#define TCP_FLAG_BIT_SYN 0x02u
#define TCP_FLAG_BIT_RST 0x04u
#define TCP_FLAG_BIT_PSH 0x08u
#define TCP_FLAG_BIT_ACK 0x10u

/* One TCP segment; numbers in host byte order. */
struct segment {
	struct peer peer;
	uint16_t port; /* ours */
	uint32_t seq, ack;
	uint8_t flags; /* TCP_FLAG_BIT_* */
	uint16_t window;
	uint16_t mss;   /* of a SYN's option, 0: none */
	size_t payload; /* where the data starts in the frame */
	size_t len;     /* bytes of data */
};

/* frame_copy - copy up to len bytes from offset on; returns how many there were. Each byte is read once. */
size_t frame_copy(const struct frame *f, size_t offset, void *dst, size_t len);

enum frame_kind {
	FRAME_OTHER,   /* IPv4, but nothing for us: not TCP, or a fragment */
	FRAME_INVALID, /* headers that contradict each other or the frame's length */
	FRAME_TCP,     /* *s is filled */
};

/*
 * frame_read_tcp - take an IPv4 frame of len bytes apart
 * Checksums are not looked at: with checksum offload they are not complete yet, and guest memory is no wire.
 */
enum frame_kind frame_read_tcp(const struct frame *f, size_t len, struct segment *s);

/*
 * frame_write_tcp - the frame that carries s from our mac and ip to s->peer, with all checksums
 * s->len bytes of data are copied from data. With SYN set, s->mss goes along. buf has room for FRAME_TCP_HEADERS + 4 +
 * s->len bytes. Returns the frame's length.
 */
size_t frame_write_tcp(uint8_t *buf, const uint8_t mac[ETH_ALEN], __be32 ip, const struct segment *s, const void *data);

#endif
