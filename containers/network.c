/* network.c: the container's network: none, passt of the user's own, or a TAP that is there. */
#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jailer/words.h"
#include "spawn.h"
#include "text.h"

/* What a guest behind passt has; the host's own addresses are not in it. */
#define USER_IP      "10.0.2.15"
#define USER_BITS    "24"
#define USER_GATEWAY "10.0.2.2"
#define USER_DNS     "10.0.2.3" /* passt asks the host's name server in its place */
#define SHOWN_SIZE   96

static int fail_port(const char *text, struct error *err)
{
	char shown[SHOWN_SIZE];

	text_escape(shown, sizeof(shown), text, strlen(text));
	return error_set(err, -EINVAL, "--publish: \"%s\" (needs [IP:]PORT:PORT[/udp], as in 8080:80)", shown);
}

static bool read_port(const char *text, uint16_t *out)
{
	uint64_t n;

	if (!words_number(text, &n) || n < 1 || n > 65535)
		return false;
	*out = (uint16_t)n;
	return true;
}

/* The part before the last colon, with the brackets of an IPv6 address taken off. */
static bool read_address(char *text, char out[46])
{
	unsigned char binary[16];
	size_t len = strlen(text);

	if (*text == '[' && len > 2 && text[len - 1] == ']') {
		text[len - 1] = '\0';
		text++;
	}
	if (strlen(text) >= 46)
		return false;
	memcpy(out, text, strlen(text) + 1);
	return inet_pton(AF_INET, out, binary) == 1;
}

int network_parse_port(const char *text, struct port *out, struct error *err)
{
	char copy[SHOWN_SIZE], *guest, *host, *slash;

	*out = (struct port){ 0 };
	if (strlen(text) >= sizeof(copy))
		return fail_port(text, err);
	memcpy(copy, text, strlen(text) + 1);
	slash = strchr(copy, '/');
	if (slash) {
		*slash++ = '\0';
		out->udp = strcmp(slash, "udp") == 0;
		if (!out->udp && strcmp(slash, "tcp") != 0)
			return fail_port(text, err);
	}
	guest = strrchr(copy, ':');
	if (guest)
		*guest++ = '\0';
	else
		guest = copy;
	host = guest == copy ? copy : strrchr(copy, ':');
	if (host && host != copy) {
		*host++ = '\0';
		if (!read_address(copy, out->address))
			return fail_port(text, err);
	} else {
		host = copy;
	}
	return read_port(host, &out->host) && read_port(guest, &out->guest) ? 0 : fail_port(text, err);
}

/* Passt has nothing to speak to the world with on a host that has no route out. */
static bool host_has_route(void)
{
	char text[4096], *line;
	int fd = open("/proc/net/route", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[len < 0 ? 0 : len] = '\0';
	/* Interface, destination, ...: all zeros is the default route. */
	for (line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
		const char *tab = strchr(line, '\t');

		if (tab && strncmp(tab + 1, "00000000\t", 9) == 0)
			return true;
	}
	return false;
}

static int parse_dns(const struct options *o, struct network *out, struct error *err)
{
	unsigned char binary[16];
	unsigned int i;
	size_t len = 0;

	if (o->dns.nr == 0 && out->kind == NETWORK_USER)
		snprintf(out->dns, sizeof(out->dns), "%s", USER_DNS);
	for (i = 0; i < o->dns.nr; i++) {
		if (inet_pton(AF_INET, o->dns.word[i], binary) != 1 && inet_pton(AF_INET6, o->dns.word[i], binary) != 1)
			return error_set(err, -EINVAL, "--dns: \"%.64s\" (needs an address)", o->dns.word[i]);
		len += (size_t)snprintf(out->dns + len, sizeof(out->dns) - len, "%s%s", i ? "," : "", o->dns.word[i]);
		if (len >= sizeof(out->dns))
			return error_set(err, -EINVAL, "--dns: too many addresses");
	}
	return 0;
}

static int parse_kind(const struct options *o, struct network *out, struct error *err)
{
	if (!o->net)
		out->kind = o->ports.nr > 0 || host_has_route() ? NETWORK_USER : NETWORK_NONE;
	else if (strcmp(o->net, "none") == 0)
		out->kind = NETWORK_NONE;
	else if (strcmp(o->net, "user") == 0)
		out->kind = NETWORK_USER;
	else if (strncmp(o->net, "tap:", 4) == 0 && o->net[4] && strlen(o->net + 4) < IFNAMSIZ)
		out->kind = NETWORK_TAP;
	else
		return error_set(err, -EINVAL, "--net: \"%.64s\" (needs none, user or tap:NAME)", o->net);
	if (out->kind == NETWORK_TAP)
		snprintf(out->tap, sizeof(out->tap), "%s", o->net + 4);
	if (out->kind != NETWORK_USER && o->ports.nr > 0)
		return error_set(err, -EINVAL, "--publish: goes with --net user alone");
	if (out->kind != NETWORK_TAP && (o->ip || o->gateway))
		return error_set(err, -EINVAL, "--%s: goes with --net tap:NAME alone", o->ip ? "ip" : "gateway");
	return 0;
}

int network_parse(const struct options *o, struct network *out, struct error *err)
{
	unsigned int i;
	int ret;

	*out = (struct network){ .ip = o->ip, .gateway = o->gateway, .fd = -1, .ready = -1, .errors = -1 };
	ret = parse_kind(o, out, err);
	if (!ret)
		ret = parse_dns(o, out, err);
	if (!ret && o->ports.nr > PORTS_MAX)
		ret = error_set(err, -EINVAL, "--publish: given more than %d times", PORTS_MAX);
	for (i = 0; i < o->ports.nr && !ret; i++)
		ret = network_parse_port(o->ports.word[i], &out->ports[out->nr_ports++], err);
	if (!ret && out->kind == NETWORK_USER) {
		out->ip = USER_IP "/" USER_BITS;
		out->gateway = USER_GATEWAY;
	}
	return ret;
}

/* ---- starting ---- */

static int open_tap(struct network *n, struct error *err)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", n->tap);
	/* One that is not there would be made, as root; it would have no address and end with us. */
	if (if_nametoindex(n->tap) == 0)
		return error_set(err, -ENODEV, "--net: %s: no such TAP (ip tuntap add %s mode tap user %u makes it)",
				 n->tap, n->tap, geteuid());
	n->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (n->fd < 0)
		return error_set(err, -errno, "/dev/net/tun: %s", strerror(errno));
	if (ioctl(n->fd, TUNSETIFF, &request))
		return error_set(err, -errno, "--net: %s: %s (needs a TAP that belongs to uid %u and that nobody uses)",
				 n->tap, strerror(errno), geteuid());
	return 0;
}

#define WORDS_MAX (40 + 2 * PORTS_MAX)
#define WORD_SIZE 64

/* Its socket is a descriptor, so it ends when the machine's end of it is closed; a PID file that is a pipe says when
 * it has begun. */
static int start_passt(struct network *n, int socket_fd, int ready, int errors, struct error *err)
{
	static const char *const fixed[] = { "passt",         "--foreground", "--quiet",  "--ipv4-only", "--no-map-gw",
					     "--no-dhcp",     "--no-dhcpv6",  "--no-ndp", "--no-ra",     "--address",
					     USER_IP,         "--netmask",    USER_BITS,  "--gateway",   USER_GATEWAY,
					     "--dns-forward", USER_DNS };
	const char *argv[WORDS_MAX] = { NULL };
	char words[PORTS_MAX + 2][WORD_SIZE];
	const int keep[] = { socket_fd, ready, -1 };
	struct spawn spawn = { .argv = argv,
			       .in = -1,
			       .out = -1,
			       .err = errors,
			       .keep = keep,
			       .death_signal = SIGTERM,
			       .new_session = true };
	unsigned int nr = sizeof(fixed) / sizeof(fixed[0]), i;

	memcpy(argv, fixed, sizeof(fixed));
	snprintf(words[PORTS_MAX], WORD_SIZE, "%d", socket_fd);
	snprintf(words[PORTS_MAX + 1], WORD_SIZE, "/proc/self/fd/%d", ready);
	argv[nr++] = "--fd";
	argv[nr++] = words[PORTS_MAX];
	argv[nr++] = "--pid";
	argv[nr++] = words[PORTS_MAX + 1];
	if (geteuid() == 0) {
		argv[nr++] = "--runas";
		argv[nr++] = "nobody";
	}
	for (i = 0; i < n->nr_ports; i++) {
		const struct port *p = &n->ports[i];

		snprintf(words[i], WORD_SIZE, "%s%s%u:%u", p->address, *p->address ? "/" : "", p->host, p->guest);
		argv[nr++] = p->udp ? "--udp-ports" : "--tcp-ports";
		argv[nr++] = words[i];
	}
	n->pid = spawn_start(&spawn, err);
	return n->pid < 0 ? n->pid : 0;
}

static int start_user(struct network *n, struct error *err)
{
	int sockets[2] = { -1, -1 }, ready[2] = { -1, -1 }, errors[2] = { -1, -1 }, ret = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) || pipe2(ready, O_CLOEXEC) ||
	    pipe2(errors, O_CLOEXEC))
		ret = error_set(err, -errno, "--net user: %s", strerror(errno));
	else if (fchmod(ready[1], 0622)) /* root's passt is nobody when it writes there */
		ret = error_set(err, -errno, "--net user: %s", strerror(errno));
	else
		ret = start_passt(n, sockets[1], ready[1], errors[1], err);
	/* The other ends are passt's alone: their end is its end. */
	if (sockets[1] >= 0)
		close(sockets[1]);
	if (ready[1] >= 0)
		close(ready[1]);
	if (errors[1] >= 0)
		close(errors[1]);
	n->fd = sockets[0];
	n->ready = ready[0];
	n->errors = errors[0];
	if (ret)
		n->pid = 0;
	return ret;
}

int network_start(struct network *n, struct error *err)
{
	switch (n->kind) {
	case NETWORK_TAP:
		return open_tap(n, err);
	case NETWORK_USER:
		return start_user(n, err);
	case NETWORK_NONE:
	default:
		return 0;
	}
}

int network_check(struct network *n, struct error *err)
{
	char text[512], shown[256], *line, *rest;
	ssize_t len;

	/* The PID, or nothing when it has ended before. */
	len = n->ready < 0 ? 1 : read(n->ready, text, sizeof(text));
	if (n->ready >= 0)
		close(n->ready);
	n->ready = -1;
	if (len > 0)
		return 0;
	len = read(n->errors, text, sizeof(text) - 1);
	text[len < 0 ? 0 : len] = '\0';
	/* On a host without a log daemon every line comes with one about that. */
	for (line = strtok_r(text, "\n", &rest); line && strncmp(line, "Failed to send ", 15) == 0;)
		line = strtok_r(NULL, "\n", &rest);
	line = line ? line : text + (len < 0 ? 0 : len);
	text_escape(shown, sizeof(shown), line, strlen(line));
	return error_set(err, -EIO, "passt: %s", *shown ? shown : "ended");
}

void network_close(struct network *n)
{
	const int fds[] = { n->fd, n->ready, n->errors };
	unsigned int i;

	for (i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	n->fd = n->ready = n->errors = -1;
}
