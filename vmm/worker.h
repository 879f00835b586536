/* worker.h: threads that do one thing beside the event loop. */
#ifndef MAYFLY_WORKER_H
#define MAYFLY_WORKER_H

#include <pthread.h>

/*
 * worker_start - run main(arg) on a thread with a small stack and all signals blocked, for these are the event loop's
 * name (up to 15 letters, living for ever) is what the host shows. Who starts one joins it. 0 or a negative errno.
 */
int worker_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg);

#endif
