/* api.c: puts the REST API on a machine's event loop, and takes it away at the end. */
#include "api_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "metrics.h"
#include "retry.h"
#include "unix_socket.h"

static const char *end_name(enum machine_end end)
{
	switch (end) {
	case MACHINE_GUEST_OFF:
		return "guest_shutdown";
	case MACHINE_GUEST_CRASH:
		return "guest_crash";
	case MACHINE_HOST_ERROR:
		return "host_error";
	case MACHINE_SIGNAL:
		return "signal";
	case MACHINE_QUIT:
	default:
		return "console_quit";
	}
}

static void on_machine(void *opaque, const struct machine_news *news)
{
	struct api *api = opaque;
	struct events *events = &api->events;

	switch (news->event) {
	case MACHINE_STARTED:
		events_add(events, "started", "%s", "");
		break;
	case MACHINE_LOADED:
		events_add(events, "loaded", "%s", "");
		break;
	case MACHINE_GUEST_READY:
		events_add(events, "guest_ready", "%s", "");
		break;
	case MACHINE_HAS_PAUSED:
		api->last_stop = "paused";
		events_add(events, "paused", "%s", "");
		break;
	case MACHINE_HAS_RESUMED:
		forks_forget(api);
		events_add(events, "resumed", "%s", "");
		break;
	case MACHINE_DEVICE_BROKEN:
		events_add(events, "device_needs_reset", ",\"device\":\"%s\"", news->device_id);
		break;
	case MACHINE_VSOCK_LISTENS:
		events_add(events, "vsock_listening", ",\"port\":%u", news->port);
		break;
	case MACHINE_ENDED:
		break; /* api_finish knows the exit code, too */
	}
}

/* An inherited descriptor has to be what we take it for: a listening Unix stream socket. */
static int check_listening(int fd, struct error *err)
{
	int domain = 0, type = 0, listening = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len))
		return error_set(err, -errno, "--api-fd: %d: %s (needs an open listening Unix socket)", fd,
				 strerror(errno));
	if (domain != AF_UNIX || type != SOCK_STREAM || !listening)
		return error_set(err, -ENOTSOCK, "--api-fd: %d is not a listening Unix stream socket", fd);
	/* However it was made: waiting for a client would stop the devices. And nothing we fork may keep it. */
	if (fcntl(fd, F_SETFL, O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return error_set(err, -errno, "--api-fd: %d: %s", fd, strerror(errno));
	return 0;
}

static int say_ready(int fd, struct error *err)
{
	if (fd < 0)
		return 0;
	if (RETRY_INTERRUPTED(write(fd, "\n", 1)) != 1)
		return error_set(err, -errno, "--ready-fd: %d: %s (needs an open descriptor that can be written)", fd,
				 strerror(errno));
	close(fd);
	return 0;
}

/* How long it took until the API answers, from the jailer's start on; Firecracker's metrics of the same names. */
static void count_startup(const struct api_options *options)
{
	struct timespec cpu;

	if (!options->start_time_us)
		return;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	metrics_set(api_server_process_startup_time_us, event_loop_now_ns() / 1000 - options->start_time_us);
	metrics_set(api_server_process_startup_time_cpu_us,
		    (uint64_t)cpu.tv_sec * 1000000 + (uint64_t)cpu.tv_nsec / 1000 - options->start_time_cpu_us +
			    options->parent_cpu_time_us);
}

int api_create(struct api **out, struct machine *machine, struct config *cfg, const struct timeline *timeline,
	       const struct api_options *options, struct error *err)
{
	struct api *api = calloc(1, sizeof(*api));
	int fd = options->listen_fd, ret = 0;

	if (!api)
		return error_set(err, -ENOMEM, "no memory for the API");
	*out = api;
	api->machine = machine;
	api->cfg = cfg;
	api->timeline = timeline;
	api->id = options->id;
	api->events.start_ns = timeline->start_ns;
	if (options->sock_path)
		fd = unix_socket_listen(options->sock_path, SERVER_MAX_CLIENTS, options->sock_name, err);
	else
		ret = check_listening(fd, err);
	if (ret || fd < 0)
		return ret ? ret : fd;
	api->sock_path = options->sock_path;
	ret = server_create(&api->server, machine_loop(machine), fd, options->body_max, api_serve, api, err);
	if (ret)
		return ret;
	ret = forks_create(api, options->fork_fd, err);
	if (ret)
		return ret;
	machine_listen(machine, on_machine, api);
	count_startup(options);
	return say_ready(options->ready_fd, err);
}

void api_finish(struct api *api, int exit_code)
{
	struct machine_result result;

	if (!api)
		return;
	if (api->server) {
		result = machine_result(api->machine);
		events_add(&api->events, "ended", ",\"reason\":\"%s\",\"exit_code\":%d", end_name(result.end),
			   exit_code);
		events_close(&api->events);
	}
	if (api->sock_path)
		unix_socket_remove(api->sock_path, "--api-sock");
}
