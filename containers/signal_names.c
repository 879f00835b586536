/* signal_names.c: signals by the names that people give them. */
#include "signal_names.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "jailer/words.h"

#define LAST 64

/* By their numbers; Linux' on x86 and Arm. */
static const char *const names[] = { "",       "HUP",  "INT",    "QUIT", "ILL",   "TRAP", "ABRT", "BUS",
				     "FPE",    "KILL", "USR1",   "SEGV", "USR2",  "PIPE", "ALRM", "TERM",
				     "STKFLT", "CHLD", "CONT",   "STOP", "TSTP",  "TTIN", "TTOU", "URG",
				     "XCPU",   "XFSZ", "VTALRM", "PROF", "WINCH", "IO",   "PWR",  "SYS" };

int signal_number(const char *text)
{
	unsigned int i;
	uint64_t n;

	if (words_number(text, &n))
		return n >= 1 && n <= LAST ? (int)n : -1;
	if (strncasecmp(text, "SIG", 3) == 0)
		text += 3;
	for (i = 1; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcasecmp(names[i], text) == 0)
			return (int)i;
	return -1;
}
