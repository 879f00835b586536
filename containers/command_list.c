/* command_list.c: `mayfly-run ps`, `inspect` and `logs`: what is known of containers. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "container_log.h"
#include "drives.h"
#include "instance.h"
#include "keeper.h"
#include "text.h"

/* ---- ps ---- */

struct listing {
	const struct options *o;
	json_t *all; /* statuses, with "state" as it is now */
};

static int collect(struct instance *i, void *arg)
{
	struct listing *l = arg;
	enum instance_state state;
	json_t *status = NULL;

	if (instance_load(i, &status, NULL)) {
		/* Not even that: its keeper is about to write it, or was killed before it could. */
		state = instance_state(i, NULL);
		if (state != INSTANCE_DEAD || !l->o->all)
			return 0;
		status = json_pack("{s:s}", "id", i->id);
	} else {
		state = instance_state(i, status);
	}
	json_object_set_new(status, "state", json_string(instance_state_name(state)));
	if (l->o->all || state == INSTANCE_RUNNING || state == INSTANCE_CREATED)
		json_array_append_new(l->all, status);
	else
		json_decref(status);
	return 0;
}

static const char *string_of(json_t *status, const char *key)
{
	const char *value = json_string_value(json_object_get(status, key));

	return value ? value : "";
}

/* Oldest first; times of that form sort as text does. */
static int by_age(const void *a, const void *b)
{
	json_t *const *x = a, *const *y = b;

	return strcmp(string_of(*x, "created"), string_of(*y, "created"));
}

static void join_command(json_t *status, char *dst, size_t size)
{
	json_t *command = json_object_get(status, "command"), *word;
	size_t i, len = 0;

	dst[0] = '\0';
	json_array_foreach(command, i, word)
	{
		if (len < size)
			len += (size_t)snprintf(dst + len, size - len, "%s%s", i ? " " : "", json_string_value(word));
	}
	if (len >= size)
		memcpy(dst + size - 4, "...", 4);
}

/* "2026-11-21T03:51:00.123456789Z" as seconds from 1970; what was not written by us gives some time or other. */
static time_t parse_time(const char *text)
{
	int *part, parts[6] = { 0 };
	struct tm tm = { 0 };

	for (part = parts; part < parts + 6 && *text; part++) {
		*part = (int)strtol(text, (char **)&text, 10);
		text += *text != '\0';
	}
	tm.tm_year = parts[0] - 1900;
	tm.tm_mon = parts[1] - 1;
	tm.tm_mday = parts[2];
	tm.tm_hour = parts[3];
	tm.tm_min = parts[4];
	tm.tm_sec = parts[5];
	return timegm(&tm);
}

static void describe_age(const char *since, char *dst, size_t size)
{
	const long s = (long)(time(NULL) - parse_time(since));

	if (s < 120)
		snprintf(dst, size, "%ld s", s < 0 ? 0 : s);
	else if (s < 7200)
		snprintf(dst, size, "%ld min", s / 60);
	else if (s < 172800)
		snprintf(dst, size, "%ld h", s / 3600);
	else
		snprintf(dst, size, "%ld d", s / 86400);
}

static void describe_state(json_t *status, char *dst, size_t size)
{
	const char *state = string_of(status, "state");
	char age[32];

	if (strcmp(state, "running") == 0) {
		describe_age(string_of(status, "started"), age, sizeof(age));
		snprintf(dst, size, "running %s", age);
	} else if (strcmp(state, "exited") == 0) {
		describe_age(string_of(status, "finished"), age, sizeof(age));
		snprintf(dst, size, "exited (%d) %s ago", (int)json_integer_value(json_object_get(status, "exit_code")),
			 age);
	} else {
		snprintf(dst, size, "%s", state);
	}
}

static void describe_ports(json_t *status, char *dst, size_t size)
{
	json_t *port;
	size_t i, len = 0;

	dst[0] = '\0';
	json_array_foreach(json_object_get(status, "ports"), i, port)
	{
		if (len < size)
			len += (size_t)snprintf(dst + len, size - len, "%s%s:%d->%d/%s", i ? ", " : "",
						string_of(port, "address"),
						(int)json_integer_value(json_object_get(port, "host")),
						(int)json_integer_value(json_object_get(port, "container")),
						string_of(port, "protocol"));
	}
}

static void print_table(json_t *const *all, size_t nr)
{
	char command[32], state[48], ports[256];
	size_t i;

	printf("%-12s  %-30s  %-31s  %-24s  %-20s  %s\n", "ID", "IMAGE", "COMMAND", "STATE", "NAME", "PORTS");
	for (i = 0; i < nr; i++) {
		const char *image = string_of(all[i], "image");
		const size_t len = strlen(image);

		join_command(all[i], command, sizeof(command));
		describe_state(all[i], state, sizeof(state));
		describe_ports(all[i], ports, sizeof(ports));
		printf("%-12s  %s%-*s  %-31s  %-24s  %-20s  %s\n", string_of(all[i], "id"), len > 30 ? "..." : "",
		       len > 30 ? 27 : 30, len > 30 ? image + len - 27 : image, command, state,
		       string_of(all[i], "name"), ports);
	}
}

static int prune_one(struct instance *i, void *arg)
{
	const struct places *places = arg;
	struct error err = { 0 };
	json_t *status = NULL;
	enum instance_state state;

	(void)instance_load(i, &status, NULL);
	state = instance_state(i, status);
	json_decref(status);
	/* Between the two looks nobody takes a lock that its keeper has left, but another who prunes. */
	if (state != INSTANCE_DEAD || !instance_try_lock(i))
		return 0;
	if (instance_remove(places, i, &err))
		(void)complain(&err, 0);
	else
		dprintf(STDERR_FILENO, RUN_NAME ": %s: removed what was left of it\n", i->id);
	return 0;
}

static void print_json(json_t *const *all, size_t nr)
{
	size_t i;

	printf("[");
	for (i = 0; i < nr; i++) {
		printf("%s\n", i ? "," : "");
		json_dumpf(all[i], stdout, JSON_COMPACT);
	}
	printf("%s]\n", nr ? "\n" : "");
}

static int print_list(const struct options *o, json_t *list, struct error *err)
{
	const size_t nr = json_array_size(list);
	json_t **all = calloc(nr + 1, sizeof(json_t *));
	size_t i;

	if (!all)
		return error_set(err, -ENOMEM, "no memory");
	for (i = 0; i < nr; i++)
		all[i] = json_array_get(list, i);
	qsort(all, nr, sizeof(json_t *), by_age);
	if (o->json)
		print_json(all, nr);
	else if (!o->quiet)
		print_table(all, nr);
	for (i = 0; o->quiet && !o->json && i < nr; i++)
		printf("%s\n", string_of(all[i], "id"));
	free(all);
	return 0;
}

int command_ps(struct options *o, const struct places *places)
{
	struct listing l = { .o = o, .all = json_array() };
	struct error err = { 0 };

	if (o->prune) {
		drives_prune(places);
		(void)instance_each(places, prune_one, (void *)(uintptr_t)places, &err);
	}
	if (!err.code)
		(void)instance_each(places, collect, &l, &err);
	if (!err.code)
		(void)print_list(o, l.all, &err);
	json_decref(l.all);
	return err.code ? complain(&err, EXIT_TOOL_FAILED) : 0;
}

/* ---- inspect, logs ---- */

int command_inspect(struct options *o, const struct places *places)
{
	struct instance instance;
	struct error err = { 0 };
	json_t *list = json_array(), *status;
	int i;

	for (i = 0; i < o->nr_args && !err.code; i++) {
		if (instance_open(places, o->args[i], &instance, &err))
			break;
		if (instance_load(&instance, &status, &err) == 0) {
			json_object_set_new(status, "state",
					    json_string(instance_state_name(instance_state(&instance, status))));
			json_object_set_new(status, "folder", json_string(instance.path));
			json_array_append_new(list, status);
		}
		instance_close(&instance);
	}
	if (!err.code) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		printf("\n");
	}
	json_decref(list);
	return err.code ? complain(&err, EXIT_TOOL_FAILED) : 0;
}

int command_logs(struct options *o, const struct places *places)
{
	struct instance instance;
	struct error err = { 0 };

	if (instance_open(places, o->args[0], &instance, &err))
		return complain(&err, EXIT_TOOL_FAILED);
	(void)container_log_print(&instance, o->tail, o->follow, o->timestamps, &err);
	instance_close(&instance);
	return err.code ? complain(&err, EXIT_TOOL_FAILED) : 0;
}
