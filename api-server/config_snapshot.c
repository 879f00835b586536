/* config_snapshot.c: the bodies of PUT /snapshot/create and PUT /snapshot/load. */
#include "config_snapshot.h"

#include <errno.h>
#include <string.h>

#include "config_json.h"
#include "inherited.h"
#include "json.h"
#include "snapshot/stream.h"

#define FIELDS(table) table, sizeof(table) / sizeof((table)[0])

/* Sockets bring state and memory in one, so one that is named is all that there is. */
static int check_stream(const char *state_path, const char *memory_path, bool *is_stream, struct error *err)
{
	const bool is_socket = strncmp(state_path, "unix:", 5) == 0;
	const struct json_where where = { .name = "snapshot" }, at = { .up = &where, .name = "snapshot_path" };

	*is_stream = !memory_path[0] && stream_has_name(state_path);
	if (is_socket && memory_path[0])
		return json_fail(err, &at, "a stream has the memory, too (leave the memory's path out)");
	return 0;
}

/* ---- create ---- */

static const struct json_choice type_choices[] = {
	{ "Full", false },
	{ "Diff", true },
	{ NULL, 0 },
};

static int read_type(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const struct json_field type = { .kind = JSON_FIELD_CHOICE, .choices = type_choices };
	int diff = 0;
	int ret = json_read_value(json, where, &type, &diff, err);

	*(bool *)dst = diff;
	return ret;
}

int config_parse_snapshot_create(const json_t *json, struct snapshot_request *out, struct error *err)
{
	static const struct json_field fields[] = {
		{ .name = "snapshot_path",
		  .kind = JSON_FIELD_PATH,
		  .required = true,
		  JSON_AT(struct snapshot_request, state_path) },
		{ .name = "mem_file_path", .kind = JSON_FIELD_PATH, JSON_AT(struct snapshot_request, memory_path) },
		{ .name = "snapshot_type",
		  .kind = JSON_FIELD_SUB,
		  .parse = read_type,
		  JSON_AT(struct snapshot_request, diff) },
		{ .name = "background", .kind = JSON_FIELD_BOOL, JSON_AT(struct snapshot_request, background) },
		{ .name = "version",
		  .kind = JSON_FIELD_REFUSED,
		  .refusal = "snapshots are written in this Mayfly's own format (leave it out)" },
	};
	struct json_where where = { .name = "snapshot" };
	int ret;

	*out = (struct snapshot_request){ 0 };
	ret = json_read_object(json, &where, FIELDS(fields), out, err);
	if (!ret)
		ret = check_stream(out->state_path, out->memory_path, &out->is_stream, err);
	if (ret)
		return ret;
	if (!out->memory_path[0] && !out->is_stream)
		return json_fail(
			err, &where,
			"there is no mem_file_path (needs one; only a stream, as \"unix:/path\", does without)");
	if (out->is_stream && (out->diff || out->background))
		return json_fail(err, &where,
				 "%s: a stream has all of the memory, sent while the microVM runs (leave it out)",
				 out->diff ? "snapshot_type" : "background");
	return 0;
}

/* ---- load: from where ---- */

static const struct json_choice backend_choices[] = {
	{ "File", false },
	{ "Uffd", true },
	{ NULL, 0 },
};

static int read_backend(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct {
		char path[PATH_MAX];
		int type;
	} backend;
	static const struct json_field fields[] = {
		{ .name = "backend_path",
		  .kind = JSON_FIELD_PATH,
		  .required = true,
		  .offset = 0,
		  .size = sizeof(backend.path) },
		{ .name = "backend_type",
		  .kind = JSON_FIELD_CHOICE,
		  .required = true,
		  .choices = backend_choices,
		  .offset = sizeof(backend.path),
		  .size = sizeof(backend.type) },
	};
	struct snapshot_source *out = dst;
	int ret = json_read_object(json, where, FIELDS(fields), &backend, err);

	if (ret)
		return ret;
	memcpy(out->memory_path, backend.path, sizeof(backend.path));
	out->by_handler = backend.type;
	return 0;
}

#define AS_IN_THE_SNAPSHOT (-1)

static int read_huge_pages(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	static const struct json_choice choices[] = {
		{ "Snapshot", AS_IN_THE_SNAPSHOT },
		{ "None", HUGE_PAGES_NONE },
		{ "Transparent", HUGE_PAGES_TRANSPARENT },
		{ "2M", HUGE_PAGES_2M },
		{ NULL, 0 },
	};
	static const struct json_field field = { .kind = JSON_FIELD_CHOICE, .choices = choices };
	struct snapshot_source *out = dst;
	int given = AS_IN_THE_SNAPSHOT;
	int ret = json_read_value(json, where, &field, &given, err);

	out->huge_pages_given = given != AS_IN_THE_SNAPSHOT;
	if (out->huge_pages_given)
		out->huge_pages = (enum huge_pages)given;
	return ret;
}

static int read_metadata(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	if (!json_is_object(json))
		return json_fail_type(err, where, json, "an object");
	*(json_t **)dst = (json_t *)(uintptr_t)json;
	return 0;
}

/* What config_override reads. */
static int left_for_later(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	(void)json;
	(void)where;
	(void)dst;
	(void)err;
	return 0;
}

int config_parse_snapshot_load(const json_t *json, struct snapshot_source *out, struct error *err)
{
	static const struct json_field fields[] = {
		{ .name = "snapshot_path",
		  .kind = JSON_FIELD_PATH,
		  .required = true,
		  JSON_AT(struct snapshot_source, state_path) },
		{ .name = "mem_file_path", .kind = JSON_FIELD_PATH, JSON_AT(struct snapshot_source, memory_path) },
		{ .name = "mem_backend", .kind = JSON_FIELD_SUB, .parse = read_backend },
		{ .name = "resume_vm", .kind = JSON_FIELD_BOOL, JSON_AT(struct snapshot_source, resume) },
		{ .name = "track_dirty_pages",
		  .kind = JSON_FIELD_BOOL,
		  JSON_AT(struct snapshot_source, track_dirty_pages) },
		{ .name = "enable_diff_snapshots",
		  .kind = JSON_FIELD_BOOL,
		  JSON_AT(struct snapshot_source, track_dirty_pages) },
		{ .name = "clock_realtime", .kind = JSON_FIELD_BOOL, JSON_AT(struct snapshot_source, clock_realtime) },
		{ .name = "record_working_set",
		  .kind = JSON_FIELD_BOOL,
		  JSON_AT(struct snapshot_source, record_working_set) },
		{ .name = "huge_pages", .kind = JSON_FIELD_SUB, .parse = read_huge_pages },
		{ .name = "mmds",
		  .kind = JSON_FIELD_SUB,
		  .parse = read_metadata,
		  .offset = offsetof(struct snapshot_source, metadata) },
		{ .name = "network_overrides", .kind = JSON_FIELD_SUB, .parse = left_for_later },
		{ .name = "drive_overrides", .kind = JSON_FIELD_SUB, .parse = left_for_later },
		{ .name = "vsock_override", .kind = JSON_FIELD_SUB, .parse = left_for_later },
		{ .name = "serial_override", .kind = JSON_FIELD_SUB, .parse = left_for_later },
	};
	struct json_where where = { .name = "snapshot" };
	int ret;

	*out = (struct snapshot_source){ .state_fd = -1, .memory_fd = -1 };
	ret = json_read_object(json, &where, FIELDS(fields), out, err);
	if (ret)
		return ret;
	ret = check_stream(out->state_path, out->memory_path, &out->is_stream, err);
	if (ret)
		return ret;
	if (!out->memory_path[0] && !out->is_stream)
		return json_fail(err, &where, "there is no mem_backend (needs that, or mem_file_path)");
	if (json_is_object(json_object_get(json, "mem_backend")) &&
	    json_is_string(json_object_get(json, "mem_file_path")))
		return json_fail(err, &where, "both mem_backend and mem_file_path are there (needs one of them)");
	if (out->record_working_set && (out->by_handler || out->is_stream))
		return json_fail(err, &where,
				 "record_working_set: a page-fault handler knows itself which pages come first, and a "
				 "stream brings them all (needs backend_type File)");
	if (out->record_working_set && inherited_is_name(out->memory_path))
		return json_fail(err, &where,
				 "record_working_set: the list is beside the memory file (needs that by a path)");
	return 0;
}

/* ---- load: what is different ---- */

/* One resource of the snapshot's configuration, given anew in part; NULL ends the list of what may be. */
static int override(json_t *resource, const json_t *given, const char *const *allowed, const struct json_where *where,
		    struct error *err)
{
	const json_t *value;
	const char *key;
	unsigned int i;

	json_object_foreach((json_t *)(uintptr_t)given, key, value)
	{
		struct json_where at = { .up = where, .name = key };

		for (i = 0; allowed[i] && strcmp(allowed[i], key) != 0; i++)
			;
		if (!allowed[i])
			return json_fail(err, &at, "this cannot be given anew, the guest relies on it");
		/* It is checked as a whole later, with the rest of the configuration. */
		if (!json_is_null(value) && json_object_set(resource, key, (json_t *)(uintptr_t)value))
			return error_set(err, -ENOMEM, "no memory");
	}
	return 0;
}

static int override_one(const json_t *body, const char *name, json_t *config, const char *resource_name,
			const char *const *allowed, struct error *err)
{
	const struct json_where where = { .name = "snapshot" }, at = { .up = &where, .name = name };
	const json_t *given = json_object_get(body, name);
	json_t *resource = json_object_get(config, resource_name);

	if (!given || json_is_null(given))
		return 0;
	if (!json_is_object(given))
		return json_fail_type(err, &at, given, "an object");
	if (!json_is_object(resource))
		return json_fail(err, &at, "the snapshot has no %s", resource_name);
	return override(resource, given, allowed, &at, err);
}

static json_t *find(const json_t *list, const char *key, const char *id)
{
	json_t *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *its = json_string_value(json_object_get(entry, key));

		if (its && strcmp(its, id) == 0)
			return entry;
	}
	return NULL;
}

/* A list of objects, each about the one whose id is the value of `key`. */
static int override_each(const json_t *body, const char *name, json_t *config, const char *list_name, const char *key,
			 const char *const *allowed, struct error *err)
{
	const struct json_where where = { .name = "snapshot" }, list_at = { .up = &where, .name = name };
	const json_t *list = json_object_get(body, name), *given;
	json_t *resource;
	const char *id;
	int ret = 0;
	size_t i;

	if (!list || json_is_null(list))
		return 0;
	if (!json_is_array(list))
		return json_fail_type(err, &list_at, list, "a list");
	json_array_foreach(list, i, given)
	{
		struct json_where at = { .up = &list_at, .index = i };

		if (!json_is_object(given))
			return json_fail_type(err, &at, given, "an object");
		id = json_string_value(json_object_get(given, key));
		if (!id)
			return json_fail(err, &at, "there is no %s (needs one of the snapshot's)", key);
		resource = find(json_object_get(config, list_name), key, id);
		if (!resource)
			return json_fail(err, &at, "the snapshot has no %s \"%s\"", key, id);
		ret = override(resource, given, allowed, &at, err);
		if (ret)
			return ret;
	}
	return 0;
}

int config_override(const json_t *body, json_t *config, struct error *err)
{
	static const char *const net[] = { "iface_id",        "host_dev_name", "guest_mac", "rx_rate_limiter",
					   "tx_rate_limiter", "egress",        NULL };
	static const char *const drive[] = { "drive_id", "path_on_host", "overlay_path", "rate_limiter", NULL };
	static const char *const vsock[] = { "uds_path", "guest_cid", NULL };
	static const char *const serial[] = { "serial_out_path", "serial_socket_path", "rate_limiter", NULL };
	int ret = override_each(body, "network_overrides", config, "network-interfaces", "iface_id", net, err);

	if (!ret)
		ret = override_each(body, "drive_overrides", config, "drives", "drive_id", drive, err);
	if (!ret)
		ret = override_one(body, "vsock_override", config, "vsock", vsock, err);
	return ret ? ret : override_one(body, "serial_override", config, "serial", serial, err);
}
