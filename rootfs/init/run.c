/* run.c: the operations main and exec: start a command, and be there for it until its end. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "command.h"

/* Hand the connection to the process that keeps the main command. */
static int attach_to_main(struct agent *agent, struct connection *c, struct error *err)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	enum main_state state = main_wait(agent->shared, MAIN_STARTING, -1);

	if (state == MAIN_NONE)
		return error_set(err, -ESRCH, "attach=1: the main command does not run yet");
	*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
						 .cmsg_level = SOL_SOCKET,
						 .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &c->fd, sizeof(int));
	if (sendmsg(agent->attach[1], &msg, MSG_DONTWAIT) < 0)
		return error_set(err, -errno, "attach=1: too many want to attach at the same time");
	close(c->fd);
	c->fd = -1;
	return 1;
}

/* Start it and say so; the caller relays. Returns 0 with the reply sent, or err set and reply holding code=. */
static int start(struct agent *agent, struct connection *c, struct command *command, struct process *p,
		 struct field_buffer *reply, struct error *err)
{
	int ret = command_start(agent, command, p, err);

	if (ret)
		return ret;
	field_add_number(reply, "pid", p->pid);
	if (command->is_main) {
		agent->shared->pid = p->pid;
		agent->shared->stop_signal = command->stop_signal;
		main_publish(agent->shared, MAIN_RUNNING);
	}
	reply_send(c, reply, NULL); /* a host that is gone is noticed when the streams are relayed */
	if (command->detach)
		conn_close(c);
	return 0;
}

static int run(struct agent *agent, struct connection *c, const struct fields *request, bool is_main,
	       struct field_buffer *reply, struct error *err)
{
	struct command command = { 0 };
	struct process p;
	int ret = command_parse(agent, request, is_main, &command, err);

	if (!ret)
		ret = start(agent, c, &command, &p, reply, err);
	if (ret)
		field_add_number(reply, "code", command.exit_code);
	command_free(&command);
	if (ret)
		return ret;
	if (is_main || !command.detach)
		relay_run(agent, &p, c, is_main, command.detach);
	return 1;
}

OPERATION(op_exec)
{
	return run(agent, c, request, false, reply, err);
}

OPERATION(op_main)
{
	int none = MAIN_NONE, ret;
	int64_t attach = 0;

	if (number_field(request, "attach", 0, 1, &attach, err))
		return err->code;
	if (attach)
		return attach_to_main(agent, c, err);
	if (!__atomic_compare_exchange_n(&agent->shared->state, &none, MAIN_STARTING, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_SEQ_CST))
		return error_set(err, -EBUSY, "the main command %s already (attach=1 joins it)",
				 none == MAIN_ENDED ? "has ended" : "runs");
	agent->shared->keeper = getpid();
	ret = run(agent, c, request, true, reply, err);
	if (ret < 0) {
		agent->shared->keeper = 0;
		main_publish(agent->shared, MAIN_NONE);
	}
	return ret;
}
