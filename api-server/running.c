/* running.c: what is asked of the microVM itself: its state, pause, live changes, metrics, events. */
#include "api_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "config_json.h"
#include "log.h"
#include "metrics.h"
#include "snapshot/stream_send.h"
#include "syscall_filter.h"
#include "text.h"

/* ---- what it is ---- */

static const char *state_name(enum machine_state state)
{
	switch (state) {
	case MACHINE_NOT_STARTED:
		return "Not started";
	case MACHINE_RUNNING:
	case MACHINE_PAUSING:
		return "Running";
	case MACHINE_PAUSED:
	default:
		return "Paused";
	}
}

static json_t *dump_vcpus(const struct machine *machine, const struct config *cfg)
{
	enum machine_state state = machine_state(machine);
	json_t *list = json_array();
	unsigned int i;

	for (i = 0; i < cfg->machine.vcpu_count && state != MACHINE_NOT_STARTED; i++)
		(void)json_array_append_new(list, json_pack("{s:I, s:s}", "index", (json_int_t)i, "state",
							    state == MACHINE_PAUSED ? "paused" : "running"));
	return list;
}

/* What confines this process. */
static json_t *dump_jail(const struct jail *jail)
{
	/* What jail_begin did holds, or we would not be here. */
	return json_pack("{s:b, s:b, s:I, s:s, s:o, s:s}", "no_new_privs", true, "dumpable", false, "core_limit",
			 (json_int_t)0, "capabilities", jail->entered ? "none" : "inherited", "landlock",
			 jail->landlock ? json_integer(jail->landlock) : json_null(), "seccomp", seccomp_state());
}

int get_instance(struct call *call, struct error *err)
{
	const struct api *api = call->api;
	uint64_t up_us = (event_loop_now_ns() - api->timeline->start_ns) / 1000;

	(void)err;
	call->answer = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:s?, s:o}", "id", api->id, "state",
				 state_name(machine_state(api->machine)), "vmm_version", FIRECRACKER_VERSION,
				 "app_name", "Mayfly", "mayfly_version", MAYFLY_VERSION, "uptime_us", (json_int_t)up_us,
				 "vcpus", dump_vcpus(api->machine, api->cfg), "last_stop", api->last_stop, "jail",
				 dump_jail(machine_jail(api->machine)));
	return 0;
}

int get_version(struct call *call, struct error *err)
{
	(void)err;
	call->answer =
		json_pack("{s:s, s:s}", "firecracker_version", FIRECRACKER_VERSION, "mayfly_version", MAYFLY_VERSION);
	return 0;
}

int get_metrics(struct call *call, struct error *err)
{
	call->text = metrics_prometheus();
	return call->text ? 0 : error_set(err, -ENOMEM, "no memory for the metrics");
}

int get_events(struct call *call, struct error *err)
{
	if (!events_attach(&call->api->events, call->client))
		return error_set(err, -EBUSY, "%d clients read the events already (at most %d).", EVENTS_READERS,
				 EVENTS_READERS);
	call->is_answered = true;
	return 0;
}

/* ---- actions ---- */

/* Clients of Firecracker take both for granted, so what cannot be done is said in the log alone. */
static int flush_metrics(struct call *call, struct error *err)
{
	int ret = metrics_flush();

	if (!call->api->cfg->metrics_path[0])
		log_warn("FlushMetrics: no metrics are configured (PUT /metrics before the start)");
	return ret ? error_set(err, ret, "metrics.metrics_path: %s", strerror(-ret)) : 0;
}

static int press_ctrl_alt_del(struct call *call)
{
	struct error why = { 0 };

	if (machine_ctrl_alt_del(call->api->machine, &why))
		log_warn("%s", why.message);
	return 0;
}

int put_actions(struct call *call, struct error *err)
{
	bool started = machine_state(call->api->machine) != MACHINE_NOT_STARTED;
	enum board_blame blame;
	enum action action;
	int ret = config_parse_action(call->body, &action, err);

	if (ret)
		return ret;
	if (action == ACTION_INSTANCE_START) {
		if (started)
			return error_set(err, -EALREADY,
					 "The requested operation is not supported after starting the microVM.");
		return machine_start(call->api->machine, &blame, err);
	}
	if (!started)
		return error_set(err, -EAGAIN, "The requested operation is not supported before starting the microVM.");
	if (action == ACTION_RENEW_GENERATION_ID)
		return machine_renew_id(call->api->machine, err);
	return action == ACTION_FLUSH_METRICS ? flush_metrics(call, err) : press_ctrl_alt_del(call);
}

/* ---- pause ---- */

struct pausing {
	struct machine_waiter waiter; /* first */
	struct client *client;
	uint64_t since_ns;
};

static void on_paused(struct machine_waiter *waiter)
{
	struct pausing *p = (struct pausing *)(void *)waiter;

	metrics_set(latencies_us_pause_vm, (event_loop_now_ns() - p->since_ns) / 1000);
	api_answer(p->client, 204, NULL);
	free(p);
}

int patch_vm(struct call *call, struct error *err)
{
	struct pausing *p;
	uint64_t since_ns;
	bool resume;
	int ret = config_parse_vm(call->body, &resume, err);

	if (!ret && call->api->sender && !resume)
		ret = error_set(err, -EBUSY, "the microVM is being sent (wait for that answer first)");
	if (ret)
		return ret;
	if (call->api->sender)
		stream_give_up(call->api->sender);
	/* It waits for a pause, after which it lets the microVM run. */
	if (call->api->sender)
		return 0;
	if (resume) {
		since_ns = event_loop_now_ns();
		ret = machine_resume(call->api->machine, err);
		metrics_set(latencies_us_resume_vm, (event_loop_now_ns() - since_ns) / 1000);
		return ret;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(err, -ENOMEM, "no memory");
	p->waiter.done = on_paused;
	p->client = call->client;
	p->since_ns = event_loop_now_ns();
	call->is_answered = true;
	machine_pause(call->api->machine, &p->waiter);
	return 0;
}

/* ---- devices ---- */

/* In the words of whoever can change it: the user's rights are fine, the jail's are not. */
static int replace_file(struct machine *machine, unsigned int i, const struct drive_config *drive, struct error *err)
{
	int ret = block_replace(machine_drive(machine, i), drive->path_on_host, err);

	if (ret == -EACCES && jail_refuses(machine_jail(machine), drive->path_on_host, drive->is_read_only))
		return error_set(err, ret,
				 "drives[%s].path_on_host: %s: a running microVM opens only the files it was started "
				 "with (or else start Mayfly with --allow-path and the file or its folder)",
				 drive->drive_id, text_path_shown(drive->path_on_host));
	return ret;
}

int patch_drive(struct call *call, struct error *err)
{
	struct config *cfg = call->api->cfg;
	struct drive_config *drive;
	unsigned int i = config_find_drive(cfg, call->id);
	int ret;

	if (i == cfg->nr_drives)
		return error_set(err, -ENOENT, "There is no drive \"%s\".", call->id);
	drive = malloc(sizeof(*drive));
	if (!drive)
		return error_set(err, -ENOMEM, "no memory");
	*drive = cfg->drives[i];
	ret = config_patch_drive(call->body, drive, err);
	if (!ret && json_is_string(json_object_get(call->body, "path_on_host")))
		ret = replace_file(call->api->machine, i, drive, err);
	if (!ret && json_is_object(json_object_get(call->body, "rate_limiter")))
		block_set_rate(machine_drive(call->api->machine, i), &drive->rate_limiter);
	if (!ret)
		cfg->drives[i] = *drive;
	free(drive);
	return ret;
}

int patch_net(struct call *call, struct error *err)
{
	struct config *cfg = call->api->cfg;
	struct net_config net;
	unsigned int i = config_find_net(cfg, call->id);
	int ret;

	if (i == cfg->nr_nets)
		return error_set(err, -ENOENT, "There is no network interface \"%s\".", call->id);
	net = cfg->nets[i];
	ret = config_patch_net(call->body, &net, err);
	if (ret)
		return ret;
	cfg->nets[i] = net;
	machine_update_net(call->api->machine, i, json_is_object(json_object_get(call->body, "rx_rate_limiter")),
			   json_is_object(json_object_get(call->body, "tx_rate_limiter")));
	return 0;
}
