/* command_cp.c: `mayfly-run cp`: files out of and into a container, as tar streams. */
#include "commands.h"
#include "keeper.h"

int command_cp(struct options *o, const struct places *places)
{
	(void)o;
	(void)places;
	return EXIT_TOOL_FAILED;
}
