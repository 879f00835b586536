/* config_json.c: what each resource of the API accepts, and the checks that need more than one field. */
#include "config_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "metrics.h"

#define FIELDS(table) table, sizeof(table) / sizeof((table)[0])

/* Choices are stored as int. */
_Static_assert(sizeof(enum cache_type) == sizeof(int) && sizeof(enum io_engine) == sizeof(int) &&
		       sizeof(enum huge_pages) == sizeof(int),
	       "an enum is not as large as an int");

/* ---- rate limiters ---- */

/* 292 years; in ns it still fits 64 bits. */
#define REFILL_MAX_MS ((uint64_t)INT64_MAX / 1000000)

static const struct json_field bucket_fields[] = {
	{ .name = "size",
	  .kind = JSON_FIELD_UINT,
	  .required = true,
	  .max = INT64_MAX,
	  JSON_AT(struct token_bucket_config, size) },
	{ .name = "one_time_burst",
	  .kind = JSON_FIELD_UINT,
	  .max = INT64_MAX,
	  JSON_AT(struct token_bucket_config, one_time_burst) },
	{ .name = "refill_time",
	  .kind = JSON_FIELD_UINT,
	  .required = true,
	  .max = REFILL_MAX_MS,
	  JSON_AT(struct token_bucket_config, refill_time) },
};

static int read_bucket(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct token_bucket_config *out = dst;
	int ret;

	memset(out, 0, sizeof(*out));
	ret = json_read_object(json, where, FIELDS(bucket_fields), out, err);
	/* As in Firecracker: a bucket without size or refill time limits nothing. */
	if (!ret && (!out->size || !out->refill_time))
		memset(out, 0, sizeof(*out));
	return ret;
}

static const struct json_field limiter_fields[] = {
	{ .name = "bandwidth",
	  .kind = JSON_FIELD_SUB,
	  .parse = read_bucket,
	  JSON_AT(struct rate_limiter_config, bandwidth) },
	{ .name = "ops", .kind = JSON_FIELD_SUB, .parse = read_bucket, JSON_AT(struct rate_limiter_config, ops) },
};

int config_read_rate_limiter(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	memset(dst, 0, sizeof(struct rate_limiter_config));
	return json_read_object(json, where, FIELDS(limiter_fields), dst, err);
}

int config_patch_rate_limiter(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct rate_limiter_config *out = dst, given;
	int ret = config_read_rate_limiter(json, where, &given, err);

	if (ret)
		return ret;
	if (json_is_object(json_object_get(json, "bandwidth")))
		out->bandwidth = given.bandwidth;
	if (json_is_object(json_object_get(json, "ops")))
		out->ops = given.ops;
	return 0;
}

int config_parse_rate_limiter(const json_t *json, struct rate_limiter_config *out, struct error *err)
{
	struct json_where where = { .name = "rate_limiter" };

	return config_read_rate_limiter(json, &where, out, err);
}

/* ---- boot-source ---- */

static const struct json_field boot_fields[] = {
	{ .name = "kernel_image_path", .kind = JSON_FIELD_PATH, JSON_AT(struct boot_source_config, kernel_image_path) },
	{ .name = "initrd_path", .kind = JSON_FIELD_PATH, JSON_AT(struct boot_source_config, initrd_path) },
	{ .name = "boot_args", .kind = JSON_FIELD_TEXT, JSON_AT(struct boot_source_config, boot_args) },
};

int config_parse_boot_source(const json_t *json, struct boot_source_config *out, struct error *err)
{
	struct json_where where = { .name = "boot-source" };

	out->kernel_image_path[0] = '\0';
	out->initrd_path[0] = '\0';
	out->boot_args[0] = '\0';
	out->present = true;
	out->boot_args_given = json_is_string(json_object_get(json, "boot_args"));
	return json_read_object(json, &where, FIELDS(boot_fields), out, err);
}

/* ---- machine-config ---- */

static const struct json_choice huge_pages_choices[] = {
	{ "None", HUGE_PAGES_NONE },
	{ "Transparent", HUGE_PAGES_TRANSPARENT },
	{ "2M", HUGE_PAGES_2M },
	{ NULL, 0 },
};

static const struct json_field machine_fields[] = {
	{ .name = "vcpu_count",
	  .kind = JSON_FIELD_UINT,
	  .required = true,
	  .min = 1,
	  .max = CONFIG_MAX_VCPUS,
	  JSON_AT(struct machine_config, vcpu_count) },
	{ .name = "mem_size_mib",
	  .kind = JSON_FIELD_UINT,
	  .required = true,
	  .min = CONFIG_MIN_MEM_MIB,
	  .max = CONFIG_MAX_MEM_MIB,
	  .unit = "MiB",
	  JSON_AT(struct machine_config, mem_size_mib) },
	{ .name = "smt", .kind = JSON_FIELD_BOOL, JSON_AT(struct machine_config, smt) },
	{ .name = "cpu_template",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_read_cpu_template_name,
	  JSON_AT(struct machine_config, cpu_template) },
	{ .name = "track_dirty_pages", .kind = JSON_FIELD_BOOL, JSON_AT(struct machine_config, track_dirty_pages) },
	{ .name = "huge_pages",
	  .kind = JSON_FIELD_CHOICE,
	  .choices = huge_pages_choices,
	  JSON_AT(struct machine_config, huge_pages) },
};

int config_parse_machine_config(const json_t *json, struct machine_config *out, struct error *err)
{
	struct json_where where = { .name = "machine-config" };
	struct json_where vcpus = { .up = &where, .name = "vcpu_count" };
	struct json_where memory = { .up = &where, .name = "mem_size_mib" };
	int ret;

	*out = (struct machine_config){ .vcpu_count = CONFIG_DEFAULT_VCPUS, .mem_size_mib = CONFIG_DEFAULT_MEM_MIB };
	ret = json_read_object(json, &where, FIELDS(machine_fields), out, err);
	if (ret)
		return ret;
	if (out->smt && out->vcpu_count > 1 && out->vcpu_count % 2)
		return json_fail(err, &vcpus, "%u is odd (with \"smt\" true it needs to be 1 or even)",
				 out->vcpu_count);
	if (out->huge_pages != HUGE_PAGES_NONE && out->mem_size_mib % 2)
		return json_fail(err, &memory,
				 "%llu MiB is odd (with \"huge_pages\" it needs to be even, pages are 2 MiB)",
				 (unsigned long long)out->mem_size_mib);
	return 0;
}

/* ---- drives ---- */

static const struct json_choice cache_choices[] = {
	{ "Unsafe", CACHE_UNSAFE },
	{ "Writeback", CACHE_WRITEBACK },
	{ NULL, 0 },
};

static const struct json_choice engine_choices[] = {
	{ "Sync", IO_ENGINE_SYNC },
	{ "Async", IO_ENGINE_ASYNC },
	{ NULL, 0 },
};

static const struct json_field drive_fields[] = {
	{ .name = "drive_id",
	  .kind = JSON_FIELD_ID,
	  .required = true,
	  .extra = "_-",
	  JSON_AT(struct drive_config, drive_id) },
	/* Vhost-user drives have no path_on_host: name what is wrong with them before what is missing. */
	{ .name = "socket",
	  .kind = JSON_FIELD_REFUSED,
	  .refusal = "vhost-user drives are not supported by Mayfly (needs path_on_host instead)" },
	{ .name = "path_on_host",
	  .kind = JSON_FIELD_PATH,
	  .required = true,
	  JSON_AT(struct drive_config, path_on_host) },
	{ .name = "overlay_path", .kind = JSON_FIELD_PATH, JSON_AT(struct drive_config, overlay_path) },
	{ .name = "is_root_device",
	  .kind = JSON_FIELD_BOOL,
	  .required = true,
	  JSON_AT(struct drive_config, is_root_device) },
	{ .name = "is_read_only", .kind = JSON_FIELD_BOOL, JSON_AT(struct drive_config, is_read_only) },
	/* It goes on the kernel command line as root=PARTUUID=…: nothing that would end the argument. */
	{ .name = "partuuid", .kind = JSON_FIELD_ID, .extra = "-/=", JSON_AT(struct drive_config, partuuid) },
	{ .name = "cache_type",
	  .kind = JSON_FIELD_CHOICE,
	  .choices = cache_choices,
	  JSON_AT(struct drive_config, cache_type) },
	{ .name = "io_engine",
	  .kind = JSON_FIELD_CHOICE,
	  .choices = engine_choices,
	  JSON_AT(struct drive_config, io_engine) },
	{ .name = "rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_read_rate_limiter,
	  JSON_AT(struct drive_config, rate_limiter) },
};

static int read_drive(const json_t *json, const struct json_where *where, struct drive_config *out, struct error *err)
{
	out->drive_id[0] = '\0';
	out->path_on_host[0] = '\0';
	out->overlay_path[0] = '\0';
	out->partuuid[0] = '\0';
	out->is_root_device = false;
	out->is_read_only = false;
	out->cache_type = CACHE_UNSAFE;
	out->io_engine = IO_ENGINE_SYNC;
	memset(&out->rate_limiter, 0, sizeof(out->rate_limiter));
	return json_read_object(json, where, FIELDS(drive_fields), out, err);
}

int config_parse_drive(const json_t *json, struct drive_config *out, struct error *err)
{
	struct json_where where = { .name = "drive" };

	return read_drive(json, &where, out, err);
}

int config_check_id(const json_t *json, const struct json_where *where, const char *id, struct error *err)
{
	const char *given = json_string_value(json);

	if (!given)
		return json_fail_type(err, where, json, "the id from the path");
	if (strlen(given) == json_string_length(json) && strcmp(given, id) == 0)
		return 0;
	return json_fail(err, where, "not the id from the path (needs \"%s\")", id);
}

static int check_drive_id(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return config_check_id(json, where, ((struct drive_config *)dst)->drive_id, err);
}

static const struct json_field drive_patch_fields[] = {
	{ .name = "drive_id", .kind = JSON_FIELD_SUB, .required = true, .parse = check_drive_id },
	{ .name = "path_on_host", .kind = JSON_FIELD_PATH, JSON_AT(struct drive_config, path_on_host) },
	{ .name = "rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = config_patch_rate_limiter,
	  JSON_AT(struct drive_config, rate_limiter) },
};

int config_patch_drive(const json_t *json, struct drive_config *out, struct error *err)
{
	struct json_where where = { .name = "drive" };

	return json_read_object(json, &where, FIELDS(drive_patch_fields), out, err);
}

/* The drive at `where`, number n, against those before it. */
static int check_drive(const struct config *cfg, size_t n, const struct json_where *where, struct error *err)
{
	struct json_where id = { .up = where, .name = "drive_id" };
	struct json_where root = { .up = where, .name = "is_root_device" };
	const struct drive_config *drive = &cfg->drives[n];
	size_t i;

	for (i = 0; i < n; i++) {
		const struct drive_config *other = &cfg->drives[i];

		if (strcmp(other->drive_id, drive->drive_id) == 0)
			return json_fail(err, &id, "\"%s\" is the id of drives[%zu] already (needs one of its own)",
					 drive->drive_id, i);
		if (other->is_root_device && drive->is_root_device)
			return json_fail(err, &root, "drives[%zu] (\"%s\") is the root device already (needs false)", i,
					 other->drive_id);
	}
	return 0;
}

int config_parse_drives(const json_t *json, struct config *cfg, struct error *err)
{
	struct json_where where = { .name = "drives" };
	size_t n = json_array_size(json), i;
	int ret = 0;

	if (!json_is_array(json))
		return json_fail_type(err, &where, json, "a list of drives in brackets");
	if (n > CONFIG_MAX_DRIVES)
		return json_fail(err, &where, "%zu drives are too many (at most %d)", n, CONFIG_MAX_DRIVES);
	free(cfg->drives);
	cfg->nr_drives = 0;
	cfg->drives = n ? calloc(n, sizeof(*cfg->drives)) : NULL;
	if (n && !cfg->drives)
		return error_set(err, -ENOMEM, "no memory for %zu drives", n);
	for (i = 0; i < n && !ret; i++) {
		struct json_where here = { .up = &where, .index = i };

		ret = read_drive(json_array_get(json, i), &here, &cfg->drives[i], err);
		if (!ret)
			ret = check_drive(cfg, i, &here, err);
		cfg->nr_drives++;
	}
	return ret;
}

/* ---- logger, metrics, serial ---- */

static int read_level(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const char needs[] = "one of " LOG_LEVEL_NAMES;
	const char *name = json_string_value(json);

	if (!name)
		return json_fail_type(err, where, json, needs);
	if (strlen(name) != json_string_length(json) || log_level_parse(name, dst))
		return json_fail_unknown(err, where, json, needs);
	return 0;
}

static const struct json_field logger_fields[] = {
	{ .name = "log_path", .kind = JSON_FIELD_PATH, JSON_AT(struct log_config, log_path) },
	{ .name = "level", .kind = JSON_FIELD_SUB, .parse = read_level, JSON_AT(struct log_config, level) },
	{ .name = "show_level", .kind = JSON_FIELD_BOOL, JSON_AT(struct log_config, show_level) },
	{ .name = "show_log_origin", .kind = JSON_FIELD_BOOL, JSON_AT(struct log_config, show_log_origin) },
	{ .name = "module", .kind = JSON_FIELD_TEXT, JSON_AT(struct log_config, module) },
};

int config_update_logger(const json_t *json, struct log_config *out, struct error *err)
{
	struct json_where where = { .name = "logger" };

	out->level_given |= json_is_string(json_object_get(json, "level"));
	return json_read_object(json, &where, FIELDS(logger_fields), out, err);
}

int config_parse_logger(const json_t *json, struct log_config *out, struct error *err)
{
	log_config_init(out);
	return config_update_logger(json, out, err);
}

/* Kept as text: it is only ever copied into the metrics line. */
static int read_properties(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	char **out = dst, *text;
	const char *key;
	json_t *value;

	if (!json_is_object(json))
		return json_fail_type(err, where, json, "an object of strings");
	json_object_foreach((json_t *)json, key, value)
	{
		struct json_where here = { .up = where, .name = key };

		if (!json_is_string(value))
			return json_fail_type(err, &here, value, "a string");
	}
	text = json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII);
	if (!text)
		return error_set(err, -ENOMEM, "no memory for metrics.properties");
	if (strlen(text) > METRICS_PROPERTIES_MAX) {
		size_t len = strlen(text);

		free(text);
		return json_fail(err, where, "%zu bytes of JSON are too many (at most %d)", len,
				 METRICS_PROPERTIES_MAX);
	}
	free(*out);
	*out = text;
	return 0;
}

static const struct json_field metrics_fields[] = {
	{ .name = "metrics_path", .kind = JSON_FIELD_PATH, .required = true, JSON_AT(struct config, metrics_path) },
	{ .name = "emit_id", .kind = JSON_FIELD_BOOL, JSON_AT(struct config, metrics_emit_id) },
	{ .name = "properties",
	  .kind = JSON_FIELD_SUB,
	  .parse = read_properties,
	  JSON_AT(struct config, metrics_properties) },
};

int config_parse_metrics(const json_t *json, struct config *out, struct error *err)
{
	struct json_where where = { .name = "metrics" };

	out->metrics_path[0] = '\0';
	out->metrics_emit_id = false;
	free(out->metrics_properties);
	out->metrics_properties = NULL;
	return json_read_object(json, &where, FIELDS(metrics_fields), out, err);
}

static const struct json_field serial_fields[] = {
	{ .name = "serial_out_path", .kind = JSON_FIELD_PATH, JSON_AT(struct serial_config, serial_out_path) },
	{ .name = "serial_socket_path", .kind = JSON_FIELD_PATH, JSON_AT(struct serial_config, serial_socket_path) },
	{ .name = "rate_limiter",
	  .kind = JSON_FIELD_SUB,
	  .parse = read_bucket,
	  JSON_AT(struct serial_config, rate_limiter) },
};

int config_parse_serial(const json_t *json, struct serial_config *out, struct error *err)
{
	struct json_where where = { .name = "serial" };

	out->serial_out_path[0] = '\0';
	out->serial_socket_path[0] = '\0';
	memset(&out->rate_limiter, 0, sizeof(out->rate_limiter));
	return json_read_object(json, &where, FIELDS(serial_fields), out, err);
}

/* ---- actions, vm ---- */

static const struct json_choice action_choices[] = {
	{ "InstanceStart", ACTION_INSTANCE_START },
	{ "SendCtrlAltDel", ACTION_SEND_CTRL_ALT_DEL },
	{ "FlushMetrics", ACTION_FLUSH_METRICS },
	{ "RenewGenerationId", ACTION_RENEW_GENERATION_ID },
	{ NULL, 0 },
};

int config_parse_action(const json_t *json, enum action *out, struct error *err)
{
	static const struct json_field fields[] = {
		{ .name = "action_type", .kind = JSON_FIELD_CHOICE, .required = true, .choices = action_choices },
	};
	struct json_where where = { .name = "action" };

	return json_read_object(json, &where, FIELDS(fields), out, err);
}

static const struct json_choice vm_choices[] = {
	{ "Paused", false },
	{ "Resumed", true },
	{ NULL, 0 },
};

int config_parse_vm(const json_t *json, bool *resume, struct error *err)
{
	static const struct json_field fields[] = {
		{ .name = "state", .kind = JSON_FIELD_CHOICE, .required = true, .choices = vm_choices },
	};
	struct json_where where = { .name = "vm" };
	int state = 0;
	int ret = json_read_object(json, &where, FIELDS(fields), &state, err);

	*resume = state;
	return ret;
}
