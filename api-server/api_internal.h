/* api_internal.h: what the files behind api.h share: a call on its way through them. */
#ifndef MAYFLY_API_INTERNAL_H
#define MAYFLY_API_INTERNAL_H

#include <jansson.h>

#include "api.h"
#include "events.h"
#include "server.h"
#include "snapshot/freeze.h"

/* PUT /fork, of which there is one at a time. */
struct forking {
	struct machine_waiter waiter; /* first */
	struct api *api;
	struct event_fd event;    /* the process that makes copies; fd -1: none */
	struct frozen frozen;     /* state_fd -1: it has run since, or was never */
	json_t *wanted;           /* NULL: none under way */
	bool is_asked;            /* … and it was sent */
	unsigned int nr_overlays; /* files made for it */
	struct client *client;
	bool resumes;
};

struct api {
	struct machine *machine;
	struct config *cfg;
	const struct timeline *timeline;
	const char *id;
	const char *sock_path;
	struct server *server;
	const char *last_stop; /* why the vCPUs last stopped, or NULL */
	struct events events;
	struct forking forking;
	struct sender *sender; /* the microVM goes through a stream, which pauses and resumes it; NULL: it does not */
};

/* One request that has been understood. */
struct call {
	struct api *api;
	struct client *client;
	const char *id;   /* the part of the path that names a drive or interface; else NULL */
	json_t *body;     /* NULL without one */
	json_t *answer;   /* set by the handler: 200 with it, else 204 */
	char *text;       /* or this, as text/plain; freed afterwards */
	int status;       /* set by a handler that fails with something else than 400 */
	bool is_answered; /* the handler answers itself, now or later */
};

/* 0, or a negative errno with the sentence for fault_message. */
typedef int call_handler(struct call *call, struct error *err);

/* resources.c */
call_handler get_boot_source, get_cpu_config, get_drive, get_drives, get_logger, get_machine_config, get_net, get_nets,
	get_serial, get_vm_config, get_vsock;
call_handler put_boot_source, put_cpu_config, put_drive, put_logger, put_machine_config, put_metrics, put_net,
	put_serial, put_vsock;
call_handler patch_machine_config;
call_handler delete_drive, delete_net, delete_vsock;

/* metadata.c */
call_handler get_mmds, put_mmds, patch_mmds, get_mmds_config, put_mmds_config;

/* running.c */
call_handler get_events, get_instance, get_metrics, get_version;
call_handler patch_drive, patch_net, patch_vm, put_actions;

/* snapshots.c */
call_handler put_snapshot_create, put_snapshot_load;

/* forks.c. forks_create: fd is the socket of fork_server_start, or -1. forks_forget: the guest runs on. */
call_handler put_fork;
int forks_create(struct api *api, int fd, struct error *err);
void forks_forget(struct api *api);

/* routes.c: find what a request asks for, do it, answer it. A server_handler. */
void api_serve(void *opaque, struct client *client, const struct http_request *request);

/* routes.c: answer a call that came without an answer at first; the latter with fault_message. */
void api_answer(struct client *client, int status, const json_t *json);
void api_answer_fault(struct client *client, int status, const char *sentence);

#endif
