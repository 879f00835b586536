/* frames.c: sends frames to a guest behind a TAP as fast as it takes them, and never more than it can still be given.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ETHERTYPE 0x88b5 /* as tests/guest/net.h has it */
#define FRAME_MAX 9000u
#define BATCH     64u
#define WINDOW    512u /* frames in the TAP; less than its queue, so that none is dropped */

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "frames: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* How many frames the TAP's reader has taken: the device's transmit counter, from this namespace's /proc/net/dev. */
static unsigned long long taken(int fd, const char *interface)
{
	char text[8192], *line, *figures;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	unsigned long long packets;

	text[n > 0 ? n : 0] = '\0';
	line = strstr(text, interface);
	figures = line ? strchr(line, ':') : NULL;
	/* Eight figures of what was received, then bytes and packets sent. */
	if (!figures || sscanf(figures + 1, "%*u %*u %*u %*u %*u %*u %*u %*u %*u %llu", &packets) != 1)
		die("/proc/net/dev");
	return packets;
}

static int open_socket(const char *interface)
{
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(interface) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1;

	if (fd < 0 || !addr.sll_ifindex || bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die(interface);
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)))
		die("PACKET_QDISC_BYPASS");
	return fd;
}

static void send_for_ever(int fd, const char *interface, char *frame, size_t len)
{
	struct iovec iov = { .iov_base = frame, .iov_len = len };
	const struct timespec moment = { .tv_nsec = 20000 };
	int counters = open("/proc/thread-self/net/dev", O_RDONLY | O_CLOEXEC);
	unsigned long long sent = taken(counters, interface);
	struct mmsghdr batch[BATCH];
	int n;

	for (n = 0; n < (int)BATCH; n++)
		batch[n] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &iov, .msg_iovlen = 1 } };
	for (;;) {
		while (sent + BATCH > taken(counters, interface) + WINDOW)
			nanosleep(&moment, NULL);
		n = sendmmsg(fd, batch, BATCH, 0);
		if (n < 0)
			die("sendmmsg");
		sent += (unsigned long long)n;
	}
}

/* frames INTERFACE LENGTH */
int main(int argc, char **argv)
{
	static char frame[FRAME_MAX] = "\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\1";
	const uint16_t type = htons(ETHERTYPE);
	size_t len = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

	if (len < 60 || len > sizeof(frame))
		return 2;
	prctl(PR_SET_PDEATHSIG, 9);
	prctl(PR_SET_TIMERSLACK, 1ul);
	memcpy(frame + 12, &type, sizeof(type));
	send_for_ever(open_socket(argv[1]), argv[1], frame, len);
	return 0;
}
