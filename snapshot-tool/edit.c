/* edit.c: gives a snapshot other host paths and addresses; all else in its state file stays as it is, bit for bit. */
#include "commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "state_file.h"
#include "write_all.h"

#define ALIGN 8u

/* Where each kind of change goes. */
static const struct place {
	const char *option, *list, *id, *field;
} places[] = {
	[EDIT_VSOCK_PATH] = { "--vsock-path", "vsock", NULL, "uds_path" },
	[EDIT_NET] = { "--net", "network-interfaces", "iface_id", "host_dev_name" },
	[EDIT_DRIVE] = { "--drive", "drives", "drive_id", "path_on_host" },
	[EDIT_MAC] = { "--mac", "network-interfaces", "iface_id", "guest_mac" },
};

/* ---- the configuration ---- */

static json_t *find(json_t *config, const struct edit *e)
{
	const struct place *place = &places[e->kind];
	json_t *list = json_object_get(config, place->list), *entry;
	size_t i;

	if (!place->id)
		return json_is_object(list) ? list : NULL;
	for (i = 0; i < json_array_size(list); i++) {
		entry = json_array_get(list, i);
		if (strcmp(json_string_value(json_object_get(entry, place->id)), e->id) == 0)
			return entry;
	}
	return NULL;
}

static int apply(json_t *config, const struct edit *e, struct error *err)
{
	const struct place *place = &places[e->kind];
	json_t *entry = find(config, e), *value;
	char shown[FILES_SHOWN];

	if (!entry && !place->id)
		return error_set(err, -ENOENT, "%s: the snapshot has no vsock", place->option);
	if (!entry)
		return error_set(err, -ENOENT, "%s: the snapshot has no \"%s\" among its %s", place->option,
				 files_show(shown, e->id), place->list);
	value = json_string(e->value);
	if (!value)
		return error_set(err, -EINVAL, "%s: \"%s\" is not UTF-8 text", place->option,
				 files_show(shown, e->value));
	return json_object_set_new(entry, place->field, value) ? error_set(err, -ENOMEM, "no memory") : 0;
}

/* What comes out has to be a configuration that could have been asked for. */
static int check(const json_t *json, struct error *err)
{
	struct config config;
	int ret;

	config_init(&config);
	ret = state_file_config(json, &config, err);
	config_free(&config);
	return ret;
}

/* ---- the file ---- */

static size_t padded(size_t size)
{
	return (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

static size_t put(uint8_t *data, size_t at, const void *bytes, size_t len)
{
	memcpy(data + at, bytes, len);
	return at + len;
}

/* The file with another configuration: what stands before the record, the record, what stands behind it. */
static int seal(const struct state_file *s, const char *text, uint8_t **out, size_t *len, struct error *err)
{
	const struct state_record *old = state_file_find(s, STATE_CONFIG, 0);
	struct state_record record = *old;
	const size_t before = (size_t)((const uint8_t *)old - s->data), size = strlen(text);
	const size_t behind = before + sizeof(*old) + padded(old->size);
	const size_t whole = s->len - behind + before + sizeof(record) + padded(size);
	const uint64_t file_size = whole;
	uint64_t crc;
	size_t at;

	*out = whole <= STATE_MAX ? calloc(1, whole) : NULL;
	if (!*out)
		return error_set(err, -ENOMEM, "no memory for the state file");
	record.size = (uint32_t)size;
	at = put(*out, 0, s->data, before);
	at = put(*out, at, &record, sizeof(record));
	put(*out, at, text, size);
	at = put(*out, at + padded(size), s->data + behind, s->first.end - behind);
	put(*out, offsetof(struct state_header, size), &file_size, sizeof(file_size));
	crc = crc64(0, *out, at);
	*len = put(*out, at, &crc, sizeof(crc));
	return 0;
}

static int write_out(const struct state_file *s, const char *text, const char *path, struct error *err)
{
	struct new_file out = { .fd = -1 };
	uint8_t *data = NULL;
	size_t len = 0;
	char shown[FILES_SHOWN];
	int ret = seal(s, text, &data, &len, err);

	if (!ret)
		ret = new_file_begin(&out, path, &s->stat, err);
	if (!ret) {
		ret = write_all(out.fd, data, len, 0);
		if (!ret) {
			ret = new_file_finish(&out, err);
		} else {
			new_file_drop(&out);
			error_set(err, ret, "%s: %s", files_show(shown, path), strerror(-ret));
		}
	}
	free(data);
	return ret;
}

int command_edit(const struct options *o, struct error *err)
{
	struct state_file s;
	char *text = NULL;
	unsigned int i;
	int ret = state_file_read(&s, o->file[0], err);

	for (i = 0; i < o->nr_edits && !ret; i++)
		ret = apply(s.json, &o->edit[i], err);
	if (!ret)
		ret = check(s.json, err);
	if (!ret) {
		text = json_dumps(s.json, JSON_COMPACT);
		ret = text ? write_out(&s, text, o->output, err) : error_set(err, -ENOMEM, "no memory");
	}
	free(text);
	state_file_free(&s);
	return ret;
}
