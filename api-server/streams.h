/* streams.h: PUT /snapshot/create and PUT /snapshot/load where a socket takes the place of files. */
#ifndef MAYFLY_STREAMS_H
#define MAYFLY_STREAMS_H

#include "api_internal.h"
#include "snapshots.h"

/*
 * send_stream - send the microVM through the socket of that name (snapshot/stream.h); the call is answered at the end
 * stream_load - what snapshot_load does with such a name: loaded is called later if this returns 0. 0, or a negative
 * errno with a sentence. Loop thread.
 */
int send_stream(struct call *call, const char *name, struct error *err);
int stream_load(struct machine *m, struct config *cfg, json_t *body, const char *name, snapshot_loaded_fn *loaded,
		void *opaque, struct error *err);

#endif
