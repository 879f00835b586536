/* worker.c: threads that do one thing beside the event loop. */
#include "worker.h"

#include <signal.h>

/* Plenty for a handful of system calls, also with sanitizers; untouched pages of it cost nothing. */
#define STACK_SIZE (256u << 10)

int worker_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int ret;

	ret = pthread_attr_init(&attr);
	if (ret)
		return -ret;
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(thread, &attr, main, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (!ret)
		pthread_setname_np(*thread, name);
	return -ret;
}
