/* request.c: what the host wants: reads a request, finds the operation, answers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define COMMAND_KEYS                                                                                      \
	"arg env cwd user group tty rows cols stdin detach caps ambient inheritable no_new_privs rlimit " \
	"oom_score_adj umask "

/* `version`, `op` and `end` besides. A key that is not here is a mistake, and better said than passed over. */
static const struct operation {
	const char *name, *keys;
	OPERATION((*run));
} operations[] = {
	{ "info", "", op_info },
	{ "main", COMMAND_KEYS "entrypoint readonly attach", op_main },
	{ "exec", COMMAND_KEYS, op_exec },
	{ "kill", "pid signal all", op_kill },
	{ "stop", "signal seconds", op_stop },
	{ "put", "path mode uid gid tar", op_put },
	{ "get", "path tar", op_get },
	{ "list", "", op_list },
	{ "clock", "ns", op_clock },
	{ "reseed", "seed hostname", op_reseed },
	{ "network", "ip gw ip6 gw6 dns search mtu", op_network },
	{ "hostname", "name", op_hostname },
};

int request_read(struct connection *c, char **text, size_t *len, struct error *err)
{
	int ret;

	while ((ret = conn_read(c)) > 0) {
		char *more;

		if (c->in.type != FRAME_REQUEST)
			return error_set(err, -EPROTO, "frame of type %d: a request comes first, type %d", c->in.type,
					 FRAME_REQUEST);
		if (*len + c->in.len > AGENT_REQUEST_MAX)
			return error_set(err, -EMSGSIZE, "the request is longer than %d bytes", AGENT_REQUEST_MAX);
		more = realloc(*text, *len + c->in.len + 1);
		if (!more)
			return error_set(err, -ENOMEM, "no memory for the request");
		*text = more;
		memcpy(more + *len, frame_payload(&c->in), c->in.len);
		*len += c->in.len;
		if (fields_are_whole(*text, *len))
			return fields_check(*text, *len)
				       ? error_set(err, -EPROTO,
						   "the request has something else than fields, key=value and 0")
				       : 0;
	}
	if (ret == -EMSGSIZE)
		return error_set(err, ret, "frame of %u bytes: at most %d", c->in.len, FRAME_MAX);
	if (ret == -EPROTO)
		return error_set(err, ret, "no frame of this protocol: a type from 1 to %d and three bytes 0",
				 FRAME_TYPES - 1);
	return 1;
}

/* The operation, or NULL with err set. */
static const struct operation *find(const struct fields *f, struct error *err)
{
	const char *version = field_get(f, "version"), *name = field_get(f, "op"), *field = NULL;
	const struct operation *op = operations;

	if (!version || strcmp(version, "1")) {
		error_set(err, -EPROTO, "version=%.20s: this agent speaks version=%d", version ? version : "",
			  AGENT_PROTOCOL);
		return NULL;
	}
	while (op < operations + sizeof(operations) / sizeof(*operations) && (!name || strcmp(op->name, name)))
		op++;
	if (op == operations + sizeof(operations) / sizeof(*operations)) {
		error_set(err, -EOPNOTSUPP,
			  "op=%.40s: no such operation (info, main, exec, kill, stop, put, get, list, …)",
			  name ? name : "");
		return NULL;
	}
	while ((field = field_next(f, NULL, field))) {
		size_t len = strcspn(field, "=");

		if (word_number("version op end", field, len) < 0 && word_number(op->keys, field, len) < 0) {
			error_set(err, -EINVAL, "%.*s=: op=%s has no such field", (int)(len > 40 ? 40 : len), field,
				  op->name);
			return NULL;
		}
	}
	return op;
}

int reply_send(struct connection *c, const struct field_buffer *reply, const struct error *err)
{
	static char text[FRAME_MAX];
	struct field_buffer all = { .text = text, .size = sizeof(text) };
	struct fields more = { reply->text, reply->len };
	const char *field = NULL;

	if (err)
		field_add(&all, "error", err->message);
	else
		field_add(&all, "ok", "1");
	while ((field = field_next(&more, NULL, field))) {
		if (strlen(field) >= all.size - all.len)
			break;
		memcpy(all.text + all.len, field, strlen(field) + 1);
		all.len += strlen(field) + 1;
	}
	return conn_send(c, FRAME_REPLY, all.text, all.len);
}

int bad_field(struct error *err, const struct fields *f, const char *key, const char *accepted)
{
	const char *value = field_get(f, key);

	return error_set(err, -EINVAL, "%s=%.100s: must be %s", key, value ? value : "", accepted);
}

int number_field(const struct fields *f, const char *key, int64_t min, int64_t max, int64_t *out, struct error *err)
{
	if (field_number(f, key, min, max, out) != -EINVAL)
		return 0;
	return error_set(err, -EINVAL, "%s=%.40s: must be a whole number from %lld to %lld", key, field_get(f, key),
			 (long long)min, (long long)max);
}

void request_serve(struct agent *agent, struct connection *c)
{
	static char results[FRAME_MAX - 1024];
	struct field_buffer reply = { .text = results, .size = sizeof(results) };
	const struct operation *op = NULL;
	struct error err = { 0 };
	struct fields f;
	char *text = NULL;
	size_t len = 0;
	int ret = request_read(c, &text, &len, &err);

	f = (struct fields){ text, len };
	if (!ret)
		op = find(&f, &err);
	if (op)
		ret = op->run(agent, c, &f, &reply, &err);
	if (ret != 1 || err.code)
		reply_send(c, &reply, err.code ? &err : NULL);
	free(text);
	if (c->fd >= 0)
		conn_close(c);
}
