/* timer_api.c: times a monitor that is driven by its API: until it answers, and through five calls to the guest's first
 * byte. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FD_FOR_API 3 /* --api-fd 3 */
#define GUEST_BYTE 'F'

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "timer_api: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A socket of that path, tried at once and then each time something appears beside it: no CPU is taken meanwhile. */
static int connect_to(const char *path, int changes)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct timespec moment = { .tv_nsec = 10000 };
	char event[4096];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		/* Between bind and listen it is there, and refuses: the command needs a moment of CPU to go on. */
		if (errno == ECONNREFUSED)
			nanosleep(&moment, NULL);
		else if (read(changes, event, sizeof(event)) < 0)
			die(path);
	}
	return fd;
}

/* Tells of new names in the directory of path. */
static int watch_for(const char *path)
{
	char copy[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int fd = inotify_init1(IN_CLOEXEC);

	snprintf(copy, sizeof(copy), "%s", path);
	if (inotify_add_watch(fd, dirname(copy), IN_CREATE) < 0)
		die(path);
	return fd;
}

static int listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 8))
		die(path);
	return fd;
}

static void send_request(int fd, const char *method, const char *path, const char *body)
{
	char text[2048], type[96] = "";
	int n;

	if (body[0])
		snprintf(type, sizeof(type), "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
	n = snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s", method, path, type, body);
	if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
		die(path);
}

/* Is a whole answer there, head and body? */
static bool whole(const char *text)
{
	const char *body = strstr(text, "\r\n\r\n");
	const char *length = strcasestr(text, "content-length:");

	return body && (!length || length > body || strlen(body + 4) >= strtoul(length + 15, NULL, 10));
}

/* Reads one answer, which must begin with HTTP/1.1 20. False: the other side is gone. */
static bool take_answer(int fd, const char *path)
{
	char text[4096] = "";
	size_t len = 0;
	ssize_t got;

	do {
		got = read(fd, text + len, sizeof(text) - 1 - len);
		if (got <= 0)
			return false;
		len += (size_t)got;
		text[len] = '\0';
	} while (!whole(text));
	if (strncmp(text, "HTTP/1.1 20", 11) == 0)
		return true;
	fprintf(stderr, "timer_api: %s: %s\n", path, text);
	exit(1);
}

static void ask(int fd, const char *method, const char *path, const char *body)
{
	send_request(fd, method, path, body);
	if (!take_answer(fd, path))
		die(path);
}

/* Until the guest's byte comes. The answer to the last call may come before it, after it, or, where the guest ends the
 * process at once, not at all. */
static void wait_for_guest(int out, int api)
{
	struct pollfd fds[2] = { { .fd = out, .events = POLLIN }, { .fd = api, .events = POLLIN } };
	char byte = 0;

	while (byte != GUEST_BYTE) {
		if (poll(fds, 2, 10000) <= 0)
			die("the guest said nothing");
		if (fds[0].revents && read(out, &byte, 1) != 1)
			die("the guest said nothing");
		if (byte != GUEST_BYTE && fds[1].revents && !take_answer(api, "the last call"))
			fds[1].fd = -1;
	}
}

struct run {
	const char *sock;
	char *const *command;
	const char *const *calls; /* path, body, path, body, NULL; all PUT */
	int api_fd;               /* to hand over as FD_FOR_API; -1: the command makes sock itself */
};

static pid_t start(const struct run *r, int in, int out, volatile uint64_t *at)
{
	pid_t pid = vfork();

	if (pid)
		return pid;
	dup2(in, 0);
	dup2(out, 1);
	if (r->api_fd >= 0)
		dup2(r->api_fd, FD_FOR_API);
	*at = now_ns();
	execv(r->command[0], r->command);
	_exit(127);
}

static void measure(const struct run *r)
{
	static volatile uint64_t start_ns;
	uint64_t answered, first;
	int pipe_fd[2], in[2], fd, changes = watch_for(r->sock);
	const char *const *call;
	pid_t pid;

	if (pipe2(pipe_fd, O_CLOEXEC) || pipe2(in, O_CLOEXEC))
		die("pipe");
	pid = start(r, in[0], pipe_fd[1], &start_ns);
	close(pipe_fd[1]);
	if (pid < 0)
		die("vfork");
	fd = connect_to(r->sock, changes);
	ask(fd, "GET", "/", "");
	answered = now_ns();
	for (call = r->calls; *call && call[2]; call += 2)
		ask(fd, "PUT", call[0], call[1]);
	if (*call) {
		send_request(fd, "PUT", call[0], call[1]);
		wait_for_guest(pipe_fd[0], fd);
	}
	first = now_ns();
	printf("{\"answered_ns\": %llu, \"marker_ns\": %llu}\n", (unsigned long long)(answered - start_ns),
	       (unsigned long long)(first - start_ns));
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* timer_api [--fd] SOCKET [PATH BODY]… -- COMMAND [ARG]…: one run, as a line of JSON. COMMAND makes SOCKET or, with
 * --fd, inherits it as descriptor 3. Without calls, marker_ns says nothing. */
int main(int argc, char **argv)
{
	struct run r = { .api_fd = -1 };
	int i = 1;

	alarm(30);
	prctl(PR_SET_TIMERSLACK, 1ul);
	if (i < argc && strcmp(argv[i], "--fd") == 0)
		r.api_fd = listen_at(argv[++i]);
	if (i + 2 >= argc)
		return 2;
	r.sock = argv[i++];
	r.calls = (const char *const *)&argv[i];
	while (i < argc && strcmp(argv[i], "--") != 0)
		i++;
	if (i + 1 >= argc)
		return 2;
	argv[i] = NULL;
	r.command = argv + i + 1;
	measure(&r);
	unlink(r.sock);
	return 0;
}
