/* net_tap.c: frames through a TAP, with the offloads that its virtio_net_hdr describes. */
#include "net_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "retry.h"

#define TAP_FLAGS (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)

struct net_tap {
	struct net_backend be;
	char ifname[IFNAMSIZ];
};

static struct net_tap *to_tap(struct net_backend *be)
{
	return (struct net_tap *)be;
}

/* EBADFD: the interface was deleted. */
static int tap_errno(void)
{
	if (errno == EBADFD)
		return -ENODEV;
	return errno == EINTR ? -EAGAIN : -errno;
}

static ssize_t tap_read(struct net_backend *be, const struct iovec *iov, unsigned int n)
{
	ssize_t ret = readv(be->event.fd, iov, (int)n);

	return ret < 0 ? tap_errno() : ret;
}

static int tap_write(struct net_backend *be, const struct iovec *iov, unsigned int n, size_t len)
{
	(void)len;
	return writev(be->event.fd, iov, (int)n) < 0 ? tap_errno() : 0;
}

static int tap_set_offload(struct net_backend *be, unsigned int flags)
{
	return ioctl(be->event.fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

static void name_request(struct ifreq *ifr, const char *ifname)
{
	memset(ifr, 0, sizeof(*ifr));
	memcpy(ifr->ifr_name, ifname, strnlen(ifname, IFNAMSIZ - 1));
}

static bool interface_exists(const char *ifname)
{
	struct ifreq ifr;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool found;

	name_request(&ifr, ifname);
	found = ioctl(fd, SIOCGIFINDEX, &ifr) == 0;
	if (fd >= 0)
		close(fd);
	return found;
}

static int set_header_size(int fd)
{
	const int size = NET_HDR_LEN;

	return ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 ? -errno : 0;
}

static int attach(int fd, const char *ifname)
{
	struct ifreq ifr;

	name_request(&ifr, ifname);
	ifr.ifr_flags = TAP_FLAGS;
	return ioctl(fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
}

/*
 * The descriptor of a deleted interface can be attached to a new one, which is how a TAP that was made again is found
 * without opening anything. Where the name is not there, attaching would create it: a TAP that nobody set up.
 */
static int tap_retry(struct net_backend *be)
{
	struct net_tap *tap = to_tap(be);
	struct ifreq ifr;
	int ret;

	memset(&ifr, 0, sizeof(ifr));
	if (ioctl(be->event.fd, TUNGETIFF, &ifr) == 0)
		return 0;
	if (!interface_exists(tap->ifname))
		return -ENODEV;
	ret = attach(be->event.fd, tap->ifname);
	return ret ? ret : set_header_size(be->event.fd);
}

static void tap_free(struct net_backend *be)
{
	close(be->event.fd);
	free(be);
}

static const struct net_backend_ops tap_ops = {
	.read = tap_read,
	.write = tap_write,
	.set_offload = tap_set_offload,
	.retry = tap_retry,
	.free = tap_free,
};

/* Older kernels refuse what they do not know: less is tried until it is taken, which also sets it. */
static void probe_offloads(struct net_backend *be)
{
	static const unsigned int less[] = { TUN_F_USO4 | TUN_F_USO6, TUN_F_UFO, TUN_F_TSO_ECN, TUN_F_TSO4 | TUN_F_TSO6,
					     TUN_F_CSUM };
	unsigned int i, flags = 0;

	for (i = 0; i < sizeof(less) / sizeof(less[0]); i++)
		flags |= less[i];
	for (i = 0; flags && tap_set_offload(be, flags); i++)
		flags &= ~less[i];
	be->offloads = be->offload = flags;
}

static int tap_new(struct net_backend **out, int fd, const char *ifname, struct error *err, const char *where)
{
	struct net_tap *tap;
	int ret = set_header_size(fd);

	if (ret)
		return error_set(err, ret, "%s: TUNSETVNETHDRSZ: %s", where, strerror(-ret));
	tap = calloc(1, sizeof(*tap));
	if (!tap)
		return error_set(err, -ENOMEM, "%s: no memory", where);
	memcpy(tap->ifname, ifname, IFNAMSIZ);
	tap->be.ops = &tap_ops;
	tap->be.event.fd = fd;
	tap->be.vnet_hdr = true;
	probe_offloads(&tap->be);
	*out = &tap->be;
	return 0;
}

static int attach_error(const char *ifname, int ret, struct error *err, const char *where)
{
	unsigned int uid = (unsigned int)getuid();

	switch (ret) {
	case -EPERM:
		if (!interface_exists(ifname))
			return error_set(err, -ENODEV,
					 "%s: No such device (ip tuntap add %s mode tap user %u makes it)", where,
					 ifname, uid);
		return error_set(err, ret, "%s: %s (needs CAP_NET_ADMIN, or a TAP that belongs to uid %u)", where,
				 strerror(EPERM), uid);
	case -EBUSY:
		return error_set(err, ret, "%s: %s (another process uses it; needs a TAP of its own)", where,
				 strerror(EBUSY));
	case -EINVAL:
		return error_set(err, ret,
				 "%s: not a TAP, or one made for multiple queues (needs: ip tuntap add %s mode tap)",
				 where, ifname);
	default:
		return error_set(err, ret, "%s: TUNSETIFF: %s", where, strerror(-ret));
	}
}

int net_tap_open(struct net_backend **out, const char *name, struct error *err, const char *where)
{
	static const char dev[] = "/dev/net/tun";
	char ifname[IFNAMSIZ] = "";
	int fd, ret;

	fd = RETRY_INTERRUPTED(open(dev, O_RDWR | O_CLOEXEC | O_NONBLOCK));
	if (fd < 0)
		return error_set(err, -errno, "%s: %s: %s (needs %s)", where, dev, strerror(errno),
				 errno == ENOENT || errno == ENODEV ? "the module tun" : "to be readable and writable");
	memcpy(ifname, name, strnlen(name, IFNAMSIZ - 1));
	ret = attach(fd, ifname);
	if (ret)
		ret = attach_error(ifname, ret, err, where);
	else
		ret = tap_new(out, fd, ifname, err, where);
	if (ret)
		close(fd);
	return ret;
}

int net_tap_adopt(struct net_backend **out, int fd, struct error *err, const char *where)
{
	struct ifreq ifr;
	int flags;

	memset(&ifr, 0, sizeof(ifr));
	if (ioctl(fd, TUNGETIFF, &ifr) < 0)
		return error_set(err, -errno, "%s: a TAP without an interface: %s", where, strerror(errno));
	flags = (unsigned short)ifr.ifr_flags;
	if ((flags & TAP_FLAGS) != TAP_FLAGS)
		return error_set(err, -EINVAL, "%s: %s was opened without%s%s%s (needs all of these)", where,
				 ifr.ifr_name, flags & IFF_TAP ? "" : " IFF_TAP", flags & IFF_NO_PI ? "" : " IFF_NO_PI",
				 flags & IFF_VNET_HDR ? "" : " IFF_VNET_HDR");
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_set(err, -errno, "%s: O_NONBLOCK: %s", where, strerror(errno));
	return tap_new(out, fd, ifr.ifr_name, err, where);
}
