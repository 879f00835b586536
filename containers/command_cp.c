/* command_cp.c: `mayfly-run cp`: files out of and into a container. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "instance.h"
#include "keeper.h"
#include "tar_files.h"
#include "text.h"

#define DIAL_PATIENCE_MS 10000

/* Asks the agent for one of the two operations; the reply's fields are valid until the next frame. */
static int ask(const struct instance *i, const char *op, const char *path, bool tar, struct agent_client **agent,
	       struct error *err)
{
	struct request request = { 0 };
	int ret;

	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", op);
	request_add(&request, "path", path);
	if (tar)
		request_add(&request, "tar", "1");
	if (strcmp(op, "put") == 0) {
		request_add(&request, "uid", "0");
		request_add(&request, "gid", "0");
	}
	ret = agent_dial(i, DIAL_PATIENCE_MS, agent, err);
	if (!ret)
		ret = agent_request(*agent, &request, err);
	request_free(&request);
	return ret;
}

/* A folder's archive, when path is one: links on the way are followed in the guest. */
static int get_folder(const struct instance *i, const char *path, struct agent_client **agent, struct error *err)
{
	char inside[PATH_MAX + 4];
	struct fields fields;
	int ret;

	snprintf(inside, sizeof(inside), "%s/.", path);
	ret = ask(i, "get", inside, true, agent, err);
	return ret ? ret : agent_reply(*agent, AGENT_PATIENCE_MS, &fields, err);
}

static bool is_guest_folder(const struct instance *i, const char *path)
{
	struct agent_client *agent = NULL;
	struct error ignored = { 0 };
	bool is = get_folder(i, path, &agent, &ignored) == 0;

	agent_hang_up(agent);
	return is;
}

static bool is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The last part of a path, in memory of the caller's: "" of /, . and what ends in /. */
static void last_part(const char *path, char out[NAME_MAX + 1])
{
	size_t len = strlen(path), start;

	while (len > 0 && path[len - 1] == '/')
		len--;
	for (start = len; start > 0 && path[start - 1] != '/';)
		start--;
	snprintf(out, NAME_MAX + 1, "%.*s", (int)(len - start), path + start);
	if (strcmp(out, ".") == 0 || strcmp(out, "..") == 0)
		out[0] = '\0';
}

/* ---- out of the container ---- */

static int receive_file(struct agent_client *agent, const char *to, mode_t mode, uint64_t max, struct error *err)
{
	/* Only what is a file, or nothing yet: a FIFO or device of that name is not what is meant. */
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_CLOEXEC, mode & 0777);
	size_t at;
	ssize_t n;
	int ret = 0;

	if (fd < 0)
		return error_set(err, -errno, "%s: %s", text_path_shown(to), strerror(errno));
	for (;;) {
		frame_next(&agent->in);
		ret = agent_next(agent, AGENT_PATIENCE_MS, err);
		if (ret < 0)
			break;
		ret = 0;
		if (agent->in.type != FRAME_DATA)
			ret = error_set(err, -EPROTO, "the guest's agent sent a frame that does not belong here");
		if (ret || agent->in.len == 0)
			break;
		if (agent->in.len > max) {
			ret = error_set(err, -EFBIG, "%s: the guest sends more (needs a larger --max-size)",
					text_path_shown(to));
			break;
		}
		max -= agent->in.len;
		for (at = 0; at < agent->in.len && !ret; at += (size_t)n) {
			n = write(fd, frame_payload(&agent->in) + at, agent->in.len - at);
			if (n < 0)
				ret = error_set(err, -errno, "%s: %s", text_path_shown(to), strerror(errno));
		}
		if (ret)
			break;
	}
	if (close(fd) && !ret)
		ret = error_set(err, -errno, "%s: %s", text_path_shown(to), strerror(errno));
	return ret;
}

static int copy_file_out(const struct instance *i, const char *from, const char *to, uint64_t max, struct error *err)
{
	struct agent_client *agent = NULL;
	char path[PATH_MAX], name[NAME_MAX + 1];
	struct fields fields;
	int ret = ask(i, "get", from, false, &agent, err);
	const char *mode;

	if (!ret)
		ret = agent_reply(agent, AGENT_PATIENCE_MS, &fields, err);
	if (!ret) {
		mode = field_get(&fields, "mode");
		last_part(from, name);
		snprintf(path, sizeof(path), "%s%s%s", to, is_folder(to) ? "/" : "", is_folder(to) ? name : "");
		ret = receive_file(agent, path, mode ? (mode_t)strtoul(mode, NULL, 8) : 0644, max, err);
	}
	agent_hang_up(agent);
	return ret;
}

static int unpack(struct agent_client *agent, const char *to, uint64_t max, struct error *err)
{
	struct tar_left left;
	int root, ret;

	if (mkdir(to, 0755) && errno != EEXIST)
		return error_set(err, -errno, "%s: %s", text_path_shown(to), strerror(errno));
	root = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return error_set(err, -errno, "%s: %s", text_path_shown(to), strerror(errno));
	ret = tar_receive(agent, root, max, &left, err);
	close(root);
	if (left.count > 0)
		dprintf(STDERR_FILENO, RUN_NAME ": %lu left out, the first: %s\n", left.count, left.first);
	return ret;
}

static int copy_out(const struct instance *i, const char *from, const char *to, uint64_t max, struct error *err)
{
	struct agent_client *agent = NULL;
	char path[PATH_MAX], name[NAME_MAX + 1];
	struct error why = { 0 };
	size_t len = strlen(from);
	int ret = get_folder(i, from, &agent, &why);

	if (ret == 0) {
		last_part(from, name);
		/* DIR/. is what is in it. */
		if (len >= 2 && strcmp(from + len - 2, "/.") == 0)
			name[0] = '\0';
		snprintf(path, sizeof(path), "%s%s%s", to, is_folder(to) && *name ? "/" : "",
			 is_folder(to) ? name : "");
		ret = unpack(agent, path, max, err);
	} else if (ret == -EREMOTEIO) {
		ret = copy_file_out(i, from, to, max, err);
	} else {
		*err = why;
	}
	agent_hang_up(agent);
	return ret;
}

/* ---- into the container ---- */

static int put_tar(const struct instance *i, const char *from, const char *folder, const char *as, struct error *err)
{
	struct agent_client *agent = NULL;
	struct error answer = { 0 };
	struct fields fields;
	int ret = ask(i, "put", folder, true, &agent, err);

	if (!ret) {
		ret = tar_send(agent, AT_FDCWD, from, as, err);
		/* When the guest takes no more it has said why. */
		if (!ret || ret == -EPIPE) {
			int last = agent_reply(agent, AGENT_PATIENCE_MS, &fields, &answer);

			if (last && (!ret || last == -EREMOTEIO)) {
				*err = answer;
				ret = last;
			}
		}
	}
	agent_hang_up(agent);
	return ret;
}

static int copy_in(const struct instance *i, const char *from, const char *to, struct error *err)
{
	char folder[PATH_MAX], name[NAME_MAX + 1], source[PATH_MAX];
	const size_t len = strlen(from);
	const bool contents = strcmp(from, ".") == 0 || (len >= 2 && strcmp(from + len - 2, "/.") == 0);
	char *slash;

	if (access(from, F_OK))
		return error_set(err, -errno, "%s: %s", text_path_shown(from), strerror(errno));
	/* A link that is named is followed, those below are copied as they are. */
	if (!realpath(from, source))
		return error_set(err, -errno, "%s: %s", text_path_shown(from), strerror(errno));
	snprintf(folder, sizeof(folder), "%s", to);
	if (is_guest_folder(i, to)) {
		last_part(source, name);
		return put_tar(i, source, folder, contents ? "" : name, err);
	}
	last_part(to, name);
	for (slash = strchr(folder, '\0'); slash > folder && slash[-1] == '/';)
		*--slash = '\0';
	slash = strrchr(folder, '/');
	if (!*name || !slash)
		return error_set(err, -EINVAL, "%s: no name in a folder of the container", text_path_shown(to));
	slash[slash == folder] = '\0';
	return put_tar(i, source, folder, name, err);
}

/* CONTAINER:PATH cut in two; NULL: a path of the host (a colon behind a slash, or none). */
static char *guest_path(char *word)
{
	char *colon = strchr(word, ':'), *slash = strchr(word, '/');

	if (!colon || colon == word || (slash && slash < colon) || *word == '.')
		return NULL;
	*colon = '\0';
	return colon + 1;
}

int command_cp(struct options *o, const struct places *places)
{
	char *from = guest_path(o->args[0]), *to = guest_path(o->args[1]), absolute[PATH_MAX];
	struct instance instance;
	struct error err = { 0 };
	const char *path = from ? from : to;

	if (!from == !to) {
		error_set(&err, -EINVAL, "cp: one of the two has to be CONTAINER:PATH, the other a path of this host");
		return complain(&err, EXIT_TOOL_FAILED);
	}
	/* From the root, as in every engine. */
	if ((size_t)snprintf(absolute, sizeof(absolute), "%s%s", *path == '/' ? "" : "/", path) >=
	    sizeof(absolute) - 4) {
		error_set(&err, -ENAMETOOLONG, "cp: the path is too long");
		return complain(&err, EXIT_TOOL_FAILED);
	}
	if (instance_open(places, o->args[from ? 0 : 1], &instance, &err))
		return complain(&err, EXIT_TOOL_FAILED);
	if (from)
		(void)copy_out(&instance, absolute, o->args[1], o->max_size, &err);
	else
		(void)copy_in(&instance, o->args[0], absolute, &err);
	instance_close(&instance);
	return err.code ? complain(&err, EXIT_TOOL_FAILED) : 0;
}
