/* command_end.c: `mayfly-run stop`, `kill`, `wait` and `rm`: containers' ends. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "commands.h"
#include "instance.h"
#include "keeper.h"
#include "signal_names.h"

#define DIAL_PATIENCE_MS 5000
#define END_PATIENCE_MS  20000 /* from the end of the command until its keeper has cleaned up */
#define KILL_PATIENCE_MS 5000  /* from SIGKILL until the machine is ended for it */

/* Does one thing to each container that is named, whatever became of the others. */
static int for_each(struct options *o, const struct places *places,
		    int (*act)(struct instance *, json_t *, struct options *, const struct places *, struct error *))
{
	int i, code = 0;

	for (i = 0; i < o->nr_args; i++) {
		struct instance instance;
		struct error err = { 0 };
		json_t *status = NULL;

		if (instance_open(places, o->args[i], &instance, &err)) {
			code = complain(&err, EXIT_TOOL_FAILED);
			continue;
		}
		(void)instance_load(&instance, &status, NULL);
		if (act(&instance, status, o, places, &err))
			code = complain(&err, EXIT_TOOL_FAILED);
		json_decref(status);
		instance_close(&instance);
	}
	return code;
}

/* Until the keeper is gone. False: it still lives after that time (-1: wait for ever). */
static bool wait_for_keeper(json_t *status, int patience_ms)
{
	struct process keeper = status_process(status, "keeper");
	struct pollfd poll_fd = { .fd = process_open(&keeper), .events = POLLIN };
	bool gone = poll_fd.fd < 0 || poll(&poll_fd, 1, patience_ms) == 1;

	if (poll_fd.fd >= 0)
		close(poll_fd.fd);
	return gone;
}

/* The machine is ended from outside; the keeper sees that and does the rest. */
static int end_machine(const struct instance *i, json_t *status, struct error *err)
{
	struct process jailer = status_process(status, "jailer");

	if (process_end(&jailer, DIAL_PATIENCE_MS) && wait_for_keeper(status, END_PATIENCE_MS))
		return 0;
	return error_set(err, -EBUSY, "%s: does not end (`" RUN_NAME " rm -f %s` removes it)", i->id, i->id);
}

static bool is_alive(const struct places *places, struct instance *i, json_t *status)
{
	enum instance_state state = instance_state(places, i, status);

	return state == INSTANCE_RUNNING || state == INSTANCE_CREATED;
}

/* ---- stop, kill ---- */

static int ask_to_stop(const struct instance *i, json_t *status, int64_t seconds, struct error *err)
{
	const int64_t patience = seconds * 1000 + DIAL_PATIENCE_MS;
	json_t *signal = json_object_get(status, "stop_signal");
	struct request request = { 0 };
	struct agent_client *agent = NULL;
	struct fields fields;
	int ret;

	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "stop");
	request_add_number(&request, "seconds", seconds);
	if (signal)
		request_add_number(&request, "signal", json_integer_value(signal));
	ret = agent_dial(i, DIAL_PATIENCE_MS, &agent, err);
	if (!ret)
		ret = agent_request(agent, &request, err);
	if (!ret)
		ret = agent_reply(agent, patience < INT_MAX ? (int)patience : INT_MAX, &fields, err);
	agent_hang_up(agent);
	request_free(&request);
	return ret;
}

static int stop_one(struct instance *i, json_t *status, struct options *o, const struct places *places,
		    struct error *err)
{
	const int64_t usual = json_integer_value(json_object_get(status, "stop_timeout"));
	struct error ignored = { 0 };
	int ret = 0;

	/* An agent that does not answer does not keep its machine alive. */
	if (is_alive(places, i, status) &&
	    (ask_to_stop(i, status, o->stop_timeout >= 0 ? o->stop_timeout : usual, &ignored) ||
	     !wait_for_keeper(status, END_PATIENCE_MS)))
		ret = end_machine(i, status, err);
	if (!ret)
		printf("%s\n", i->id);
	return ret;
}

int command_stop(struct options *o, const struct places *places)
{
	return for_each(o, places, stop_one);
}

static int kill_one(struct instance *i, json_t *status, struct options *o, const struct places *places,
		    struct error *err)
{
	const int number = o->signal ? signal_number(o->signal) : SIGKILL;
	const struct process jailer = status_process(status, "jailer");
	struct request request = { 0 };
	struct agent_client *agent = NULL;
	struct fields fields;
	int ret, patience;

	if (!is_alive(places, i, status))
		return error_set(err, -ESRCH, "%s: does not run", i->id);
	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "kill");
	request_add(&request, "pid", "main");
	request_add_number(&request, "signal", number);
	ret = agent_dial(i, DIAL_PATIENCE_MS, &agent, err);
	if (!ret)
		ret = agent_request(agent, &request, err);
	if (!ret)
		ret = agent_reply(agent, DIAL_PATIENCE_MS, &fields, err);
	agent_hang_up(agent);
	request_free(&request);
	/* SIGKILL is not the guest's to refuse. */
	if (number == SIGKILL) {
		*err = (struct error){ 0 };
		patience = ret ? 0 : KILL_PATIENCE_MS;
		ret = 0;
		/* Its keeper may have to wait for who reads its output. */
		if (!wait_for_keeper(status, patience) && !process_end(&jailer, DIAL_PATIENCE_MS))
			ret = error_set(err, -EBUSY, "%s: process %d (jailer) does not end", i->id, jailer.pid);
	}
	if (!ret)
		printf("%s\n", i->id);
	return ret;
}

int command_kill(struct options *o, const struct places *places)
{
	struct error err = { 0 };

	if (o->signal && signal_number(o->signal) < 0) {
		error_set(&err, -EINVAL, "--signal: \"%.40s\" (needs a signal, as in TERM)", o->signal);
		return complain(&err, EXIT_TOOL_FAILED);
	}
	return for_each(o, places, kill_one);
}

/* ---- wait ---- */

static int wait_one(struct instance *i, json_t *status, struct options *o, const struct places *places,
		    struct error *err)
{
	json_t *last = NULL, *code;
	int ret = 0;

	(void)o;
	(void)places;
	(void)wait_for_keeper(status, -1);
	if (instance_load(i, &last, NULL))
		return error_set(err, -ENOENT, "%s: was removed when it ended (--rm), its status with it", i->id);
	code = json_object_get(last, "exit_code");
	if (code)
		printf("%d\n", (int)json_integer_value(code));
	else
		ret = error_set(err, -ECHILD, "%s: its keeper was killed, nobody knows its status", i->id);
	json_decref(last);
	return ret;
}

int command_wait(struct options *o, const struct places *places)
{
	return for_each(o, places, wait_one);
}

/* ---- rm ---- */

static int rm_one(struct instance *i, json_t *status, struct options *o, const struct places *places, struct error *err)
{
	struct process keeper = status_process(status, "keeper");
	char id[sizeof(i->id)];
	int ret = 0;

	memcpy(id, i->id, sizeof(id));
	if (is_alive(places, i, status)) {
		if (!o->force)
			return error_set(err, -EBUSY, "%s: runs (`" RUN_NAME " stop %s` first, or rm -f)", id, id);
		(void)end_machine(i, status, err);
		*err = (struct error){ 0 };
		/* A keeper that hangs is of no use any more; its lock goes with it. */
		if (!process_end(&keeper, DIAL_PATIENCE_MS))
			return error_set(err, -EBUSY, "%s: process %d does not end", id, keeper.pid);
	}
	/* With --rm its keeper has removed it. */
	if (faccessat(places->state, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		if (!instance_try_lock(places, i))
			return error_set(err, -EBUSY, "%s: somebody else is about to remove it", id);
		ret = instance_remove(places, i, err);
	}
	if (!ret)
		printf("%s\n", id);
	return ret;
}

struct sweep {
	struct options *o;
	const struct places *places;
	int code;
};

static int rm_ended(struct instance *i, void *arg)
{
	struct sweep *s = arg;
	struct error err = { 0 };
	json_t *status = NULL;

	(void)instance_load(i, &status, NULL);
	if ((s->o->force || !is_alive(s->places, i, status)) && rm_one(i, status, s->o, s->places, &err))
		s->code = complain(&err, EXIT_TOOL_FAILED);
	json_decref(status);
	return 0;
}

int command_rm(struct options *o, const struct places *places)
{
	struct sweep sweep = { .o = o, .places = places };
	struct error err = { 0 };

	if (!o->all)
		return for_each(o, places, rm_one);
	if (instance_each(places, rm_ended, &sweep, &err))
		return complain(&err, EXIT_TOOL_FAILED);
	return sweep.code;
}
