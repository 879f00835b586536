/* oci_report.c: errors of mayfly-oci, where engines look for them. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "oci_commands.h"
#include "text.h"

/* One object a line, as logrus writes it: containerd and podman take level and msg from there. */
static void log_json(int fd, const char *time, const char *message)
{
	json_t *line = json_pack("{s:s, s:s, s:s}", "level", "error", "msg", message, "time", time);
	char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

	if (text)
		dprintf(fd, "%s\n", text);
	free(text);
	json_decref(line);
}

void oci_report(const struct oci_options *o, const struct error *err)
{
	char shown[2 * sizeof(err->message)], now[40];
	struct timespec moment;
	size_t len;
	int fd;

	text_escape(shown, sizeof(shown), err->message, strlen(err->message));
	dprintf(STDERR_FILENO, OCI_NAME ": %s\n", shown);
	fd = o->log ? open(o->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	if (fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &moment);
	len = text_time(now, sizeof(now) - 2, &moment);
	snprintf(now + len, sizeof(now) - len, "Z");
	if (o->log_format && strcmp(o->log_format, "json") == 0)
		log_json(fd, now, shown);
	else
		dprintf(fd, "time=\"%s\" level=error msg=\"%s\"\n", now, shown);
	close(fd);
}
