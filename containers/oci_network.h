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
 * oci_network_open - join the guest to the interface of the network namespace at path
 * The first interface that is up and has an address stays where it is; a TAP beside it gets all that arrives there, and
 * what comes from the TAP goes out there. The guest takes over its MAC and addresses. For a process with one thread,
 * which is back in its own namespace afterwards. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
 */
int oci_network_open(const char *path, struct oci_network_config *out, struct error *err);

#endif
