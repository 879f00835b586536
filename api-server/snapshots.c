/* snapshots.c: PUT /snapshot/create and PUT /snapshot/load. */
#include "snapshots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "api_internal.h"
#include "config_dump.h"
#include "config_json.h"
#include "config_snapshot.h"
#include "inherited.h"
#include "json.h"
#include "log.h"
#include "metrics.h"
#include "mmds/mmds.h"
#include "retry.h"
#include "snapshot/cpu_check.h"
#include "snapshot/create.h"
#include "snapshot/memory_file.h"
#include "streams.h"
#include "text.h"

#define HANDLER_PREFIX "uffd:" /* of --memory */

/* ---- create ---- */

struct creating {
	struct api *api;
	struct client *client; /* NULL once it was answered */
	uint64_t since_ns;
	struct snapshot_request request;
};

static void answer_create(struct creating *c, const struct error *failure)
{
	uint64_t took_us = (event_loop_now_ns() - c->since_ns) / 1000;

	if (c->request.diff)
		metrics_set(latencies_us_diff_create_snapshot, took_us);
	else
		metrics_set(latencies_us_full_create_snapshot, took_us);
	if (failure)
		api_answer_fault(c->client, 400, failure->message);
	else
		api_answer(c->client, 204, NULL);
	c->client = NULL;
}

static void on_may_resume(void *opaque)
{
	answer_create(opaque, NULL);
}

static void tell_created(struct creating *c, const struct error *failure)
{
	const char *path = c->request.state_path;
	json_t *members = failure ? json_pack("{s:s, s:s}", "snapshot_path", path, "error", failure->message)
				  : json_pack("{s:s}", "snapshot_path", path);
	char *text = json_dumps(members, JSON_COMPACT);

	if (failure)
		log_error("snapshot %s: %s", text_path_shown(path), failure->message);
	/* Without its braces. A line that is too long does without all of it. */
	if (text)
		events_add(&c->api->events, failure ? "snapshot_failed" : "snapshot_written", ",%.*s",
			   (int)strlen(text) - 2, text + 1);
	free(text);
	json_decref(members);
}

static void on_created(void *opaque, int ret, const struct error *err)
{
	struct creating *c = opaque;

	if (c->client)
		answer_create(c, ret ? err : NULL);
	else
		tell_created(c, ret ? err : NULL);
	free(c);
}

/* What the snapshot is of; log and metrics are the process's. */
char *snapshot_config(const struct config *cfg)
{
	json_t *json = config_dump(cfg);
	char *text;

	(void)json_object_del(json, "logger");
	(void)json_object_del(json, "metrics");
	text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	return text;
}

int put_snapshot_create(struct call *call, struct error *err)
{
	struct creating *c = calloc(1, sizeof(*c));
	char *config = snapshot_config(call->api->cfg);
	int ret;

	if (!c || !config)
		ret = error_set(err, -ENOMEM, "no memory for a snapshot");
	else
		ret = config_parse_snapshot_create(call->body, &c->request, err);
	if (!ret && c->request.is_stream) {
		ret = send_stream(call, c->request.state_path, err);
		free(c);
		free(config);
		return ret;
	}
	if (!ret) {
		const struct snapshot_progress progress = { on_may_resume, on_created, c };

		c->api = call->api;
		c->client = call->client;
		c->since_ns = event_loop_now_ns();
		ret = snapshot_create(call->api->machine, &c->request, config, &progress, err);
	}
	call->is_answered = !ret;
	free(config);
	if (ret)
		free(c);
	return ret;
}

/* ---- load ---- */

/* A snapshot whose files are open, and have been found to belong together. */
struct opened {
	void *data;
	struct state_reader state;
	struct state_info info;
	bool same_host;
	json_t *config;
	int memory_fd;
	uint64_t memory_file_size;
};

static int read_failed(const char *field, const char *path, int code, struct error *err)
{
	return error_set(err, code, "snapshot.%s: %s: %s", field, text_path_shown(path), strerror(-code));
}

static int open_by_name(const char *field, const char *path, struct error *err)
{
	char where[64 + TEXT_PATH_ROOM];
	int fd;

	snprintf(where, sizeof(where), "snapshot.%s: %s", field, text_path_shown(path));
	if (inherited_is_name(path))
		return inherited_open_file(path, O_RDONLY, where, err);
	fd = RETRY_INTERRUPTED(open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
	return fd < 0 ? read_failed(field, path, -errno, err) : fd;
}

/* fd, or if that is -1, the file at path. */
static int open_file(const char *field, const char *path, int fd, uint64_t *size, struct error *err)
{
	struct stat st;
	int ret = 0;

	if (fd < 0)
		fd = open_by_name(field, path, err);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st))
		ret = read_failed(field, path, -errno, err);
	else if (!S_ISREG(st.st_mode))
		ret = error_set(err, -EINVAL, "snapshot.%s: %s is no regular file", field, text_path_shown(path));
	if (ret) {
		close(fd);
		return ret;
	}
	*size = (uint64_t)st.st_size;
	return fd;
}

/* given_fd, or if that is -1, the file at path. */
static int read_state_file(struct opened *o, const char *path, int given_fd, struct error *err)
{
	uint64_t size = 0;
	int fd = open_file("snapshot_path", path, given_fd, &size, err), ret = 0;
	ssize_t n;

	if (fd < 0)
		return fd;
	if (size > STATE_MAX)
		ret = error_set(err, -EFBIG, "snapshot.snapshot_path: %s is too large for a state file",
				text_path_shown(path));
	if (!ret) {
		o->data = malloc(size ? size : 1);
		n = o->data ? RETRY_INTERRUPTED(pread(fd, o->data, size, 0)) : -1;
		if (!o->data || n < 0)
			ret = read_failed("snapshot_path", path, o->data ? -errno : -ENOMEM, err);
		else
			ret = state_open(&o->state, o->data, (size_t)n, err);
	}
	close(fd);
	return ret;
}

static int read_head(struct opened *o, struct error *err)
{
	const void *config;
	size_t size;
	int ret = state_get(&o->state, STATE_INFO, 0, &o->info, sizeof(o->info), sizeof(o->info), err);

	if (ret)
		return ret;
	o->same_host = cpu_check_host(&o->state);
	ret = state_view(&o->state, STATE_CONFIG, 0, &config, &size, 1, err);
	if (!ret)
		ret = json_parse(config, size, "the state file: CONF", &o->config, err);
	if (!ret && !json_is_object(o->config))
		ret = state_bad(err, STATE_CONFIG, 0, "the configuration is no object");
	/* In a configuration file this may be the name of another. */
	if (!ret && json_is_string(json_object_get(o->config, "cpu-config")))
		ret = state_bad(err, STATE_CONFIG, 0, "cpu-config is no object");
	return ret;
}

static int open_memory(struct opened *o, const struct snapshot_source *source, struct error *err)
{
	struct memory_trailer trailer;
	int ret;

	o->memory_fd = open_file("mem_backend.backend_path", source->memory_path, source->memory_fd,
				 &o->memory_file_size, err);
	if (o->memory_fd < 0)
		return o->memory_fd;
	/* Whoever changes it (mayfly-snapshot) has it alone; a file system without locks has no such writer. */
	if (flock(o->memory_fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK)
		return error_set(err, -EBUSY, "the memory file is being written by somebody (wait for its end)");
	ret = memory_trailer_read(&trailer, o->memory_fd, o->memory_file_size, err);
	if (ret)
		return ret;
	if (memcmp(trailer.id, o->info.memory_id, sizeof(trailer.id)) != 0 || trailer.size != o->info.memory_size)
		return error_set(err, -EINVAL, "the memory file is of another snapshot than the state file");
	if (trailer.kind == MEMORY_DIFF)
		return error_set(
			err, -EINVAL,
			"the memory file is a diff (mayfly-snapshot rebase writes it over what it is based on)");
	return 0;
}

static void close_opened(struct opened *o)
{
	if (o->memory_fd >= 0)
		close(o->memory_fd);
	json_decref(o->config);
	free(o->data);
}

static int open_snapshot(struct opened *o, const struct snapshot_source *source, struct error *err)
{
	int ret;

	/* One that was given is closed with the rest, however early this fails. */
	*o = (struct opened){ .memory_fd = source->memory_fd };
	ret = read_state_file(o, source->state_path, source->state_fd, err);
	if (!ret)
		ret = read_head(o, err);
	return ret || source->by_handler ? ret : open_memory(o, source, err);
}

/* The snapshot's configuration, changed, beside what is this process's own in cfg. */
static int configure(struct config *fresh, const struct config *cfg, const struct opened *o,
		     const struct snapshot_source *source, const json_t *body, struct error *err)
{
	int ret;

	config_init(fresh);
	fresh->log = cfg->log;
	snprintf(fresh->metrics_path, sizeof(fresh->metrics_path), "%s", cfg->metrics_path);
	fresh->metrics_emit_id = cfg->metrics_emit_id;
	fresh->mmds_size_limit = cfg->mmds_size_limit;
	fresh->allow_fork = cfg->allow_fork;
	ret = config_override(body, o->config, err);
	if (!ret)
		ret = config_parse(o->config, fresh, err);
	if (ret)
		return ret;
	fresh->machine.track_dirty_pages = source->track_dirty_pages;
	if (source->huge_pages_given)
		fresh->machine.huge_pages = source->huge_pages;
	if (fresh->machine.mem_size_mib << 20 != o->info.memory_size || fresh->machine.vcpu_count != o->info.nr_vcpus)
		return state_bad(err, STATE_INFO, 0, "memory size or vCPUs are not as in the configuration");
	return 0;
}

/* Whether the new contents fit is known before anything is done. */
static int check_metadata(const struct config *cfg, json_t *contents, struct error *err)
{
	struct mmds_store trial;
	int ret;

	mmds_store_init(&trial, (size_t)cfg->mmds_size_limit);
	ret = contents ? mmds_store_put(&trial, contents, err) : 0;
	mmds_store_free(&trial);
	return ret;
}

/* An interface that is somebody else's now may have another address, for which the guest has to ask. */
static void flap_links(struct machine *m, const struct config *cfg, const json_t *body)
{
	const json_t *entry;
	unsigned int net;
	size_t i;

	json_array_foreach(json_object_get(body, "network_overrides"), i, entry)
	{
		net = config_find_net(cfg, json_string_value(json_object_get(entry, "iface_id")));
		if (net < cfg->nr_nets)
			machine_flap_net(m, net);
	}
}

static int replace_metadata(struct machine *m, json_t *contents, struct error *err)
{
	struct mmds *mmds = NULL;
	int ret;

	if (!contents)
		return 0;
	ret = machine_mmds(m, &mmds, err);
	return ret ? ret : mmds_store_put(&mmds->store, contents, err);
}

/* With the metadata as it was, should that fail: the state file's may have taken its place by then. */
static int load_machine(struct machine *m, struct board_restore *restore, bool has_mmds, enum board_blame *blame,
			struct error *err)
{
	struct mmds_store before = { 0 };
	struct mmds *mmds = NULL;
	int ret = has_mmds ? machine_mmds(m, &mmds, err) : 0;

	if (ret)
		return ret;
	if (mmds) {
		before = mmds->store;
		json_incref(before.data);
	}
	ret = machine_load(m, restore, blame, err);
	if (ret && mmds) {
		json_decref(mmds->store.data);
		mmds->store = before;
	} else {
		json_decref(before.data);
	}
	return ret;
}

/* cfg is the machine's, so it has to be right by the time the machine is made, and as before if that fails. */
static int make(struct machine *m, struct config *cfg, struct config *fresh, struct opened *o,
		const struct snapshot_source *source, enum board_blame *blame, struct error *err)
{
	struct board_restore restore = {
		.state = &o->state,
		.same_host = o->same_host,
		.handler_path = source->by_handler ? source->memory_path : NULL,
		.memory_fd = o->memory_fd,
		.memory_file_size = o->memory_file_size,
		.memory_is_ours = source->memory_is_ours,
		.memory_path =
			source->memory_fd < 0 && !inherited_is_name(source->memory_path) ? source->memory_path : NULL,
		.memory_id = o->info.memory_id,
		.record_working_set = source->record_working_set,
		.clock_realtime = source->clock_realtime,
	};
	struct config before = *cfg;
	int ret;

	fresh->metrics_properties = cfg->metrics_properties;
	*cfg = *fresh;
	ret = load_machine(m, &restore, fresh->mmds.present, blame, err);
	o->memory_fd = restore.memory_fd;
	if (ret)
		*cfg = before;
	return ret;
}

static bool is_configured(const struct config *cfg)
{
	return cfg->boot.present || cfg->nr_drives || cfg->nr_nets || cfg->vsock.present || cfg->mmds.present;
}

static int load(struct machine *m, struct config *cfg, const struct snapshot_source *source, const json_t *body,
		enum board_blame *blame, struct error *err)
{
	struct config *fresh = calloc(1, sizeof(*fresh));
	struct opened o;
	int ret;

	if (!fresh)
		return error_set(err, -ENOMEM, "no memory for a snapshot");
	ret = open_snapshot(&o, source, err);
	if (!ret)
		ret = configure(fresh, cfg, &o, source, body, err);
	if (!ret)
		ret = check_metadata(cfg, source->metadata, err);
	if (!ret)
		ret = make(m, cfg, fresh, &o, source, blame, err);
	if (ret) {
		fresh->metrics_properties = NULL;
		config_free(fresh);
	}
	if (!ret) {
		/* A diff is on top of a file, and what came as a descriptor (a stream, a fork) is none that anybody
		 * has. */
		machine_saved(m, source->memory_fd < 0 ? o.info.memory_id : NULL);
		flap_links(m, cfg, body);
	}
	close_opened(&o);
	free(fresh);
	if (!ret)
		ret = replace_metadata(m, source->metadata, err);
	return ret || !source->resume ? ret : machine_resume(m, err);
}

/* *out, of malloc, says where the microVM is to come from. */
static int read_source(const struct config *cfg, const json_t *body, struct snapshot_source **out, struct error *err)
{
	struct snapshot_source *source = calloc(1, sizeof(*source));
	int ret;

	*out = source;
	if (!source)
		return error_set(err, -ENOMEM, "no memory for a snapshot");
	if (is_configured(cfg))
		ret = error_set(err, -EEXIST,
				"Loading a microVM snapshot not allowed after configuring boot-specific resources.");
	else
		ret = config_parse_snapshot_load(body, source, err);
	return ret;
}

static int load_source(struct machine *m, struct config *cfg, const json_t *body, const struct snapshot_source *source,
		       enum board_blame *blame, struct error *err)
{
	uint64_t since_ns = event_loop_now_ns();
	int ret;

	*blame = BLAME_CONFIG;
	ret = load(m, cfg, source, body, blame, err);
	metrics_set(latencies_us_load_snapshot, (event_loop_now_ns() - since_ns) / 1000);
	return ret;
}

int snapshot_load_fds(struct machine *m, struct config *cfg, const json_t *body, const struct snapshot_fds *fds,
		      enum board_blame *blame, struct error *err)
{
	struct snapshot_source *source;
	int ret = read_source(cfg, body, &source, err);

	*blame = BLAME_CONFIG;
	if (!ret) {
		source->state_fd = fds->state;
		source->memory_fd = fds->memory;
		source->memory_is_ours = fds->memory_is_ours;
		ret = load_source(m, cfg, body, source, blame, err);
	} else {
		close(fds->state);
		close(fds->memory);
	}
	free(source);
	return ret;
}

int snapshot_load(struct machine *m, struct config *cfg, json_t *body, snapshot_loaded_fn *loaded, void *opaque,
		  enum board_blame *blame, struct error *err)
{
	struct snapshot_source *source;
	int ret = read_source(cfg, body, &source, err);

	*blame = BLAME_CONFIG;
	if (!ret && source->is_stream) {
		ret = stream_load(m, cfg, body, source->state_path, loaded, opaque, err);
		ret = ret ? ret : SNAPSHOT_COMES;
	} else if (!ret) {
		ret = load_source(m, cfg, body, source, blame, err);
	}
	free(source);
	return ret;
}

static json_t *memory_backend(const char *memory)
{
	const bool by_handler = strncmp(memory, HANDLER_PREFIX, strlen(HANDLER_PREFIX)) == 0;

	return json_pack("{s:s, s:s}", "backend_path", memory + (by_handler ? strlen(HANDLER_PREFIX) : 0),
			 "backend_type", by_handler ? "Uffd" : "File");
}

json_t *snapshot_body(const char *state_path, const char *memory_path, const char *override, struct error *err)
{
	json_t *body = json_pack("{s:s, s:b}", "snapshot_path", state_path, "resume_vm", true);
	json_t *more = NULL;
	int ret = 0;

	if (!body || (memory_path && json_object_set_new(body, "mem_backend", memory_backend(memory_path))))
		ret = error_set(err, -EINVAL,
				"--load-snapshot: the name of a file is no UTF-8 (or there is no memory)");
	if (!ret && override)
		ret = json_parse(override, strlen(override), "--override", &more, err);
	if (!ret && more && json_object_update(body, more))
		ret = error_set(err, -EINVAL, "--override: no object (needs one in braces)");
	json_decref(more);
	if (!ret)
		return body;
	json_decref(body);
	return NULL;
}

static void on_loaded(void *opaque, int ret, enum board_blame blame, const struct error *err)
{
	struct client *client = opaque;

	(void)blame;
	if (ret)
		api_answer_fault(client, 400, err->message);
	else
		api_answer(client, 204, NULL);
}

int put_snapshot_load(struct call *call, struct error *err)
{
	enum board_blame blame;
	int ret = snapshot_load(call->api->machine, call->api->cfg, call->body, on_loaded, call->client, &blame, err);

	call->is_answered = ret == SNAPSHOT_COMES;
	return call->is_answered ? 0 : ret;
}

/* ---- describe ---- */

static const char *show(char *shown, size_t size, const char *text, size_t most)
{
	text_escape(shown, size, text, strnlen(text, most));
	return shown;
}

int snapshot_describe(const char *state_path, struct error *err)
{
	struct opened o = { .memory_fd = -1 };
	char made[32] = "", version[128], cpu[192];
	struct state_info info = { 0 };
	struct tm tm;
	time_t since;
	int ret = read_state_file(&o, state_path, -1, err);

	if (!ret)
		ret = state_get(&o.state, STATE_INFO, 0, &info, sizeof(info), sizeof(info), err);
	if (!ret) {
		since = (time_t)(info.created_ns / 1000000000);
		strftime(made, sizeof(made), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&since, &tm));
		printf("v%d.%u.0\n%u vCPUs, %llu MiB\nmade %s by Mayfly %s on %s\n", STATE_MAJOR, o.state.minor,
		       info.nr_vcpus, (unsigned long long)(info.memory_size >> 20), made,
		       show(version, sizeof(version), info.version, sizeof(info.version)),
		       show(cpu, sizeof(cpu), info.cpu, sizeof(info.cpu)));
	}
	close_opened(&o);
	return ret;
}
