/* agent.c: the agent's first process: takes connections, buries the dead, knows when all is over. It never waits for
 * anybody. */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 128
#define FAREWELL_MS     1000 /* for the connections that are still there at the end */

struct first {
	struct agent *agent;
	pid_t children[MAX_CONNECTIONS]; /* one process for each connection */
	int child_count;
	bool stop, keeper_gone;
};

void main_publish(struct shared *shared, enum main_state state)
{
	__atomic_store_n(&shared->state, state, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &shared->state, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

enum main_state main_wait(struct shared *shared, enum main_state while_it_is, int timeout)
{
	int64_t deadline = milliseconds() + timeout, left = timeout;
	enum main_state state;

	while ((state = (enum main_state)__atomic_load_n(&shared->state, __ATOMIC_SEQ_CST)) == while_it_is &&
	       (timeout < 0 || left > 0)) {
		struct timespec time = { left / 1000, left % 1000 * 1000000 };

		syscall(SYS_futex, &shared->state, FUTEX_WAIT, while_it_is, timeout < 0 ? NULL : &time, NULL, 0);
		left = deadline - milliseconds();
	}
	return state;
}

/* In a process of its own, which ends with the connection. */
static void serve(struct first *f, int fd)
{
	static struct connection c;
	pid_t pid = fork();

	if (pid == 0) {
		close(f->agent->listener);
		c.fd = fd;
		request_serve(f->agent, &c);
		_exit(0);
	}
	if (pid > 0)
		f->children[f->child_count++] = pid;
}

static void take_connection(struct first *f)
{
	struct sockaddr_vm peer = { 0 };
	socklen_t len = sizeof(peer);
	int fd = accept4(f->agent->listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);

	/* The host alone may ask. (Tests come by a Unix socket.) */
	if (fd >= 0 && (peer.svm_family != AF_VSOCK || peer.svm_cid == VMADDR_CID_HOST))
		serve(f, fd);
	close(fd);
}

/* The host may be waiting for us to say that we are up. If nobody is, that is no error. */
static void call_host(struct first *f)
{
	struct sockaddr_vm host = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = AGENT_PORT };
	static struct connection c;
	pid_t pid = fork();

	if (pid == 0) {
		close(f->agent->listener);
		c.fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (!connect(c.fd, (struct sockaddr *)&host, sizeof(host)))
			request_serve(f->agent, &c);
		_exit(0);
	}
	if (pid > 0)
		f->children[f->child_count++] = pid;
}

/* Bury everybody who has ended: our own, and the container's orphans. */
static void bury(struct first *f)
{
	struct shared *shared = f->agent->shared;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < f->child_count; i++)
			if (f->children[i] == pid)
				f->children[i] = f->children[--f->child_count];
		if (pid == shared->keeper) {
			f->keeper_gone = shared->state != MAIN_STARTING;
			if (!f->keeper_gone)
				main_publish(shared, MAIN_NONE);
		}
		/* Somebody killed its keeper, so it was left to us. */
		if (pid == shared->pid && shared->state == MAIN_RUNNING) {
			shared->status = status;
			main_publish(shared, MAIN_ENDED);
		}
	}
}

static void take_signal(struct first *f, int fd)
{
	struct shared *shared = f->agent->shared;
	struct signalfd_siginfo info;

	while (read(fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			bury(f);
		else if (shared->state == MAIN_RUNNING)
			kill(shared->pid, shared->stop_signal);
		else if (shared->state == MAIN_NONE)
			f->stop = true;
	}
}

/* SIGCHLD and those that ask for the end come by descriptor; nothing else may end us. */
static int open_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int agent_run(struct agent *agent)
{
	struct first f = { .agent = agent };
	int signals = open_signals(), status;
	int64_t end = 0, left = -1;

	agent->pid = getpid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fcntl(agent->listener, F_SETFL, O_NONBLOCK); /* who knocks may be gone before the door is open */
	agent->shared = mmap(NULL, sizeof(*agent->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (agent->shared == MAP_FAILED || signals < 0 ||
	    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, agent->attach))
		return -errno;
	if (agent->call_host)
		call_host(&f);
	while (!end || (f.child_count && left > 0)) {
		struct pollfd fd[2] = { { .fd = signals, .events = POLLIN },
					{ .fd = end || f.child_count == MAX_CONNECTIONS ? -1 : agent->listener,
					  .events = POLLIN } };

		if (poll(fd, 2, (int)left) < 0)
			continue;
		take_signal(&f, signals);
		if (fd[1].revents)
			take_connection(&f);
		if (!end && (f.stop || (f.keeper_gone && agent->shared->state == MAIN_ENDED)))
			end = milliseconds() + FAREWELL_MS;
		if (end)
			left = end - milliseconds();
	}
	processes_kill(agent, SIGKILL);
	while (f.child_count)
		kill(f.children[--f.child_count], SIGKILL);
	status = agent->shared->status;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
