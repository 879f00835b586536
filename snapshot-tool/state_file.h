/* state_file.h: a whole state file in memory, checked as the loader checks it, but for what only KVM knows. */
#ifndef MAYFLY_SNAPSHOT_STATE_FILE_H
#define MAYFLY_SNAPSHOT_STATE_FILE_H

#include <jansson.h>
#include <sys/stat.h>

#include "config.h"
#include "error.h"
#include "snapshot/state.h"

struct state_file {
	const char *path;
	struct stat stat;
	uint8_t *data;
	size_t len;
	struct state_reader first; /* stands at the first record */
	struct state_info info;
	json_t *json; /* STATE_CONFIG */
	struct config config;
};

/*
 * state_file_read - read and check it; 0, or a negative errno with a sentence that begins with the path
 * What is read is in memory then, whatever becomes of the file. state_file_free in either case.
 */
int state_file_read(struct state_file *s, const char *path, struct error *err);
void state_file_free(struct state_file *s);

/* state_file_find - the record with this tag and index, NULL if there is none. */
const struct state_record *state_file_find(const struct state_file *s, uint32_t tag, uint32_t index);

/* state_file_config - JSON into a configuration, as Mayfly reads it; config is initialized. 0, or a negative errno with
 * a sentence that begins with the field. */
int state_file_config(const json_t *json, struct config *config, struct error *err);

#endif
