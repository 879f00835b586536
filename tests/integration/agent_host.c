/* agent_host.c: the guest's agent as a program of the host's, for tests: agent_host SOCKET [ROOT] */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent.h"

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct agent agent = { .root = open(argc > 2 ? argv[2] : "/", O_PATH | O_DIRECTORY | O_CLOEXEC) };

	if (argc < 2 || agent.root < 0 || strlen(argv[1]) >= sizeof(address.sun_path)) {
		fprintf(stderr, "usage: agent_host SOCKET [ROOT]\n");
		return 2;
	}
	strcpy(address.sun_path, argv[1]);
	agent.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(agent.listener, (struct sockaddr *)&address, sizeof(address)) || listen(agent.listener, 128)) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
		return 2;
	}
	return agent_run(&agent);
}
