/* command_run.c: `mayfly-run run`: an image and options made into a container, kept by this process or one behind it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capabilities.h"
#include "commands.h"
#include "drives.h"
#include "image.h"
#include "instance.h"
#include "keeper.h"
#include "network.h"
#include "signal_names.h"
#include "text.h"

#define DEFAULT_STOP_TIMEOUT 10

/* All that a run is made of. */
struct run {
	struct options *o;
	const struct places *places;
	struct instance instance;
	struct drives drives;
	struct network network;
	struct request main;
	json_t *status;
};

/* SOFT[:HARD] as in every engine; the agent wants both. */
static int add_ulimits(struct request *r, const struct options *o, struct error *err)
{
	char text[96];
	unsigned int i;

	for (i = 0; i < o->ulimits.nr; i++) {
		const char *word = o->ulimits.word[i], *equals = strchr(word, '=');

		if (!equals || equals == word || !equals[1] || strlen(word) * 2 >= sizeof(text))
			return error_set(err, -EINVAL,
					 "--ulimit: \"%.40s\" (needs NAME=SOFT[:HARD], as in nofile=1024)", word);
		snprintf(text, sizeof(text), "%s%s%s", word, strchr(equals, ':') ? "" : ":",
			 strchr(equals, ':') ? "" : equals + 1);
		request_add(r, "rlimit", text);
	}
	return 0;
}

static int make_request(struct run *run, struct error *err)
{
	const struct options *o = run->o;
	struct request *r = &run->main;
	char caps[CAPABILITIES_TEXT_MAX];
	int i, ret;

	request_add_number(r, "version", AGENT_PROTOCOL);
	request_add(r, "op", "main");
	for (i = 1; i < o->nr_args; i++)
		request_add(r, "arg", o->args[i]);
	if (o->entrypoint)
		request_add(r, "entrypoint", o->entrypoint);
	ret = process_request(r, o, err);
	if (!ret)
		ret = add_ulimits(r, o, err);
	if (!ret && (o->cap_add.nr || o->cap_drop.nr)) {
		ret = capabilities_list(&o->cap_add, &o->cap_drop, caps, err);
		request_add(r, "caps", caps);
	}
	if (o->read_only)
		request_add(r, "readonly", "1");
	if (o->no_new_privs)
		request_add(r, "no_new_privs", "1");
	return ret;
}

/* ---- what is known of it ---- */

static json_t *text(const char *bytes)
{
	char shown[256];

	text_escape(shown, sizeof(shown), bytes, strlen(bytes));
	return json_string(shown);
}

static json_t *ports_json(const struct network *n)
{
	json_t *list = json_array();
	unsigned int i;

	for (i = 0; i < n->nr_ports; i++) {
		const struct port *p = &n->ports[i];

		json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:s}", "address",
						      *p->address ? p->address : "0.0.0.0", "host", p->host,
						      "container", p->guest, "protocol", p->udp ? "udp" : "tcp"));
	}
	return list;
}

static json_t *labels_json(const struct options *o)
{
	json_t *labels = json_object();
	char key[256];
	unsigned int i;

	for (i = 0; i < o->labels.nr; i++) {
		const char *word = o->labels.word[i], *equals = strchr(word, '=');

		text_escape(key, sizeof(key), word, equals ? (size_t)(equals - word) : strlen(word));
		json_object_set_new(labels, key, text(equals ? equals + 1 : ""));
	}
	return labels;
}

static void describe(struct run *run)
{
	static const char *const kinds[] = { "none", "user", "tap" };
	const struct options *o = run->o;
	json_t *command = json_array(), *s = json_object();
	struct process self = process_find(getpid());
	struct timespec now;
	char created[40];
	int i;

	clock_gettime(CLOCK_REALTIME, &now);
	text_time(created, sizeof(created), &now);
	snprintf(created + strlen(created), 2, "Z");
	for (i = 1; i < o->nr_args; i++)
		json_array_append_new(command, text(o->args[i]));
	json_object_set_new(s, "id", json_string(run->instance.id));
	json_object_set_new(s, "name", o->name ? json_string(o->name) : json_null());
	json_object_set_new(s, "state", json_string("created"));
	json_object_set_new(s, "image", text(o->args[0]));
	json_object_set_new(s, "command", command);
	json_object_set_new(s, "created", json_string(created));
	json_object_set_new(s, "cpus", json_integer((json_int_t)o->cpus));
	json_object_set_new(s, "memory", json_integer((json_int_t)o->memory));
	json_object_set_new(s, "network", json_string(kinds[run->network.kind]));
	json_object_set_new(s, "ports", ports_json(&run->network));
	json_object_set_new(s, "labels", labels_json(o));
	json_object_set_new(s, "tty", json_boolean(o->tty));
	json_object_set_new(s, "remove", json_boolean(o->remove));
	json_object_set_new(s, "stop_timeout",
			    json_integer(o->stop_timeout < 0 ? DEFAULT_STOP_TIMEOUT : o->stop_timeout));
	if (o->stop_signal)
		json_object_set_new(s, "stop_signal", json_integer(signal_number(o->stop_signal)));
	status_set_process(s, "keeper", &self);
	run->status = s;
}

/* ---- keeping it ---- */

static int keep(struct run *run, int ready, struct error *err)
{
	const struct options *o = run->o;
	const char **kernel_args = calloc(o->kernel_args.nr + 1, sizeof(*kernel_args));
	struct keeper keeper = {
		.places = run->places,
		.instance = &run->instance,
		.config = { .cpus = o->cpus,
			    .memory = o->memory,
			    .kernel = o->kernel,
			    .hostname = o->hostname ? o->hostname : run->instance.id,
			    .kernel_args = kernel_args,
			    .drives = &run->drives,
			    .network = &run->network },
		.main = &run->main,
		.in = o->interactive && !o->detach ? STDIN_FILENO : -1,
		.out = o->detach ? -1 : STDOUT_FILENO,
		.err = o->detach ? -1 : STDERR_FILENO,
		.tty = o->tty && !o->detach,
		.log = o->detach || !o->remove,
		.remove = o->remove,
		.ready = ready,
	};
	int code;

	if (!kernel_args)
		return error_set(err, -ENOMEM, "no memory") ? EXIT_TOOL_FAILED : 0;
	if (o->kernel_args.nr)
		memcpy(kernel_args, o->kernel_args.word, o->kernel_args.nr * sizeof(*kernel_args));
	describe(run);
	keeper.status = run->status;
	code = keeper_run(&keeper, err);
	free(kernel_args);
	json_decref(run->status);
	return code;
}

/* The process behind: its parent prints the id once the command runs, or ends as the command that did not. */
static int detach(struct run *run)
{
	struct error err = { 0 };
	unsigned char code = EXIT_TOOL_FAILED;
	int ready[2];
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) || (pid = fork()) < 0) {
		error_set(&err, -errno, "process: %s", strerror(errno));
		return complain(&err, EXIT_TOOL_FAILED);
	}
	if (pid == 0) {
		close(ready[0]);
		(void)setsid();
		(void)umask(022);
		code = (unsigned char)keep(run, ready[1], &err);
		if (err.code)
			(void)complain(&err, code);
		_exit(code);
	}
	close(ready[1]);
	while (read(ready[0], &code, 1) < 0 && errno == EINTR)
		;
	if (code == 0)
		printf("%s\n", run->instance.id);
	return code;
}

static int check(const struct options *o, struct error *err)
{
	char shown[96];

	if (o->name && !instance_is_name(o->name)) {
		text_escape(shown, sizeof(shown), o->name, strlen(o->name));
		return error_set(err, -EINVAL,
				 "--name: \"%s\" (needs 1 to 63 letters, digits, _, . or -, a letter or digit first)",
				 shown);
	}
	if (o->stop_signal && signal_number(o->stop_signal) < 0)
		return error_set(err, -EINVAL, "--stop-signal: \"%.40s\" (needs a signal, as in INT)", o->stop_signal);
	if (o->tty && o->interactive && !o->detach && !isatty(STDIN_FILENO))
		return error_set(err, -ENOTTY, "--tty: standard input is no terminal (leave out -t)");
	return 0;
}

/* What can be wrong is found before anything is made. */
static int prepare(struct run *run, struct error *err)
{
	struct options *o = run->o;
	int ret = check(o, err), fd;

	if (!ret)
		ret = network_parse(o, &run->network, err);
	if (!ret)
		ret = make_request(run, err);
	if (ret)
		return ret;
	fd = image_open(run->places, o->args[0], o->pull, err);
	if (fd < 0)
		return fd;
	drives_image(&run->drives, fd);
	ret = drives_open(&run->drives, o, run->places, err);
	return ret ? ret : instance_create(run->places, o->name, &run->instance, err);
}

int command_run(struct options *o, const struct places *places)
{
	struct run run = { .o = o, .places = places };
	struct error err = { 0 };
	int code = EXIT_TOOL_FAILED;

	if (prepare(&run, &err) == 0)
		code = o->detach ? detach(&run) : keep(&run, -1, &err);
	drives_close(&run.drives);
	request_free(&run.main);
	if (run.instance.path[0])
		instance_close(&run.instance);
	return err.code ? complain(&err, code) : code;
}
