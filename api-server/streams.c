/* streams.c: PUT /snapshot/create and PUT /snapshot/load where a socket takes the place of files. */
#include "streams.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "log.h"
#include "snapshot/stream.h"
#include "snapshot/stream_receive.h"
#include "snapshot/stream_send.h"

/* ---- create ---- */

struct sending {
	struct api *api;
	struct client *client;
};

static char *dump_config(void *opaque)
{
	const struct sending *s = opaque;

	return snapshot_config(s->api->cfg);
}

static void on_sent(void *opaque, int ret, const struct stream_report *report, const struct error *err)
{
	struct sending *s = opaque;
	json_t *answer = NULL;

	s->api->sender = NULL;
	if (ret) {
		log_error("the microVM was not sent: %s", err->message);
		api_answer_fault(s->client, 400, err->message);
	} else {
		answer = json_pack("{s:I, s:I, s:I}", "rounds", (json_int_t)report->rounds, "bytes",
				   (json_int_t)report->bytes, "downtime_us", (json_int_t)report->downtime_us);
		api_answer(s->client, 200, answer);
	}
	json_decref(answer);
	free(s);
}

int send_stream(struct call *call, const char *name, struct error *err)
{
	struct sending *s = calloc(1, sizeof(*s));
	const struct stream_client client = { .config = dump_config, .done = on_sent, .opaque = s };
	int fd, ret;

	if (!s)
		return error_set(err, -ENOMEM, "no memory for a stream");
	/* Before anything is said to the other side. */
	fd = call->api->sender ? error_set(err, -EBUSY, "the microVM is being sent (wait for that answer first)")
			       : stream_open(name, err);
	if (fd < 0) {
		free(s);
		return fd;
	}
	s->api = call->api;
	s->client = call->client;
	ret = stream_send(&call->api->sender, call->api->machine, fd, &client, err);
	if (ret) {
		close(fd);
		free(s);
	}
	call->is_answered = !ret;
	return ret;
}

/* ---- load ---- */

struct receiving {
	struct machine *machine;
	struct config *cfg;
	json_t *body;
	snapshot_loaded_fn *loaded;
	void *opaque;
};

static void on_received(void *opaque, int ret, const struct stream_received *received, const struct error *why)
{
	struct receiving *r = opaque;
	enum board_blame blame = BLAME_CONFIG;
	struct error err = { 0 };

	machine_expects_no_load(r->machine);
	if (ret) {
		err = *why;
	} else {
		const struct snapshot_fds fds = { received->state_fd, received->memory_fd, true };

		ret = snapshot_load_fds(r->machine, r->cfg, r->body, &fds, &blame, &err);
	}
	if (ret)
		log_error("the microVM was not loaded: %s", err.message);
	r->loaded(r->opaque, ret, blame, &err);
	json_decref(r->body);
	free(r);
}

int stream_load(struct machine *m, struct config *cfg, json_t *body, const char *name, snapshot_loaded_fn *loaded,
		void *opaque, struct error *err)
{
	struct receiving *r = calloc(1, sizeof(*r));
	int fd, ret;

	if (!r)
		return error_set(err, -ENOMEM, "no memory for a stream");
	ret = machine_expect_load(m, err);
	fd = ret ? ret : stream_open(name, err);
	if (fd < 0) {
		if (!ret)
			machine_expects_no_load(m);
		free(r);
		return fd;
	}
	*r = (struct receiving){ m, cfg, json_incref(body), loaded, opaque };
	ret = stream_receive(machine_loop(m), fd, on_received, r, err);
	if (ret) {
		machine_expects_no_load(m);
		close(fd);
		json_decref(body);
		free(r);
	}
	return ret;
}
