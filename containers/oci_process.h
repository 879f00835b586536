/* oci_process.h: what a process is to the guest's agent, and its terminal, which engines keep. */
#ifndef MAYFLY_CONTAINERS_OCI_PROCESS_H
#define MAYFLY_CONTAINERS_OCI_PROCESS_H

#include "agent_client.h"
#include "error.h"
#include "oci_spec.h"

/* oci_process_request - the request that starts it: op is main or exec. */
void oci_process_request(const struct oci_process *process, const char *op, bool root_read_only, struct request *out);

/*
 * oci_console_open - make a terminal, send its master to the engine's socket, and make it ours to watch
 * Returns the slave, which is the controlling terminal of this process from then on (it has to lead a session without
 * one), and its descriptors 0 to 2 as well.
 */
int oci_console_open(const char *socket_path, const struct oci_process *process, struct error *err);

/*
 * oci_keeper_await - wait for the first word of a keeper that was just forked, through the pipe that it writes to
 * Returns 0 at a zero byte: all is well, and it goes on. Otherwise it has ended, and err is its sentence, or killed.
 */
int oci_keeper_await(int fd, pid_t keeper, const char *killed, struct error *err);

/* oci_keeper_wait - wait for the keeper's end, and hand on what signals we get meanwhile. Returns its exit status. */
int oci_keeper_wait(pid_t keeper);

/* oci_pid_write - the file that engines read a PID from: whole from the moment that it has its name. */
int oci_pid_write(const char *path, int pid, struct error *err);

#endif
