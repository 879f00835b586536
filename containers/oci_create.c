/* oci_create.c: create and run: a container's keeper is forked off, boots the microVM, and outlives us. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "control.h"
#include "keeper.h"
#include "oci_cgroup.h"
#include "oci_commands.h"
#include "oci_disks.h"
#include "oci_hooks.h"
#include "oci_machine.h"
#include "oci_network.h"
#include "oci_process.h"
#include "oci_state.h"
#include "text.h"

/* A container on its way into being. */
struct creation {
	const struct oci_options *options;
	const struct places *places;
	struct oci_spec spec;
	struct oci_container container;
	struct oci_machine machine;
	char bundle[PATH_MAX], cgroup[PATH_MAX];
	int report; /* to whoever waits for create: a 0 byte, or a sentence */
	bool reported;
	bool joins_late; /* its cgroup once the machine has its devices open */
};

/* ---- what the keeper does ---- */

static void report(struct creation *c, const struct error *err)
{
	if (c->reported)
		return;
	if (err->code)
		(void)!write(c->report, err->message, strlen(err->message));
	else
		(void)!write(c->report, "", 1);
	close(c->report);
	c->reported = true;
}

/* The guest's agent has called: what is left to do before a command could run. */
static int prepare(struct keeper *k, struct error *err)
{
	struct creation *c = k->owner;
	int ret = oci_files_put(&c->spec, k->instance, err);

	if (!ret && c->joins_late)
		oci_cgroup_enter(c->cgroup, getpid());
	if (!ret)
		report(c, &(struct error){ 0 });
	return ret;
}

static int open_streams(const struct creation *c, struct keeper *k, struct error *err)
{
	int terminal;

	if (!c->spec.process.terminal)
		return 0;
	terminal = oci_console_open(c->options->console_socket, &c->spec.process, err);
	if (terminal < 0)
		return terminal;
	k->in = k->out = terminal;
	k->err = -1;
	k->tty = true;
	return 0;
}

/* What conmon writes there when the host's kernel ends a container for want of memory; podman shows it as OOMKilled. */
static void note_oom(const struct creation *c)
{
	char path[PATH_MAX + 8];
	int fd;

	if (!json_is_true(json_object_get(c->container.state, "oom_killed")))
		return;
	snprintf(path, sizeof(path), "%s/oom", c->bundle);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
}

static int keep_machine(struct creation *c, int control, struct error *err)
{
	struct request request = { 0 };
	struct keeper keeper = {
		.places = c->places,
		.instance = &c->container.machine,
		.status = c->container.state,
		.main = &request,
		.in = STDIN_FILENO,
		.out = STDOUT_FILENO,
		.err = STDERR_FILENO,
		.ready = -1,
		.control = control,
		.prepare = prepare,
		.owner = c,
	};
	int ret = oci_machine_plan(&c->spec, c->container.id, &c->machine, err);

	if (!ret)
		ret = oci_disks_open(&c->spec, c->bundle, c->places, &c->machine.drives, err);
	if (!ret) {
		c->machine.config.api = oci_control_listen(&c->container, OCI_API, SOCK_STREAM, err);
		ret = c->machine.config.api < 0 ? c->machine.config.api : 0;
	}
	if (!ret)
		ret = open_streams(c, &keeper, err);
	if (ret)
		return EXIT_TOOL_FAILED;
	keeper.config = c->machine.config;
	oci_process_request(&c->spec.process, "main", c->spec.root_read_only, &request);
	ret = keeper_run(&keeper, err);
	request_free(&request);
	note_oom(c);
	return ret;
}

/* What keeps a pod together runs nothing: no machine, only somebody to be signalled and waited for. */
static int keep_sandbox(struct creation *c, int control)
{
	struct signalfd_siginfo info = { 0 };
	struct pollfd fds[2] = { { .fd = control, .events = POLLIN } };
	char word[CONTROL_WORD];
	int fd, number = 0;
	sigset_t all;

	sigfillset(&all);
	(void)sigprocmask(SIG_BLOCK, &all, NULL);
	fds[1] = (struct pollfd){ .fd = signalfd(-1, &all, SFD_CLOEXEC), .events = POLLIN };
	json_object_set_new(c->container.state, "state", json_string("created"));
	(void)oci_state_save(&c->container, NULL);
	report(c, &(struct error){ 0 });
	while (!number && poll(fds, 2, -1) > 0) {
		fd = fds[0].revents ? control_take(control, word) : -1;
		if (fds[1].revents && read(fds[1].fd, &info, sizeof(info)) == sizeof(info))
			number = (int)info.ssi_signo;
		else if (fd >= 0)
			number = control_signal(word);
		if (fd >= 0 && strcmp(word, CONTROL_START) == 0) {
			json_object_set_new(c->container.state, "state", json_string("running"));
			(void)oci_state_save(&c->container, NULL);
		}
		if (fd >= 0)
			control_answer(fd, CONTROL_OK);
		/* As a program would that handles what asks it to end, and nothing else. */
		if (number != SIGTERM && number != SIGINT && number != SIGKILL && number != SIGQUIT)
			number = 0;
	}
	json_object_set_new(c->container.state, "state", json_string("exited"));
	(void)oci_state_save(&c->container, NULL);
	return number == SIGKILL ? 128 + SIGKILL : 0;
}

/*
 * The state as engines are told it; the machine's keeper adds what it finds out. Saved before there is anything else,
 * so that whoever deletes the container finds it all.
 */
static int describe(struct creation *c, struct error *err)
{
	const struct process self = process_find(getpid());
	json_t *state = c->container.state;
	char created[40];
	struct timespec now;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &now);
	len = text_time(created, sizeof(created) - 2, &now);
	snprintf(created + len, sizeof(created) - len, "Z");
	json_object_set_new(state, "state", json_string("creating"));
	json_object_set_new(state, "machine", json_string(c->container.machine.id));
	json_object_set_new(state, "bundle", json_string(c->bundle));
	json_object_set_new(state, "rootfs", json_string(c->spec.root));
	json_object_set_new(state, "created", json_string(created));
	json_object_set_new(state, "cgroup", json_string(c->cgroup));
	json_object_set_new(state, "sandbox", json_boolean(c->spec.sandbox));
	/* The containers of a pod take these over. */
	if (c->spec.sandbox && c->spec.hostname)
		json_object_set_new(state, "hostname", json_string(c->spec.hostname));
	if (c->spec.sandbox && c->spec.sysctl)
		json_object_set(state, "sysctl", c->spec.sysctl);
	/* exec begins from these. */
	json_object_set(state, "process", json_object_get(c->spec.json, "process"));
	if (c->spec.annotations)
		json_object_set(state, "annotations", c->spec.annotations);
	if (c->spec.hooks)
		json_object_set(state, "hooks", c->spec.hooks);
	status_set_process(state, "keeper", &self);
	return oci_state_save(&c->container, err);
}

/*
 * Before there are children, so that all of the container is in it. The cgroups of podman's pods allow no device that a
 * microVM needs, but for opening them only: there we go back, and in when that is done.
 */
static int join_cgroup(struct creation *c, struct error *err)
{
	char before[PATH_MAX];
	bool made = false;
	int ret, fd;

	oci_cgroup_current(before);
	ret = oci_cgroup_join(c->cgroup, &c->spec.resources, &made, err);
	json_object_set_new(c->container.state, "cgroup_made", json_boolean(made));
	if (oci_state_save(&c->container, ret ? NULL : err) && !ret)
		ret = err->code;
	if (ret || c->spec.sandbox)
		return ret;
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	c->joins_late = fd < 0 && errno == EPERM;
	if (fd >= 0)
		close(fd);
	if (c->joins_late)
		oci_cgroup_enter(before, getpid());
	return 0;
}

static void keep(struct creation *c)
{
	struct error err = { 0 };
	int control, code = EXIT_TOOL_FAILED, ret, outside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	(void)setsid();
	(void)!chdir("/");
	ret = describe(c, &err);
	if (!ret)
		ret = oci_network_join(c->spec.netns, &err);
	if (!ret)
		ret = oci_hooks_create(&c->container, outside, &err);
	close(outside);
	if (!ret)
		ret = join_cgroup(c, &err);
	control = ret ? -1 : oci_control_listen(&c->container, OCI_CONTROL, SOCK_SEQPACKET, &err);
	if (control >= 0)
		code = c->spec.sandbox ? keep_sandbox(c, control) : keep_machine(c, control, &err);
	/* Later errors are for the container's log, since nobody else reads them. */
	if (c->reported && err.code)
		oci_report(c->options, &err);
	report(c, &err);
	_exit(code);
}

/* ---- what the command does ---- */

/* With runc a pod's containers share the name and the network of its sandbox, and engines tell the sandbox alone. */
static void join_pod(struct creation *c)
{
	struct oci_container sandbox;

	if (!c->spec.pod || !oci_is_id(c->spec.pod) || oci_state_open(c->options->root, c->spec.pod, &sandbox, NULL))
		return;
	oci_spec_join(&c->spec, sandbox.state);
	oci_state_close(&sandbox);
}

static int check(struct creation *c, struct error *err)
{
	const struct oci_options *o = c->options;
	int ret = oci_spec_read(c->bundle, &c->spec, err);

	if (ret)
		return ret;
	if (!c->spec.has_process)
		return error_set(err, -EINVAL, "process: needs to be there");
	if (c->spec.process.terminal && !o->console_socket)
		return error_set(err, -EINVAL, "process.terminal: needs --console-socket");
	if (!c->spec.process.terminal && o->console_socket)
		return error_set(err, -EINVAL, "--console-socket: needs process.terminal");
	ret = oci_cgroup_path(c->spec.cgroup, o->id, c->cgroup, err);
	if (ret || c->spec.sandbox)
		return ret;
	join_pod(c);
	ret = oci_disks_check(&c->spec, err);
	return ret ? ret : oci_command_check(&c->spec, err);
}

static int make(struct creation *c, pid_t *keeper, struct error *err)
{
	int fds[2], ret;

	if (pipe2(fds, O_CLOEXEC))
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	c->report = fds[1];
	*keeper = fork();
	if (*keeper == 0) {
		close(fds[0]);
		keep(c);
	}
	ret = *keeper < 0 ? error_set(err, -errno, "fork: %s", strerror(errno)) : 0;
	close(fds[1]);
	/* The lock is the keeper's alone from now on. */
	close(c->container.machine.lock);
	c->container.machine.lock = -1;
	if (!ret)
		ret = oci_keeper_await(fds[0], *keeper, "the container's keeper was killed", err);
	close(fds[0]);
	if (!ret) {
		ret = oci_pid_write(c->options->pid_file, *keeper, err);
		if (ret) {
			(void)kill(*keeper, SIGKILL);
			(void)waitpid(*keeper, NULL, 0);
		}
	}
	if (ret)
		(void)oci_remove(c->options, c->places, &c->container, NULL);
	return ret;
}

static int create(const struct oci_options *o, const struct places *places, pid_t *keeper, struct error *err)
{
	struct creation *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return error_set(err, -ENOMEM, "no memory");
	c->options = o;
	c->places = places;
	if (!realpath(o->bundle ? o->bundle : ".", c->bundle)) {
		ret = error_set(err, -errno, "--bundle: %s: %s", text_path_shown(o->bundle ? o->bundle : "."),
				strerror(errno));
	} else {
		ret = check(c, err);
		if (!ret)
			ret = oci_state_create(o->root, o->id, &c->container, err);
		if (!ret) {
			ret = make(c, keeper, err);
			oci_state_close(&c->container);
		}
	}
	oci_spec_free(&c->spec);
	free(c);
	return ret;
}

int oci_create(const struct oci_options *o, const struct places *places, struct error *err)
{
	pid_t keeper = -1;

	return create(o, places, &keeper, err) ? -1 : 0;
}

int oci_run(const struct oci_options *o, const struct places *places, struct error *err)
{
	struct oci_options remove = *o;
	pid_t keeper = -1;
	int status;

	if (create(o, places, &keeper, err))
		return -1;
	remove.force = true;
	if (oci_start(o, places, err)) {
		(void)oci_delete(&remove, places, &(struct error){ 0 });
		return -1;
	}
	if (o->detach)
		return 0;
	status = oci_keeper_wait(keeper);
	return oci_delete(&remove, places, err) ? -1 : status;
}
