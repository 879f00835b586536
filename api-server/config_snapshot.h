/* config_snapshot.h: the bodies of PUT /snapshot/create and PUT /snapshot/load. */
#ifndef MAYFLY_CONFIG_SNAPSHOT_H
#define MAYFLY_CONFIG_SNAPSHOT_H

#include <jansson.h>

#include "config.h"
#include "snapshot/create.h"

int config_parse_snapshot_create(const json_t *json, struct snapshot_request *out, struct error *err);

/* Where a snapshot is, and how it goes on. */
struct snapshot_source {
	char state_path[PATH_MAX];
	char memory_path[PATH_MAX];
	int state_fd, memory_fd; /* -1: to be opened */
	bool memory_is_ours;     /* memory_fd is a memfd that nobody else has */
	bool is_stream;          /* state and memory come from a socket named state_path (snapshot/stream.h) */
	bool by_handler;         /* a page-fault handler listens at memory_path (snapshot/uffd.h) */
	bool resume;
	bool track_dirty_pages;
	bool clock_realtime;
	bool record_working_set;
	bool huge_pages_given; /* else as in the snapshot */
	enum huge_pages huge_pages;
	json_t *metadata; /* the metadata service's new contents, of the body; NULL: the old ones */
};

/*
 * config_parse_snapshot_load - all that does not depend on the snapshot; config_override - the rest: change config, the
 * configuration that the snapshot has, by what the body gives anew. Whether that makes sense is for config_parse. 0 or
 * -EINVAL with a sentence.
 */
int config_parse_snapshot_load(const json_t *json, struct snapshot_source *out, struct error *err);
int config_override(const json_t *body, json_t *config, struct error *err);

#endif
