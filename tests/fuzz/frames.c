/* frames.c: frames that a guest or a network might send, their headers mostly right and wrong where the input says. */
#include "frames.h"

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

const uint8_t frames_guest_mac[6] = { 6, 0, 0, 0, 0, 1 };

static uint32_t take_address(struct input *in)
{
	static const uint32_t known[] = { FRAMES_GUEST_IP, FRAMES_SERVICE_IP, 0x08080808, 0xa9fe0001,
					  0x7f000001,      0xffffffff,        0x0a000003 };
	uint8_t which = take8(in);

	return htonl(which < 7 ? known[which] : take32(in));
}

static uint8_t *put_arp(struct input *in, uint8_t *at)
{
	const struct arphdr head = { htons(1), htons(ETH_P_IP), 6, 4, htons(take8(in) & 3) };
	uint32_t from = take_address(in), to = take_address(in);

	at = mempcpy(at, &head, sizeof(head));
	at = mempcpy(at, frames_guest_mac, 6);
	at = mempcpy(at, &from, 4);
	at = mempcpy(at, frames_guest_mac, 6);
	return mempcpy(at, &to, 4);
}

static uint8_t *put_transport(struct input *in, uint8_t *at, uint8_t protocol)
{
	struct tcphdr tcp = { 0 };

	tcp.source = htons(take16(in));
	tcp.dest = htons(take8(in) & 1 ? 80 : take16(in));
	tcp.seq = htonl(take16(in));
	tcp.ack_seq = htonl(take16(in));
	tcp.doff = 5 + (take8(in) & 1);
	((uint8_t *)&tcp)[13] = take8(in);
	tcp.window = htons(take16(in));
	return mempcpy(at, &tcp, protocol == IPPROTO_UDP ? 8 : sizeof(tcp));
}

static const uint8_t protocols[] = { IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6, 0, 43, 44, 60 };

static uint8_t *put_ipv4(struct input *in, uint8_t *at)
{
	uint8_t shape = take8(in);
	struct iphdr ip = { .version = 4, .ihl = 5 + (shape >> 6), .ttl = 64, .protocol = protocols[shape & 7] };

	ip.tot_len = htons(take16(in));
	ip.frag_off = htons(shape & 0x20 ? take16(in) : 0);
	ip.saddr = take_address(in);
	ip.daddr = take_address(in);
	at = mempcpy(at, &ip, sizeof(ip));
	memset(at, 0, 12);
	return put_transport(in, at + (shape >> 6) * 4, ip.protocol);
}

static uint8_t *put_ipv6(struct input *in, uint8_t *at)
{
	uint8_t shape = take8(in), extension[8] = { protocols[take8(in) & 7] };
	uint8_t head[40] = { 0x60 };

	head[6] = protocols[shape & 7];
	head[5] = sizeof(struct tcphdr) + (shape & 8); /* payload; an extension header has 8 bytes */
	head[7] = 255;
	take_bytes(in, head + 8, 2 + (shape >> 4 & 15));  /* source */
	take_bytes(in, head + 24, 1 + (shape >> 4 & 15)); /* destination */
	at = mempcpy(at, head, sizeof(head));
	if (shape & 8)
		at = mempcpy(at, extension, sizeof(extension));
	return put_transport(in, at, shape & 8 ? extension[0] : head[6]);
}

uint8_t *frames_put(struct input *in, uint8_t *at)
{
	static const uint16_t types[] = { ETH_P_IP, ETH_P_IPV6, ETH_P_ARP, ETH_P_8021Q };
	uint8_t shape = take8(in);
	uint16_t type = htons(types[shape & 3]), inner = htons(types[shape >> 2 & 3]);

	memset(at, 0xff, 6);
	at = mempcpy(at + 6, frames_guest_mac, 6);
	at[-1] ^= shape >> 7;
	at = mempcpy(at, &type, 2);
	if ((shape & 3) == 3) {
		at = mempcpy(at, &shape, 1);
		at = mempcpy(at, &shape, 1);
		at = mempcpy(at, &inner, 2);
		type = inner;
	}
	if (type == htons(ETH_P_IP))
		return put_ipv4(in, at);
	return type == htons(ETH_P_IPV6) ? put_ipv6(in, at) : put_arp(in, at);
}

uint8_t *frames_put_vnet_header(struct input *in, uint8_t *at)
{
	uint8_t shape = take8(in);
	struct virtio_net_hdr_v1 hdr = { .flags = shape & 7, .gso_type = shape >> 3 & 7 };

	if (shape & 0x40)
		hdr.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	/* Where TCP has its checksum behind IPv4, unless told otherwise. */
	hdr.csum_start = shape & 0x80 ? take16(in) : ETH_HLEN + 20;
	hdr.csum_offset = shape & 0x80 ? take16(in) : 16;
	hdr.hdr_len = shape & 0x80 ? take16(in) : ETH_HLEN + 40;
	hdr.gso_size = shape ? take16(in) : 0;
	return mempcpy(at, &hdr, sizeof(hdr));
}
