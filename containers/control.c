/* control.c: what a keeper is told while it keeps a container. */
#include "control.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS 1000 /* who connects sends at once */

int control_take(int listener, char word[CONTROL_WORD])
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	ssize_t len = -1;

	if (fd < 0)
		return -1;
	if (poll(&poll_fd, 1, PATIENCE_MS) == 1)
		len = recv(fd, word, CONTROL_WORD - 1, 0);
	if (len > 0) {
		word[len] = '\0';
		return fd;
	}
	close(fd);
	return -1;
}

void control_answer(int fd, const char *text)
{
	(void)send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

int control_signal(const char *word)
{
	long number;
	char *end;

	if (strncmp(word, CONTROL_KILL, strlen(CONTROL_KILL)) != 0)
		return 0;
	number = strtol(word + strlen(CONTROL_KILL), &end, 10);
	return *end || number < 1 || number > 63 ? 0 : (int)number;
}
