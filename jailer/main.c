/* main.c: arguments in, a jailed program or an exit code out. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "exit_codes.h"
#include "jail.h"

int main(int argc, char **argv)
{
	static struct jail jail;
	struct error err = { 0 };

	jail.errors = STDERR_FILENO;
	if (options_parse(argc, argv, &jail.options, &err))
		return jail_fail(&jail, &err, EXIT_BAD_ARGUMENTS);
	switch (jail.options.action) {
	case OPTIONS_HELP:
		options_help(stdout);
		return 0;
	case OPTIONS_VERSION:
		printf("Jailer v" MAYFLY_VERSION "\n");
		return 0;
	case OPTIONS_RUN:
		break;
	}
	return jail_run(&jail);
}
