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

/*
 * One resource each, as in the body of its PUT request. *out is set to the defaults first, partly written on error; the
 * sentence starts with the resource's name and field ("drive.path_on_host: …"). Any thread.
 */
int config_parse_boot_source(const json_t *json, struct boot_source_config *out, struct error *err);
int config_parse_machine_config(const json_t *json, struct machine_config *out, struct error *err);
int config_parse_drive(const json_t *json, struct drive_config *out, struct error *err);
int config_parse_logger(const json_t *json, struct log_config *out, struct error *err);
int config_parse_serial(const json_t *json, struct serial_config *out, struct error *err);
int config_parse_rate_limiter(const json_t *json, struct rate_limiter_config *out, struct error *err);

/* The whole list "drives": at most CONFIG_MAX_DRIVES, ids all different, one root device at most. Replaces cfg's. */
int config_parse_drives(const json_t *json, struct config *cfg, struct error *err);

/* The metrics are members of struct config itself: metrics_path, metrics_emit_id, metrics_properties. */
int config_parse_metrics(const json_t *json, struct config *out, struct error *err);

#endif
