/* config_file.c: the file that --config-file names, one key for each resource. */
#include "config_json.h"

#include "json.h"

#define BY_DESIGN "left out of Mayfly by design (leave it out, or null)"

static int read_boot_source(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_boot_source(json, &((struct config *)cfg)->boot, err);
}

static int read_machine_config(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_machine_config(json, &((struct config *)cfg)->machine, err);
}

static int read_drives(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_drives(json, cfg, err);
}

static int read_logger(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_logger(json, &((struct config *)cfg)->log, err);
}

static int read_metrics(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_metrics(json, cfg, err);
}

static int read_serial(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_serial(json, &((struct config *)cfg)->serial, err);
}

static int read_nets(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_nets(json, cfg, err);
}

static int read_vsock(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_vsock(json, &((struct config *)cfg)->vsock, err);
}

static int read_mmds_config(const json_t *json, const struct json_where *where, void *cfg, struct error *err)
{
	(void)where;
	return config_parse_mmds_config(json, &((struct config *)cfg)->mmds, err);
}

/* Files made by Firecracker name every resource it has, with null or [] for those not used. */
static const struct json_field file_fields[] = {
	{ .name = "boot-source", .kind = JSON_FIELD_SUB, .parse = read_boot_source },
	{ .name = "machine-config", .kind = JSON_FIELD_SUB, .parse = read_machine_config },
	{ .name = "drives", .kind = JSON_FIELD_SUB, .parse = read_drives },
	{ .name = "logger", .kind = JSON_FIELD_SUB, .parse = read_logger },
	{ .name = "metrics", .kind = JSON_FIELD_SUB, .parse = read_metrics },
	{ .name = "serial", .kind = JSON_FIELD_SUB, .parse = read_serial },
	{ .name = "network-interfaces", .kind = JSON_FIELD_SUB, .parse = read_nets },
	{ .name = "vsock", .kind = JSON_FIELD_SUB, .parse = read_vsock },
	{ .name = "mmds-config", .kind = JSON_FIELD_SUB, .parse = read_mmds_config },
	/* After machine-config: a custom template takes the place of a static one, as in Firecracker. */
	{ .name = "cpu-config", .kind = JSON_FIELD_SUB, .parse = config_read_cpu_config },
	{ .name = "balloon", .kind = JSON_FIELD_REFUSED, .refusal = BY_DESIGN },
	{ .name = "entropy", .kind = JSON_FIELD_REFUSED, .refusal = BY_DESIGN },
	{ .name = "pmem", .kind = JSON_FIELD_REFUSED, .empty_list = true, .refusal = BY_DESIGN },
	{ .name = "memory-hotplug", .kind = JSON_FIELD_REFUSED, .refusal = BY_DESIGN },
};

int config_parse(const json_t *json, struct config *cfg, struct error *err)
{
	return json_read_object(json, NULL, file_fields, sizeof(file_fields) / sizeof(file_fields[0]), cfg, err);
}

int config_parse_file(const char *path, struct config *cfg, struct error *err)
{
	struct json_where file = { .name = path };
	json_t *json = NULL;
	int ret;

	ret = json_parse_file(path, CONFIG_FILE_MAX, &json, err);
	if (ret)
		return ret;
	/* Fields stand for themselves; only a document that is no object has nothing but the file's name. */
	if (!json_is_object(json))
		ret = json_fail_type(err, &file, json, "an object in braces");
	else
		ret = config_parse(json, cfg, err);
	json_decref(json);
	return ret;
}
