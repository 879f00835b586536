/* oci_main.c: mayfly-oci: arguments in, exit status out. */
#include <stdio.h>
#include <stdlib.h>

#include "oci_commands.h"
#include "oci_spec.h"

int main(int argc, char **argv)
{
	static int (*const commands[OCI_COMMANDS])(const struct oci_options *, const struct places *,
						   struct error *) = {
		[OCI_CREATE] = oci_create, [OCI_START] = oci_start,       [OCI_STATE] = oci_state,
		[OCI_KILL] = oci_kill,     [OCI_DELETE] = oci_delete,     [OCI_EXEC] = oci_exec,
		[OCI_PS] = oci_ps,         [OCI_LIST] = oci_list,         [OCI_RUN] = oci_run,
		[OCI_PAUSE] = oci_pause,   [OCI_RESUME] = oci_resume,     [OCI_UPDATE] = oci_update,
		[OCI_EVENTS] = oci_events, [OCI_FEATURES] = oci_features, [OCI_SPEC] = oci_example,
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
