/* oci_main.c: mayfly-oci: arguments in, exit status out, errors where engines look for them. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "oci_commands.h"
#include "oci_spec.h"
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

int main(int argc, char **argv)
{
	static int (*const commands[OCI_COMMANDS])(const struct oci_options *, const struct places *, struct error *) = {
		[OCI_CREATE] = oci_create,     [OCI_START] = oci_start,   [OCI_STATE] = oci_state,   [OCI_KILL] = oci_kill,
		[OCI_DELETE] = oci_delete,     [OCI_EXEC] = oci_exec,     [OCI_PS] = oci_ps,         [OCI_LIST] = oci_list,
		[OCI_RUN] = oci_run,           [OCI_PAUSE] = oci_pause,   [OCI_RESUME] = oci_resume, [OCI_UPDATE] = oci_update,
		[OCI_EVENTS] = oci_events,     [OCI_FEATURES] = oci_features, [OCI_SPEC] = oci_example,
	};
	static struct places places;
	static struct oci_options options;
	struct error err = { 0 };
	int status = -1;

	if (oci_options_parse(argc, argv, &options, &err)) {
		oci_report(&options, &err);
		return EXIT_FAILURE;
	}
	if (options.command == OCI_HELP) {
		oci_options_help(stdout);
		return EXIT_SUCCESS;
	}
	if (options.command == OCI_VERSION_PAGE) {
		printf(OCI_NAME " version " MAYFLY_VERSION "\nspec: " OCI_VERSION "\n");
		return EXIT_SUCCESS;
	}
	if (places_open(&places, &err) == 0)
		status = commands[options.command](&options, &places, &err);
	if (status >= 0)
		return status;
	oci_report(&options, &err);
	return EXIT_FAILURE;
}
