/* stack.c: which frames are the metadata service's, ARP, and the timer behind TCP. */
#include "stack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "frame.h"
#include "metrics.h"
#include "retry.h"
#include "tcp.h"

#define MAX_ARP_REPLIES 8u

/* RFC 826, for Ethernet and IPv4. */
struct arp_packet {
	struct arphdr header;
	uint8_t sender_mac[ETH_ALEN];
	uint8_t sender_ip[4];
	uint8_t target_mac[ETH_ALEN];
	uint8_t target_ip[4];
} __attribute__((packed));

#define ARP_FRAME (ETH_HLEN + sizeof(struct arp_packet))

struct mmds_stack {
	struct event_loop *loop;
	struct event_timer timer;
	void (*ready)(void *opaque);
	void *opaque;
	struct tcp tcp;
	struct peer asking[MAX_ARP_REPLIES]; /* for our MAC address; the oldest is at first_asking */
	unsigned int first_asking, nr_asking;
};

static const uint8_t mac[ETH_ALEN] = MMDS_MAC;

/* While there are connections the timer never moves later: rather once too often than set for every segment. */
static void arm(struct mmds_stack *stack)
{
	const uint64_t deadline = tcp_deadline(&stack->tcp);

	if (deadline == UINT64_MAX)
		event_loop_disarm(stack->loop, &stack->timer);
	else if (!stack->timer.armed || deadline < stack->timer.deadline_ns)
		event_loop_arm(stack->loop, &stack->timer, deadline);
}

static bool pending(const struct mmds_stack *stack)
{
	return stack->nr_asking || tcp_pending(&stack->tcp);
}

static void tell_if_pending(const struct mmds_stack *stack)
{
	if (pending(stack))
		stack->ready(stack->opaque);
}

static void timer_expired(struct event_timer *timer)
{
	struct mmds_stack *stack = timer->opaque;

	tcp_expire(&stack->tcp, stack->tcp.mmds->now_ns());
	arm(stack);
	tell_if_pending(stack);
}

int mmds_stack_create(struct mmds_stack **out, struct mmds *mmds, uint32_t ipv4, struct event_loop *loop,
		      void (*ready)(void *opaque), void *opaque, struct error *err)
{
	struct mmds_stack *stack = calloc(1, sizeof(*stack));
	uint8_t key[SIPHASH_KEY_SIZE];

	if (!stack)
		return error_set(err, -ENOMEM, "mmds: no memory");
	if (RETRY_INTERRUPTED(getrandom(key, sizeof(key), 0)) != (ssize_t)sizeof(key)) {
		free(stack);
		return error_set(err, -errno, "mmds: no random numbers: %s", strerror(errno));
	}
	stack->loop = loop;
	stack->timer = (struct event_timer){ .expired = timer_expired, .opaque = stack };
	stack->ready = ready;
	stack->opaque = opaque;
	tcp_init(&stack->tcp, mmds, mac, htonl(ipv4), key);
	*out = stack;
	return 0;
}

void mmds_stack_destroy(struct mmds_stack *stack)
{
	if (!stack)
		return;
	event_loop_disarm(stack->loop, &stack->timer);
	tcp_free(&stack->tcp);
	free(stack);
}

/* true: it asks for our address, or claims it. */
static bool receive_arp(struct mmds_stack *stack, const struct frame *f)
{
	struct arp_packet arp;
	struct peer *asking;

	if (frame_copy(f, ETH_HLEN, &arp, sizeof(arp)) < sizeof(arp) ||
	    memcmp(arp.target_ip, &stack->tcp.ip, sizeof(arp.target_ip)) != 0)
		return false;
	metrics_inc(mmds_rx_accepted);
	if (arp.header.ar_hrd != htons(ARPHRD_ETHER) || arp.header.ar_pro != htons(ETH_P_IP) ||
	    arp.header.ar_hln != ETH_ALEN || arp.header.ar_pln != sizeof(arp.target_ip) ||
	    arp.header.ar_op != htons(ARPOP_REQUEST)) {
		metrics_inc(mmds_rx_accepted_unusual);
		return true;
	}
	/* Who asks more often than it listens is answered less often. */
	if (stack->nr_asking < MAX_ARP_REPLIES) {
		asking = &stack->asking[(stack->first_asking + stack->nr_asking++) % MAX_ARP_REPLIES];
		memcpy(asking->mac, arp.sender_mac, ETH_ALEN);
		memcpy(&asking->ip, arp.sender_ip, sizeof(asking->ip));
	}
	return true;
}

static bool receive_ipv4(struct mmds_stack *stack, const struct frame *f, size_t len)
{
	struct segment s;
	struct iphdr ip;

	if (frame_copy(f, ETH_HLEN, &ip, sizeof(ip)) < sizeof(ip) || ip.daddr != stack->tcp.ip)
		return false;
	metrics_inc(mmds_rx_accepted);
	/* Whatever it is: it is addressed to us, so it does not go on to the host's network. */
	switch (frame_read_tcp(f, len, &s)) {
	case FRAME_TCP:
		tcp_receive(&stack->tcp, &s, f, stack->tcp.mmds->now_ns());
		arm(stack);
		break;
	case FRAME_OTHER:
		metrics_inc(mmds_rx_accepted_unusual);
		break;
	case FRAME_INVALID:
		metrics_inc(mmds_rx_accepted_err);
		break;
	}
	return true;
}

bool mmds_stack_from_guest(void *opaque, const void *head, size_t head_len, const struct iovec *rest,
			   unsigned int nr_rest, size_t len)
{
	const struct frame f = { .head = head, .head_len = head_len, .rest = rest, .nr_rest = nr_rest };
	struct mmds_stack *stack = opaque;
	struct ethhdr eth;
	bool ours = false;

	if (len < ETH_HLEN || frame_copy(&f, 0, &eth, sizeof(eth)) < sizeof(eth))
		metrics_inc(mmds_rx_bad_eth);
	else if (eth.h_proto == htons(ETH_P_ARP))
		ours = receive_arp(stack, &f);
	else if (eth.h_proto == htons(ETH_P_IP))
		ours = receive_ipv4(stack, &f, len);
	if (ours)
		tell_if_pending(stack);
	return ours;
}

static size_t send_arp(struct mmds_stack *stack, uint8_t *buf)
{
	const struct peer *to = &stack->asking[stack->first_asking];
	struct ethhdr eth = { .h_proto = htons(ETH_P_ARP) };
	struct arp_packet arp = {
		.header = {
			.ar_hrd = htons(ARPHRD_ETHER),
			.ar_pro = htons(ETH_P_IP),
			.ar_hln = ETH_ALEN,
			.ar_pln = sizeof(arp.sender_ip),
			.ar_op = htons(ARPOP_REPLY),
		},
	};

	memcpy(eth.h_dest, to->mac, ETH_ALEN);
	memcpy(eth.h_source, mac, ETH_ALEN);
	memcpy(arp.sender_mac, mac, ETH_ALEN);
	memcpy(arp.sender_ip, &stack->tcp.ip, sizeof(arp.sender_ip));
	memcpy(arp.target_mac, to->mac, ETH_ALEN);
	memcpy(arp.target_ip, &to->ip, sizeof(arp.target_ip));
	memcpy(buf, &eth, sizeof(eth));
	memcpy(buf + sizeof(eth), &arp, sizeof(arp));
	stack->first_asking = (stack->first_asking + 1) % MAX_ARP_REPLIES;
	stack->nr_asking--;
	return ARP_FRAME;
}

size_t mmds_stack_to_guest(void *opaque, void *buf, size_t size)
{
	struct mmds_stack *stack = opaque;
	size_t len;

	if (!pending(stack))
		return 0;
	if (stack->nr_asking && size >= ARP_FRAME)
		len = send_arp(stack, buf);
	else
		len = tcp_send(&stack->tcp, buf, size, stack->tcp.mmds->now_ns());
	arm(stack);
	if (len == 0)
		return 0;
	metrics_inc(mmds_tx_count);
	metrics_inc(mmds_tx_frames);
	metrics_add(mmds_tx_bytes, len);
	return len;
}
