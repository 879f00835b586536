/* keeper.h: the process that keeps one container: starts its machine, relays its streams, records its end, cleans up.
 */
#ifndef MAYFLY_CONTAINERS_KEEPER_H
#define MAYFLY_CONTAINERS_KEEPER_H

#include <jansson.h>
#include <stdbool.h>

#include "agent_client.h"
#include "error.h"
#include "instance.h"
#include "machine_start.h"
#include "places.h"

/* As podman's: the tool itself failed. 126 and 127, the command cannot be run or is not there, come from the guest. */
#define EXIT_TOOL_FAILED 125

struct keeper {
	const struct places *places;
	struct instance *instance; /* created, its lock ours */
	struct machine_config config;
	struct request *main; /* the agent's request that starts the command */
	json_t *status;       /* what is known so far: name, image, command ... */
	int in, out, err;     /* the command's streams; -1: none */
	bool tty;             /* in is to be raw, and its size the command's terminal's */
	bool log;             /* for `logs` */
	bool remove;          /* leave nothing behind, not even the status */
	int ready;            /* gets a byte once the command runs, and is closed in any case; -1: nobody asks */
	int control; /* listens for words (control.h); the command waits for "start", and who started us removes what
			is left. 0: there is none, and it runs at once */
	/* The guest is there, its command not yet started; NULL: nothing more to do. Returns 0 or an error. */
	int (*prepare)(struct keeper *keeper, struct error *err);
	void *owner; /* for prepare */
};

/*
 * keeper_run - keep the container until its end. SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2 go to the command.
 * Returns what `podman run` would end with, with the sentence in err when that is not the command's own status. The
 * network and drives of config are closed. Once in a process.
 */
int keeper_run(struct keeper *keeper, struct error *err);

#endif
