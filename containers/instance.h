/* instance.h: the folder of one container: its id, name, lock and what is known of it, kept by one process. */
#ifndef MAYFLY_CONTAINERS_INSTANCE_H
#define MAYFLY_CONTAINERS_INSTANCE_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>

#include "error.h"
#include "places.h"
#include "spawn.h"

#define INSTANCE_ID_LEN   12 /* lower-case hexadecimal digits */
#define INSTANCE_NAME_MAX 63

/* Names in an instance's folder. */
#define INSTANCE_LOCK   "lock"
#define INSTANCE_CONFIG "config.json" /* of the microVM */
#define INSTANCE_STATUS "status.json"
#define INSTANCE_LOG    "log"
#define INSTANCE_VSOCK  "vsock" /* the folder that the jail sees: whatever is in it may be hostile */
#define INSTANCE_SOCKET "v"     /* in that folder */

struct instance {
	char id[INSTANCE_ID_LEN + 1];
	char path[PATH_MAX];
	int dir;
	int lock; /* held by the keeper as long as it lives; -1: not ours */
};

/* instance_make_id - a random id. */
int instance_make_id(char id[INSTANCE_ID_LEN + 1], struct error *err);

/* What an instance is by its status and its lock. */
enum instance_state { INSTANCE_CREATED, INSTANCE_RUNNING, INSTANCE_EXITED, INSTANCE_DEAD };

/* instance_state_name - created, running, exited, or dead: its keeper was killed and left it. */
const char *instance_state_name(enum instance_state state);

/*
 * instance_create - make the folder of a new instance, with a random id, and take its lock
 * name may be NULL; -EEXIST when another instance has it. Close it when done; the lock goes with that.
 */
int instance_create(const struct places *places, const char *name, struct instance *out, struct error *err);

/*
 * instance_open - an instance by its id, the beginning of its id that no other has, or its name
 * The lock is not taken. -ENOENT with the sentence when there is none.
 */
int instance_open(const struct places *places, const char *reference, struct instance *out, struct error *err);

void instance_close(struct instance *instance);

/* instance_try_lock - take the lock of an instance whose keeper is gone; false: it lives. places NULL: it is in another
 * folder, whose owner sees to it that none is looked at while it comes into being. */
bool instance_try_lock(const struct places *places, struct instance *instance);

/* instance_save - write its status: another file takes the place of the one before. Only for who has the lock. */
int instance_save(const struct instance *instance, json_t *status, struct error *err);

/* instance_load - read its status; *out is the caller's (json_decref). */
int instance_load(const struct instance *instance, json_t **out, struct error *err);

/* instance_state - what it is now. The lock is looked at together with whoever else looks, and not kept. places: as for
 * instance_try_lock. */
enum instance_state instance_state(const struct places *places, struct instance *instance, json_t *status);

/* instance_jails - the folder that the jailer makes its jail in: for users in the instance's own, for root in data. */
void instance_jails(const struct places *places, const struct instance *instance, char out[PATH_MAX]);

/* instance_remove_jail - what a jailer left that was killed; for users it goes with the instance's folder. */
int instance_remove_jail(const struct places *places, const struct instance *instance, struct error *err);

/* instance_tidy - once its machine has ended, remove what was there for the machine. */
void instance_tidy(const struct instance *instance);

/*
 * instance_remove - end the processes that its status names, as far as they still run, and remove all of it
 * For who has the lock, which the caller still closes. Follows no link. Returns 0, or an error when something is left.
 */
int instance_remove(const struct places *places, struct instance *instance, struct error *err);

/*
 * instance_each - call visit with every instance, oldest id order not promised; a visit that is not 0 ends it
 * Folders that vanish meanwhile, and whatever is no instance, are passed over. Returns the last visit's answer.
 */
int instance_each(const struct places *places, int (*visit)(struct instance *, void *), void *arg, struct error *err);

/* status_process, status_set_process - a process in a status: its PID and start time. */
struct process status_process(json_t *status, const char *key);
void status_set_process(json_t *status, const char *key, const struct process *process);

/* instance_is_name - 1 to 63 letters, digits, _, . or -, a letter or digit first. */
bool instance_is_name(const char *text);

#endif
