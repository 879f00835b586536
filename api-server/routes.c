/* routes.c: which handler answers which request, what has to be true first, and how answers look. */
#include "api_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "log.h"
#include "metrics.h"
#include "text.h"

enum when { ANY_TIME, PRE_BOOT, POST_BOOT };

struct route {
	enum http_verb verb;
	enum when when;
	const char *path; /* a final * stands for an id */
	call_handler *handler;
	_Atomic uint64_t *count, *fails; /* fails NULL: none counted */
};

#define COUNTS(group, name) &metrics.group##_##name##_count, &metrics.group##_##name##_fails
#define GETS(name)          &metrics.get_api_requests_##name##_count, NULL
#define DELETES             &metrics.delete_api_requests_count, &metrics.delete_api_requests_fails

static const struct route routes[] = {
	{ HTTP_VERB_GET, ANY_TIME, "/", get_instance, GETS(instance_info) },
	{ HTTP_VERB_GET, ANY_TIME, "/version", get_version, GETS(vmm_version) },
	{ HTTP_VERB_GET, ANY_TIME, "/vm/config", get_vm_config, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/machine-config", get_machine_config, GETS(machine_cfg) },
	{ HTTP_VERB_GET, ANY_TIME, "/boot-source", get_boot_source, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/cpu-config", get_cpu_config, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/drives", get_drives, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/drives/*", get_drive, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/network-interfaces", get_nets, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/network-interfaces/*", get_net, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/vsock", get_vsock, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/mmds", get_mmds, GETS(mmds) },
	{ HTTP_VERB_PUT, ANY_TIME, "/mmds", put_mmds, COUNTS(put_api_requests, mmds) },
	{ HTTP_VERB_PATCH, ANY_TIME, "/mmds", patch_mmds, COUNTS(patch_api_requests, mmds) },
	{ HTTP_VERB_GET, ANY_TIME, "/mmds/config", get_mmds_config, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/logger", get_logger, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/serial", get_serial, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/metrics", get_metrics, GETS(other) },
	{ HTTP_VERB_GET, ANY_TIME, "/events", get_events, GETS(other) },
	{ HTTP_VERB_PUT, ANY_TIME, "/actions", put_actions, COUNTS(put_api_requests, actions) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/boot-source", put_boot_source, COUNTS(put_api_requests, boot_source) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/machine-config", put_machine_config, COUNTS(put_api_requests, machine_cfg) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/cpu-config", put_cpu_config, COUNTS(put_api_requests, cpu_cfg) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/drives/*", put_drive, COUNTS(put_api_requests, drive) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/network-interfaces/*", put_net, COUNTS(put_api_requests, network) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/vsock", put_vsock, COUNTS(put_api_requests, vsock) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/mmds/config", put_mmds_config, COUNTS(put_api_requests, mmds) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/logger", put_logger, COUNTS(put_api_requests, logger) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/metrics", put_metrics, COUNTS(put_api_requests, metrics) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/serial", put_serial, COUNTS(put_api_requests, serial) },
	{ HTTP_VERB_PUT, POST_BOOT, "/fork", put_fork, COUNTS(put_api_requests, fork) },
	{ HTTP_VERB_PUT, POST_BOOT, "/snapshot/create", put_snapshot_create, COUNTS(put_api_requests, snapshot) },
	{ HTTP_VERB_PUT, PRE_BOOT, "/snapshot/load", put_snapshot_load, COUNTS(put_api_requests, snapshot) },
	{ HTTP_VERB_PATCH, PRE_BOOT, "/machine-config", patch_machine_config, COUNTS(patch_api_requests, machine_cfg) },
	{ HTTP_VERB_PATCH, POST_BOOT, "/drives/*", patch_drive, COUNTS(patch_api_requests, drive) },
	{ HTTP_VERB_PATCH, POST_BOOT, "/network-interfaces/*", patch_net, COUNTS(patch_api_requests, network) },
	{ HTTP_VERB_PATCH, POST_BOOT, "/vm", patch_vm, COUNTS(patch_api_requests, vm) },
	{ HTTP_VERB_DELETE, PRE_BOOT, "/drives/*", delete_drive, DELETES },
	{ HTTP_VERB_DELETE, PRE_BOOT, "/network-interfaces/*", delete_net, DELETES },
	{ HTTP_VERB_DELETE, PRE_BOOT, "/vsock", delete_vsock, DELETES },
};

/* Paths of Firecracker that are answered with the reason why they are not here. */
static const struct refusal {
	const char *path; /* and everything below it */
	const char *why;
} refusals[] = {
	{ "/balloon", "Balloon devices are left out of Mayfly by design (give the microVM less memory)." },
	{ "/pmem", "Pmem devices are left out of Mayfly by design (use a drive)." },
	{ "/entropy",
	  "The entropy device is left out of Mayfly by design (the guest seeds itself from the processor)." },
	{ "/hotplug/memory", "Memory hotplug is left out of Mayfly by design (set machine-config.mem_size_mib)." },
};

/* The id in path when it fits the route's; "" when the route has none; NULL: another route. */
static const char *match(const struct route *route, const char *path)
{
	size_t len = strlen(route->path);

	if (route->path[len - 1] != '*')
		return strcmp(path, route->path) == 0 ? "" : NULL;
	if (strncmp(path, route->path, len - 1) != 0 || !path[len - 1] || strchr(path + len - 1, '/'))
		return NULL;
	return path + len - 1;
}

static const char *refusal_of(const char *path)
{
	size_t i, len;

	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		len = strlen(refusals[i].path);
		if (strncmp(path, refusals[i].path, len) == 0 && (!path[len] || path[len] == '/'))
			return refusals[i].why;
	}
	return NULL;
}

/* ---- answers ---- */

void api_answer(struct client *client, int status, const json_t *json)
{
	static const char no_memory[] = "{\"fault_message\":\"No memory for the answer.\"}";
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	if (json && !text)
		client_reply(client, 500, "application/json", no_memory, sizeof(no_memory) - 1);
	else
		client_reply(client, status, json ? "application/json" : NULL, text, text ? strlen(text) : 0);
	free(text);
}

void api_answer_fault(struct client *client, int status, const char *sentence)
{
	/* A sentence may quote what the client sent, so it may hold anything but a NUL. */
	char shown[2 * sizeof(((struct error *)0)->message)];
	json_t *json;

	text_escape(shown, sizeof(shown), sentence, strlen(sentence));
	json = json_pack("{s:s}", "fault_message", shown);
	api_answer(client, status, json);
	json_decref(json);
}

static void answer_call(struct call *call, int ret, const struct error *err)
{
	if (ret)
		api_answer_fault(call->client, call->status ? call->status : 400, err->message);
	else if (call->text)
		client_reply(call->client, 200, "text/plain; version=0.0.4", call->text, strlen(call->text));
	else
		api_answer(call->client, call->answer ? 200 : 204, call->answer);
}

/* ---- requests ---- */

static int check_when(const struct route *route, const struct machine *machine, struct error *err)
{
	bool started = machine_state(machine) != MACHINE_NOT_STARTED;

	if (route->when == PRE_BOOT && started)
		return error_set(err, -EBUSY, "The requested operation is not supported after starting the microVM.");
	if (route->when == POST_BOOT && !started)
		return error_set(err, -EAGAIN, "The requested operation is not supported before starting the microVM.");
	return 0;
}

static int read_body(const struct http_request *request, struct call *call, struct error *err)
{
	bool wanted = request->verb == HTTP_VERB_PUT || request->verb == HTTP_VERB_PATCH;

	if (wanted && !request->body_len)
		return error_set(err, -EINVAL, "Empty %s request.", request->method);
	if (!wanted && request->body_len)
		return error_set(err, -EINVAL, "%s request cannot have a body.", request->method);
	return wanted ? json_parse(request->body, request->body_len, "body", &call->body, err) : 0;
}

static int serve_route(const struct route *route, const struct http_request *request, struct call *call,
		       struct error *err)
{
	int ret = read_body(request, call, err);

	atomic_fetch_add_explicit(route->count, 1, memory_order_relaxed);
	if (!ret)
		ret = check_when(route, call->api->machine, err);
	if (!ret)
		ret = route->handler(call, err);
	if (ret && route->fails)
		atomic_fetch_add_explicit(route->fails, 1, memory_order_relaxed);
	return ret;
}

static int serve_unknown(const struct http_request *request, struct error *err)
{
	const char *why = refusal_of(request->path);

	metrics_inc(api_server_bad_requests);
	if (why)
		return error_set(err, -ENOTSUP, "%s", why);
	return error_set(err, -ENOENT, "Invalid request method and/or path: %s %s.", request->method, request->path);
}

void api_serve(void *opaque, struct client *client, const struct http_request *request)
{
	struct call call = { .api = opaque, .client = client };
	const size_t nr = sizeof(routes) / sizeof(routes[0]);
	struct error err = { 0 };
	size_t i;
	int ret;

	log_info("The API server received a %s request on \"%s\".", request->method, request->path);
	for (i = 0; i < nr; i++) {
		if (routes[i].verb == request->verb && (call.id = match(&routes[i], request->path)))
			break;
	}
	ret = i < nr ? serve_route(&routes[i], request, &call, &err) : serve_unknown(request, &err);
	if (ret)
		log_warn("The request was refused: %s", err.message);
	if (!call.is_answered)
		answer_call(&call, ret, &err);
	/* Who asks is there to start it: what takes long begins now that the first answer is out. */
	machine_expect_start(call.api->machine);
	json_decref(call.body);
	json_decref(call.answer);
	free(call.text);
}
