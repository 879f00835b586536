/* main.c: arguments in, exit code out. */
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "args.h"
#include "config.h"
#include "config_json.h"
#include "exit_codes.h"
#include "log.h"
#include "machine.h"
#include "metrics.h"
#include "probe.h"
#include "text.h"
#include "timeline.h"

static int fail(const struct error *err, int code)
{
	char shown[sizeof(err->message) + 64];

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

static int run(const struct config *cfg, struct timeline *timeline, struct host_cpuid *host_cpuid, struct error *err)
{
	struct machine_result result = { 0 };
	enum machine_blame blame;
	struct machine *machine;
	int code;

	if (machine_create(&machine, cfg, timeline, host_cpuid, &blame, err)) {
		code = fail(err, blame == BLAME_CONFIG ? EXIT_BAD_CONFIG : EXIT_HOST_CANNOT);
	} else {
		give_back_stack();
		code = machine_run(machine, &result, err) ? fail(err, EXIT_HOST_CANNOT) : exit_code(&result);
	}
	machine_finish(machine);
	return code;
}

static int configure_and_run(const struct args *args, struct timeline *timeline, struct error *err)
{
	static struct config cfg; /* paths make it 30 KiB; only what is used is touched */
	static struct host_cpuid host_cpuid;
	int code;

	host_cpuid_begin(&host_cpuid);
	config_init(&cfg);
	if (config_parse_file(args->config_file, &cfg, err))
		return fail(err, EXIT_BAD_CONFIG);
	args_override(args, &cfg);
	if (log_init(&cfg.log, args->id, err) || metrics_open(cfg.metrics_path, err))
		return fail(err, EXIT_BAD_CONFIG);
	metrics_set_labels(cfg.metrics_emit_id ? args->id : NULL, cfg.metrics_properties);
	timeline->wanted = args->boot_timer;
	timeline_mark(timeline, STEP_CONFIGURED);
	code = run(&cfg, timeline, &host_cpuid, err);
	metrics_flush();
	return code;
}

int main(int argc, char **argv)
{
	static struct timeline timeline;
	struct error err = { 0 };
	struct args args;

	timeline_begin(&timeline);
	occupy_standard_fds();
	if (args_parse(argc, argv, &args, &err))
		return fail(&err, EXIT_BAD_ARGUMENTS);
	switch (args.action) {
	case ARGS_HELP:
		args_help(stdout);
		return 0;
	case ARGS_VERSION:
		printf("Mayfly v%s\n", MAYFLY_VERSION);
		return 0;
	case ARGS_PROBE:
		return probe_host();
	case ARGS_RUN:
		break;
	}
	/* The kernel frees what is left, and ends the threads, faster than we could (docs/decisions.md, "the end of the
	 * process"). */
	_exit(configure_and_run(&args, &timeline, &err));
}
