/* forks.c: PUT /fork: copies of a microVM, made by the process that was split off for it. */
#include "forks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api_internal.h"
#include "block.h"
#include "fork_server.h"
#include "inherited.h"
#include "json.h"
#include "retry.h"
#include "snapshot/freeze.h"
#include "snapshots.h"
#include "text.h"

#define ID_CHARACTERS "-"

/* ---- what is wanted ---- */

int fork_wish_parse(json_t *json, struct fork_wish *out, struct error *err)
{
	static const struct json_field fields[] = {
		{ .name = "id",
		  .kind = JSON_FIELD_ID,
		  .extra = ID_CHARACTERS,
		  .required = true,
		  JSON_AT(struct fork_wish, id) },
		{ .name = "api_sock", .kind = JSON_FIELD_PATH, JSON_AT(struct fork_wish, api_sock) },
	};
	static const char *const not_here[] = { "snapshot_path", "mem_file_path",         "mem_backend",
						"huge_pages",    "enable_diff_snapshots", "record_working_set" };
	const struct json_where where = { .name = "copy" };
	json_t *own = json_object();
	unsigned int i;
	int ret;

	*out = (struct fork_wish){ .load = json };
	if (!json_is_object(json)) {
		json_decref(own);
		return json_fail_type(err, &where, json, "an object");
	}
	/* Two fields are the copy's, the others those of a load. */
	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		(void)json_object_set(own, fields[i].name, json_object_get(json, fields[i].name));
		(void)json_object_del(json, fields[i].name);
	}
	ret = json_read_object(own, &where, fields, sizeof(fields) / sizeof(fields[0]), out, err);
	json_decref(own);
	if (ret)
		return ret;
	for (i = 0; i < sizeof(not_here) / sizeof(not_here[0]); i++) {
		if (json_object_get(json, not_here[i]))
			return json_fail(err, &where, "%s: state and memory are this microVM's (leave paths out)",
					 not_here[i]);
	}
	/* Which are open; a load wants to be told of them all the same. */
	(void)json_object_set_new(json, "snapshot_path", json_string("(fork)"));
	(void)json_object_set_new(json, "mem_file_path", json_string("(fork)"));
	if (!json_object_get(json, "resume_vm"))
		(void)json_object_set_new(json, "resume_vm", json_true());
	return 0;
}

/* The member of a drive that names the file it writes to. */
static const char *written_member(const struct drive_config *drive)
{
	return drive->overlay_path[0] ? "overlay_path" : "path_on_host";
}

/* What a copy has in the place of that file; NULL: nothing. */
static const char *new_path_of(const json_t *copy, const struct drive_config *drive)
{
	const json_t *list = json_object_get(copy, "drive_overrides"), *entry;
	size_t i;

	json_array_foreach(list, i, entry)
	{
		const char *id = json_string_value(json_object_get(entry, "drive_id"));

		if (id && strcmp(id, drive->drive_id) == 0)
			return json_string_value(json_object_get(entry, written_member(drive)));
	}
	return NULL;
}

/* Two microVMs that write to one disk destroy it, and neither would know. */
static int check_disk(const json_t *list, size_t n, const struct drive_config *drive, struct error *err)
{
	const char *path = new_path_of(json_array_get(list, n), drive), *other;
	const char *own = drive->overlay_path[0] ? drive->overlay_path : drive->path_on_host;
	size_t i;

	if (!path || strcmp(path, own) == 0)
		return error_set(err, -EINVAL,
				 "copies[%zu]: drive \"%s\" can be written to, and two microVMs cannot share it (needs "
				 "drive_overrides with a %s of its own)",
				 n, drive->drive_id, written_member(drive));
	if (inherited_is_name(path))
		return error_set(
			err, -EINVAL,
			"copies[%zu]: drive \"%s\": %s: a copy has no descriptors of the first one's (needs a path)", n,
			drive->drive_id, text_path_shown(path));
	for (i = 0; i < n; i++) {
		other = new_path_of(json_array_get(list, i), drive);
		if (other && strcmp(other, path) == 0)
			return error_set(err, -EINVAL, "copies[%zu]: drive \"%s\" has the file of copies[%zu]", n,
					 drive->drive_id, i);
	}
	return 0;
}

/* What every copy has to have, before anything is done. */
static int check_copies(const struct config *cfg, const json_t *list, struct error *err)
{
	const json_t *copy;
	unsigned int i;
	size_t n;
	int ret = 0;

	json_array_foreach(list, n, copy)
	{
		for (i = 0; i < cfg->nr_drives && !ret; i++) {
			if (!cfg->drives[i].is_read_only)
				ret = check_disk(list, n, &cfg->drives[i], err);
		}
	}
	return ret;
}

static int read_list(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	if (!json_is_array(json) || !json_array_size(json) || json_array_size(json) > FORK_MAX_COPIES)
		return json_fail(err, where, "not a list of 1 to %d", FORK_MAX_COPIES);
	*(const json_t **)dst = json;
	return 0;
}

static int parse_list(const json_t *body, const json_t **list, struct error *err)
{
	static const struct json_field fields[] = {
		{ .name = "copies", .kind = JSON_FIELD_SUB, .required = true, .parse = read_list },
	};
	const struct json_where where = { .name = "fork" };

	return json_read_object(body, &where, fields, 1, (void *)list, err);
}

/* ---- disks ---- */

/* The drive's overlay as it is now, in a new file at path. */
static int clone_overlay(struct block *blk, const char *drive_id, const char *path, struct error *err)
{
	int fd = RETRY_INTERRUPTED(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)), ret;

	if (fd < 0)
		return error_set(err, -errno, "drives[%s].overlay_path: %s: %s (needs a new file below --allow-path)",
				 drive_id, text_path_shown(path), strerror(errno));
	ret = block_clone_overlay(blk, fd, err);
	close(fd);
	if (ret)
		(void)unlink(path);
	return ret;
}

/* Each copy's overlays: made, or (made: how many of them all there are) taken back. */
static unsigned int each_overlay(struct api *api, unsigned int most, bool make, int *ret, struct error *err)
{
	const json_t *copy;
	unsigned int done = 0, i;
	const char *path;
	size_t n;

	json_array_foreach(api->forking.wanted, n, copy)
	{
		for (i = 0; i < api->cfg->nr_drives; i++) {
			const struct drive_config *drive = &api->cfg->drives[i];

			if (!drive->overlay_path[0] || drive->is_read_only)
				continue;
			path = new_path_of(copy, drive);
			if (done == most || *ret)
				return done;
			if (make)
				*ret = clone_overlay(machine_drive(api->machine, i), drive->drive_id, path, err);
			else
				(void)unlink(path);
			done += !*ret;
		}
	}
	return done;
}

static int make_overlays(struct api *api, struct error *err)
{
	int ret = 0, gone = 0;

	api->forking.nr_overlays = each_overlay(api, UINT_MAX, true, &ret, err);
	if (ret)
		each_overlay(api, api->forking.nr_overlays, false, &gone, NULL);
	if (ret)
		api->forking.nr_overlays = 0;
	return ret;
}

/* ---- the call ---- */

static void answer_copies(struct api *api, const json_t *pids)
{
	struct forking *f = &api->forking;
	json_t *list = json_array(), *copy;
	size_t i;

	json_array_foreach(f->wanted, i, copy)
	{
		(void)json_array_append_new(list, json_pack("{s:O, s:O, s:O*}", "id", json_object_get(copy, "id"),
							    "pid", json_array_get(pids, i), "api_sock",
							    json_object_get(copy, "api_sock")));
	}
	list = json_pack("{s:o}", "copies", list);
	api_answer(f->client, 200, list);
	json_decref(list);
}

static void finish(struct api *api, const json_t *pids, const struct error *err)
{
	struct forking *f = &api->forking;

	int ret = 0;

	if (!pids)
		each_overlay(api, f->nr_overlays, false, &ret, NULL);
	if (pids)
		answer_copies(api, pids);
	else
		api_answer_fault(f->client, 400, err->message);
	f->nr_overlays = 0;
	json_decref(f->wanted);
	f->wanted = NULL;
	f->client = NULL;
	f->is_asked = false;
}

static void on_answer(struct event_fd *ev, uint32_t events)
{
	struct api *api = ev->opaque;
	struct error err = { 0 };
	json_t *pids = fork_server_answer(ev->fd, &err);

	(void)events;
	if (!pids && err.code == -ECHILD) {
		/* Nobody is there any more, and the loop would never sleep. */
		event_loop_remove(machine_loop(api->machine), ev);
		close(ev->fd);
		ev->fd = -1;
	}
	if (api->forking.is_asked)
		finish(api, pids, &err);
	json_decref(pids);
}

/* What it is right now, unless that is what it was the last time. */
static int freeze(struct api *api, struct error *err)
{
	struct forking *f = &api->forking;
	char *config;
	int ret;

	if (f->frozen.state_fd >= 0)
		return 0;
	config = snapshot_config(api->cfg);
	ret = config ? machine_freeze(api->machine, config, &f->frozen, err) : error_set(err, -ENOMEM, "no memory");
	if (ret)
		f->frozen.state_fd = -1;
	free(config);
	return ret;
}

static void on_paused(struct machine_waiter *waiter)
{
	struct forking *f = (struct forking *)(void *)waiter;
	struct api *api = f->api;
	struct error err = { 0 };
	int ret = machine_begin_save(api->machine, &err);

	if (!ret) {
		ret = freeze(api, &err);
		machine_saved(api->machine, NULL);
	}
	if (!ret)
		ret = make_overlays(api, &err);
	if (!ret && f->event.fd < 0)
		ret = error_set(&err, -ECHILD, "fork: the process that makes copies has ended");
	if (!ret)
		ret = fork_server_ask(f->event.fd, f->wanted, f->frozen.state_fd, f->frozen.memory_fd, &err);
	/* It goes on at once: what is copied does not change any more. */
	if (f->resumes)
		(void)machine_resume(api->machine, NULL);
	f->is_asked = true;
	if (ret)
		finish(api, NULL, &err);
}

int put_fork(struct call *call, struct error *err)
{
	struct api *api = call->api;
	struct forking *f = &api->forking;
	const json_t *list = NULL;
	int ret = parse_list(call->body, &list, err);

	if (f->event.fd < 0)
		return error_set(err, -EPERM, "This microVM cannot be copied (start Mayfly with --allow-fork).");
	if (f->wanted)
		return error_set(err, -EBUSY, "Copies are being made (wait for that answer first).");
	if (!ret)
		ret = check_copies(api->cfg, list, err);
	if (ret)
		return ret;
	f->wanted = json_deep_copy(list);
	f->client = call->client;
	f->resumes = machine_state(api->machine) == MACHINE_RUNNING;
	f->waiter.done = on_paused;
	f->api = api;
	call->is_answered = true;
	machine_pause(api->machine, &f->waiter);
	return 0;
}

/* ---- as part of the API ---- */

int forks_create(struct api *api, int fd, struct error *err)
{
	struct forking *f = &api->forking;
	int ret;

	f->frozen.state_fd = -1;
	f->event = (struct event_fd){ .fd = fd, .ready = on_answer, .opaque = api };
	if (fd < 0)
		return 0;
	ret = event_loop_add(machine_loop(api->machine), &f->event, EPOLLIN);
	return ret ? error_set(err, ret, "--allow-fork: %s", strerror(-ret)) : 0;
}

void forks_forget(struct api *api)
{
	struct forking *f = &api->forking;

	if (f->frozen.state_fd >= 0)
		close(f->frozen.state_fd);
	f->frozen.state_fd = -1;
}
