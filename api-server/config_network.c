/* config_network.c: what the resources that connect a guest accept: network interfaces, vsock, metadata service. */
#include "config_json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inherited.h"
#include "json.h"
#include "text.h"

#define FIELDS(table) table, sizeof(table) / sizeof((table)[0])

/* ---- network-interfaces ---- */

#define MAC_NEEDS "six pairs of hexadecimal digits, as in \"06:00:ac:10:00:02\""

static bool parse_mac(const char *text, size_t len, uint8_t mac[6])
{
	size_t i;

	if (len != 17)
		return false;
	for (i = 0; i < 6; i++) {
		unsigned int high = text_digit(text[3 * i]), low = text_digit(text[3 * i + 1]);

		if (high > 15 || low > 15 || (i < 5 && text[3 * i + 2] != ':'))
			return false;
		mac[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static int read_mac(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct net_config *net = dst;

	if (!json_is_string(json))
		return json_fail_type(err, where, json, MAC_NEEDS);
	if (!parse_mac(json_string_value(json), json_string_length(json), net->guest_mac))
		return json_fail(err, where, "not a MAC address (needs " MAC_NEEDS ")");
	if (net->guest_mac[0] & 1)
		return json_fail(err, where, "a multicast address (needs an even first byte)");
	net->mac_given = true;
	return 0;
}

/* A TAP's name goes into an ifreq; the other two kinds are ours and cannot be names, since those hold no colon. */
static int read_host_dev(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const char needs[] = "the name of a TAP (1 to 15 bytes), \"unix:/path/of/passt.socket\" or \"fd:N\"";
	const char *name = json_string_value(json);
	size_t len = json_string_length(json);

	if (!name)
		return json_fail_type(err, where, json, needs);
	if (strlen(name) != len || len == 0)
		return json_fail(err, where, "is empty or has a NUL in it (needs %s)", needs);
	if (strncmp(name, "unix:", 5) == 0) {
		/* sun_path has 108 bytes. */
		if (len < 6 || len - 5 > 107)
			return json_fail(err, where, "a socket's path of %zu bytes (needs 1 to 107)", len - 5);
	} else if (inherited_is_name(name)) {
		if (inherited_number(name) < 0)
			return json_fail(err, where, "no number of a file descriptor (needs %s)", needs);
	} else if (len >= IFNAMSIZ || strpbrk(name, "/: \t\n%")) {
		return json_fail_unknown(err, where, json, needs);
	}
	memcpy(dst, name, len + 1);
	return 0;
}

static const struct json_field net_fields[] = {
	{ .name = "iface_id",
	  .kind = JSON_FIELD_ID,
	  .required = true,
	  .extra = "_-",
	  JSON_AT(struct net_config, iface_id) },
	{ .name = "host_dev_name",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_host_dev,
	  JSON_AT(struct net_config, host_dev_name) },
	{ .name = "guest_mac", .kind = JSON_FIELD_SUB, .parse = read_mac },
	{ .name = "mtu",
	  .kind = JSON_FIELD_UINT,
	  .min = 68,
	  .max = 65535,
	  .unit = "bytes",
	  JSON_AT(struct net_config, mtu) },
	{ .name = "rx_rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_read_rate_limiter,
	  JSON_AT(struct net_config, rx) },
	{ .name = "tx_rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_read_rate_limiter,
	  JSON_AT(struct net_config, tx) },
	{ .name = "egress", .kind = JSON_FIELD_SUB, .parse = config_read_egress },
};

static int read_net(const json_t *json, const struct json_where *where, struct net_config *out, struct error *err)
{
	memset(out, 0, sizeof(*out));
	return json_read_object(json, where, FIELDS(net_fields), out, err);
}

int config_parse_net(const json_t *json, struct net_config *out, struct error *err)
{
	struct json_where where = { .name = "network-interface" };

	return read_net(json, &where, out, err);
}

static int check_net(const struct config *cfg, const struct net_config *net, const struct json_where *where,
		     struct error *err)
{
	struct json_where mac = { .up = where, .name = "guest_mac" };
	struct json_where dev = { .up = where, .name = "host_dev_name" };
	unsigned int i;

	for (i = 0; i < cfg->nr_nets; i++) {
		const struct net_config *other = &cfg->nets[i];

		if (strcmp(other->iface_id, net->iface_id) == 0)
			continue;
		if (net->mac_given && other->mac_given && memcmp(other->guest_mac, net->guest_mac, 6) == 0)
			return json_fail(err, &mac, "interface \"%s\" has it already (needs one of its own)",
					 other->iface_id);
		if (strcmp(other->host_dev_name, net->host_dev_name) == 0)
			return json_fail(err, &dev, "interface \"%s\" uses it already (needs one of its own)",
					 other->iface_id);
	}
	return 0;
}

int config_check_net(const struct config *cfg, const struct net_config *net, struct error *err)
{
	struct json_where where = { .name = "network-interface" };

	return check_net(cfg, net, &where, err);
}

/* Element n of the list, against those before it. */
static int check_element(const struct config *cfg, const struct json_where *where, struct error *err)
{
	struct json_where id = { .up = where, .name = "iface_id" };
	const struct net_config *net = &cfg->nets[cfg->nr_nets];
	unsigned int i;

	for (i = 0; i < cfg->nr_nets; i++) {
		if (strcmp(cfg->nets[i].iface_id, net->iface_id) == 0)
			return json_fail(err, &id, "\"%s\" is the id of another interface (needs one of its own)",
					 net->iface_id);
	}
	return check_net(cfg, net, where, err);
}

int config_parse_nets(const json_t *json, struct config *cfg, struct error *err)
{
	struct json_where where = { .name = "network-interfaces" };
	size_t n = json_array_size(json), i;
	int ret = 0;

	if (!json_is_array(json))
		return json_fail_type(err, &where, json, "a list of interfaces in brackets");
	if (n > CONFIG_MAX_NETS)
		return json_fail(err, &where, "%zu interfaces are too many (at most %d)", n, CONFIG_MAX_NETS);
	free(cfg->nets);
	cfg->nr_nets = 0;
	cfg->nets = n ? calloc(n, sizeof(*cfg->nets)) : NULL;
	if (n && !cfg->nets)
		return error_set(err, -ENOMEM, "no memory for %zu interfaces", n);
	for (i = 0; i < n && !ret; i++) {
		struct json_where here = { .up = &where, .index = i };

		ret = read_net(json_array_get(json, i), &here, &cfg->nets[i], err);
		if (!ret)
			ret = check_element(cfg, &here, err);
		cfg->nr_nets++;
	}
	return ret;
}

static int check_iface_id(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return config_check_id(json, where, ((struct net_config *)dst)->iface_id, err);
}

static const struct json_field net_patch_fields[] = {
	{ .name = "iface_id", .kind = JSON_FIELD_SUB, .required = true, .parse = check_iface_id },
	{ .name = "rx_rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_patch_rate_limiter,
	  JSON_AT(struct net_config, rx) },
	{ .name = "tx_rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_patch_rate_limiter,
	  JSON_AT(struct net_config, tx) },
	{ .name = "egress", .kind = JSON_FIELD_SUB, .parse = config_patch_egress },
};

int config_patch_net(const json_t *json, struct net_config *out, struct error *err)
{
	struct json_where where = { .name = "network-interface" };

	return json_read_object(json, &where, FIELDS(net_patch_fields), out, err);
}

/* ---- vsock ---- */

static const struct json_field vsock_fields[] = {
	{ .name = "guest_cid",
	  .kind = JSON_FIELD_UINT,
	  .required = true,
	  .min = 3, /* 0 to 2 are the hypervisor, loopback and the host */
	  .max = UINT32_MAX - 1,
	  JSON_AT(struct vsock_config, guest_cid) },
	{ .name = "uds_path", .kind = JSON_FIELD_PATH, .required = true, JSON_AT(struct vsock_config, uds_path) },
	/* Deprecated in Firecracker, and of no effect there either. */
	{ .name = "vsock_id", .kind = JSON_FIELD_ID, .extra = "_-", JSON_AT(struct vsock_config, vsock_id) },
};

int config_parse_vsock(const json_t *json, struct vsock_config *out, struct error *err)
{
	struct json_where where = { .name = "vsock" };

	*out = (struct vsock_config){ .present = true };
	return json_read_object(json, &where, FIELDS(vsock_fields), out, err);
}

/* ---- mmds-config ---- */

static const struct json_choice version_choices[] = {
	{ "V1", MMDS_V1 },
	{ "V2", MMDS_V2 },
	{ NULL, 0 },
};

static int read_ipv4(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const char needs[] = "a link-local IPv4 address, 169.254.1.0 to 169.254.254.255";
	const char *text = json_string_value(json);
	struct in_addr addr;
	uint32_t ip;

	if (!text)
		return json_fail_type(err, where, json, needs);
	if (strlen(text) != json_string_length(json) || inet_pton(AF_INET, text, &addr) != 1)
		return json_fail_unknown(err, where, json, needs);
	ip = ntohl(addr.s_addr);
	/* RFC 3927, 2.1: the first and last 256 addresses are reserved. */
	if (ip >> 16 != 0xa9fe || (ip >> 8 & 0xff) == 0 || (ip >> 8 & 0xff) == 255)
		return json_fail(err, where, "\"%s\" is out of range (needs %s)", text, needs);
	memcpy(dst, &ip, sizeof(ip));
	return 0;
}

static int read_interfaces(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const struct json_field id = {
		.kind = JSON_FIELD_ID,
		.extra = "_-",
		.size = CONFIG_ID_LEN,
	};
	struct mmds_config *mmds = dst;
	size_t n = json_array_size(json), i;
	int ret = 0;

	if (!json_is_array(json) || n == 0)
		return json_fail_type(err, where, json, "a list of interfaces' ids, one at least");
	if (n > CONFIG_MAX_NETS)
		return json_fail(err, where, "%zu interfaces are too many (at most %d)", n, CONFIG_MAX_NETS);
	for (i = 0; i < n && !ret; i++) {
		struct json_where here = { .up = where, .index = i };

		ret = json_read_value(json_array_get(json, i), &here, &id, mmds->network_interfaces[i], err);
	}
	mmds->nr_interfaces = (unsigned int)n;
	return ret;
}

static const struct json_field mmds_fields[] = {
	{ .name = "version",
	  .kind = JSON_FIELD_CHOICE,
	  .choices = version_choices,
	  JSON_AT(struct mmds_config, version) },
	{ .name = "network_interfaces", .kind = JSON_FIELD_SUB, .required = true, .parse = read_interfaces },
	{ .name = "ipv4_address",
	  .kind = JSON_FIELD_SUB,
	  .parse = read_ipv4,
	  JSON_AT(struct mmds_config, ipv4_address) },
	{ .name = "imds_compat", .kind = JSON_FIELD_BOOL, JSON_AT(struct mmds_config, imds_compat) },
};

int config_parse_mmds_config(const json_t *json, struct mmds_config *out, struct error *err)
{
	struct json_where where = { .name = "mmds-config" };

	*out = (struct mmds_config){ .present = true, .ipv4_address = 0xa9fea9fe }; /* 169.254.169.254 */
	return json_read_object(json, &where, FIELDS(mmds_fields), out, err);
}
