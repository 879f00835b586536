/* command.h: a command of the container: what is wanted, its start, and the relay of its streams. */
#ifndef MAYFLY_COMMAND_H
#define MAYFLY_COMMAND_H

#include <sys/ioctl.h>

#include "agent.h"
#include "user.h"

#define EXIT_CANNOT_RUN 126 /* a shell's and podman's: found, but it cannot be run */
#define EXIT_NOT_FOUND  127

struct command {
	char **argv, **envp; /* point into the request and the image's configuration */
	const char *cwd;
	struct user user;
	struct privileges privileges;
	struct winsize size;
	bool tty, input, detach, is_main, readonly;
	bool make_cwd; /* as engines do with the one the image names, and with main's */
	int64_t oom_score_adj;
	mode_t umask;
	int stop_signal;
	char *config, *defaults; /* memory that the above points into */
	int exit_code;           /* when it could not be started: what a shell would end with */
};

/*
 * command_parse - what a request for main or exec and the image's configuration say together
 * Returns 0, or a negative errno with err set; command_free in both cases. The request's memory must stay.
 */
int command_parse(const struct agent *agent, const struct fields *request, bool is_main, struct command *out,
		  struct error *err);
void command_free(struct command *command);

/* A command that runs. Descriptors do not block; -1: it has no such stream. */
struct process {
	pid_t pid;
	int pidfd;
	int input;
	int output[2]; /* its standard output and error; with a tty there is one */
	bool tty;
};

/* command_start - 0: it runs, its program is loaded. A negative errno: err and command->exit_code are set. */
int command_start(const struct agent *agent, struct command *command, struct process *out, struct error *err);

/*
 * relay_run - move bytes between a process and a connection until the process has ended and all is said
 * is_main: the connection may be lost (its fd becomes -1) and another may come by agent->attach, and once the command
 * has ended, everybody else in the container is killed and the state published. Otherwise a lost connection ends the
 * process. c->fd -1: nobody is attached yet.
 */
void relay_run(const struct agent *agent, struct process *process, struct connection *c, bool is_main, bool detached);

#endif
