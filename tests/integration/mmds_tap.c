/*
 * mmds_tap.c: the metadata service behind a TAP, so that the host's own TCP and real clients can talk to it. Frames can
 * be lost, doubled and swapped on the way.
 *
 * mmds_tap TAP DATA.json V1|V2 [PERCENT SEED [imds]]: says "ready" and serves until its standard input ends. PERCENT
 * each of the frames is lost, doubled or overtaken by the next one.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "event_loop.h"
#include "mmds/stack.h"

#define FRAME_MAX (65550 + sizeof(struct virtio_net_hdr))
#define HEAD_MAX  128u /* as the network device copies it */

/* A direction with its accidents. */
struct wire {
	void (*deliver)(const uint8_t *frame, size_t len);
	uint8_t held[FRAME_MAX];
	size_t held_len;
};

static struct event_loop loop;
static struct mmds_stack *stack;
static int tap;
static uint64_t seed;
static unsigned int percent;

/* xorshift64 */
static bool accident(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % 100 < percent;
}

static void carry(struct wire *w, const uint8_t *frame, size_t len)
{
	if (accident())
		return;
	if (!w->held_len && accident()) {
		memcpy(w->held, frame, len);
		w->held_len = len;
		return;
	}
	w->deliver(frame, len);
	if (accident())
		w->deliver(frame, len);
	if (w->held_len)
		w->deliver(w->held, w->held_len);
	w->held_len = 0;
}

static void to_tap(const uint8_t *frame, size_t len)
{
	const struct virtio_net_hdr header = { 0 };
	const struct iovec iov[2] = { { (void *)&header, sizeof(header) }, { (void *)frame, len } };

	if (writev(tap, iov, 2) < 0 && errno != EAGAIN)
		err(1, "write to the TAP");
}

static void to_stack(const uint8_t *frame, size_t len)
{
	const size_t head = len < HEAD_MAX ? len : HEAD_MAX;
	const struct iovec rest = { (void *)(frame + head), len - head };

	mmds_stack_from_guest(stack, frame, head, &rest, 1, len);
}

static struct wire guest_bound = { .deliver = to_tap }, service_bound = { .deliver = to_stack };

static void ready(void *opaque)
{
	uint8_t frame[1514];
	size_t len;

	(void)opaque;
	while ((len = mmds_stack_to_guest(stack, frame, sizeof(frame))))
		carry(&guest_bound, frame, len);
}

static void tap_ready(struct event_fd *ev, uint32_t events)
{
	static uint8_t buf[FRAME_MAX];
	ssize_t n = read(ev->fd, buf, sizeof(buf));

	(void)events;
	if (n > (ssize_t)sizeof(struct virtio_net_hdr))
		carry(&service_bound, buf + sizeof(struct virtio_net_hdr), (size_t)n - sizeof(struct virtio_net_hdr));
}

static void input_ended(struct event_fd *ev, uint32_t events)
{
	(void)ev;
	(void)events;
	event_loop_stop(&loop);
}

/* With the offloads a guest would use: what arrives has partial checksums and may be larger than the MTU. */
static int open_tap(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		err(1, "/dev/net/tun");
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4))
		err(1, "%s", name);
	return fd;
}

int main(int argc, char **argv)
{
	struct event_fd tap_event = { .ready = tap_ready }, input_event = { .fd = 0, .ready = input_ended };
	struct mmds *mmds;
	struct error error;
	json_t *data;

	if (argc < 4)
		errx(1, "usage: mmds_tap TAP DATA.json V1|V2 [PERCENT SEED [imds]]");
	percent = argc > 5 ? (unsigned int)atoi(argv[4]) : 0;
	seed = argc > 5 ? strtoull(argv[5], NULL, 0) : 1;
	data = json_load_file(argv[2], JSON_DECODE_ANY, NULL);
	tap = tap_event.fd = open_tap(argv[1]);
	if (!data || event_loop_init(&loop, &error) || mmds_create(&mmds, 1 << 20, &error) ||
	    mmds_store_put(&mmds->store, data, &error) ||
	    mmds_stack_create(&stack, mmds, 0xa9fea9fe, &loop, ready, NULL, &error))
		errx(1, "%s", data ? error.message : "no JSON");
	json_decref(data);
	mmds->version = strcmp(argv[3], "V2") == 0 ? MMDS_V2 : MMDS_V1;
	mmds->imds_compat = argc > 6;
	if (event_loop_add(&loop, &tap_event, EPOLLIN) || event_loop_add(&loop, &input_event, EPOLLIN))
		errx(1, "event loop");
	puts("ready");
	fflush(stdout);
	event_loop_run(&loop);
	mmds_stack_destroy(stack);
	mmds_destroy(mmds);
	event_loop_destroy(&loop);
	return 0;
}
