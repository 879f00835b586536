/* commands.h: the sub-commands of mayfly-run. Each says itself what went wrong, and returns the exit status. */
#ifndef MAYFLY_CONTAINERS_COMMANDS_H
#define MAYFLY_CONTAINERS_COMMANDS_H

#include "agent_client.h"
#include "options.h"
#include "places.h"

int command_run(struct options *options, const struct places *places);
int command_exec(struct options *options, const struct places *places);
int command_ps(struct options *options, const struct places *places);
int command_logs(struct options *options, const struct places *places);
int command_stop(struct options *options, const struct places *places);
int command_kill(struct options *options, const struct places *places);
int command_rm(struct options *options, const struct places *places);
int command_cp(struct options *options, const struct places *places);
int command_wait(struct options *options, const struct places *places);
int command_inspect(struct options *options, const struct places *places);

/* complain - one line on standard error, fit for a terminal; returns status. */
int complain(const struct error *err, int status);

/* process_request - what run and exec have in common: user, folder, environment, terminal. */
int process_request(struct request *request, const struct options *options, struct error *err);

#endif
