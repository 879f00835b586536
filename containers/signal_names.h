/* signal_names.h: signals by the names that people give them. */
#ifndef MAYFLY_CONTAINERS_SIGNAL_NAMES_H
#define MAYFLY_CONTAINERS_SIGNAL_NAMES_H

/* signal_number - of "15", "TERM", "SIGTERM" or "sigterm"; -1 for what is no signal. */
int signal_number(const char *text);

#endif
