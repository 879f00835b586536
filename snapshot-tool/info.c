/* info.c: shows what is in a state file, or whose memory a memory file is. */
#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "files.h"
#include "memory.h"
#include "records.h"
#include "state_file.h"
#include "text.h"

#define ID_TEXT (2 * STATE_ID_SIZE + 1)

/* ---- a state file ---- */

static json_t *describe_device(const char *kind, const char *id, const char *host, const char *more)
{
	return json_pack("{s:s, s:s, s:s, s:s}", "kind", kind, "id", id, "is", more, "host", host);
}

static json_t *describe_devices(const struct config *c)
{
	json_t *list = json_array();
	unsigned int i;
	char more[64];

	for (i = 0; i < c->nr_drives; i++) {
		const struct drive_config *d = &c->drives[i];

		snprintf(more, sizeof(more), "%s%s", d->is_read_only ? "read-only" : "writable",
			 d->is_root_device ? ", root" : "");
		(void)json_array_append_new(list, describe_device("drive", d->drive_id, d->path_on_host, more));
	}
	for (i = 0; i < c->nr_nets; i++) {
		const struct net_config *n = &c->nets[i];
		const uint8_t *m = n->guest_mac;

		snprintf(more, sizeof(more), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
		(void)json_array_append_new(
			list, describe_device("network", n->iface_id, n->host_dev_name, n->mac_given ? more : ""));
	}
	if (c->vsock.present) {
		snprintf(more, sizeof(more), "CID %u", c->vsock.guest_cid);
		(void)json_array_append_new(list, describe_device("vsock", c->vsock.vsock_id, c->vsock.uds_path, more));
	}
	if (c->serial.serial_out_path[0])
		(void)json_array_append_new(list, describe_device("serial", "", c->serial.serial_out_path, "output"));
	if (c->serial.serial_socket_path[0])
		(void)json_array_append_new(list,
					    describe_device("serial", "", c->serial.serial_socket_path, "terminals"));
	return list;
}

static json_t *describe_records(const struct state_file *s)
{
	struct state_reader r = s->first;
	const struct state_record *record;
	json_t *list = json_array();
	char name[RECORD_NAME_ROOM];
	const void *payload;

	while (state_next(&r, &record, &payload))
		(void)json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "record",
							    record_name(name, record->tag, record->index), "size",
							    (json_int_t)record->size, "is",
							    record_what(record->tag, record->index)));
	return list;
}

/* Bytes of a file are not UTF-8 until they have been made so. */
static json_t *escaped(const char *text)
{
	char shown[4 * sizeof(((struct state_info *)0)->cpu) + 1];

	text_escape(shown, sizeof(shown), text, strlen(text));
	return json_string(shown);
}

static json_t *describe_state(const struct state_file *s)
{
	const struct state_info *info = &s->info;
	const struct timespec created = { .tv_sec = (time_t)(info->created_ns / 1000000000u),
					  .tv_nsec = (long)(info->created_ns % 1000000000u) };
	char format[16], when[32], id[ID_TEXT];

	snprintf(format, sizeof(format), "%d.%u", STATE_MAJOR, s->first.minor);
	(void)text_put(when, text_time(when, sizeof(when), &created), sizeof(when), "Z");
	return json_pack("{s:s, s:s, s:o, s:s, s:o, s:I, s:I, s:s, s:o, s:o}", "kind", "state", "format", format,
			 "version", escaped(info->version), "created", when, "cpu", escaped(info->cpu), "vcpus",
			 (json_int_t)info->nr_vcpus, "memory_size", (json_int_t)info->memory_size, "memory_id",
			 hex_text(id, info->memory_id, sizeof(info->memory_id)), "devices",
			 describe_devices(&s->config), "records", describe_records(s));
}

/* ---- a memory file ---- */

static json_t *describe_memory(const struct memory *m)
{
	char id[ID_TEXT], base[ID_TEXT], diff[ID_TEXT];
	uint64_t at = 0, from = 0, to = 0, data = 0;

	while (memory_run(m, &at, &from, &to) > 0)
		data += to - from;
	hex_text(base, m->trailer.base, sizeof(m->trailer.base));
	hex_text(diff, m->diff, sizeof(m->diff));
	return json_pack("{s:s, s:s, s:s*, s:s*, s:I, s:I}", "kind",
			 m->trailer.kind == MEMORY_FULL ? "memory" : "memory diff", "memory_id",
			 hex_text(id, m->trailer.id, sizeof(m->trailer.id)), "base",
			 m->trailer.kind == MEMORY_DIFF ? base : NULL, "half_way_to", m->half_way ? diff : NULL,
			 "memory_size", (json_int_t)m->trailer.size, "data", (json_int_t)data);
}

/* ---- text ---- */

static void print_row(const char *label, const json_t *value)
{
	printf("%-12s", label);
	put_escaped(json_string_value(value), json_string_length(value), 0, true);
	putchar('\n');
}

static void print_size(const char *label, const json_t *value)
{
	const json_int_t bytes = json_integer_value(value);

	if (bytes % (1 << 20) == 0)
		printf("%-12s%" JSON_INTEGER_FORMAT " MiB\n", label, bytes >> 20);
	else
		printf("%-12s%" JSON_INTEGER_FORMAT " bytes\n", label, bytes);
}

/* A table of strings: columns as wide as what is in them. */
static void print_devices(const json_t *list)
{
	static const char *const column[] = { "kind", "id", "is", "host" };
	size_t width[4] = { 0 }, i, c;

	if (!json_array_size(list))
		return;
	for (i = 0; i < json_array_size(list); i++)
		for (c = 0; c < 3; c++) {
			const json_t *cell = json_object_get(json_array_get(list, i), column[c]);
			const size_t n = put_escaped(json_string_value(cell), json_string_length(cell), 0, false);

			width[c] = n > width[c] ? n : width[c];
		}
	printf("\nDevices\n");
	for (i = 0; i < json_array_size(list); i++) {
		for (c = 0; c < 4; c++) {
			const json_t *cell = json_object_get(json_array_get(list, i), column[c]);

			printf("  ");
			put_escaped(json_string_value(cell), json_string_length(cell), width[c], true);
		}
		putchar('\n');
	}
}

static void print_records(const json_t *list)
{
	size_t i;

	printf("\nRecords\n");
	for (i = 0; i < json_array_size(list); i++) {
		const json_t *record = json_array_get(list, i);

		printf("  %-15s %8" JSON_INTEGER_FORMAT "  %s\n", json_string_value(json_object_get(record, "record")),
		       json_integer_value(json_object_get(record, "size")),
		       json_string_value(json_object_get(record, "is")));
	}
}

static void print_state(const json_t *doc, bool verbose)
{
	print_row("Format", json_object_get(doc, "format"));
	print_row("Written by", json_object_get(doc, "version"));
	print_row("Created", json_object_get(doc, "created"));
	print_row("CPU", json_object_get(doc, "cpu"));
	printf("%-12s%" JSON_INTEGER_FORMAT "\n", "vCPUs", json_integer_value(json_object_get(doc, "vcpus")));
	print_size("RAM", json_object_get(doc, "memory_size"));
	print_row("Memory id", json_object_get(doc, "memory_id"));
	print_devices(json_object_get(doc, "devices"));
	if (verbose)
		print_records(json_object_get(doc, "records"));
}

static void print_memory(const json_t *doc)
{
	print_row("Kind", json_object_get(doc, "kind"));
	print_row("Memory id", json_object_get(doc, "memory_id"));
	if (json_object_get(doc, "base"))
		print_row("Base", json_object_get(doc, "base"));
	if (json_object_get(doc, "half_way_to"))
		print_row("Half way to", json_object_get(doc, "half_way_to"));
	print_size("RAM", json_object_get(doc, "memory_size"));
	print_size("In the file", json_object_get(doc, "data"));
}

int command_info(const struct options *o, struct error *err)
{
	struct error memory_error = { 0 };
	struct state_file s = { 0 };
	struct memory m;
	json_t *doc;
	int ret;

	/* The end of a memory file tells: its start is the guest's, which can make it look like whatever it likes. */
	if (memory_open(&m, o->file[0], O_RDONLY, &memory_error) == 0) {
		doc = describe_memory(&m);
		memory_close(&m);
		if (doc && !o->json)
			print_memory(doc);
	} else {
		memory_close(&m);
		ret = state_file_read(&s, o->file[0], err);
		if (ret) {
			state_file_free(&s);
			if (ret == -EFBIG) /* then it was to be a memory file */
				*err = memory_error;
			return ret;
		}
		doc = describe_state(&s);
		state_file_free(&s);
		if (doc && !o->json)
			print_state(doc, o->verbose);
	}
	if (o->json || !doc)
		return json_out(doc, err);
	json_decref(doc);
	return 0;
}
