/* terminal.h: the user's terminal while it is the guest's: raw, and as it was afterwards, whatever happens. */
#ifndef MAYFLY_CONTAINERS_TERMINAL_H
#define MAYFLY_CONTAINERS_TERMINAL_H

#include <stdbool.h>

/* terminal_raw - every key is the guest's from now on. False: fd is no terminal. Once in a process. */
bool terminal_raw(int fd);

/* terminal_restore - as it was before; nothing to do when it was not made raw. Safe in a signal handler. */
void terminal_restore(void);

/* terminal_size - of the terminal fd; false when it is none or does not know. */
bool terminal_size(int fd, unsigned int *rows, unsigned int *cols);

#endif
