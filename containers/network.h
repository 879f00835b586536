/* network.h: the container's network: none, passt of the user's own, or a TAP that is there. */
#ifndef MAYFLY_CONTAINERS_NETWORK_H
#define MAYFLY_CONTAINERS_NETWORK_H

#include <net/if.h>
#include <stdint.h>
#include <sys/types.h>

#include "error.h"
#include "options.h"

enum network_kind { NETWORK_NONE, NETWORK_USER, NETWORK_TAP };

struct port {
	char address[46]; /* of the host; "" is all of them */
	uint16_t host, guest;
	bool udp;
};

#define PORTS_MAX 64

struct network {
	enum network_kind kind;
	char tap[IFNAMSIZ];
	const char *ip, *gateway; /* with a TAP; NULL: the guest has none from us */
	const char *mac;          /* of the guest's interface; NULL: Mayfly's own choice */
	char dns[256];            /* addresses with commas between; "": none */
	struct port ports[PORTS_MAX];
	unsigned int nr_ports;
	int fd;     /* the monitor's end, -1: none */
	pid_t pid;  /* of passt, 0: none */
	int ready;  /* readable once passt has taken its ports, or has ended; -1: nothing to wait for */
	int errors; /* what passt says; -1: none */
};

/* network_parse - what the options say. Without --net: user where the host itself has a route, or with -p, else none.
 */
int network_parse(const struct options *options, struct network *out, struct error *err);

/* network_parse_port - [IP:]PORT:PORT[/tcp|udp], or PORT alone for both. */
int network_parse_port(const char *text, struct port *out, struct error *err);

/* network_start - open the TAP or start passt, which ends with the machine, or with us. */
int network_start(struct network *network, struct error *err);

/* network_check - whether passt could take its ports: what it said when it could not. */
int network_check(struct network *network, struct error *err);

void network_close(struct network *network);

#endif
