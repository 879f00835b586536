/* oci_network.c: the network that an engine has set up in a namespace, handed on to the microVM as it is. */
#include "oci_network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

#define TAP_NAME  "mayfly0"
#define ROOM      4096  /* of a request */
#define DUMP_ROOM 65536 /* of one message of an answer; the kernel sends at most 32 KiB at a time */
#define INGRESS   0xffff0000u

/* ---- rtnetlink ---- */

struct request {
	struct nlmsghdr head;
	char body[ROOM];
};

static void *begin(struct request *r, unsigned short type, unsigned short flags, size_t len)
{
	memset(r, 0, sizeof(*r));
	r->head = (struct nlmsghdr){ .nlmsg_len = (uint32_t)NLMSG_LENGTH(len),
				     .nlmsg_type = type,
				     .nlmsg_flags = (unsigned short)(NLM_F_REQUEST | flags),
				     .nlmsg_seq = 1 };
	return r->body;
}

/* Returns the attribute, whose length nest_end corrects when others go into it. */
static struct rtattr *put(struct request *r, unsigned short type, const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)((char *)r + NLMSG_ALIGN(r->head.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(a), data, len);
	r->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(r->head.nlmsg_len) + RTA_ALIGN(a->rta_len));
	return a;
}

static void nest_end(struct request *r, struct rtattr *a)
{
	a->rta_len = (unsigned short)((char *)r + r->head.nlmsg_len - (char *)a);
}

typedef void (*visitor)(const struct nlmsghdr *, void *);

/* Sends the request and looks at every message of the answer. 0 or a negative errno. */
static int ask(int fd, struct request *r, visitor visit, void *arg)
{
	static char buffer[DUMP_ROOM] __attribute__((aligned(8)));
	const struct nlmsghdr *h;
	ssize_t n;

	if (send(fd, r, r->head.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		n = recv(fd, buffer, sizeof(buffer), 0);
		if (n <= 0)
			return n < 0 ? -errno : -EPROTO;
		for (h = (const struct nlmsghdr *)buffer; NLMSG_OK(h, (unsigned int)n); h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_ERROR)
				return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
			if (h->nlmsg_type == NLMSG_DONE)
				return 0;
			visit(h, arg);
		}
	}
}

static const void *attribute(const struct rtattr *first, size_t len, unsigned short type, size_t size)
{
	const char *at = (const char *)first, *end = at + len;
	const struct rtattr *a;

	for (; (size_t)(end - at) >= sizeof(*a); at += RTA_ALIGN(a->rta_len)) {
		a = (const struct rtattr *)at;
		if (a->rta_len < sizeof(*a) || a->rta_len > end - at)
			break;
		if ((a->rta_type & NLA_TYPE_MASK) == type && RTA_PAYLOAD(a) >= size)
			return RTA_DATA(a);
		if (RTA_ALIGN(a->rta_len) > (size_t)(end - at))
			break;
	}
	return NULL;
}

/* ---- what there is ---- */

struct found {
	struct oci_network_config *out;
	int link; /* the interface; 0: none yet */
	bool has_mac;
};

static void see_address(const struct nlmsghdr *h, void *arg)
{
	const struct ifaddrmsg *m = NLMSG_DATA(h);
	const size_t len = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)), size = m->ifa_family == AF_INET ? 4 : 16;
	const void *address;
	struct found *f = arg;
	char text[INET6_ADDRSTRLEN], *to = m->ifa_family == AF_INET ? f->out->ip : f->out->ip6;

	if (h->nlmsg_type != RTM_NEWADDR || m->ifa_scope != RT_SCOPE_UNIVERSE ||
	    (m->ifa_family != AF_INET && m->ifa_family != AF_INET6))
		return;
	address = attribute(IFA_RTA(m), len, IFA_LOCAL, size);
	if (!address)
		address = attribute(IFA_RTA(m), len, IFA_ADDRESS, size);
	if (!address || *to || (f->link && f->link != (int)m->ifa_index) ||
	    !inet_ntop(m->ifa_family, address, text, sizeof(text)))
		return;
	f->link = (int)m->ifa_index;
	snprintf(to, OCI_ADDRESS, "%s/%u", text, m->ifa_prefixlen);
}

static void see_link(const struct nlmsghdr *h, void *arg)
{
	const struct ifinfomsg *m = NLMSG_DATA(h);
	const size_t len = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m));
	const unsigned char *mac = attribute(IFLA_RTA(m), len, IFLA_ADDRESS, ETH_ALEN);
	const char *name = attribute(IFLA_RTA(m), len, IFLA_IFNAME, 1);
	const void *mtu = attribute(IFLA_RTA(m), len, IFLA_MTU, 4);
	struct found *f = arg;

	if (h->nlmsg_type != RTM_NEWLINK)
		return;
	if (name && strcmp(name, TAP_NAME) == 0)
		f->out->taken = true;
	if (m->ifi_index != f->link || !mac)
		return;
	f->has_mac = true;
	snprintf(f->out->mac, sizeof(f->out->mac), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
		 mac[4], mac[5]);
	if (mtu)
		memcpy(&f->out->mtu, mtu, sizeof(f->out->mtu));
}

/* The default route; others are those of the address's own network, which the guest makes itself. */
static void see_route(const struct nlmsghdr *h, void *arg)
{
	const struct rtmsg *m = NLMSG_DATA(h);
	const size_t len = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)), size = m->rtm_family == AF_INET ? 4 : 16;
	const void *gateway = attribute(RTM_RTA(m), len, RTA_GATEWAY, size);
	struct found *f = arg;

	if (h->nlmsg_type != RTM_NEWROUTE || m->rtm_dst_len || m->rtm_table != RT_TABLE_MAIN || !gateway)
		return;
	if (m->rtm_family == AF_INET)
		(void)inet_ntop(AF_INET, gateway, f->out->gateway, OCI_ADDRESS);
	else if (m->rtm_family == AF_INET6)
		(void)inet_ntop(AF_INET6, gateway, f->out->gateway6, OCI_ADDRESS);
}

static int look(int fd, struct found *f)
{
	struct request r;
	int ret;

	begin(&r, RTM_GETADDR, NLM_F_DUMP, sizeof(struct ifaddrmsg));
	ret = ask(fd, &r, see_address, f);
	if (ret || !f->link)
		return ret;
	begin(&r, RTM_GETLINK, NLM_F_DUMP, sizeof(struct ifinfomsg));
	ret = ask(fd, &r, see_link, f);
	if (ret)
		return ret;
	begin(&r, RTM_GETROUTE, NLM_F_DUMP, sizeof(struct rtmsg));
	return ask(fd, &r, see_route, f);
}

/* ---- the TAP ---- */

static int open_tap(int *index, struct error *err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), control;

	if (fd < 0)
		return error_set(err, -errno, "/dev/net/tun: %s", strerror(errno));
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), TAP_NAME);
	control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (control < 0 || ioctl(fd, TUNSETIFF, &ifr) || ioctl(control, SIOCGIFINDEX, &ifr)) {
		error_set(err, -errno, "a TAP in the container's network: %s", strerror(errno));
	} else {
		*index = ifr.ifr_ifindex;
		ifr.ifr_flags = IFF_UP;
		if (ioctl(control, SIOCSIFFLAGS, &ifr))
			error_set(err, -errno, "a TAP in the container's network: %s", strerror(errno));
	}
	if (control >= 0)
		close(control);
	if (!err->code)
		return fd;
	close(fd);
	return err->code;
}

static void no_visit(const struct nlmsghdr *h, void *arg)
{
	(void)h;
	(void)arg;
}

/* tc qdisc add dev FROM ingress; what an earlier microVM left there goes first. */
static int add_ingress(int fd, int from)
{
	struct request r;
	struct tcmsg *m;
	unsigned int i;
	int ret = 0;

	for (i = 0; i < 2; i++) {
		m = begin(&r, i ? RTM_NEWQDISC : RTM_DELQDISC, i ? NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL : NLM_F_ACK,
			  sizeof(*m));
		*m = (struct tcmsg){
			.tcm_family = AF_UNSPEC, .tcm_ifindex = from, .tcm_handle = INGRESS, .tcm_parent = TC_H_INGRESS
		};
		put(&r, TCA_KIND, "ingress", sizeof("ingress"));
		ret = ask(fd, &r, no_visit, NULL);
	}
	return ret;
}

/* tc filter add dev FROM ingress matchall action mirred egress redirect dev TO */
static int redirect(int fd, int from, int to)
{
	const struct tc_mirred mirred = { .action = TC_ACT_STOLEN,
					  .eaction = TCA_EGRESS_REDIR,
					  .ifindex = (uint32_t)to };
	struct rtattr *options, *actions, *action, *parameters;
	struct request r;
	struct tcmsg *m;
	int ret = add_ingress(fd, from);

	if (ret)
		return ret;
	m = begin(&r, RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, sizeof(*m));
	*m = (struct tcmsg){ .tcm_family = AF_UNSPEC,
			     .tcm_ifindex = from,
			     .tcm_parent = INGRESS,
			     .tcm_info = TC_H_MAKE(1u << 16, htons(ETH_P_ALL)) };
	put(&r, TCA_KIND, "matchall", sizeof("matchall"));
	options = put(&r, TCA_OPTIONS, NULL, 0);
	actions = put(&r, TCA_MATCHALL_ACT, NULL, 0);
	action = put(&r, 1, NULL, 0);
	put(&r, TCA_ACT_KIND, "mirred", sizeof("mirred"));
	parameters = put(&r, TCA_ACT_OPTIONS, NULL, 0);
	put(&r, TCA_MIRRED_PARMS, &mirred, sizeof(mirred));
	nest_end(&r, parameters);
	nest_end(&r, action);
	nest_end(&r, actions);
	nest_end(&r, options);
	return ask(fd, &r, no_visit, NULL);
}

static int connect_guest(int fd, struct found *f, struct error *err)
{
	int tap = 0, ret;

	f->out->tap = open_tap(&tap, err);
	if (f->out->tap < 0)
		return f->out->tap;
	ret = redirect(fd, f->link, tap);
	if (!ret)
		ret = redirect(fd, tap, f->link);
	if (!ret)
		return 0;
	close(f->out->tap);
	f->out->tap = -1;
	return error_set(err, ret,
			 "the container's network cannot be redirected to the microVM: %s (needs the kernel's "
			 "sch_ingress, cls_matchall and act_mirred)",
			 strerror(-ret));
}

int oci_network_open(struct oci_network_config *out, struct error *err)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), ret;
	struct found found = { .out = out };

	*out = (struct oci_network_config){ .tap = -1 };
	if (fd < 0)
		return error_set(err, -errno, "netlink: %s", strerror(errno));
	ret = look(fd, &found);
	if (ret)
		error_set(err, ret, "the container's network cannot be read: %s", strerror(-ret));
	else if (found.has_mac && !out->taken)
		ret = connect_guest(fd, &found, err);
	close(fd);
	return ret;
}

int oci_network_join(const char *path, struct error *err)
{
	struct stat ours, theirs;
	int fd, ret = 0;

	if (!path)
		return unshare(CLONE_NEWNET) ? error_set(err, -errno, "a network namespace: %s", strerror(errno)) : 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &theirs) || stat("/proc/self/ns/net", &ours))
		ret = error_set(err, -errno, "linux.namespaces: %s: %s", text_path_shown(path), strerror(errno));
	/* Its interfaces are not to be handed to a guest. */
	else if (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev)
		ret = error_set(err, -ENOTSUP,
				"linux.namespaces: %s: a microVM has a network of its own, never the host's",
				text_path_shown(path));
	else if (setns(fd, CLONE_NEWNET))
		ret = error_set(err, -errno, "linux.namespaces: %s: %s", text_path_shown(path), strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}
