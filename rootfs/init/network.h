/* network.h: the guest's first network interface, by address. */
#ifndef MAYFLY_NETWORK_H
#define MAYFLY_NETWORK_H

#include "error.h"
#include "frames.h"

/*
 * network_configure - give eth0 what the fields ip, gw, ip6, gw6, mtu, dns and search say, in place of what it had
 * root: where /etc/resolv.conf is. Returns 0, or a negative errno with err set.
 */
int network_configure(int root, const struct fields *f, struct error *err);

/* network_loopback - switch lo on. */
void network_loopback(void);

/* network_from_mmds - fetch the same fields from the metadata service at address (NULL: its default), below
 * /mayfly/network/. */
int network_from_mmds(const char *address, struct field_buffer *out, struct error *err);

/* network_set_address - what network_configure does with ip; "0.0.0.0/0" takes it away. */
int network_set_address(const char *ip, struct error *err);

/* identity_hostname - the name of the machine, in the kernel, /etc/hostname and /etc/hosts (with address, or
 * 127.0.1.1). */
int identity_hostname(int root, const char *name, const char *address, struct error *err);

#endif
