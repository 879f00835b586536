/* terminal.c: the user's terminal while it is the guest's: raw, and as it was afterwards, whatever happens. */
#include "terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* What the process's handlers have to find. */
static struct {
	struct termios before;
	int fd;
	volatile sig_atomic_t raw;
} terminal;

void terminal_restore(void)
{
	if (!terminal.raw)
		return;
	terminal.raw = 0;
	/* From the background this would stop us. */
	(void)signal(SIGTTOU, SIG_IGN);
	(void)tcsetattr(terminal.fd, TCSADRAIN, &terminal.before);
}

/* Our own mistakes must not leave a terminal that does not echo. */
static void die(int number)
{
	terminal_restore();
	(void)raise(number); /* SA_RESETHAND: as it would have been */
}

bool terminal_raw(int fd)
{
	static const int deadly[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP };
	struct sigaction action = { .sa_handler = die, .sa_flags = (int)SA_RESETHAND };
	struct termios raw;
	unsigned int i;

	if (tcgetattr(fd, &terminal.before))
		return false;
	raw = terminal.before;
	cfmakeraw(&raw);
	for (i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
		(void)sigaction(deadly[i], &action, NULL);
	(void)atexit(terminal_restore);
	terminal.fd = fd;
	if (tcsetattr(fd, TCSADRAIN, &raw))
		return false;
	terminal.raw = 1;
	return true;
}

bool terminal_size(int fd, unsigned int *rows, unsigned int *cols)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) || !size.ws_row || !size.ws_col)
		return false;
	*rows = size.ws_row;
	*cols = size.ws_col;
	return true;
}
