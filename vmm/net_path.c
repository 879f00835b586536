/* net_path.c: the hook in each network device: the metadata service takes its frames, the egress policy drops what may
 * not leave. */
#include "net_path.h"

#include "egress.h"
#include "log.h"
#include "metrics.h"
#include "mmds/stack.h"

static bool drop(const struct net_path *path, enum egress_verdict verdict)
{
	static const char *const why[] = {
		[EGRESS_SPOOFED] = "a source that is not the guest's",
		[EGRESS_LINK_LOCAL] = "towards a link-local or metadata address",
		[EGRESS_DENIED] = "no rule allows it",
		[EGRESS_UNREADABLE] = "cannot be judged",
	};

	switch (verdict) {
	case EGRESS_PASS:
		return false;
	case EGRESS_SPOOFED:
		metrics_inc(net_egress_spoofed);
		break;
	case EGRESS_LINK_LOCAL:
		metrics_inc(net_egress_link_local);
		break;
	case EGRESS_DENIED:
		metrics_inc(net_egress_denied);
		break;
	case EGRESS_UNREADABLE:
		metrics_inc(net_egress_unreadable);
		break;
	}
	log_warn_limited("network interface %s: a frame was dropped by the egress policy: %s", path->cfg->iface_id,
			 why[verdict]);
	return true;
}

static bool from_guest(void *opaque, const void *head, size_t head_len, const struct iovec *rest, unsigned int n,
		       size_t len)
{
	const struct net_path *path = opaque;

	if (path->stack && mmds_stack_from_guest(path->stack, head, head_len, rest, n, len))
		return true;
	if (!egress_active(&path->cfg->egress))
		return false;
	return drop(path, egress_judge(&path->cfg->egress, path->cfg->guest_mac, head, head_len));
}

static size_t to_guest(void *opaque, void *buf, size_t size)
{
	const struct net_path *path = opaque;

	return path->stack ? mmds_stack_to_guest(path->stack, buf, size) : 0;
}

static void on_stack_ready(void *opaque)
{
	const struct net_path *path = opaque;

	net_hook_ready(path->net);
}

/* Frames that nobody looks at are not copied. */
void net_path_update(struct net_path *path)
{
	const struct net_hook hook = { .from_guest = from_guest, .to_guest = to_guest, .opaque = path };
	bool wanted = path->stack || egress_active(&path->cfg->egress);

	net_set_hook(path->net, wanted ? &hook : NULL);
}

int net_path_create(struct net_path *path, struct net *net, const struct net_config *cfg, struct mmds *mmds,
		    uint32_t mmds_ipv4, struct event_loop *loop, struct error *err)
{
	int ret = 0;

	path->net = net;
	path->cfg = cfg;
	if (mmds)
		ret = mmds_stack_create(&path->stack, mmds, mmds_ipv4, loop, on_stack_ready, path, err);
	if (!ret)
		net_path_update(path);
	return ret;
}

void net_path_destroy(struct net_path *path)
{
	if (path->stack)
		mmds_stack_destroy(path->stack);
	path->stack = NULL;
}
