/* frame.c: reads and writes the headers of Ethernet frames that carry TCP over IPv4. */
#include "frame.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#define FRAGMENT_MASK 0x3fffu /* more fragments, and the offset (RFC 791, 3.1) */
#define DONT_FRAGMENT 0x4000u
#define MAX_OPTIONS   40u
#define OPTION_END    0u
#define OPTION_NOP    1u
#define OPTION_MSS    2u
/* A response must not leave the guest again, through a proxy for instance: as Firecracker and EC2. */
#define TTL 1u

size_t frame_copy(const struct frame *f, size_t offset, void *dst, size_t len)
{
	uint8_t *at = dst;
	size_t n, done = 0;
	unsigned int i;

	if (offset < f->head_len) {
		n = f->head_len - offset;
		n = n < len ? n : len;
		memcpy(at, f->head + offset, n);
		done = n;
		offset = 0;
	} else {
		offset -= f->head_len;
	}
	for (i = 0; i < f->nr_rest && done < len; i++) {
		if (offset >= f->rest[i].iov_len) {
			offset -= f->rest[i].iov_len;
			continue;
		}
		n = f->rest[i].iov_len - offset;
		n = n < len - done ? n : len - done;
		memcpy(at + done, (const uint8_t *)f->rest[i].iov_base + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

/* RFC 9293, 3.1: the maximum segment size among len bytes of options, 0 when it is not there or they are malformed. */
static uint16_t read_mss(const uint8_t *options, size_t len)
{
	size_t at = 0, size;

	while (at < len && options[at] != OPTION_END) {
		if (options[at] == OPTION_NOP) {
			at++;
			continue;
		}
		size = at + 1 < len ? options[at + 1] : 0;
		if (size < 2 || size > len - at)
			return 0;
		if (options[at] == OPTION_MSS && size == 4)
			return (uint16_t)(options[at + 2] << 8 | options[at + 3]);
		at += size;
	}
	return 0;
}

enum frame_kind frame_read_tcp(const struct frame *f, size_t len, struct segment *s)
{
	uint8_t options[MAX_OPTIONS];
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
	size_t ip_size, tcp_size, total;

	if (frame_copy(f, 0, &eth, sizeof(eth)) < sizeof(eth) || frame_copy(f, ETH_HLEN, &ip, sizeof(ip)) < sizeof(ip))
		return FRAME_INVALID;
	ip_size = ip.ihl * (size_t)4;
	total = ntohs(ip.tot_len);
	if (ip.version != 4 || ip_size < sizeof(ip) || total < ip_size || total > len - ETH_HLEN)
		return FRAME_INVALID;
	if (ip.protocol != IPPROTO_TCP || ntohs(ip.frag_off) & FRAGMENT_MASK)
		return FRAME_OTHER;
	if (total < ip_size + sizeof(tcp) || frame_copy(f, ETH_HLEN + ip_size, &tcp, sizeof(tcp)) < sizeof(tcp))
		return FRAME_INVALID;
	tcp_size = tcp.doff * (size_t)4;
	if (tcp_size < sizeof(tcp) || total < ip_size + tcp_size)
		return FRAME_INVALID;
	*s = (struct segment){
		.peer = { .ip = ip.saddr, .port = tcp.source },
		.port = ntohs(tcp.dest),
		.seq = ntohl(tcp.seq),
		.ack = ntohl(tcp.ack_seq),
		.flags = (uint8_t)(tcp.fin | tcp.syn << 1 | tcp.rst << 2 | tcp.psh << 3 | tcp.ack << 4),
		.window = ntohs(tcp.window),
		.payload = ETH_HLEN + ip_size + tcp_size,
		.len = total - ip_size - tcp_size,
	};
	memcpy(s->peer.mac, eth.h_source, ETH_ALEN);
	if (tcp.syn)
		s->mss = read_mss(options,
				  frame_copy(f, ETH_HLEN + ip_size + sizeof(tcp), options, tcp_size - sizeof(tcp)));
	return FRAME_TCP;
}

/* RFC 1071: the one's complement sum of 16-bit words, in the byte order they are in. */
static uint64_t sum(uint64_t total, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;
	uint16_t half;
	uint32_t word;

	for (; len >= sizeof(word); at += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		total += word;
	}
	for (; len; at += sizeof(half), len -= sizeof(half)) {
		half = 0;
		memcpy(&half, at, len < sizeof(half) ? len : sizeof(half));
		total += half;
		if (len < sizeof(half))
			break;
	}
	return total;
}

static uint16_t fold(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}

static void write_ip(uint8_t *at, __be32 from, __be32 to, size_t payload)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = sizeof(ip) / 4,
		.tot_len = htons((uint16_t)(sizeof(ip) + payload)),
		.frag_off = htons(DONT_FRAGMENT),
		.ttl = TTL,
		.protocol = IPPROTO_TCP,
		.saddr = from,
		.daddr = to,
	};

	ip.check = fold(sum(0, &ip, sizeof(ip)));
	memcpy(at, &ip, sizeof(ip));
}

size_t frame_write_tcp(uint8_t *buf, const uint8_t mac[ETH_ALEN], __be32 ip, const struct segment *s, const void *data)
{
	const size_t options = s->flags & TCP_FLAG_BIT_SYN ? 4 : 0, header = sizeof(struct tcphdr) + options;
	uint8_t *at = buf + ETH_HLEN + sizeof(struct iphdr);
	const uint16_t pseudo[2] = { htons(IPPROTO_TCP), htons((uint16_t)(header + s->len)) };
	const uint8_t mss[4] = { OPTION_MSS, 4, (uint8_t)(s->mss >> 8), (uint8_t)s->mss };
	struct ethhdr eth = { .h_proto = htons(ETH_P_IP) };
	struct tcphdr tcp = {
		.source = htons(s->port),
		.dest = s->peer.port,
		.seq = htonl(s->seq),
		.ack_seq = htonl(s->ack),
		.doff = (header / 4) & 15,
		.fin = (s->flags & TCP_FLAG_BIT_FIN) != 0,
		.syn = (s->flags & TCP_FLAG_BIT_SYN) != 0,
		.rst = (s->flags & TCP_FLAG_BIT_RST) != 0,
		.psh = (s->flags & TCP_FLAG_BIT_PSH) != 0,
		.ack = (s->flags & TCP_FLAG_BIT_ACK) != 0,
		.window = htons(s->window),
	};
	uint64_t total;

	memcpy(eth.h_dest, s->peer.mac, ETH_ALEN);
	memcpy(eth.h_source, mac, ETH_ALEN);
	memcpy(buf, &eth, sizeof(eth));
	write_ip(buf + ETH_HLEN, ip, s->peer.ip, header + s->len);
	memcpy(at + sizeof(tcp), mss, options);
	if (s->len)
		memcpy(at + header, data, s->len);
	/* RFC 9293, 3.1: the pseudo header is addresses, protocol and length. */
	total = sum(sum(sum(0, &ip, sizeof(ip)), &s->peer.ip, sizeof(s->peer.ip)), pseudo, sizeof(pseudo));
	total = sum(sum(total, &tcp, sizeof(tcp)), at + sizeof(tcp), options + s->len);
	tcp.check = fold(total);
	memcpy(at, &tcp, sizeof(tcp));
	return (size_t)(at - buf) + header + s->len;
}
