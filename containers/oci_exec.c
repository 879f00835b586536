/* oci_exec.c: exec: another command in a container, with a process here that has its streams, signals and status. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oci_cgroup.h"
#include "oci_commands.h"
#include "oci_process.h"
#include "oci_spec.h"
#include "oci_state.h"
#include "oci_values.h"
#include "relay.h"
#include "text.h"

#define EXIT_EXEC_FAILED 255 /* as runc's */

struct execution {
	const struct oci_options *options;
	struct oci_container *container;
	struct oci_process process;
	json_t *json; /* what process belongs to */
	int report;   /* to whoever waits for --detach: a 0 byte, or a sentence; -1: nobody */
};

/* ---- what to run ---- */

static int parse_user(const char *text, json_t *user, struct error *err)
{
	char *end = NULL;
	const unsigned long uid = strtoul(text, &end, 10);
	unsigned long gid = 0;

	if (end > text && *end == ':')
		gid = strtoul(end + 1, &end, 10);
	if (end == text || *end || end[-1] == ':' || *text == '-' || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return error_set(err, -EINVAL, "--user: \"%.40s\" (needs UID or UID:GID, as numbers)", text);
	json_object_set_new(user, "uid", json_integer((json_int_t)uid));
	json_object_set_new(user, "gid", json_integer((json_int_t)gid));
	json_object_del(user, "additionalGids");
	return 0;
}

/* The container's own process, with what the options say. */
static json_t *from_options(const struct execution *x, struct error *err)
{
	const struct oci_options *o = x->options;
	json_t *json = json_deep_copy(json_object_get(x->container->state, "process")), *args = json_array(), *env,
	       *user;
	unsigned int n;
	int i;

	for (i = 0; i < o->nr_args; i++)
		json_array_append_new(args, json_string(o->args[i]));
	json_object_set_new(json, "args", args);
	json_object_set_new(json, "terminal", json_boolean(o->tty));
	if (o->cwd)
		json_object_set_new(json, "cwd", json_string(o->cwd));
	env = json_object_get(json, "env");
	if (!env && o->nr_env) {
		env = json_array();
		json_object_set_new(json, "env", env);
	}
	for (n = 0; n < o->nr_env; n++)
		json_array_append_new(env, json_string(o->env[n]));
	user = json_object_get(json, "user");
	if (o->user && !json_is_object(user)) {
		user = json_object();
		json_object_set_new(json, "user", user);
	}
	if (!o->user || parse_user(o->user, user, err) == 0)
		return json;
	json_decref(json);
	return NULL;
}

static int find_process(struct execution *x, struct error *err)
{
	x->json = x->options->process ? oci_read_json(x->options->process, err) : from_options(x, err);
	if (!x->json)
		return err->code;
	/* go-runc's file says nothing of --tty, podman's does. */
	if (x->options->tty)
		json_object_set_new(x->json, "terminal", json_true());
	return oci_process_parse(x->json, "process", &x->process, err);
}

/* ---- the process that is there for it ---- */

static int watch_signals(void)
{
	static const int not_ours[] = { SIGKILL, SIGSTOP, SIGCHLD, SIGPIPE, SIGSEGV, SIGBUS,
					SIGILL,  SIGFPE,  SIGABRT, SIGTRAP, SIGTTIN, SIGTTOU };
	unsigned int i;
	sigset_t set;

	(void)signal(SIGPIPE, SIG_IGN);
	sigfillset(&set);
	for (i = 0; i < sizeof(not_ours) / sizeof(not_ours[0]); i++)
		sigdelset(&set, not_ours[i]);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void take_signals(struct relay *relay, int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			relay_resize(relay);
		else
			relay_signal(relay, (int)info.ssi_signo);
	}
}

static void report(struct execution *x, const struct error *err)
{
	if (x->report < 0)
		return;
	(void)!write(x->report, err ? err->message : "", err ? strlen(err->message) : 1);
	close(x->report);
	x->report = -1;
}

/* Until its end. Returns its status, or a negative errno with the sentence. */
static int relay_all(struct execution *x, struct relay *relay, struct error *err)
{
	struct pollfd fds[1 + RELAY_FDS];
	bool reported = false;
	unsigned int nr;
	int ret = 0;

	fds[0] = (struct pollfd){ .fd = watch_signals(), .events = POLLIN };
	while (!ret) {
		nr = relay_watch(relay, fds + 1);
		if (poll(fds, 1 + nr, relay_timeout(relay)) < 0)
			continue;
		ret = relay_step(relay, fds + 1, nr, err);
		if (fds[0].revents)
			take_signals(relay, fds[0].fd);
		if (relay->started && !reported) {
			reported = true;
			report(x, NULL);
		}
	}
	close(fds[0].fd);
	return ret < 0 ? ret : relay->code;
}

/* What the guest says of a command that cannot be run, with the words that engines make 127 and 126 of. */
static int explain(const struct relay *relay, int ret, struct error *err)
{
	const struct error guest = *err;

	if (!relay->refused)
		return ret;
	return error_set(err, ret, "exec failed: %s%s", guest.message,
			 relay->code == 127   ? ": executable file not found in $PATH, or no such file or directory"
			 : relay->code == 126 ? ": permission denied"
					      : "");
}

/* The relay's agent is connected; streams are 0 to 2, or a terminal. */
static int execute(struct execution *x, struct error *err)
{
	struct relay relay = { .in = STDIN_FILENO, .out = STDOUT_FILENO, .err = STDERR_FILENO };
	struct request request = { 0 };
	int ret;

	if (x->process.terminal) {
		ret = oci_console_open(x->options->console_socket, &x->process, err);
		if (ret < 0)
			return ret;
		relay.in = relay.out = ret;
		relay.err = -1;
	}
	ret = agent_dial(&x->container->machine, AGENT_PATIENCE_MS, &relay.agent, err);
	if (ret)
		return ret;
	oci_process_request(&x->process, "exec", false, &request);
	ret = agent_request(relay.agent, &request, err);
	request_free(&request);
	if (!ret)
		ret = explain(&relay, relay_all(x, &relay, err), err);
	agent_hang_up(relay.agent);
	return ret;
}

static void keep(struct execution *x)
{
	struct error err = { 0 };
	int ret;

	(void)setsid();
	oci_cgroup_enter(oci_state_text(x->container, "cgroup"), getpid());
	ret = execute(x, &err);
	if (ret >= 0)
		_exit(ret);
	if (x->report < 0)
		oci_report(x->options, &err);
	report(x, &err);
	_exit(EXIT_EXEC_FAILED);
}

/* ---- the command ---- */

static int start(struct execution *x, struct error *err)
{
	int fds[2], ret;
	pid_t keeper;

	if (pipe2(fds, O_CLOEXEC))
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	x->report = fds[1];
	keeper = fork();
	if (keeper == 0) {
		close(fds[0]);
		keep(x);
	}
	close(fds[1]);
	ret = keeper < 0 ? error_set(err, -errno, "fork: %s", strerror(errno))
			 : oci_keeper_await(fds[0], keeper, "exec failed: it was killed", err);
	close(fds[0]);
	if (!ret) {
		ret = oci_pid_write(x->options->pid_file, keeper, err);
		if (ret)
			(void)kill(keeper, SIGKILL);
	}
	return ret || x->options->detach ? ret : oci_keeper_wait(keeper);
}

int oci_exec(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_container container;
	struct execution x = { .options = o, .container = &container };
	int ret = oci_state_open(o->root, o->id, &container, err), pid;
	const char *status;

	(void)places;
	if (ret)
		return -1;
	status = oci_state_status(&container, &pid);
	if (strcmp(status, "running") != 0 || json_is_true(json_object_get(container.state, "sandbox")))
		ret = error_set(err, -ESRCH, "cannot exec in a container that is %s%s",
				strcmp(status, "running") == 0 ? "a pod's sandbox: nothing runs in it" : status,
				strcmp(status, "stopped") == 0 ? " (container not running)" : "");
	if (!ret)
		ret = find_process(&x, err);
	if (!ret && x.process.terminal && !o->console_socket)
		ret = error_set(err, -EINVAL, "process.terminal: needs --console-socket");
	if (!ret)
		ret = start(&x, err);
	json_decref(x.json);
	oci_state_close(&container);
	return ret < 0 ? -1 : ret;
}
