/* stream.c: opens the socket that carries a microVM. */
#include "snapshot/stream.h"

#include <stdio.h>
#include <string.h>

#include "inherited.h"
#include "text.h"
#include "unix_socket.h"

_Static_assert(sizeof(struct stream_header) == 40 && sizeof(struct stream_part) == 24, "no holes");

bool stream_has_name(const char *name)
{
	return strncmp(name, "unix:", 5) == 0 || inherited_is_name(name);
}

int stream_open(const char *name, struct error *err)
{
	char where[64];
	int fd;

	if (inherited_is_name(name)) {
		snprintf(where, sizeof(where), "snapshot.snapshot_path: %s", name);
		return inherited_open(name, where, err);
	}
	fd = unix_socket_connect(name + strlen("unix:"));
	if (fd >= 0)
		return fd;
	return error_set(err, fd, "snapshot.snapshot_path: %s: %s (needs a Unix socket that somebody listens at)",
			 text_path_shown(name), strerror(-fd));
}
