/* network.c: addresses and routes of eth0, by ioctl: a dozen calls, and no netlink parser. */
#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "files.h"

/* linux/ipv6.h has it, but does not go together with the C library's headers. */
struct in6_ifreq {
	struct in6_addr ifr6_addr;
	uint32_t ifr6_prefixlen;
	int ifr6_ifindex;
};

#define INTERFACE "eth0"

/* One control call on a socket of that family. 0 or a negative errno. */
static int control(int family, unsigned int call, void *argument)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret = fd < 0 ? -errno : 0;

	if (!ret && ioctl(fd, call, argument))
		ret = -errno;
	close(fd);
	return ret;
}

/* Switch an interface on or off; its other flags stay as they are. */
static int switch_interface(const char *name, bool up)
{
	struct ifreq ifr = { 0 };
	int ret;

	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	ret = control(AF_INET, SIOCGIFFLAGS, &ifr);
	if (ret)
		return ret;
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	return control(AF_INET, SIOCSIFFLAGS, &ifr);
}

void network_loopback(void)
{
	char line[4096];

	/* As podman sets it: root may ping without CAP_NET_RAW. What the kernel was told at its start is not undone. */
	read_setting("/proc/cmdline", line, sizeof(line));
	if (!strstr(line, "ping_group_range="))
		write_setting("/proc/sys/net/ipv4/ping_group_range", "0 0");
	switch_interface("lo", true);
}

/* "ADDRESS/PREFIX" of one family; without a prefix it is the whole address. */
static bool parse_address(int family, const char *text, void *address, unsigned int *prefix)
{
	unsigned int longest = family == AF_INET ? 32 : 128;
	char copy[INET6_ADDRSTRLEN + 8], *slash, *end = "";
	unsigned long n = longest;

	if (strlen(text) >= sizeof(copy))
		return false;
	strcpy(copy, text);
	slash = strchr(copy, '/');
	if (slash) {
		*slash = '\0';
		n = slash[1] >= '0' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : longest + 1;
	}
	*prefix = (unsigned int)n;
	return inet_pton(family, copy, address) == 1 && !*end && n <= longest;
}

static struct sockaddr inet(struct in_addr address)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = address };
	struct sockaddr out;

	memcpy(&out, &in, sizeof(out));
	return out;
}

/* "0.0.0.0/0" takes the address away. */
static int set_ip(const char *ip, struct error *err)
{
	struct ifreq ifr = { .ifr_name = INTERFACE };
	struct in_addr address, mask;
	unsigned int prefix;
	int ret;

	if (!parse_address(AF_INET, ip, &address, &prefix))
		return error_set(err, -EINVAL, "ip=%.60s: must be as 10.0.2.15/24", ip);
	ifr.ifr_addr = inet(address);
	ret = control(AF_INET, SIOCSIFADDR, &ifr);
	mask.s_addr = htonl(prefix ? ~0U << (32 - prefix) : 0);
	ifr.ifr_netmask = inet(mask);
	if (!ret && address.s_addr)
		ret = control(AF_INET, SIOCSIFNETMASK, &ifr);
	return ret ? error_set(err, ret, "ip=%s: " INTERFACE ": %s", ip, strerror(-ret)) : 0;
}

static int set_gateway(const char *text, struct error *err)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = INTERFACE },
		       direct = { .rt_flags = RTF_UP | RTF_HOST, .rt_dev = INTERFACE };
	struct in_addr none = { 0 }, gateway;
	unsigned int prefix;
	int ret;

	if (!parse_address(AF_INET, text, &gateway, &prefix) || prefix != 32)
		return error_set(err, -EINVAL, "gw=%.60s: must be as 10.0.2.2", text);
	route.rt_dst = route.rt_genmask = inet(none);
	route.rt_gateway = direct.rt_dst = inet(gateway);
	ret = control(AF_INET, SIOCADDRT, &route);
	/* A gateway outside the subnet, as clouds have it: it is on the wire all the same. */
	if (ret == -ENETUNREACH && !control(AF_INET, SIOCADDRT, &direct))
		ret = control(AF_INET, SIOCADDRT, &route);
	return ret ? error_set(err, ret, "gw=%s: " INTERFACE ": %s", text, strerror(-ret)) : 0;
}

static int set_ip6(const char *ip, const char *gw, struct error *err)
{
	struct ifreq index = { .ifr_name = INTERFACE };
	struct in6_ifreq address = { 0 };
	struct in6_rtmsg route = { .rtmsg_flags = RTF_UP | RTF_GATEWAY, .rtmsg_metric = 1 };
	unsigned int prefix = 0;
	int ret = control(AF_INET, SIOCGIFINDEX, &index);

	if (ip && !parse_address(AF_INET6, ip, &address.ifr6_addr, &prefix))
		return error_set(err, -EINVAL, "ip6=%.60s: must be as fd00::2/64", ip);
	address.ifr6_prefixlen = prefix;
	address.ifr6_ifindex = index.ifr_ifindex;
	if (!ret && ip)
		ret = control(AF_INET6, SIOCSIFADDR, &address);
	if (ret)
		return error_set(err, ret, "ip6=%s: " INTERFACE ": %s", ip ? ip : "", strerror(-ret));
	if (gw && (!parse_address(AF_INET6, gw, &route.rtmsg_gateway, &prefix) || prefix != 128))
		return error_set(err, -EINVAL, "gw6=%.60s: must be as fd00::1", gw);
	route.rtmsg_ifindex = index.ifr_ifindex;
	if (gw)
		ret = control(AF_INET6, SIOCADDRT, &route);
	return ret ? error_set(err, ret, "gw6=%s: " INTERFACE ": %s", gw, strerror(-ret)) : 0;
}

static int write_resolv_conf(int root, const struct fields *f, struct error *err)
{
	const char *search = field_get(f, "search"), *dns = field_get(f, "dns");
	char text[1024] = "", address[16];
	size_t len = 0, n;
	int ret;

	if (search)
		len = (size_t)snprintf(text, sizeof(text), "search %.250s\n", search);
	for (; dns && *dns && len < sizeof(text) - 100; dns += n + (dns[n] == ',')) {
		char one[INET6_ADDRSTRLEN + 1];

		n = strcspn(dns, ",");
		snprintf(one, sizeof(one), "%.*s", (int)(n < sizeof(one) ? n : 0), dns);
		if (inet_pton(AF_INET, one, address) != 1 && inet_pton(AF_INET6, one, address) != 1)
			return error_set(err, -EINVAL, "dns=%.100s: must be addresses with commas between", dns);
		len += (size_t)snprintf(text + len, sizeof(text) - len, "nameserver %s\n", one);
	}
	if (search && strpbrk(search, "\n\r"))
		return error_set(err, -EINVAL, "search: must be one line");
	ret = len ? root_write(root, "/etc/resolv.conf", text) : 0;
	return ret && ret != -ENOENT ? error_set(err, ret, "/etc/resolv.conf: %s", strerror(-ret)) : 0;
}

int network_configure(int root, const struct fields *f, struct error *err)
{
	const char *ip = field_get(f, "ip"), *gw = field_get(f, "gw"), *ip6 = field_get(f, "ip6"),
		   *gw6 = field_get(f, "gw6");
	struct ifreq ifr = { .ifr_name = INTERFACE };
	int64_t mtu = 0;
	int ret;

	if (number_field(f, "mtu", 68, 65535, &mtu, err))
		return err->code;
	ifr.ifr_mtu = (int)mtu;
	/* Down and up again: that forgets the routes and the IPv6 addresses there were. */
	ret = switch_interface(INTERFACE, false);
	if (ret)
		return error_set(err, ret, INTERFACE ": %s: a network interface is needed for ip=, gw= and the like",
				 strerror(-ret));
	if (mtu && (ret = control(AF_INET, SIOCSIFMTU, &ifr)))
		return error_set(err, ret, "mtu=%d: " INTERFACE ": %s", (int)mtu, strerror(-ret));
	/* Nobody else shares the wire: an address need not be probed for a second before it is used. */
	write_setting("/proc/sys/net/ipv6/conf/" INTERFACE "/accept_dad", "0");
	ret = set_ip(ip ? ip : "0.0.0.0/0", err);
	if (!ret && (ret = switch_interface(INTERFACE, true)))
		error_set(err, ret, INTERFACE ": %s", strerror(-ret));
	if (!ret && gw)
		ret = set_gateway(gw, err);
	if (!ret && (ip6 || gw6))
		ret = set_ip6(ip6, gw6, err);
	return ret ? ret : write_resolv_conf(root, f, err);
}
