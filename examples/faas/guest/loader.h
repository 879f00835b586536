/* loader.h: what a function written in C needs in its guest: wait on vsock, answer the one request that each clone
 * gets. */
#ifndef FAAS_LOADER_H
#define FAAS_LOADER_H

#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LOADER_PORT   8000
#define LARGEST_BODY  (1 << 20)
#define LARGEST_REPLY 65536

/* A function: answers in out (at most LARGEST_REPLY bytes) and returns how many there are. */
typedef size_t handler(const char *method, const char *path, const char *body, size_t length, char *out);

static inline int loader_listen(void)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = LOADER_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8)) {
		perror("loader: vsock");
		exit(1);
	}
	return fd;
}

/* A clone's clock stands where its original was paused: the gateway says what time it is. */
static inline void loader_set_clock(unsigned long long ns)
{
	struct timespec now = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };

	clock_settime(CLOCK_REALTIME, &now);
}

static inline void loader_write(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t n = write(fd, data, length);

		if (n <= 0)
			return;
		data += n;
		length -= (size_t)n;
	}
}

/* One request: "METHOD PATH LENGTH NANOSECONDS\n" and the body; answered by "STATUS TYPE LENGTH MICROSECONDS\n" and a
 * body. */
static inline void loader_answer(int fd, handler *handle)
{
	static char in[LARGEST_BODY + 4096 + 1], out[LARGEST_REPLY];
	char method[16], path[1024], *body = NULL, head[64];
	unsigned long long ns;
	struct timespec begin, end;
	size_t got = 0, length = 0;

	do {
		ssize_t n = read(fd, in + got, sizeof(in) - 1 - got);

		if (n <= 0)
			return;
		got += (size_t)n;
		in[got] = '\0';
		if (!body && (body = strchr(in, '\n'))) {
			*body++ = '\0';
			if (sscanf(in, "%15s %1023s %zu %llu", method, path, &length, &ns) != 4 ||
			    length > LARGEST_BODY)
				return;
			loader_set_clock(ns);
		}
	} while (!body || got < (size_t)(body - in) + length);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
	size_t n = strcmp(method, "WARM") ? handle(method, path, body, length, out) : 0;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	long us = (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000;
	loader_write(fd, head, (size_t)snprintf(head, sizeof(head), "200 text/plain %zu %ld\n", n, us));
	loader_write(fd, out, n);
}

static inline __attribute__((noreturn)) void loader_main(handler *handle)
{
	int listener = loader_listen();

	/* When memory runs out the kernel is to end us at once, and not to fetch our own pages from the disk again and
	 * again. */
	mlockall(MCL_CURRENT);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		loader_answer(fd, handle);
		close(fd);
	}
}

#endif
