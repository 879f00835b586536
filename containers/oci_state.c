/* oci_state.c: the folder of one OCI container below --root. */
#include "oci_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "jailer/remove.h"
#include "oci_spec.h"
#include "text.h"

#define ANSWER_MAX    512
#define DIAL_PATIENCE 5   /* seconds; whoever listens has nothing else to do */
#define TRIES         500 /* of 10 ms each, for what others do in a moment */

static int fail(const struct oci_container *c, const char *name, struct error *err)
{
	return error_set(err, -errno, "%s/%s: %s", text_path_shown(c->machine.path), name, strerror(errno));
}

/* ---- the folder of folders ---- */

static int root_path(const char *root, char out[PATH_MAX], struct error *err)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int len;

	if (root)
		len = snprintf(out, PATH_MAX, "%s", root);
	else if (geteuid() == 0)
		len = snprintf(out, PATH_MAX, "/run/mayfly-oci");
	else if (runtime && *runtime == '/')
		len = snprintf(out, PATH_MAX, "%s/mayfly-oci", runtime);
	else
		return error_set(err, -ENOENT, "--root: needed, since XDG_RUNTIME_DIR is not set");
	return len < PATH_MAX ? 0 : error_set(err, -ENAMETOOLONG, "--root: the path is too long");
}

/* Made where it is missing, parents and all, as runc does. */
static int open_root(const char *root, bool make, char path[PATH_MAX], struct error *err)
{
	int ret = root_path(root, path, err), fd;
	struct stat st;
	char *slash;

	if (ret)
		return ret;
	for (slash = make ? strchr(path + 1, '/') : NULL; slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		(void)mkdir(path, 0711);
		*slash = '/';
	}
	if (make)
		(void)mkdir(path, 0700);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		ret = error_set(err, -errno, "--root: %s: %s", text_path_shown(path), strerror(errno));
	else if (st.st_uid != geteuid() || st.st_mode & 0022)
		ret = error_set(err, -EPERM, "--root: %s: others can write there", text_path_shown(path));
	else
		return fd;
	if (fd >= 0)
		close(fd);
	return ret;
}

/* ---- one container ---- */

static int open_folder(int root, const char *root_name, const char *id, struct oci_container *out, struct error *err)
{
	*out = (struct oci_container){ .machine = { .dir = -1, .lock = -1 } };
	snprintf(out->id, sizeof(out->id), "%s", id);
	if (snprintf(out->machine.path, PATH_MAX, "%s/%s", root_name, id) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "--root: the path is too long");
	out->machine.dir = openat(root, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (out->machine.dir >= 0)
		return 0;
	return error_set(err, -errno, "container \"%s\" %s%s", id, errno == ENOENT ? "does not exist" : ": ",
			 errno == ENOENT ? "" : strerror(errno));
}

static bool has_state(const struct oci_container *c)
{
	return faccessat(c->machine.dir, INSTANCE_STATUS, F_OK, 0) == 0;
}

bool oci_state_lock(struct oci_container *c)
{
	struct stat st;
	int i;

	for (i = 0; i < TRIES && fstat(c->machine.dir, &st) == 0 && st.st_nlink > 0; i++) {
		if (instance_try_lock(NULL, &c->machine))
			return true;
		(void)poll(NULL, 0, 10);
	}
	return false;
}

static int create(int folder, const char *path, const char *id, struct oci_container *out, struct error *err)
{
	int ret;

	if (mkdirat(folder, id, 0700) && errno != EEXIST)
		return error_set(err, -errno, "%s/%s: %s", text_path_shown(path), id, strerror(errno));
	ret = open_folder(folder, path, id, out, err);
	if (ret)
		return ret;
	if (has_state(out) || !oci_state_lock(out) || has_state(out)) {
		oci_state_close(out);
		return error_set(err, -EEXIST, "container \"%s\" exists already", id);
	}
	/* Random, since it names a jail and a user of the machine, of which there must not be two. */
	ret = instance_make_id(out->machine.id, err);
	if (ret) {
		oci_state_close(out);
		return ret;
	}
	out->state = json_object();
	return out->state ? 0 : error_set(err, -ENOMEM, "no memory");
}

int oci_state_create(const char *root, const char *id, struct oci_container *out, struct error *err)
{
	char path[PATH_MAX];
	int folder = open_root(root, true, path, err), ret;

	*out = (struct oci_container){ .machine = { .dir = -1, .lock = -1 } };
	if (folder < 0)
		return folder;
	ret = create(folder, path, id, out, err);
	close(folder);
	return ret;
}

static int load(struct oci_container *c, struct error *err)
{
	int ret = instance_load(&c->machine, &c->state, err);

	if (!ret)
		snprintf(c->machine.id, sizeof(c->machine.id), "%s", oci_state_text(c, "machine"));
	return ret;
}

int oci_state_open(const char *root, const char *id, struct oci_container *out, struct error *err)
{
	char path[PATH_MAX];
	int folder = open_root(root, false, path, err), ret;

	*out = (struct oci_container){ .machine = { .dir = -1, .lock = -1 } };
	if (folder == -ENOENT)
		return error_set(err, -ENOENT, "container \"%s\" does not exist", id);
	if (folder < 0)
		return folder;
	ret = open_folder(folder, path, id, out, err);
	close(folder);
	if (ret)
		return ret;
	ret = load(out, err);
	if (ret)
		oci_state_close(out);
	return ret;
}

void oci_state_close(struct oci_container *c)
{
	instance_close(&c->machine);
	json_decref(c->state);
	c->state = NULL;
}

int oci_state_save(const struct oci_container *c, struct error *err)
{
	return instance_save(&c->machine, c->state, err);
}

const char *oci_state_text(const struct oci_container *c, const char *key)
{
	const char *text = json_string_value(json_object_get(c->state, key));

	return text ? text : "";
}

struct process oci_state_process(const struct oci_container *c, const char *key)
{
	return status_process(c->state, key);
}

const char *oci_state_status(struct oci_container *c, int *pid)
{
	const enum instance_state state = instance_state(NULL, &c->machine, c->state);

	*pid = 0;
	if (state == INSTANCE_EXITED || state == INSTANCE_DEAD)
		return "stopped";
	*pid = oci_state_process(c, "keeper").pid;
	if (state == INSTANCE_CREATED)
		return strcmp(oci_state_text(c, "state"), "creating") == 0 ? "creating" : "created";
	return faccessat(c->machine.dir, OCI_PAUSED, F_OK, 0) == 0 ? "paused" : "running";
}

json_t *oci_state_describe(const struct oci_container *c, const char *status, int pid)
{
	json_t *annotations = json_object_get(c->state, "annotations");
	json_t *json = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:s}", "ociVersion", OCI_VERSION, "id", c->id,
				 "status", status, "pid", pid, "bundle", oci_state_text(c, "bundle"), "rootfs",
				 oci_state_text(c, "rootfs"), "created", oci_state_text(c, "created"), "owner", "");

	if (annotations)
		json_object_set(json, "annotations", annotations);
	return json;
}

/* ---- the end ---- */

int oci_state_remove(const char *root, struct oci_container *c, struct error *err)
{
	char path[PATH_MAX];
	int folder = open_root(root, false, path, err), ret;

	if (folder < 0)
		return folder;
	ret = remove_tree(folder, c->id, INSTANCE_LOCK, c->machine.path, err);
	close(folder);
	return ret;
}

int oci_state_settle(const char *root, const char *id, struct error *err)
{
	struct oci_container c;
	char path[PATH_MAX];
	int folder = open_root(root, false, path, err), ret, i;

	if (folder == -ENOENT)
		return error_set(err, -ENOENT, "container \"%s\" does not exist", id);
	if (folder < 0)
		return folder;
	ret = open_folder(folder, path, id, &c, err);
	for (i = 0; !ret && !has_state(&c); i++) {
		if (instance_try_lock(NULL, &c.machine) && !has_state(&c)) {
			(void)remove_tree(folder, id, INSTANCE_LOCK, c.machine.path, NULL);
			ret = error_set(err, -ENOENT, "container \"%s\" does not exist", id);
		} else if (i == TRIES) {
			ret = error_set(err, -EBUSY, "container \"%s\" is coming into being", id);
		} else {
			(void)poll(NULL, 0, 10);
		}
	}
	oci_state_close(&c);
	close(folder);
	return ret;
}

int oci_state_each(const char *root, int (*visit)(struct oci_container *, void *), void *arg, struct error *err)
{
	char path[PATH_MAX];
	int fd = open_root(root, false, path, err), ret = 0;
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct oci_container container;
	struct dirent *entry;

	if (!stream)
		return fd == -ENOENT ? 0 : fd;
	while (!ret && (entry = readdir(stream)) != NULL) {
		if (entry->d_name[0] == '.' || strlen(entry->d_name) > OCI_ID_MAX ||
		    oci_state_open(root, entry->d_name, &container, NULL))
			continue;
		ret = visit(&container, arg);
		oci_state_close(&container);
	}
	closedir(stream);
	return ret;
}

/* ---- the keeper's socket ---- */

/* By descriptor: engines' paths are longer than those of sockets may be. */
static struct sockaddr_un address_of(const struct oci_container *c, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", c->machine.dir, name);
	return address;
}

int oci_control_listen(const struct oci_container *c, const char *name, int type, struct error *err)
{
	struct sockaddr_un address = address_of(c, name);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), ret;

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(fd, 8) == 0)
		return fd;
	ret = fail(c, name, err);
	if (fd >= 0)
		close(fd);
	return ret;
}

int oci_control_dial(const struct oci_container *c, const char *name, int type, struct error *err)
{
	struct sockaddr_un address = address_of(c, name);
	const struct timeval patience = { .tv_sec = DIAL_PATIENCE };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), ret;

	/* A queue that is full makes connect wait. */
	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	/* Its keeper is gone, or about to go. The words are runc's, which engines look for. */
	if (errno == EAGAIN)
		ret = error_set(err, -ETIMEDOUT, "the container's %s does not answer", name);
	else
		ret = error_set(err, -ESRCH, "container not running (%s)", strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}

int oci_control_ask(const struct oci_container *c, const char *word, int patience_ms, struct error *err)
{
	int fd = oci_control_dial(c, OCI_CONTROL, SOCK_SEQPACKET, err);
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	char answer[ANSWER_MAX];
	ssize_t len = -1;
	int ready = -1;

	if (fd < 0)
		return fd;
	if (send(fd, word, strlen(word), MSG_NOSIGNAL) > 0)
		ready = poll(&poll_fd, 1, patience_ms);
	if (ready == 1)
		len = recv(fd, answer, sizeof(answer) - 1, 0);
	close(fd);
	if (ready == 0)
		return error_set(err, -ETIMEDOUT, "the container's keeper does not answer");
	if (len <= 0)
		return error_set(err, -ESRCH, "container not running (its keeper has ended)");
	answer[len] = '\0';
	return strcmp(answer, "ok") == 0 ? 0 : error_set(err, -EREMOTEIO, "%s", answer);
}
