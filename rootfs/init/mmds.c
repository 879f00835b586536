/* mmds.c: the network's settings from the metadata service, which asks for a token first (version 2). */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "files.h"
#include "network.h"

#define DEFAULT_ADDRESS "169.254.169.254"
#define OUR_ADDRESS     "169.254.0.2/16" /* until we know better: nothing but the service is asked from it */
#define PATIENCE_S      10

/* One request, one answer, over. Returns the body in answer and the status, or a negative errno. */
static int ask(const struct sockaddr_in *service, const char *request, char *answer, size_t size)
{
	struct timeval patience = { .tv_sec = PATIENCE_S };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status = 0;
	size_t len = 0;
	ssize_t n = -1;
	char *body;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (!connect(fd, (const struct sockaddr *)service, sizeof(*service)) &&
	    !write_stream(fd, request, strlen(request)))
		while ((n = read(fd, answer + len, size - 1 - len)) > 0)
			len += (size_t)n;
	close(fd);
	answer[len] = '\0';
	body = strstr(answer, "\r\n\r\n");
	if (n < 0 || !body || sscanf(answer, "HTTP/1.%*d %3d", &status) != 1)
		return n < 0 ? -errno : -EPROTO;
	memmove(answer, body + 4, strlen(body + 4) + 1);
	return status;
}

int network_from_mmds(const char *address, struct field_buffer *out, struct error *err)
{
	static const char *const keys[] = { "ip", "gw", "ip6", "gw6", "dns", "search", "mtu", "hostname" };
	struct sockaddr_in service = { .sin_family = AF_INET, .sin_port = htons(80) };
	char request[512], token[2048], answer[2048];
	const char *host = address ? address : DEFAULT_ADDRESS;
	int status;
	struct fields ours = { "ip=" OUR_ADDRESS, sizeof("ip=" OUR_ADDRESS) };

	if (inet_pton(AF_INET, host, &service.sin_addr) != 1)
		return error_set(err, -EINVAL, "mmds=%.60s: must be an IPv4 address", host);
	if (network_configure(-1, &ours, err))
		return err->code;
	snprintf(request, sizeof(request),
		 "PUT /latest/api/token HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
		 "X-metadata-token-ttl-seconds: 60\r\n\r\n",
		 host);
	status = ask(&service, request, token, sizeof(token));
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys) && status == 200; i++) {
		snprintf(request, sizeof(request),
			 "GET /mayfly/network/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
			 "X-metadata-token: %.256s\r\n\r\n",
			 keys[i], host, token);
		status = ask(&service, request, answer, sizeof(answer));
		if (status == 200)
			field_add(out, keys[i], answer);
		status = status == 404 ? 200 : status;
	}
	if (status < 0)
		return error_set(err, status, "net=mmds: %s does not answer: %s", host, strerror(-status));
	return status == 200 ? 0 : error_set(err, -EPROTO, "net=mmds: %s answers with status %d", host, status);
}
