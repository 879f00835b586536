/* spawn.h: other programs that a container needs: started so that they end with us, and known beyond their PID. */
#ifndef MAYFLY_CONTAINERS_SPAWN_H
#define MAYFLY_CONTAINERS_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "error.h"

struct spawn {
	const char
		*path; /* of the program; NULL: argv[0] is, and without a slash looked for in PATH, /usr/sbin, /sbin */
	const char *const *argv;
	const char *const *environment; /* NULL: ours */
	int in, out, err;               /* become descriptors 0 to 2; -1: /dev/null */
	const int *keep;  /* further descriptors that stay open under their numbers, ended by -1; NULL: none */
	int death_signal; /* what it gets when its parent dies; 0: nothing */
	bool new_session; /* what the terminal sends does not reach it */
	int netns;        /* descriptor of the network namespace that it runs in; 0: ours */
	int seconds;      /* spawn_run kills it then; 0: it may take as long as it wants */
};

/*
 * spawn_start - start a program; returns its PID, or a negative errno with the sentence when it could not be executed
 * The caller waits for it.
 */
pid_t spawn_start(const struct spawn *what, struct error *err);

/* spawn_run - start it and wait for its end; 0, or an error with the sentence: -EIO its status
 * is not 0, -ETIMEDOUT it was killed. */
int spawn_run(const struct spawn *what, struct error *err);

/* A process that stays the same one: PIDs are used again, a PID with its start time is not. */
struct process {
	pid_t pid; /* 0: none */
	uint64_t start;
};

/* process_find - what pid is now; .pid is 0 when there is none. */
struct process process_find(pid_t pid);

/* process_signal - send it a signal; -ESRCH when it has ended. */
int process_signal(const struct process *process, int number);

/* process_open - a pidfd of that very process, -ESRCH when it has ended. */
int process_open(const struct process *process);

/*
 * process_end - end it with SIGTERM, and with SIGKILL after patience_ms. Returns whether it is gone; true as well when
 * it was none of ours any more.
 */
bool process_end(const struct process *process, int patience_ms);

#endif
