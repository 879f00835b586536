/* relay.c: vsock for a program that has none (Node.js): one connection after the other is that program's descriptor 3.
 */
#include <errno.h>
#include <poll.h>

#include "loader.h"

/* Copy what has come; 0 at the end. The head of a request, which comes in one piece, says what time it is. */
static int pass_on(int from, int to, int is_request)
{
	static char buffer[65536 + 1];
	ssize_t n = read(from, buffer, sizeof(buffer) - 1);
	unsigned long long ns;

	if (n <= 0)
		return 0;
	buffer[n] = '\0';
	if (is_request && sscanf(buffer, "%*15s %*1023s %*u %llu", &ns) == 1)
		loader_set_clock(ns);
	loader_write(to, buffer, (size_t)n);
	return 1;
}

/* The program answers a request by a head that says how long the answer is, but only the gateway hangs up. */
static void relay(int vsock, int program)
{
	int head = 1;
	struct pollfd fds[] = { { .fd = vsock, .events = POLLIN }, { .fd = program, .events = POLLIN } };

	while (poll(fds, 2, -1) > 0 || errno == EINTR) {
		if (fds[1].revents && !pass_on(program, vsock, 0))
			exit(1);
		if (fds[0].revents && !pass_on(vsock, program, head))
			return;
		if (fds[0].revents)
			head = 0;
	}
}

int main(int argc, char **argv)
{
	int pair[2], listener;
	char ready;

	if (argc < 2 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 2;
	if (fork() == 0) {
		close(pair[0]);
		dup2(pair[1], 3);
		execvp(argv[1], argv + 1);
		perror(argv[1]);
		_exit(127);
	}
	close(pair[1]);
	if (read(pair[0], &ready, 1) != 1)
		return 1;
	listener = loader_listen();
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		relay(fd, pair[0]);
		close(fd);
	}
}
