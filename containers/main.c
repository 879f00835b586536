/* main.c: arguments in, a container's exit status out. */
#include <stdio.h>

#include "commands.h"
#include "keeper.h"

static int run(struct options *options)
{
	static int (*const commands[COMMANDS])(struct options *, const struct places *) = {
		[COMMAND_RUN] = command_run,         [COMMAND_PS] = command_ps,     [COMMAND_EXEC] = command_exec,
		[COMMAND_LOGS] = command_logs,       [COMMAND_STOP] = command_stop, [COMMAND_KILL] = command_kill,
		[COMMAND_RM] = command_rm,           [COMMAND_CP] = command_cp,     [COMMAND_WAIT] = command_wait,
		[COMMAND_INSPECT] = command_inspect,
	};
	static struct places places;
	struct error err = { 0 };

	if (places_open(&places, &err))
		return complain(&err, EXIT_TOOL_FAILED);
	return commands[options->command](options, &places);
}

int main(int argc, char **argv)
{
	struct options options;
	struct error err = { 0 };
	int status = 0;

	if (options_parse(argc, argv, &options, &err))
		status = complain(&err, EXIT_TOOL_FAILED);
	else if (options.action == ACTION_HELP)
		options_help(stdout, options.command);
	else if (options.action == ACTION_WORDS)
		options_words(stdout, options.command);
	else if (options.action == ACTION_VERSION)
		printf(RUN_NAME " " MAYFLY_VERSION "\n");
	else
		status = run(&options);
	options_free(&options);
	return status;
}
