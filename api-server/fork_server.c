/* fork_server.c: a process that was split off before the guest ran, and becomes copies of the microVM when asked. */
#include "fork_server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "json.h"
#include "retry.h"

#define NR_FDS 2

/* Copies that are being made at the same time: VMs that are created at once on several CPUs wait for each other. */
#define AT_ONCE 16
/* A copy needs milliseconds, unless something that it opens lets it wait; this long nothing was heard of any. */
#define PATIENCE_MS 10000

union fd_message {
	char bytes[CMSG_SPACE(NR_FDS * sizeof(int))];
	struct cmsghdr align;
};

struct fork_server {
	int fd;
	fork_copy *copy;
	void *opaque;
};

/* A copy under way: what it has to say comes through a pipe. */
struct copy {
	pid_t pid;
	int report_fd;
};

/* ---- the server's side ---- */

static int receive(int fd, char *packet, size_t size, int fds[NR_FDS], struct error *err)
{
	union fd_message control;
	struct iovec iov = { .iov_base = packet, .iov_len = size };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t n = RETRY_INTERRUPTED(recvmsg(fd, &msg, MSG_CMSG_CLOEXEC));
	const struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
	size_t nr = 0, i;

	/* The microVM has ended, and nobody will ask any more. */
	if (n <= 0)
		_exit(0);
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
		nr = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	/* There is room for no more of them. */
	memcpy(fds, CMSG_DATA(&control.align), nr * sizeof(int));
	if (nr == NR_FDS && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return (int)n;
	for (i = 0; i < nr; i++)
		close(fds[i]);
	return error_set(err, -EINVAL, "fork: a request without descriptors, or cut short");
}

/* nr: how many copies of this call were started before; what they have to say is none of its business. */
static void run_copy(const struct fork_server *server, const struct copy *copies, size_t nr, json_t *wanted,
		     const int fds[NR_FDS], const int report[2])
{
	signal(SIGCHLD, SIG_DFL);
	close(server->fd);
	close(report[0]);
	while (nr--)
		close(copies[nr].report_fd);
	_exit(server->copy(server->opaque, wanted, fds[0], fds[1], report[1]));
}

/* Number nr of them. */
static int start_copy(const struct fork_server *server, struct copy *copies, size_t nr, json_t *wanted,
		      const int fds[NR_FDS], struct error *err)
{
	struct copy *copy = &copies[nr];
	int report[2];

	if (pipe2(report, O_CLOEXEC))
		return error_set(err, -errno, "fork: pipe: %s", strerror(errno));
	copy->pid = fork();
	if (copy->pid == 0)
		run_copy(server, copies, nr, wanted, fds, report);
	close(report[1]);
	copy->report_fd = report[0];
	if (copy->pid < 0) {
		close(report[0]);
		return error_set(err, -errno, "fork: %s", strerror(errno));
	}
	return 0;
}

/* A newline: it runs. Anything else is why not, and nothing at all that it died. */
static int hear(const struct copy *copy, struct error *err)
{
	char text[sizeof(err->message)];
	ssize_t n = RETRY_INTERRUPTED(read(copy->report_fd, text, sizeof(text) - 1));

	if (n == 1 && text[0] == '\n')
		return 0;
	if (n <= 0)
		return error_set(err, -ECHILD, "fork: the copy ended before it said a word (its log may tell)");
	text[n] = '\0';
	return error_set(err, -EINVAL, "%s", text);
}

/* Who has said nothing for so long. */
static int too_late(const struct pollfd *waiting, const json_t *list, struct error *err)
{
	const char *id;
	size_t i = 0;

	while (waiting[i].fd < 0)
		i++;
	id = json_string_value(json_object_get(json_array_get(list, i), "id"));
	return error_set(err, -ETIMEDOUT,
			 "copies[%zu]: \"%s\" does not run after %d s (something that it opens lets it wait: a socket, "
			 "TAP or file)",
			 i, id ? id : "", PATIENCE_MS / 1000);
}

/* Wait until one of nr copies has something to say. Returns how many run now, or a negative errno with a sentence. */
static int hear_some(const struct copy *copy, struct pollfd *waiting, size_t nr, const json_t *list, struct error *err)
{
	int ready = RETRY_INTERRUPTED(poll(waiting, nr, PATIENCE_MS)), heard = 0, ret = 0;
	size_t i;

	if (ready < 0)
		return error_set(err, -errno, "fork: poll: %s", strerror(errno));
	if (ready == 0)
		return too_late(waiting, list, err);
	for (i = 0; i < nr && !ret; i++) {
		if (waiting[i].fd < 0 || !waiting[i].revents)
			continue;
		ret = hear(&copy[i], err);
		waiting[i].fd = -1;
		heard++;
	}
	return ret ? ret : heard;
}

/* All of them, or none. */
static int make_copies(const struct fork_server *server, struct copy *copy, const json_t *list, const int fds[NR_FDS],
		       struct error *err)
{
	size_t nr = json_array_size(list), started = 0, run = 0, i;
	struct pollfd *waiting = calloc(nr, sizeof(*waiting));
	int ret = waiting ? 0 : error_set(err, -ENOMEM, "fork: no memory");

	while (run < nr && ret >= 0) {
		if (started < nr && started - run < AT_ONCE) {
			ret = start_copy(server, copy, started, json_array_get(list, started), fds, err);
			if (!ret)
				waiting[started] = (struct pollfd){ .fd = copy[started].report_fd, .events = POLLIN };
			started += !ret;
			continue;
		}
		ret = hear_some(copy, waiting, started, list, err);
		run += ret > 0 ? (size_t)ret : 0;
	}
	for (i = 0; i < started; i++) {
		close(copy[i].report_fd);
		if (ret < 0)
			(void)kill(copy[i].pid, SIGKILL);
	}
	free(waiting);
	return ret < 0 ? ret : 0;
}

static json_t *serve_one(const struct fork_server *server, const char *packet, size_t len, const int fds[NR_FDS],
			 struct error *err)
{
	json_t *list = NULL, *pids = NULL;
	struct copy *copy = NULL;
	size_t nr, i;

	if (!json_parse(packet, len, "fork", &list, err)) {
		nr = json_array_size(list);
		copy = calloc(nr ? nr : 1, sizeof(*copy));
		if (!nr || nr > FORK_MAX_COPIES || !copy)
			error_set(err, -EINVAL, "fork: %zu copies (needs 1 to %d)", nr, FORK_MAX_COPIES);
		else if (!make_copies(server, copy, list, fds, err))
			pids = json_array();
		for (i = 0; pids && i < nr; i++)
			(void)json_array_append_new(pids, json_integer(copy[i].pid));
	}
	free(copy);
	json_decref(list);
	return pids;
}

static void send_json(int fd, const json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);

	if (text)
		(void)RETRY_INTERRUPTED(send(fd, text, strlen(text), MSG_NOSIGNAL));
	free(text);
}

static void send_refusal(int fd, const struct error *err)
{
	json_t *json = json_pack("{s:s}", "error", err->message);

	send_json(fd, json);
	json_decref(json);
}

static void serve(const struct fork_server *server)
{
	char *packet = malloc(FORK_PACKET_SIZE);
	int fds[NR_FDS], n;

	if (!packet)
		_exit(1);
	/* Nobody waits for copies that end. */
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		struct error err = { 0 };
		json_t *pids = NULL;

		n = receive(server->fd, packet, FORK_PACKET_SIZE, fds, &err);
		if (n > 0) {
			pids = serve_one(server, packet, (size_t)n, fds, &err);
			close(fds[0]);
			close(fds[1]);
		}
		if (pids)
			send_json(server->fd, pids);
		else
			send_refusal(server->fd, &err);
		json_decref(pids);
	}
}

/* Of what the caller has open it keeps nothing but standard error, its socket and what --allow-path named. */
int fork_server_start(int *fd, int (*confine)(void *opaque, int fd, struct error *err), fork_copy *copy, void *opaque,
		      struct error *err)
{
	struct fork_server server = { .copy = copy, .opaque = opaque };
	struct error why = { 0 };
	json_t *none;
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return error_set(err, -errno, "--allow-fork: socketpair: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		return error_set(err, -errno, "--allow-fork: fork: %s", strerror(errno));
	if (pid == 0) {
		close(pair[0]);
		server.fd = pair[1];
		if (confine(opaque, server.fd, &why)) {
			send_refusal(server.fd, &why);
			_exit(1);
		}
		none = json_array();
		send_json(server.fd, none);
		json_decref(none);
		serve(&server);
	}
	close(pair[1]);
	*fd = pair[0];
	/* It says whether it could be confined. */
	none = fork_server_answer(pair[0], err);
	json_decref(none);
	return none ? 0 : err->code;
}

/* ---- the microVM's side ---- */

int fork_server_ask(int fd, const json_t *wanted, int state_fd, int memory_fd, struct error *err)
{
	const int fds[NR_FDS] = { state_fd, memory_fd };
	char *text = json_dumps(wanted, JSON_COMPACT);
	union fd_message control = { 0 };
	struct iovec iov = { .iov_base = text, .iov_len = text ? strlen(text) : 0 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
	int ret = 0;

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(head), fds, sizeof(fds));
	if (!text)
		ret = error_set(err, -ENOMEM, "fork: no memory");
	else if (iov.iov_len > FORK_PACKET_SIZE)
		ret = error_set(err, -EMSGSIZE, "fork: the request is too long (at most %u bytes)", FORK_PACKET_SIZE);
	else if (RETRY_INTERRUPTED(sendmsg(fd, &msg, MSG_NOSIGNAL)) < 0)
		ret = error_set(err, -errno, "fork: the process that makes copies: %s", strerror(errno));
	free(text);
	return ret;
}

json_t *fork_server_answer(int fd, struct error *err)
{
	char *packet = malloc(FORK_PACKET_SIZE);
	ssize_t n = packet ? RETRY_INTERRUPTED(recv(fd, packet, FORK_PACKET_SIZE, 0)) : -1;
	json_t *json = NULL;

	if (n <= 0)
		error_set(err, -ECHILD, "fork: the process that makes copies has ended");
	else if (!json_parse(packet, (size_t)n, "fork", &json, err) && json_is_object(json)) {
		const char *why = json_string_value(json_object_get(json, "error"));

		error_set(err, -EINVAL, "%s", why ? why : "fork: no answer");
		json_decref(json);
		json = NULL;
	}
	free(packet);
	return json;
}
