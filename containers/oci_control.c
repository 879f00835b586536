/* oci_control.c: the commands about a container that is there: start, kill, delete, pause, resume, update. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_client.h"
#include "control.h"
#include "oci_cgroup.h"
#include "oci_commands.h"
#include "oci_hooks.h"
#include "oci_spec.h"
#include "oci_state.h"
#include "oci_values.h"
#include "signal_names.h"
#include "text.h"

#define START_PATIENCE_MS  180000 /* the keeper bounds each step itself */
#define KILL_PATIENCE_MS   5000   /* that a signal is taken */
#define END_PATIENCE_MS    30000 /* from SIGKILL to the keeper's end: the machine's own patience, and its jail removed */
#define JAILER_PATIENCE_MS 5000
#define API_PATIENCE_MS    30000

/* ---- start, kill ---- */

int oci_start(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_container c;
	int ret = oci_state_open(o->root, o->id, &c, err), pid;
	const char *status;

	(void)places;
	if (ret)
		return -1;
	status = oci_state_status(&c, &pid);
	if (strcmp(status, "created") != 0)
		ret = error_set(err, -EINVAL, "cannot start a container that is %s", status);
	else
		ret = oci_control_ask(&c, CONTROL_START, START_PATIENCE_MS, err);
	if (!ret)
		oci_hooks_poststart(o, &c, pid);
	oci_state_close(&c);
	return ret ? -1 : 0;
}

/* The main command has it from its keeper already; these are the others. */
static void kill_others(const struct oci_container *c, int number)
{
	struct request request = { 0 };
	struct agent_client *agent;
	struct fields fields;

	if (agent_dial(&c->machine, 1000, &agent, NULL))
		return;
	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "kill");
	request_add(&request, "all", "1");
	request_add(&request, "pid", "main");
	request_add_number(&request, "signal", number);
	if (agent_request(agent, &request, NULL) == 0)
		(void)agent_reply(agent, 1000, &fields, NULL);
	request_free(&request);
	agent_hang_up(agent);
}

/* The microVM ends with its keeper. */
static int kill_keeper(const struct process *keeper, struct error *err)
{
	int ret = process_signal(keeper, SIGKILL);

	if (ret && ret != -ESRCH)
		return error_set(err, ret, "process %d: %s", keeper->pid, strerror(-ret));
	*err = (struct error){ 0 };
	return 0;
}

static int send_signal(const struct oci_options *o, struct oci_container *c, int number, struct error *err)
{
	const struct process keeper = oci_state_process(c, "keeper");
	char word[CONTROL_WORD];
	int pid, ret;
	const char *status = oci_state_status(c, &pid);

	/* Engines look for these words. */
	if (strcmp(status, "stopped") == 0)
		return error_set(err, -ESRCH, "container not running");
	/* A machine that stands still cannot end its command, and one that is not there yet has none. */
	if (number == SIGKILL && (strcmp(status, "paused") == 0 || strcmp(status, "creating") == 0))
		return kill_keeper(&keeper, err);
	if (o->all && strcmp(status, "running") == 0 && number != SIGKILL)
		kill_others(c, number);
	snprintf(word, sizeof(word), CONTROL_KILL "%d", number);
	ret = oci_control_ask(c, word, KILL_PATIENCE_MS, err);
	return ret == -ETIMEDOUT && number == SIGKILL ? kill_keeper(&keeper, err) : ret;
}

int oci_kill(const struct oci_options *o, const struct places *places, struct error *err)
{
	int number = o->signal ? signal_number(o->signal) : SIGTERM, ret;
	struct oci_container c;

	(void)places;
	if (number <= 0 || number > 63) {
		error_set(err, -EINVAL, "kill: \"%.40s\" is no signal (needs a number or a name, as in TERM)",
			  o->signal);
		return -1;
	}
	ret = oci_state_open(o->root, o->id, &c, err);
	if (ret)
		return -1;
	ret = send_signal(o, &c, number, err);
	oci_state_close(&c);
	return ret ? -1 : 0;
}

/* ---- delete ---- */

static void wait_for_end(const struct process *keeper)
{
	int fd = process_open(keeper);
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	if (fd < 0)
		return;
	(void)poll(&poll_fd, 1, END_PATIENCE_MS);
	close(fd);
}

static int end_keeper(struct oci_container *c, struct error *err)
{
	const struct process keeper = oci_state_process(c, "keeper");
	int pid;
	const char *status = oci_state_status(c, &pid);

	if (strcmp(status, "stopped") == 0)
		return 0;
	if (strcmp(status, "paused") == 0 || strcmp(status, "creating") == 0 ||
	    oci_control_ask(c, CONTROL_KILL "9", KILL_PATIENCE_MS, NULL) == -ETIMEDOUT)
		(void)process_end(&keeper, 0);
	wait_for_end(&keeper);
	if (strcmp(oci_state_status(c, &pid), "stopped") == 0)
		return 0;
	if (process_end(&keeper, 1000))
		return 0;
	return error_set(err, -EBUSY, "container \"%s\" does not end", c->id);
}

int oci_remove(const struct oci_options *o, const struct places *places, struct oci_container *c, struct error *err)
{
	struct process jailer;
	json_t *last = NULL;
	struct stat st;
	bool is_known;
	int ret = 0;

	if (!oci_state_lock(c)) {
		/* Somebody else has removed it. */
		if (fstat(c->machine.dir, &st) == 0 && st.st_nlink == 0)
			return 0;
		return error_set(err, -EBUSY, "container \"%s\": somebody else is about to remove it", c->id);
	}
	/* What its keeper has said last, which may be after we looked. Not there: somebody else has all but removed it.
	 */
	is_known = instance_load(&c->machine, &last, NULL) == 0;
	if (is_known) {
		json_decref(c->state);
		c->state = last;
	}
	/* A keeper that was killed takes its jailer along, which takes a moment. */
	jailer = oci_state_process(c, "jailer");
	if (!process_end(&jailer, JAILER_PATIENCE_MS))
		return error_set(err, -EBUSY, "container \"%s\": process %d (jailer) does not end", c->id, jailer.pid);
	if (*oci_state_text(c, "cgroup"))
		oci_cgroup_remove(oci_state_text(c, "cgroup"), json_is_true(json_object_get(c->state, "cgroup_made")));
	if (*c->machine.id)
		ret = instance_remove_jail(places, &c->machine, err);
	/* While the id is still taken, and we have the lock: nobody else's delete ends before they have. */
	if (!ret && is_known)
		oci_hooks_poststop(o, c);
	return ret ? ret : oci_state_remove(o->root, c, err);
}

int oci_delete(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_container c;
	int ret = oci_state_settle(o->root, o->id, err), pid;
	const char *status;

	if (!ret)
		ret = oci_state_open(o->root, o->id, &c, err);
	if (ret == -ENOENT && o->force)
		return 0;
	if (ret)
		return -1;
	status = oci_state_status(&c, &pid);
	if (!o->force && strcmp(status, "stopped") != 0)
		ret = error_set(err, -EBUSY, "cannot delete container \"%s\" that is not stopped: %s", c.id, status);
	else
		ret = end_keeper(&c, err);
	if (!ret)
		ret = oci_remove(o, places, &c, err);
	oci_state_close(&c);
	return ret ? -1 : 0;
}

/* ---- pause, resume: the microVM's own API ---- */

static int ask_api(const struct oci_container *c, const char *state, struct error *err)
{
	char text[256], answer[512];
	int fd = oci_control_dial(c, OCI_API, SOCK_STREAM, err), len, body;
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	ssize_t n = -1;

	if (fd < 0)
		return fd;
	body = snprintf(answer, sizeof(answer), "{\"state\": \"%s\"}", state);
	len = snprintf(text, sizeof(text),
		       "PATCH /vm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
		       "Content-Length: %d\r\n\r\n%s",
		       body, answer);
	if (send(fd, text, (size_t)len, MSG_NOSIGNAL) == len && poll(&poll_fd, 1, API_PATIENCE_MS) == 1)
		n = recv(fd, answer, sizeof(answer) - 1, 0);
	close(fd);
	answer[n > 0 ? n : 0] = '\0';
	if (strncmp(answer, "HTTP/1.1 204", 12) == 0)
		return 0;
	text_escape(text, sizeof(text), answer, strcspn(answer, "\r\n"));
	return error_set(err, -EIO, "the microVM cannot be %s: %s", strcmp(state, "Paused") ? "resumed" : "paused",
			 *text ? text : "no answer");
}

static int change(const struct oci_options *o, const char *from, const char *state, struct error *err)
{
	struct oci_container c;
	int ret = oci_state_open(o->root, o->id, &c, err), pid, fd;
	const char *status;

	if (ret)
		return -1;
	status = oci_state_status(&c, &pid);
	if (strcmp(status, from) != 0)
		ret = error_set(err, -EINVAL, "the container is %s (needs to be %s)", status, from);
	else
		ret = ask_api(&c, state, err);
	if (!ret && strcmp(from, "running") == 0) {
		fd = openat(c.machine.dir, OCI_PAUSED, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0)
			close(fd);
	} else if (!ret) {
		(void)unlinkat(c.machine.dir, OCI_PAUSED, 0);
	}
	oci_state_close(&c);
	return ret ? -1 : 0;
}

int oci_pause(const struct oci_options *o, const struct places *places, struct error *err)
{
	(void)places;
	return change(o, "running", "Paused", err);
}

int oci_resume(const struct oci_options *o, const struct places *places, struct error *err)
{
	(void)places;
	return change(o, "paused", "Resumed", err);
}

/* ---- update ---- */

int oci_update(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_resources resources;
	struct oci_container c;
	json_t *json;
	int ret;

	(void)places;
	if (!o->resources) {
		error_set(err, -EINVAL, "update: needs --resources");
		return -1;
	}
	ret = oci_state_open(o->root, o->id, &c, err);
	if (ret)
		return -1;
	json = oci_read_json(o->resources, err);
	ret = json ? oci_resources_parse(json, &resources, err) : err->code;
	if (!ret)
		ret = oci_cgroup_limit(oci_state_text(&c, "cgroup"), &resources, err);
	json_decref(json);
	oci_state_close(&c);
	return ret ? -1 : 0;
}
