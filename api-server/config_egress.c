/* config_egress.c: an interface's egress policy, from JSON and back. */
#include "config_json.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_dump.h"
#include "json.h"

#define FIELDS(table) table, sizeof(table) / sizeof((table)[0])

#define IPV4_OFFSET 12u /* of an IPv4 address in a mapped one */
#define ANY_PORT    65535u

static const uint8_t mapped[IPV4_OFFSET] = { [10] = 0xff, [11] = 0xff };

static bool is_ipv4(const struct egress_address *a)
{
	return memcmp(a->byte, mapped, sizeof(mapped)) == 0;
}

/* ---- from JSON ---- */

static bool parse_address(const char *text, struct egress_address *out)
{
	if (inet_pton(AF_INET6, text, out->byte) == 1)
		return !is_ipv4(out);
	memcpy(out->byte, mapped, sizeof(mapped));
	return inet_pton(AF_INET, text, out->byte + IPV4_OFFSET) == 1;
}

static int read_address(const json_t *json, const struct json_where *where, struct egress_address *out,
			struct error *err)
{
	static const char needs[] = "an IPv4 or IPv6 address";

	if (!json_is_string(json))
		return json_fail_type(err, where, json, needs);
	if (strlen(json_string_value(json)) != json_string_length(json) || !parse_address(json_string_value(json), out))
		return json_fail_unknown(err, where, json, needs);
	return 0;
}

static bool parse_number(const char *text, unsigned int max, unsigned int *out)
{
	size_t len = strspn(text, "0123456789");

	if (!len || len > 5 || text[len])
		return false;
	*out = (unsigned int)strtoul(text, NULL, 10);
	return *out <= max;
}

/* Bits beyond the prefix are refused: 10.0.0.1/8 is more often a mistake than a wish. */
static bool host_bits(const struct egress_rule *rule)
{
	unsigned int i;

	for (i = rule->prefix; i < 128; i++) {
		if (rule->net.byte[i / 8] & (0x80u >> i % 8))
			return true;
	}
	return false;
}

static bool parse_cidr(const char *text, struct egress_rule *out)
{
	char address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	unsigned int bits, all;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	if (!parse_address(address, &out->net))
		return false;
	all = is_ipv4(&out->net) ? 32 : 128;
	bits = all;
	if (slash && !parse_number(slash + 1, all, &bits))
		return false;
	out->prefix = (uint8_t)(128 - all + bits);
	return !host_bits(out);
}

static int read_cidr(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const char needs[] = "a network as in \"10.0.0.0/8\" or \"2001:db8::/32\", its host bits 0";

	if (!json_is_string(json))
		return json_fail_type(err, where, json, needs);
	if (strlen(json_string_value(json)) != json_string_length(json) || !parse_cidr(json_string_value(json), dst))
		return json_fail_unknown(err, where, json, needs);
	return 0;
}

static bool parse_ports(const char *text, struct egress_rule *out)
{
	const char *dash = strchr(text, '-');
	unsigned int first, last;
	char number[6];
	size_t len = dash ? (size_t)(dash - text) : strlen(text);

	if (len >= sizeof(number))
		return false;
	memcpy(number, text, len);
	number[len] = '\0';
	if (!parse_number(number, ANY_PORT, &first) || !parse_number(dash ? dash + 1 : number, ANY_PORT, &last))
		return false;
	out->port_first = (uint16_t)first;
	out->port_last = (uint16_t)last;
	return first >= 1 && first <= last;
}

/* A number, or text with a range. */
static int read_ports(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const char needs[] = "a port from 1 to 65535, or a range as in \"8000-8080\"";
	const char *text = json_string_value(json);
	char number[24];

	if (json_is_integer(json)) {
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(json));
		text = number;
	} else if (!text) {
		return json_fail_type(err, where, json, needs);
	}
	if ((json_is_string(json) && strlen(text) != json_string_length(json)) || !parse_ports(text, dst))
		return json_fail(err, where, "not a port (needs %s)", needs);
	return 0;
}

static const struct json_choice protocol_choices[] = {
	{ "tcp", IPPROTO_TCP }, { "udp", IPPROTO_UDP }, { "icmp", IPPROTO_ICMP }, { "any", 0 }, { NULL, 0 },
};

static int read_protocol(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const struct json_field field = { .kind = JSON_FIELD_CHOICE, .choices = protocol_choices };
	struct egress_rule *rule = dst;
	int protocol = 0;
	int ret = json_read_value(json, where, &field, &protocol, err);

	rule->protocol = (uint8_t)protocol;
	return ret;
}

static const struct json_field rule_fields[] = {
	{ .name = "cidr", .kind = JSON_FIELD_SUB, .required = true, .parse = read_cidr },
	{ .name = "protocol", .kind = JSON_FIELD_SUB, .parse = read_protocol },
	{ .name = "port", .kind = JSON_FIELD_SUB, .parse = read_ports },
};

static int read_rule(const json_t *json, const struct json_where *where, struct egress_rule *out, struct error *err)
{
	struct json_where port = { .up = where, .name = "port" };
	int ret;

	*out = (struct egress_rule){ .port_last = ANY_PORT };
	ret = json_read_object(json, where, FIELDS(rule_fields), out, err);
	if (!ret && out->port_first && out->protocol != IPPROTO_TCP && out->protocol != IPPROTO_UDP)
		return json_fail(err, &port,
				 "only TCP and UDP have ports (needs \"protocol\" to be \"tcp\" or \"udp\")");
	return ret;
}

/* How many elements a list has, or a negative errno. */
static int check_list(const json_t *json, const struct json_where *where, unsigned int max, struct error *err)
{
	if (!json_is_array(json))
		return json_fail_type(err, where, json, "a list in brackets");
	if (json_array_size(json) > max)
		return json_fail(err, where, "%zu elements are too many (at most %u)", json_array_size(json), max);
	return (int)json_array_size(json);
}

static int read_addresses(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct egress_config *out = dst;
	int n = check_list(json, where, EGRESS_MAX_ADDRESSES, err), ret = 0;

	out->nr_addresses = 0;
	while (n > 0 && !ret && out->nr_addresses < (unsigned int)n) {
		struct json_where here = { .up = where, .index = out->nr_addresses };

		ret = read_address(json_array_get(json, here.index), &here, &out->address[here.index], err);
		out->nr_addresses++;
	}
	return n < 0 ? n : ret;
}

static int read_rules(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct egress_config *out = dst;
	int n = check_list(json, where, EGRESS_MAX_RULES, err), ret = 0;

	out->nr_rules = 0;
	while (n > 0 && !ret && out->nr_rules < (unsigned int)n) {
		struct json_where here = { .up = where, .index = out->nr_rules };

		ret = read_rule(json_array_get(json, here.index), &here, &out->rule[here.index], err);
		out->nr_rules++;
	}
	return n < 0 ? n : ret;
}

static const struct json_choice default_choices[] = { { "Allow", false }, { "Deny", true }, { NULL, 0 } };

static int read_default(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const struct json_field field = { .kind = JSON_FIELD_CHOICE, .choices = default_choices };
	int deny = 0;
	int ret = json_read_value(json, where, &field, &deny, err);

	((struct egress_config *)dst)->default_deny = deny;
	return ret;
}

static const struct json_field egress_fields[] = {
	{ .name = "anti_spoof", .kind = JSON_FIELD_BOOL, JSON_AT(struct egress_config, anti_spoof) },
	{ .name = "addresses", .kind = JSON_FIELD_SUB, .parse = read_addresses },
	{ .name = "block_link_local", .kind = JSON_FIELD_BOOL, JSON_AT(struct egress_config, block_link_local) },
	{ .name = "default", .kind = JSON_FIELD_SUB, .parse = read_default },
	{ .name = "allow", .kind = JSON_FIELD_SUB, .parse = read_rules },
};

int config_read_egress(const json_t *json, const struct json_where *where, void *net_config, struct error *err)
{
	struct net_config *net = net_config;

	memset(&net->egress, 0, sizeof(net->egress));
	return config_patch_egress(json, where, net_config, err);
}

int config_patch_egress(const json_t *json, const struct json_where *where, void *net_config, struct error *err)
{
	struct json_where spoof = { .up = where, .name = "anti_spoof" };
	struct net_config *net = net_config;
	int ret = json_read_object(json, where, FIELDS(egress_fields), &net->egress, err);
	if (!ret && net->egress.anti_spoof && !net->mac_given)
		return json_fail(err, &spoof, "the guest's own MAC is not known (needs \"guest_mac\")");
	return ret;
}

/* ---- to JSON ---- */

static json_t *dump_address(const struct egress_address *a, int bits)
{
	char text[INET6_ADDRSTRLEN], whole[INET6_ADDRSTRLEN + 12];

	if (is_ipv4(a))
		inet_ntop(AF_INET, a->byte + IPV4_OFFSET, text, sizeof(text));
	else
		inet_ntop(AF_INET6, a->byte, text, sizeof(text));
	if (bits < 0)
		return json_string(text);
	snprintf(whole, sizeof(whole), "%s/%d", text, is_ipv4(a) ? bits - 96 : bits);
	return json_string(whole);
}

static json_t *dump_rule(const struct egress_rule *rule)
{
	const struct json_choice *c = protocol_choices;
	char ports[16];

	while (c->value != rule->protocol)
		c++;
	if (rule->port_first == rule->port_last)
		snprintf(ports, sizeof(ports), "%u", rule->port_first);
	else
		snprintf(ports, sizeof(ports), "%u-%u", rule->port_first, rule->port_last);
	return json_pack("{s:o, s:s, s:s*}", "cidr", dump_address(&rule->net, rule->prefix), "protocol", c->name,
			 "port", rule->port_first ? ports : NULL);
}

json_t *config_dump_egress(const struct egress_config *egress)
{
	json_t *addresses, *rules;
	unsigned int i;

	if (!egress_active(egress) && !egress->nr_addresses && !egress->nr_rules)
		return json_null();
	addresses = json_array();
	rules = json_array();
	for (i = 0; i < egress->nr_addresses; i++)
		(void)json_array_append_new(addresses, dump_address(&egress->address[i], -1));
	for (i = 0; i < egress->nr_rules; i++)
		(void)json_array_append_new(rules, dump_rule(&egress->rule[i]));
	return json_pack("{s:b, s:o, s:b, s:s, s:o}", "anti_spoof", egress->anti_spoof, "addresses", addresses,
			 "block_link_local", egress->block_link_local, "default",
			 egress->default_deny ? "Deny" : "Allow", "allow", rules);
}
