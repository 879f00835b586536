/* keeper.c: the process that keeps one container: starts its machine, relays its streams, records its end, cleans up.
 */
#include "keeper.h"

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
#include "relay.h"
#include "tail.h"
#include "terminal.h"
#include "text.h"

#define BOOT_PATIENCE_MS 120000 /* from the start of the machine to the agent's call */
#define END_PATIENCE_MS  15000  /* from the end of the command to the end of the machine; the agent takes 5 s at most */
#define KILL_PATIENCE_MS 5000
#define FIXED_FDS        6

static const int forwarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 };

enum stage {
	BOOTING,  /* the agent has not called */
	STARTING, /* it was told what to run */
	RUNNING,
	ENDING, /* the command has ended, or never will run; the machine is about to end */
	ENDED,
};

struct life {
	struct keeper *k;
	enum stage stage;
	struct machine machine;
	struct relay relay;
	struct container_log log;
	struct tail console, errors;
	int signals;        /* signalfd */
	int machine_status; /* as from waitpid */
	bool machine_ended;
	int code;         /* what to end with; -1: not known yet */
	bool terminated;  /* the machine was told to end */
	bool prepared;    /* the command can be started */
	bool told;        /* to start it */
	bool killed;      /* the command was sent SIGKILL */
	int starter;      /* the connection that said start and waits for the answer; -1: none */
	bool ran;         /* the command has run */
	int64_t deadline; /* in ms of CLOCK_MONOTONIC; 0: none */
};

static void note_time(json_t *status, const char *key)
{
	struct timespec now;
	char text[40];
	size_t len;

	clock_gettime(CLOCK_REALTIME, &now);
	len = text_time(text, sizeof(text) - 1, &now);
	text[len++] = 'Z';
	text[len] = '\0';
	json_object_set_new(status, key, json_string(text));
}

/* ---- the end of the machine ---- */

/* Softly at first: then the jailer removes the jail. */
static void terminate(struct life *l)
{
	if (l->machine.jailer.pid > 0)
		(void)kill(l->machine.jailer.pid, l->terminated ? SIGKILL : SIGTERM);
	l->terminated = true;
	l->deadline = now_ms() + KILL_PATIENCE_MS;
	if (l->stage < ENDING)
		l->stage = ENDING;
}

static void hang_up(struct life *l)
{
	agent_hang_up(l->relay.agent);
	l->relay.agent = NULL;
}

/* The container cannot go on, and the tool says why. What was known first counts. */
static void give_up(struct life *l, int code)
{
	if (l->code < 0)
		l->code = code;
	hang_up(l);
	terminate(l);
}

/* What the machine's own end tells when the command's status never came. */
static void explain_end(struct life *l, struct error *err)
{
	const int status = l->machine_status;
	char said[sizeof(err->message) - 64];

	l->code = EXIT_TOOL_FAILED;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGKILL) {
		l->code = 128 + SIGKILL;
		error_set(err, -ECHILD, "the machine was killed");
	} else if (tail_find(&l->errors, "mayfly", said, sizeof(said))) {
		error_set(err, -EIO, "%s", said);
	} else if (tail_find(&l->console, "Kernel panic", said, sizeof(said))) {
		error_set(err, -EIO, "the guest's kernel gave up: %s", said);
	} else if (tail_find(&l->console, "mayfly-init: ", said, sizeof(said))) {
		error_set(err, -EIO, "%s", said);
	} else {
		error_set(err, -EIO, "the machine ended (%s %d) before the command did",
			  WIFSIGNALED(status) ? "signal" : "status",
			  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
}

static void reap(struct life *l)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == l->k->config.network->pid) {
			l->k->config.network->pid = 0;
			continue;
		}
		if (pid != l->machine.jailer.pid)
			continue;
		l->machine.jailer.pid = 0;
		l->machine_status = status;
		l->machine_ended = true;
	}
}

static void listen_to(struct tail *tail, int *fd)
{
	if (!tail_read(tail, *fd))
		*fd = -1;
}

/* The machine has ended, and all that the guest said before is passed on. */
static void end(struct life *l, struct error *err)
{
	listen_to(&l->console, &l->machine.console);
	listen_to(&l->errors, &l->machine.errors);
	if (l->code < 0)
		explain_end(l, err);
	l->stage = ENDED;
}

/* ---- the agent and the command ---- */

static void answer_starter(struct life *l, const char *text)
{
	if (l->starter >= 0)
		control_answer(l->starter, text);
	l->starter = -1;
}

static void start_main(struct life *l, struct error *err)
{
	struct keeper *k = l->k;

	if (l->stage != BOOTING || !l->relay.agent || k->config.network->ready >= 0)
		return;
	if (!l->prepared && k->prepare && k->prepare(k, err)) {
		give_up(l, EXIT_TOOL_FAILED);
		return;
	}
	l->prepared = true;
	if (k->control && !l->told) {
		l->deadline = 0;
		return;
	}
	l->stage = STARTING;
	if (agent_request(l->relay.agent, l->k->main, err))
		give_up(l, EXIT_TOOL_FAILED);
}

static void take_call(struct life *l, struct error *err)
{
	char path[sizeof(INSTANCE_VSOCK) + 32];
	int fd = accept4(l->machine.listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	/* The first who calls is the agent, since nothing else runs yet. There is no second. */
	close(l->machine.listener);
	l->machine.listener = -1;
	snprintf(path, sizeof(path), INSTANCE_VSOCK "/" INSTANCE_SOCKET "_%d", AGENT_PORT);
	(void)unlinkat(l->k->instance->dir, path, 0);
	l->relay.agent = agent_adopt(fd);
	if (l->relay.agent)
		return;
	close(fd);
	error_set(err, -ENOMEM, "no memory");
	give_up(l, EXIT_TOOL_FAILED);
}

static void tell_ready(struct keeper *k, unsigned char byte)
{
	int null, fd;

	if (k->ready < 0)
		return;
	(void)!write(k->ready, &byte, 1);
	close(k->ready);
	k->ready = -1;
	/* Whoever waits for the end of our output has waited long enough, and so has who wants to unmount our folder.
	 */
	if (!byte)
		(void)!chdir("/");
	null = byte ? -1 : open("/dev/null", O_RDWR | O_CLOEXEC);
	for (fd = 0; null >= 0 && fd <= STDERR_FILENO; fd++)
		(void)dup2(null, fd);
}

static void begin_running(struct life *l)
{
	struct keeper *k = l->k;

	l->stage = RUNNING;
	l->ran = true;
	l->deadline = 0;
	json_object_set_new(k->status, "state", json_string("running"));
	note_time(k->status, "started");
	(void)instance_save(k->instance, k->status, NULL);
	if (k->tty && k->in >= 0 && terminal_raw(k->in))
		relay_resize(&l->relay);
	tell_ready(k, 0);
	answer_starter(l, CONTROL_OK);
}

static void step_relay(struct life *l, const struct pollfd *fds, unsigned int nr, struct error *err)
{
	struct error local = { 0 };
	int ret = relay_step(&l->relay, fds, nr, &local);

	if (l->relay.started && l->stage == STARTING)
		begin_running(l);
	if (ret == 1) {
		l->code = l->relay.code;
		l->stage = ENDING;
		l->deadline = now_ms() + END_PATIENCE_MS;
		hang_up(l);
	} else if (l->relay.refused) {
		*err = local;
		give_up(l, l->relay.code ? l->relay.code : EXIT_TOOL_FAILED);
	} else if (ret == -EPIPE) {
		/* Why, the machine's end will tell. */
		hang_up(l);
		l->stage = ENDING;
		l->deadline = now_ms() + KILL_PATIENCE_MS;
	} else if (ret) {
		*err = local;
		give_up(l, EXIT_TOOL_FAILED);
	}
}

/* ---- what happens ---- */

static void take_signals(struct life *l)
{
	struct signalfd_siginfo info;

	while (read(l->signals, &info, sizeof(info)) == sizeof(info)) {
		const int n = (int)info.ssi_signo;

		if (n == SIGCHLD)
			reap(l);
		else if (n == SIGWINCH)
			l->relay.resized = l->k->tty;
		else if (l->stage == RUNNING)
			relay_signal(&l->relay, n);
		else if (n == SIGINT || n == SIGTERM || n == SIGHUP || n == SIGQUIT)
			give_up(l, 128 + n);
	}
	if (l->relay.agent && l->relay.resized)
		relay_resize(&l->relay);
}

/* What a process does not notice that has made no arrangements. */
static bool is_ignored(int number)
{
	return number == SIGCHLD || number == SIGCONT || number == SIGURG || number == SIGWINCH;
}

/* A command that does not end of SIGKILL, or never started, ends with its machine. */
static void take_kill(struct life *l, int number)
{
	if (l->stage < RUNNING) {
		if (!is_ignored(number))
			give_up(l, 128 + number);
	} else if (l->stage == RUNNING) {
		relay_signal(&l->relay, number);
		l->killed |= number == SIGKILL;
		if (number == SIGKILL)
			l->deadline = now_ms() + KILL_PATIENCE_MS;
	}
}

static void take_word(struct life *l)
{
	char word[CONTROL_WORD];
	int fd = control_take(l->k->control, word), number = fd < 0 ? 0 : control_signal(word);

	if (fd < 0)
		return;
	if (number && l->stage <= RUNNING) {
		take_kill(l, number);
		control_answer(fd, CONTROL_OK);
	} else if (number) {
		control_answer(fd, "container not running");
	} else if (strcmp(word, CONTROL_START) != 0) {
		control_answer(fd, "the container's keeper does not know this word");
	} else if (l->stage != BOOTING || !l->prepared || l->told) {
		control_answer(fd, "cannot start a container that is not created");
	} else {
		l->told = true;
		l->starter = fd;
		l->deadline = now_ms() + BOOT_PATIENCE_MS;
	}
}

static void time_is_up(struct life *l, struct error *err)
{
	if (l->killed && l->stage < ENDING) {
		give_up(l, 128 + SIGKILL);
	} else if (l->stage < ENDING) {
		error_set(err, -ETIMEDOUT, "the guest has not started within %d s", BOOT_PATIENCE_MS / 1000);
		give_up(l, EXIT_TOOL_FAILED);
	} else {
		terminate(l);
	}
}

static void step(struct life *l, struct error *err)
{
	struct network *network = l->k->config.network;
	struct pollfd fds[FIXED_FDS + RELAY_FDS] = {
		{ .fd = l->signals, .events = POLLIN },
		{ .fd = l->machine.console, .events = POLLIN },
		{ .fd = l->machine.errors, .events = POLLIN },
		{ .fd = l->machine.listener, .events = POLLIN },
		{ .fd = l->stage == BOOTING ? network->ready : -1, .events = POLLIN },
		{ .fd = l->k->control ? l->k->control : -1, .events = POLLIN },
	};
	unsigned int nr = l->relay.agent ? relay_watch(&l->relay, fds + FIXED_FDS) : 0;
	const int64_t left = l->deadline - now_ms();
	int timeout = l->relay.agent ? relay_timeout(&l->relay) : -1;

	if (l->deadline && left <= 0) {
		time_is_up(l, err);
		return;
	}
	if (l->deadline && (timeout < 0 || left < timeout))
		timeout = (int)left;
	if (poll(fds, FIXED_FDS + nr, timeout) < 0)
		return;
	if (fds[1].revents)
		listen_to(&l->console, &l->machine.console);
	if (fds[2].revents)
		listen_to(&l->errors, &l->machine.errors);
	if (fds[4].revents && network_check(network, err))
		give_up(l, EXIT_TOOL_FAILED);
	if (fds[3].revents)
		take_call(l, err);
	if (l->relay.agent && nr)
		step_relay(l, fds + FIXED_FDS, nr, err);
	if (fds[5].revents)
		take_word(l);
	start_main(l, err);
	if (fds[0].revents)
		take_signals(l);
	if (l->machine_ended && !l->relay.agent)
		end(l, err);
	if (l->stage >= ENDING)
		answer_starter(l, err->code ? err->message : "container not running");
}

/* ---- from the beginning to the end ---- */

static int watch_signals(void)
{
	sigset_t set;
	unsigned int i;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGCHLD, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGWINCH);
	for (i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaddset(&set, forwarded[i]);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int begin(struct life *l, struct error *err)
{
	struct keeper *k = l->k;
	struct process passt;
	int ret;

	l->signals = watch_signals();
	if (l->signals < 0)
		return error_set(err, -errno, "signalfd: %s", strerror(errno));
	ret = k->log ? container_log_open(&l->log, k->instance, err) : 0;
	if (!ret)
		ret = network_start(k->config.network, err);
	if (!ret)
		ret = machine_start(k->places, k->instance, &k->config, &l->machine, err);
	/* The machine has them now; passt's end is the machine's. */
	drives_close(k->config.drives);
	if (k->config.network->fd >= 0)
		close(k->config.network->fd);
	k->config.network->fd = -1;
	if (ret)
		return ret;
	json_object_set_new(k->status, "state", json_string("created"));
	status_set_process(k->status, "jailer", &l->machine.jailer);
	if (k->config.network->pid) {
		passt = process_find(k->config.network->pid);
		status_set_process(k->status, "passt", &passt);
	}
	l->deadline = now_ms() + BOOT_PATIENCE_MS;
	return instance_save(k->instance, k->status, err);
}

static void record_end(struct life *l, const struct error *err)
{
	struct keeper *k = l->k;

	json_object_set_new(k->status, "state", json_string("exited"));
	json_object_set_new(k->status, "exit_code", json_integer(l->code));
	json_object_set_new(k->status, "oom_killed", json_boolean(l->console.has_oom));
	if (err->code)
		json_object_set_new(k->status, "error", json_string(err->message));
	json_object_del(k->status, "jailer");
	json_object_del(k->status, "passt");
	note_time(k->status, "finished");
	(void)instance_save(k->instance, k->status, NULL);
	instance_tidy(k->instance);
}

static void end_children(struct life *l)
{
	struct network *n = l->k->config.network;
	int status;

	if (l->machine.jailer.pid > 0) {
		(void)kill(l->machine.jailer.pid, SIGKILL);
		(void)waitpid(l->machine.jailer.pid, &status, 0);
	}
	/* Its socket is closed with the machine, so it ends by itself, unless it hangs. */
	if (n->pid > 0) {
		(void)kill(n->pid, SIGTERM);
		(void)waitpid(n->pid, &status, 0);
	}
}

int keeper_run(struct keeper *k, struct error *err)
{
	struct life l = { .k = k,
			  .code = -1,
			  .starter = -1,
			  .log = { .fd = -1 },
			  .machine = { .listener = -1, .console = -1, .errors = -1 } };
	struct error left = { 0 };

	l.relay = (struct relay){ .in = k->in, .out = k->out, .err = k->err, .log = &l.log };
	if (begin(&l, err)) {
		l.code = EXIT_TOOL_FAILED;
		l.stage = ENDED;
		end_children(&l);
	}
	while (l.stage != ENDED)
		step(&l, err);
	terminal_restore();
	hang_up(&l);
	end_children(&l);
	machine_close(&l.machine);
	network_close(k->config.network);
	if (l.log.fd >= 0)
		close(l.log.fd);
	/* Of a command that never ran there is nothing to tell but what is said now, unless somebody else removes it.
	 */
	if ((l.ran && !k->remove) || k->control)
		record_end(&l, err);
	else if (instance_remove(k->places, k->instance, &left) && !err->code)
		*err = left;
	tell_ready(k, (unsigned char)l.code);
	close(l.signals);
	return l.code;
}
