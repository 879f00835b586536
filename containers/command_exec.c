/* command_exec.c: `mayfly-run exec`: one more command in a container, without its keeper. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "commands.h"
#include "instance.h"
#include "keeper.h"
#include "relay.h"
#include "terminal.h"

#define DIAL_PATIENCE_MS 10000

static const int forwarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };

static int watch_signals(void)
{
	sigset_t set;
	unsigned int i;

	(void)signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	for (i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaddset(&set, forwarded[i]);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void take_signals(int fd, struct relay *r)
{
	struct signalfd_siginfo info;

	while (read(fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			relay_resize(r);
		else
			relay_signal(r, (int)info.ssi_signo);
	}
}

/* Until the command has ended. Returns its exit status, or what the tool ends with and the sentence. */
static int attend(struct relay *r, const struct options *o, struct error *err)
{
	struct pollfd fds[1 + RELAY_FDS] = { { .fd = watch_signals(), .events = POLLIN } };
	bool raw = false;
	unsigned int nr;
	int ret = 0;

	while (!ret) {
		nr = relay_watch(r, fds + 1);
		if (poll(fds, 1 + nr, relay_timeout(r)) < 0)
			continue;
		if (fds[0].revents)
			take_signals(fds[0].fd, r);
		ret = relay_step(r, fds + 1, nr, err);
		if (r->started && !raw && o->tty && o->interactive) {
			raw = true;
			(void)terminal_raw(STDIN_FILENO);
			relay_resize(r);
		}
	}
	terminal_restore();
	close(fds[0].fd);
	if (ret == 1)
		return r->code;
	return r->refused && r->code ? r->code : EXIT_TOOL_FAILED;
}

int command_exec(struct options *o, const struct places *places)
{
	struct request request = { 0 };
	struct relay relay = { .in = o->interactive ? STDIN_FILENO : -1, .out = STDOUT_FILENO, .err = STDERR_FILENO };
	struct instance instance;
	struct error err = { 0 };
	int i, code = EXIT_TOOL_FAILED;

	if (o->tty && o->interactive && !isatty(STDIN_FILENO)) {
		error_set(&err, -ENOTTY, "--tty: standard input is no terminal (leave out -t)");
		return complain(&err, code);
	}
	if (instance_open(places, o->args[0], &instance, &err))
		return complain(&err, code);
	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "exec");
	for (i = 1; i < o->nr_args; i++)
		request_add(&request, "arg", o->args[i]);
	if (!process_request(&request, o, &err) && !agent_dial(&instance, DIAL_PATIENCE_MS, &relay.agent, &err) &&
	    !agent_request(relay.agent, &request, &err))
		code = attend(&relay, o, &err);
	agent_hang_up(relay.agent);
	request_free(&request);
	instance_close(&instance);
	return err.code ? complain(&err, code) : code;
}
