/* main.c: arguments in, exit code out. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "api.h"
#include "args.h"
#include "config.h"
#include "config_json.h"
#include "exit_codes.h"
#include "fork_server.h"
#include "forks.h"
#include "jail.h"
#include "log.h"
#include "machine.h"
#include "metrics.h"
#include "probe.h"
#include "retry.h"
#include "snapshot/state.h"
#include "snapshots.h"
#include "syscall_filter.h"
#include "text.h"
#include "timeline.h"

static int fail(const struct error *err, int code)
{
	char shown[sizeof(err->message) + 64];

	/* Whichever file it was that found no free descriptor: another host, or a higher limit, would do. */
	if (code == EXIT_BAD_CONFIG && (err->code == -EMFILE || err->code == -ENFILE))
		code = EXIT_HOST_CANNOT;
	text_escape(shown, sizeof(shown), err->message, strlen(err->message));
	dprintf(STDERR_FILENO, "mayfly: %s\n", shown);
	return code;
}

/*
 * A caller that closed standard input, output or error would have the next file we open take its number, and a disk
 * would receive what the guest prints. One system call when all is well.
 */
static void occupy_standard_fds(void)
{
	struct pollfd fds[3] = { { .fd = STDIN_FILENO }, { .fd = STDOUT_FILENO }, { .fd = STDERR_FILENO } };
	unsigned int i;

	if (poll(fds, 3, 0) <= 0)
		return;
	for (i = 0; i < 3; i++) {
		/* The lowest free number is the one that is missing. */
		if ((fds[i].revents & POLLNVAL) && open("/dev/null", O_RDWR) != fds[i].fd)
			_exit(EXIT_HOST_CANNOT);
	}
}

/* Signals of supervisors count as 128 + signal, as a shell would say it. */
static int exit_code(const struct machine_result *result)
{
	switch (result->end) {
	case MACHINE_GUEST_OFF:
		if (!result->has_guest_status)
			return EXIT_GUEST_OK;
		log_info("the guest shut down with status %u", result->guest_status);
		return result->guest_status <= EXIT_GUEST_MAX ? (int)result->guest_status : EXIT_GUEST_MAX;
	case MACHINE_GUEST_CRASH:
		log_error("the guest crashed");
		return EXIT_GUEST_CRASHED;
	case MACHINE_HOST_ERROR:
		return EXIT_INTERNAL_ERROR;
	case MACHINE_SIGNAL:
		log_info("ended by signal %d", result->signal);
		return 128 + result->signal;
	case MACHINE_QUIT:
		log_info("ended from the console");
		return EXIT_GUEST_OK;
	}
	return EXIT_INTERNAL_ERROR;
}

/* Starting up went deeper down the stack than serving the guest ever will: the host gets those pages back. */
static void give_back_stack(void)
{
	const uintptr_t page = 4096, most = 32 * page;
	uintptr_t here = (uintptr_t)__builtin_frame_address(0) & -page;

	/* One page for what this call itself needs. Where the stack is shorter, -ENOMEM comes after the part that is
	 * there. */
	(void)madvise((void *)(here - page - most), most, MADV_DONTNEED);
}

/* A signal or the console can end a microVM that was never started, too. *failed: 0, or why there is none. */
static int serve(struct machine *machine, struct api *api, const int *failed)
{
	struct machine_result result;
	int code;

	give_back_stack();
	result = machine_run(machine);
	code = *failed ? *failed : exit_code(&result);
	api_finish(api, code);
	return code;
}

static int start(struct machine *machine, struct error *err)
{
	enum board_blame blame;

	if (!machine_start(machine, &blame, err))
		return 0;
	return fail(err, blame == BLAME_CONFIG ? EXIT_BAD_CONFIG : EXIT_HOST_CANNOT);
}

/* A microVM that comes from somewhere else. */
struct loading {
	struct machine *machine;
	int code; /* 0 unless it could not be loaded */
};

static void on_loaded(void *opaque, int ret, enum board_blame blame, const struct error *err)
{
	struct loading *l = opaque;

	if (!ret)
		return;
	l->code = fail(err, blame == BLAME_CONFIG ? EXIT_BAD_CONFIG : EXIT_HOST_CANNOT);
	event_loop_stop(machine_loop(l->machine));
}

/* As a PUT /snapshot/load with resume_vm, for who needs no answer. What comes through a socket is there later. */
static int load(struct loading *l, struct config *cfg, const struct args *args, struct error *err)
{
	json_t *body = snapshot_body(args->load_snapshot, args->memory, args->override, err);
	enum board_blame blame = BLAME_CONFIG;
	int ret = body ? snapshot_load(l->machine, cfg, body, on_loaded, l, &blame, err) : err->code;

	json_decref(body);
	if (!ret || ret == SNAPSHOT_COMES)
		return 0;
	return fail(err, blame == BLAME_CONFIG ? EXIT_BAD_CONFIG : EXIT_HOST_CANNOT);
}

/* ---- copies (--allow-fork) ---- */

/* What the process that makes copies was split off from: the same command line, the same jail. */
struct origin {
	const struct args *args;
	struct jail *jail;
	int fd; /* its socket */
};

static int confine_copies(void *opaque, int fd, struct error *err)
{
	const struct origin *origin = opaque;
	int ret = jail_fork_server(origin->jail, fd, err);

	if (ret || origin->args->no_seccomp)
		return ret;
	seccomp_forked();
	return seccomp_install(FILTER_COPIES, err);
}

static int begin_copy(struct machine **machine, struct api **api, struct config *cfg, struct timeline *timeline,
		      const struct origin *origin, const struct fork_wish *wish, int state_fd, int memory_fd,
		      struct error *err)
{
	static struct host_cpuid host_cpuid;
	const struct api_options options = {
		.id = wish->id,
		.sock_path = wish->api_sock[0] ? wish->api_sock : NULL,
		.sock_name = "copy.api_sock",
		.listen_fd = -1,
		.ready_fd = -1,
		.fork_fd = -1,
		.body_max = origin->args->api_max_payload,
	};
	const struct snapshot_fds fds = { state_fd, memory_fd, false };
	enum board_blame blame;
	int ret = log_init(&cfg->log, wish->id, err);

	if (!ret)
		ret = machine_create(machine, cfg, origin->jail, timeline, &host_cpuid, err);
	if (!ret && options.sock_path)
		ret = api_create(api, *machine, cfg, timeline, &options, err);
	return ret ? ret : snapshot_load_fds(*machine, cfg, wish->load, &fds, &blame, err);
}

static int run_copy(void *opaque, json_t *wanted, int state_fd, int memory_fd, int report_fd)
{
	static struct config cfg;
	static struct timeline timeline;
	static struct fork_wish wish;
	struct origin *origin = opaque;
	struct machine *machine = NULL;
	struct api *api = NULL;
	struct error err = { 0 };
	int code = 0;

	timeline_begin(&timeline);
	seccomp_forked();
	config_init(&cfg);
	args_override(origin->args, &cfg);
	cfg.allow_fork = false; /* nobody would make copies of it */
	if (fork_wish_parse(wanted, &wish, &err))
		code = EXIT_BAD_CONFIG;
	origin->jail->api_sock = wish.api_sock[0] ? wish.api_sock : NULL;
	if (!code && begin_copy(&machine, &api, &cfg, &timeline, origin, &wish, state_fd, memory_fd, &err))
		code = EXIT_BAD_CONFIG;
	if (code && err.code == -EACCES) {
		const struct error why = err;

		error_set(&err, why.code, "%s; copies open only what is below --allow-path", why.message);
	}
	/* The process that waits for this makes a sentence of it. */
	(void)!RETRY_INTERRUPTED(write(report_fd, code ? err.message : "\n", code ? strlen(err.message) : 1));
	close(report_fd);
	if (!code)
		code = serve(machine, api, &code);
	else
		api_finish(api, code);
	machine_finish(machine);
	metrics_flush();
	return code;
}

static int allow_fork(struct origin *origin, struct error *err)
{
	origin->fd = -1;
	if (!origin->args->allow_fork)
		return 0;
	return fork_server_start(&origin->fd, confine_copies, run_copy, origin, err) ? fail(err, EXIT_HOST_CANNOT) : 0;
}

static int run(const struct args *args, int fork_fd, struct config *cfg, struct jail *jail, struct timeline *timeline,
	       struct host_cpuid *host_cpuid, struct error *err)
{
	const struct api_options options = {
		.fork_fd = fork_fd,
		.id = args->id,
		.sock_path = args->api_sock,
		.sock_name = "--api-sock",
		.listen_fd = (int)args->api_fd,
		.ready_fd = (int)args->ready_fd,
		.body_max = args->api_max_payload,
		.start_time_us = args->start_time_us,
		.start_time_cpu_us = args->start_time_cpu_us,
		.parent_cpu_time_us = args->parent_cpu_time_us,
	};
	struct loading loading = { 0 };
	struct machine *machine;
	struct api *api = NULL;
	int code = 0;

	if (machine_create(&machine, cfg, jail, timeline, host_cpuid, err))
		code = fail(err, EXIT_HOST_CANNOT);
	if (!code && args->metadata && api_load_metadata(machine, cfg, args->metadata, err))
		code = fail(err, EXIT_BAD_CONFIG);
	if (!code && !args->no_api && api_create(&api, machine, cfg, timeline, &options, err))
		code = fail(err, EXIT_BAD_CONFIG);
	if (!code && args->api_sock)
		log_info("The API answers on %s", args->api_sock);
	if (!code && args->config_file)
		code = start(machine, err);
	loading.machine = machine;
	if (!code && args->load_snapshot)
		code = load(&loading, cfg, args, err);
	if (!code)
		code = serve(machine, api, &loading.code);
	else
		api_finish(api, code);
	machine_finish(machine);
	return code;
}

static int read_filters(const struct args *args, struct error *err)
{
	if (args->no_seccomp)
		return 0;
	return seccomp_use(args->seccomp_filter, err) ? fail(err, EXIT_BAD_CONFIG) : 0;
}

/* Before anything else of the user's is read. */
static int confine(const struct args *args, struct error *err)
{
	if (args->no_seccomp)
		return 0;
	return seccomp_install(FILTER_STARTUP, err) ? fail(err, EXIT_HOST_CANNOT) : 0;
}

static int configure_and_run(const struct args *args, struct jail *jail, struct timeline *timeline, struct error *err)
{
	static struct config cfg; /* paths make it 30 KiB; only what is used is touched */
	static struct host_cpuid host_cpuid;
	struct origin origin = { .args = args, .jail = jail };
	int code;

	if (jail_allow(jail, args->allow_path, args->nr_allow_path, err) || jail_allow_fds(jail, args->allow_fds, err))
		return fail(err, EXIT_BAD_CONFIG);
	code = read_filters(args, err);
	if (!code)
		code = allow_fork(&origin, err);
	if (!code)
		code = confine(args, err);
	if (code)
		return code;
	/* Without a configuration nothing is about to start: the API should answer first, and it shares the CPUs. */
	if (args->config_file)
		host_cpuid_begin(&host_cpuid);
	config_init(&cfg);
	if (args->config_file && config_parse_file(args->config_file, &cfg, err))
		return fail(err, EXIT_BAD_CONFIG);
	args_override(args, &cfg);
	if (log_init(&cfg.log, args->id, err) || metrics_open(cfg.metrics_path, err))
		return fail(err, EXIT_BAD_CONFIG);
	if (args->no_seccomp)
		log_warn("--no-seccomp: this microVM runs without seccomp filters");
	metrics_set_labels(cfg.metrics_emit_id ? args->id : NULL, cfg.metrics_properties);
	timeline->wanted = args->boot_timer;
	timeline_mark(timeline, STEP_CONFIGURED);
	code = run(args, origin.fd, &cfg, jail, timeline, &host_cpuid, err);
	metrics_flush();
	return code;
}

/* What remains is for machine_start, which knows what the microVM needs. */
static int enter_jail(struct jail *jail, const struct args *args, struct error *err)
{
	const int named[] = { (int)args->api_fd, (int)args->ready_fd };

	jail->api_sock = args->api_sock;
	return jail_begin(named, sizeof(named) / sizeof(named[0]), err);
}

int main(int argc, char **argv)
{
	static struct timeline timeline;
	static struct jail jail;
	struct error err = { 0 };
	struct args args;

	timeline_begin(&timeline);
	/* Started from a descriptor, as a jailer does, it would be called by the descriptor's number before Linux 6.14.
	 */
	(void)prctl(PR_SET_NAME, program_invocation_short_name);
	occupy_standard_fds();
	if (args_parse(argc, argv, &args, &err))
		return fail(&err, EXIT_BAD_ARGUMENTS);
	switch (args.action) {
	case ARGS_HELP:
		args_help(stdout);
		return 0;
	case ARGS_VERSION:
		printf("Firecracker v%s API (Mayfly v%s)\n", FIRECRACKER_VERSION, MAYFLY_VERSION);
		return 0;
	case ARGS_PROBE:
		return probe_host();
	case ARGS_SNAPSHOT_VERSION:
		printf("v%d.%d.0\n", STATE_MAJOR, STATE_MINOR);
		return 0;
	case ARGS_DESCRIBE_SNAPSHOT:
		return snapshot_describe(args.describe_snapshot, &err) ? fail(&err, EXIT_BAD_CONFIG) : 0;
	case ARGS_RUN:
		break;
	}
	if (enter_jail(&jail, &args, &err))
		return fail(&err, EXIT_HOST_CANNOT);
	/* The kernel frees what is left, and ends the threads, faster than we could (docs/decisions.md, "the end of the
	 * process"). */
	_exit(configure_and_run(&args, &jail, &timeline, &err));
}
