/* oci_state.h: the folder of one OCI container below --root: its lock, what it is, and how its keeper is spoken to. */
#ifndef MAYFLY_CONTAINERS_OCI_STATE_H
#define MAYFLY_CONTAINERS_OCI_STATE_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>

#include "error.h"
#include "instance.h"

/* Names in the folder, besides those of instance.h. */
#define OCI_CONTROL "control" /* the keeper listens here */
#define OCI_PAUSED  "paused"  /* there while it is */
#define OCI_API     "api"     /* the microVM's REST API */

#define OCI_ID_MAX 200

struct oci_container {
	char id[OCI_ID_MAX + 1];
	struct instance machine; /* the folder as the machine's parts know it; machine.id names jail and user */
	json_t *state;           /* what its status.json says */
};

/*
 * oci_state_create - make the folder of a new container and take its lock; -EEXIST when there is one of this id
 * What a keeper that was killed left under the id does not count. root NULL: /run/mayfly-oci, for users below
 * XDG_RUNTIME_DIR.
 */
int oci_state_create(const char *root, const char *id, struct oci_container *out, struct error *err);

/* oci_state_open - the container of this id. -ENOENT with engines' own words, "does not exist". */
int oci_state_open(const char *root, const char *id, struct oci_container *out, struct error *err);

void oci_state_close(struct oci_container *container);

/* oci_state_lock - take the lock, which whoever only looks has for moments; false: it is kept, or gone. */
bool oci_state_lock(struct oci_container *container);

/*
 * oci_state_settle - for who is to delete a container: wait until one that comes into being has a state, and remove
 * what has none since its creator was killed. Returns 0: there is a container; -ENOENT: there is none.
 */
int oci_state_settle(const char *root, const char *id, struct error *err);

/* oci_state_save - write container->state to the folder; another file takes the place of the one before. */
int oci_state_save(const struct oci_container *container, struct error *err);

/*
 * oci_state_status - creating, created, running, paused or stopped
 * As status.json says while the keeper lives, which the lock tells; stopped otherwise. *pid is the keeper's, 0:
 * stopped. While it is creating, nobody answers at its socket.
 */
const char *oci_state_status(struct oci_container *container, int *pid);

/* oci_state_describe - the state as engines and hooks are told it, which the caller releases; NULL: no memory. */
json_t *oci_state_describe(const struct oci_container *container, const char *status, int pid);

/* oci_state_text - a text of the state, "" when it has none. */
const char *oci_state_text(const struct oci_container *container, const char *key);

/* oci_state_process - a process that the state names. */
struct process oci_state_process(const struct oci_container *container, const char *key);

/* oci_state_remove - remove the folder. For who has the lock. */
int oci_state_remove(const char *root, struct oci_container *container, struct error *err);

/* oci_state_each - call visit with every container; a visit that is not 0 ends it. Returns the last visit's answer. */
int oci_state_each(const char *root, int (*visit)(struct oci_container *, void *), void *arg, struct error *err);

/* oci_control_listen, oci_control_dial - the socket in the folder (name: OCI_CONTROL or OCI_API). A descriptor, or an
 * error: -ETIMEDOUT: there is somebody who does not answer. */
int oci_control_listen(const struct oci_container *container, const char *name, int type, struct error *err);
int oci_control_dial(const struct oci_container *container, const char *name, int type, struct error *err);

/* oci_control_ask - one word to the keeper, and its answer within patience_ms, else -ETIMEDOUT; another error is the
 * sentence that the keeper answered, or says that there is none. */
int oci_control_ask(const struct oci_container *container, const char *word, int patience_ms, struct error *err);

#endif
