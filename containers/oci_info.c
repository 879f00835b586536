/* oci_info.c: the commands that print: state, list, ps, events, features, spec. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent_client.h"
#include "oci_cgroup.h"
#include "oci_commands.h"
#include "oci_spec.h"
#include "oci_state.h"
#include "text.h"

#define STATS_INTERVAL_S 5

static bool wants_json(const struct oci_options *o)
{
	return o->format && strcmp(o->format, "json") == 0;
}

static int print(json_t *json, size_t flags)
{
	int ret = json ? json_dumpf(json, stdout, flags) : -1;

	json_decref(json);
	return ret || putchar('\n') == EOF || fflush(stdout) ? -1 : 0;
}

/* ---- state, list ---- */

static json_t *describe(struct oci_container *c)
{
	int pid;
	const char *status = oci_state_status(c, &pid);

	return oci_state_describe(c, status, pid);
}

int oci_state(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_container c;
	int ret;

	(void)places;
	if (oci_state_open(o->root, o->id, &c, err))
		return -1;
	ret = print(describe(&c), JSON_INDENT(2));
	oci_state_close(&c);
	return ret;
}

static int collect(struct oci_container *c, void *arg)
{
	json_array_append_new(arg, describe(c));
	return 0;
}

static void print_line(const struct oci_options *o, json_t *entry)
{
	const char *id = json_string_value(json_object_get(entry, "id"));

	if (o->quiet)
		printf("%s\n", id);
	else
		printf("%-24s %-9d %-9s %s\n", id, (int)json_integer_value(json_object_get(entry, "pid")),
		       json_string_value(json_object_get(entry, "status")),
		       json_string_value(json_object_get(entry, "bundle")));
}

int oci_list(const struct oci_options *o, const struct places *places, struct error *err)
{
	json_t *list = json_array();
	size_t i;

	(void)places;
	if (oci_state_each(o->root, collect, list, err) && err->code != -ENOENT) {
		json_decref(list);
		return -1;
	}
	if (wants_json(o))
		return print(list, JSON_COMPACT);
	if (!o->quiet)
		printf("%-24s %-9s %-9s %s\n", "ID", "PID", "STATUS", "BUNDLE");
	for (i = 0; i < json_array_size(list); i++)
		print_line(o, json_array_get(list, i));
	json_decref(list);
	return 0;
}

/* ---- ps ---- */

static void add_pid(pid_t pid, void *list)
{
	json_array_append_new(list, json_integer(pid));
}

/* Engines know processes by the PIDs that they have here: of the keeper, and of what an exec left to be waited for. */
static int print_host_pids(const struct oci_container *c)
{
	json_t *list = json_array();

	oci_cgroup_pids(oci_state_text(c, "cgroup"), add_pid, list);
	return print(list, JSON_COMPACT);
}

static int print_processes(const struct oci_container *c, struct error *err)
{
	struct request request = { 0 };
	struct agent_client *agent;
	const char *line = NULL;
	struct fields fields;
	char shown[256];
	int ret = agent_dial(&c->machine, AGENT_PATIENCE_MS, &agent, err);

	if (ret)
		return ret;
	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "list");
	ret = agent_request(agent, &request, err);
	if (!ret)
		ret = agent_reply(agent, AGENT_PATIENCE_MS, &fields, err);
	if (!ret)
		printf("PID PPID UID STATE RSS_KB COMMAND\n");
	while (!ret && (line = field_next(&fields, "process", line)) != NULL) {
		text_escape(shown, sizeof(shown), line, strlen(line));
		printf("%s\n", shown);
	}
	request_free(&request);
	agent_hang_up(agent);
	return ret;
}

int oci_ps(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_container c;
	int ret = oci_state_open(o->root, o->id, &c, err), pid;

	(void)places;
	if (ret)
		return -1;
	if (strcmp(oci_state_status(&c, &pid), "running") != 0)
		ret = error_set(err, -ESRCH, "container not running");
	else
		ret = wants_json(o) ? print_host_pids(&c) : print_processes(&c, err);
	oci_state_close(&c);
	return ret ? -1 : 0;
}

/* ---- events ---- */

static json_int_t number_in(const struct oci_container *c, const char *controller, const char *file, const char *word)
{
	const char *cgroup = oci_state_text(c, "cgroup"), *at;
	char text[8192];

	if (oci_cgroup_read(cgroup, controller, file, text, sizeof(text)) <= 0)
		return 0;
	at = word ? strstr(text, word) : text;
	return at ? (json_int_t)strtoll(at + (word ? strlen(word) : 0), NULL, 10) : 0;
}

static json_t *stats(const struct oci_container *c)
{
	json_int_t cpu = number_in(c, "cpu", "cpu.stat", "usage_usec ") * 1000,
		   memory = number_in(c, "memory", "memory.current", NULL);

	if (!cpu)
		cpu = number_in(c, "cpuacct", "cpuacct.usage", NULL);
	if (!memory)
		memory = number_in(c, "memory", "memory.usage_in_bytes", NULL);
	return json_pack("{s:s, s:s, s:{s:{s:{s:I}}, s:{s:{s:I, s:I}}, s:{s:I}}}", "type", "stats", "id", c->id, "data",
			 "cpu", "usage", "total", cpu, "memory", "usage", "usage", memory, "limit",
			 number_in(c, "memory", "memory.max", NULL), "pids", "current",
			 number_in(c, "pids", "pids.current", NULL));
}

int oci_events(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_container c;
	int ret = oci_state_open(o->root, o->id, &c, err), pid;

	(void)places;
	if (ret)
		return -1;
	do {
		if (strcmp(oci_state_status(&c, &pid), "stopped") == 0)
			ret = o->stats ? error_set(err, -ESRCH, "container not running") : 1;
		else
			ret = print(stats(&c), JSON_COMPACT);
	} while (!ret && !o->stats && sleep(STATS_INTERVAL_S) == 0);
	oci_state_close(&c);
	return ret < 0 ? -1 : 0;
}

/* ---- features, spec ---- */

int oci_features(const struct oci_options *o, const struct places *places, struct error *err)
{
	(void)o;
	(void)places;
	(void)err;
	return print(
		json_pack(
			"{s:s, s:s, s:[s,s,s,s], s:[s,s,s,s], s:{s:[s,s,s,s,s,s], s:{s:b}, s:{s:b, s:b, s:b}, s:{s:b}, "
			"s:{s:b}}, s:{s:s}}",
			"ociVersionMin", "1.0.0", "ociVersionMax", OCI_VERSION, "hooks", "prestart", "createRuntime",
			"poststart", "poststop", "mountOptions", "bind", "rbind", "ro", "rw", "linux", "namespaces",
			"cgroup", "ipc", "mount", "network", "pid", "uts", "seccomp", "enabled", 0, "cgroup", "v1", 1,
			"v2", 1, "systemd", 0, "apparmor", "enabled", 0, "selinux", "enabled", 0, "annotations",
			"org.mayfly.version", MAYFLY_VERSION),
		JSON_INDENT(2));
}

static const char example[] =
	"{\n"
	"  \"ociVersion\": \"" OCI_VERSION "\",\n"
	"  \"process\": {\n"
	"    \"terminal\": false,\n"
	"    \"user\": { \"uid\": 0, \"gid\": 0 },\n"
	"    \"args\": [ \"sh\" ],\n"
	"    \"env\": [ \"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\" ],\n"
	"    \"cwd\": \"/\",\n"
	"    \"capabilities\": { \"bounding\": [ \"CAP_AUDIT_WRITE\", \"CAP_KILL\", \"CAP_NET_BIND_SERVICE\" ] }\n"
	"  },\n"
	"  \"root\": { \"path\": \"rootfs\" },\n"
	"  \"hostname\": \"mayfly\",\n"
	"  \"annotations\": { \"org.mayfly.scratch\": \"tmpfs\" },\n"
	"  \"linux\": {\n"
	"    \"resources\": { \"memory\": { \"limit\": 268435456 }, \"cpu\": { \"quota\": 100000, \"period\": 100000 } "
	"},\n"
	"    \"namespaces\": [ { \"type\": \"pid\" }, { \"type\": \"network\" }, { \"type\": \"mount\" } ]\n"
	"  }\n"
	"}\n";

int oci_example(const struct oci_options *o, const struct places *places, struct error *err)
{
	int folder = open(o->bundle ? o->bundle : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, ret = 0;

	(void)places;
	if (folder >= 0)
		fd = openat(folder, OCI_CONFIG, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, example, sizeof(example) - 1) != (ssize_t)sizeof(example) - 1)
		ret = error_set(err, -errno, "%s/" OCI_CONFIG ": %s", text_path_shown(o->bundle ? o->bundle : "."),
				strerror(errno));
	if (fd >= 0)
		close(fd);
	if (folder >= 0)
		close(folder);
	return ret ? -1 : 0;
}
