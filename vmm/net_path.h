/* net_path.h: what a guest's frames pass on their way out: the metadata service, then the egress policy. */
#ifndef MAYFLY_NET_PATH_H
#define MAYFLY_NET_PATH_H

#include "config.h"
#include "error.h"
#include "event_loop.h"
#include "mmds/mmds.h"
#include "net.h"

struct mmds_stack;

struct net_path {
	struct net *net;
	const struct net_config *cfg;
	struct mmds_stack *stack; /* NULL: no metadata service on this interface */
};

/*
 * net_path_create - put what cfg and mmds_cfg ask for between net and its host side; nothing if they ask for nothing
 * mmds is NULL or serves this interface. Everything stays the caller's and outlives the path. 0 or -errno with a
 * sentence. Loop thread, as all of this. net_path_destroy undoes it, before net_destroy; path may be zeroed.
 */
int net_path_create(struct net_path *path, struct net *net, const struct net_config *cfg, struct mmds *mmds,
		    uint32_t mmds_ipv4, struct event_loop *loop, struct error *err);
void net_path_destroy(struct net_path *path);

/* net_path_update - cfg->egress has changed. */
void net_path_update(struct net_path *path);

#endif
