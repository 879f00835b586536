/* oci_network.h: the network that an engine has set up in a namespace, handed on to the microVM as it is. */
#ifndef MAYFLY_CONTAINERS_OCI_NETWORK_H
#define MAYFLY_CONTAINERS_OCI_NETWORK_H

#include <net/if.h>
#include <stdbool.h>

#include "error.h"

#define OCI_ADDRESS 64 /* bytes of an address with its prefix, as text */

struct oci_network_config {
	int tap; /* the monitor's end; -1: the namespace has no interface */
	char mac[18];
	unsigned int mtu;
	char ip[OCI_ADDRESS], gateway[OCI_ADDRESS]; /* "": none */
	char ip6[OCI_ADDRESS], gateway6[OCI_ADDRESS];
	bool taken; /* another microVM has the namespace's interface already */
};

/*
 * oci_network_join - move this process, which has one thread, to the network namespace at path, or to a new, empty one
 * (NULL) Where the container's keeper is, engines and other containers look for its network. Refuses the host's own.
 */
int oci_network_join(const char *path, struct error *err);

/*
 * oci_network_open - join the guest to the interface of the network namespace that this process is in
 * The first interface that is up and has an address stays where it is; a TAP beside it gets all that arrives there, and
 * what comes from the TAP goes out there. The guest takes over its MAC and addresses. Needs CAP_NET_ADMIN.
 */
int oci_network_open(struct oci_network_config *out, struct error *err);

#endif
