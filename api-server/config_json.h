/* config_json.h: Firecracker v1's configuration in JSON, checked and turned into struct config. */
#ifndef MAYFLY_CONFIG_JSON_H
#define MAYFLY_CONFIG_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "config.h"
#include "error.h"

#define CONFIG_FILE_MAX ((size_t)1 << 20) /* bytes; a full one with 16 drives is about 8 KiB */

/*
 * config_parse_file - read a whole microVM from a file of JSON (docs/configuration.md has the keys)
 * cfg must have gone through config_init; what the file leaves out stays as it is there. The caller calls config_free
 * in any case. Returns 0 or a negative errno with a sentence that starts with the field ("machine-config.vcpu_count:
 * …") or, when the file cannot be read or is not JSON, with its name ("vm.json:3:7: …"). Files named in it are not
 * looked at.
 */
int config_parse_file(const char *path, struct config *cfg, struct error *err);

/* config_parse - the same from an object that has been read. */
int config_parse(const json_t *json, struct config *cfg, struct error *err);

/*
 * One resource each, as in the body of its PUT request. *out is set to the defaults first, partly written on error; the
 * sentence starts with the resource's name and field ("drive.path_on_host: …"). Any thread.
 */
int config_parse_boot_source(const json_t *json, struct boot_source_config *out, struct error *err);
int config_parse_machine_config(const json_t *json, struct machine_config *out, struct error *err);
int config_parse_drive(const json_t *json, struct drive_config *out, struct error *err);
int config_parse_logger(const json_t *json, struct log_config *out, struct error *err);
int config_update_logger(const json_t *json, struct log_config *out,
			 struct error *err); /* keeps what json leaves out */
int config_parse_serial(const json_t *json, struct serial_config *out, struct error *err);
int config_parse_rate_limiter(const json_t *json, struct rate_limiter_config *out, struct error *err);

int config_parse_net(const json_t *json, struct net_config *out, struct error *err);
int config_parse_vsock(const json_t *json, struct vsock_config *out, struct error *err);
int config_parse_mmds_config(const json_t *json, struct mmds_config *out, struct error *err);

/* A custom CPU template into *out, one block to be freed by the caller; on error *out stays as it is. */
int config_parse_cpu_config(const json_t *json, struct cpu_template **out, struct error *err);

/* PATCH: what the body leaves out stays as it is in *out, bucket by bucket; its id must be the one in *out. */
int config_patch_drive(const json_t *json, struct drive_config *out, struct error *err);
int config_patch_net(const json_t *json, struct net_config *out, struct error *err);

/* PUT /actions and PATCH /vm, whose bodies are one word. */
enum action { ACTION_INSTANCE_START, ACTION_SEND_CTRL_ALT_DEL, ACTION_FLUSH_METRICS, ACTION_RENEW_GENERATION_ID };
int config_parse_action(const json_t *json, enum action *out, struct error *err);
int config_parse_vm(const json_t *json, bool *resume, struct error *err);

/* config_patch_rate_limiter - the same, keeping the bucket that json leaves out. config_read_rate_limiter - for the
 * tables of others: a rate limiter, with both its buckets. A json_sub_fn. */
struct json_where;
int config_read_rate_limiter(const json_t *json, const struct json_where *where, void *dst, struct error *err);

int config_patch_rate_limiter(const json_t *json, const struct json_where *where, void *dst, struct error *err);

/*
 * config_read_egress - which frames may leave an interface, into a struct net_config; replaces the whole of its policy
 * config_dump_egress is the way back. The former is a json_sub_fn; it needs guest_mac to have been read before.
 */
int config_read_egress(const json_t *json, const struct json_where *where, void *net_config, struct error *err);
/* config_patch_egress - the same for a PATCH: what is left out stays; a list takes the place of the old one. */
int config_patch_egress(const json_t *json, const struct json_where *where, void *net_config, struct error *err);

/* config_read_cpu_config - the same into a struct config, also from the path of a file that has nothing else in it.
 * config_read_cpu_template_name - a static template's name, or "None", into a char[16]. Both are json_sub_fns. */
int config_read_cpu_config(const json_t *json, const struct json_where *where, void *config, struct error *err);
int config_read_cpu_template_name(const json_t *json, const struct json_where *where, void *dst, struct error *err);

/* config_check_id - a patch has to carry the id that its path names. 0 or -EINVAL. */
int config_check_id(const json_t *json, const struct json_where *where, const char *id, struct error *err);

/* config_check_net - against cfg's other interfaces: MAC and host device are used once. 0 or -EINVAL. */
int config_check_net(const struct config *cfg, const struct net_config *net, struct error *err);

/* The whole list "network-interfaces": at most CONFIG_MAX_NETS, ids, MACs and host devices all different. */
int config_parse_nets(const json_t *json, struct config *cfg, struct error *err);

/* The whole list "drives": at most CONFIG_MAX_DRIVES, ids all different, one root device at most. Replaces cfg's. */
int config_parse_drives(const json_t *json, struct config *cfg, struct error *err);

/* The metrics are members of struct config itself: metrics_path, metrics_emit_id, metrics_properties. */
int config_parse_metrics(const json_t *json, struct config *out, struct error *err);

#endif
