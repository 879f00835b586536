/* instance.c: the folder of one container: its id, name, lock and what is known of it, kept by one process. */
#include "instance.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jailer/remove.h"
#include "text.h"

#define NAMES        "names"   /* links from names to ids */
#define GLOBAL_LOCK  ".lock"   /* shared while an instance comes into being, alone while others are taken away */
#define STATUS_MAX   (8 << 20) /* bytes: the largest configuration that an engine may give, and more */
#define END_PATIENCE 3000      /* milliseconds for a process to end by itself */
#define CREATE_TRIES 16

const char *instance_state_name(enum instance_state state)
{
	static const char *const names[] = { "created", "running", "exited", "dead" };

	return names[state];
}

static bool is_id(const char *text, size_t len)
{
	return len <= INSTANCE_ID_LEN && strspn(text, "0123456789abcdef") == len && len > 0;
}

bool instance_is_name(const char *text)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t len = strlen(text), i;

	if (len == 0 || len > INSTANCE_NAME_MAX || !strchr(first, text[0]))
		return false;
	for (i = 1; i < len; i++)
		if (!strchr(first, text[i]) && !strchr("_.-", text[i]))
			return false;
	return true;
}

static int lock_all(const struct places *p, int how)
{
	int fd = openat(p->state, GLOBAL_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	while (fd >= 0 && flock(fd, how))
		if (errno != EINTR)
			break;
	return fd;
}

static int fail(const struct instance *i, const char *name, struct error *err)
{
	return error_set(err, -errno, "%s/%s: %s", text_path_shown(i->path), name, strerror(errno));
}

/* ---- names ---- */

/* Takes a name; one that an instance left behind which is no more is free. */
static int take_name(const struct places *p, const char *name, const char *id, struct error *err)
{
	char path[sizeof(NAMES) + 1 + INSTANCE_NAME_MAX + 1], target[INSTANCE_ID_LEN + 1];
	ssize_t len;
	int tries;

	(void)mkdirat(p->state, NAMES, 0700);
	snprintf(path, sizeof(path), NAMES "/%s", name);
	for (tries = 0; tries < CREATE_TRIES; tries++) {
		if (symlinkat(id, p->state, path) == 0)
			return 0;
		if (errno != EEXIST)
			return error_set(err, -errno, "%s/%s: %s", text_path_shown(p->state_path), path,
					 strerror(errno));
		len = readlinkat(p->state, path, target, sizeof(target) - 1);
		target[len > 0 ? len : 0] = '\0';
		if (len > 0 && is_id(target, (size_t)len) &&
		    faccessat(p->state, target, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return error_set(err, -EEXIST,
					 "--name: \"%s\" is the name of %s (needs one of its own, or "
					 "`mayfly-run rm %s` first)",
					 name, target, name);
		(void)unlinkat(p->state, path, 0);
	}
	return error_set(err, -EEXIST, "--name: \"%s\" is taken again and again", name);
}

static void give_name_back(const struct places *p, const struct instance *i)
{
	char path[sizeof(NAMES) + 1 + INSTANCE_NAME_MAX + 1], target[INSTANCE_ID_LEN + 2];
	json_t *status = NULL;
	const char *name;
	ssize_t len;

	if (instance_load(i, &status, NULL))
		return;
	name = json_string_value(json_object_get(status, "name"));
	if (name && instance_is_name(name)) {
		snprintf(path, sizeof(path), NAMES "/%s", name);
		len = readlinkat(p->state, path, target, sizeof(target) - 1);
		if (len == INSTANCE_ID_LEN && memcmp(target, i->id, INSTANCE_ID_LEN) == 0)
			(void)unlinkat(p->state, path, 0);
	}
	json_decref(status);
}

/* ---- one instance ---- */

int instance_make_id(char id[INSTANCE_ID_LEN + 1], struct error *err)
{
	static const char digits[] = "0123456789abcdef";
	unsigned char bytes[INSTANCE_ID_LEN / 2];
	unsigned int i;

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return error_set(err, -EIO, "random numbers: %s", strerror(errno));
	for (i = 0; i < INSTANCE_ID_LEN; i++)
		id[i] = digits[bytes[i / 2] >> (i % 2 ? 0 : 4) & 15];
	id[INSTANCE_ID_LEN] = '\0';
	return 0;
}

static int open_folder(const struct places *p, const char *id, struct instance *out, struct error *err)
{
	struct stat st;

	out->lock = -1;
	snprintf(out->id, sizeof(out->id), "%s", id);
	if (snprintf(out->path, sizeof(out->path), "%s/%s", p->state_path, id) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "%s: the path is too long", text_path_shown(p->state_path));
	out->dir = openat(p->state, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (out->dir < 0)
		return error_set(err, -errno, "%s: %s", text_path_shown(out->path), strerror(errno));
	if (fstat(out->dir, &st) == 0 && st.st_uid == p->uid)
		return 0;
	close(out->dir);
	out->dir = -1;
	return error_set(err, -EPERM, "%s: belongs to someone else", text_path_shown(out->path));
}

static int open_lock(struct instance *i)
{
	return openat(i->dir, INSTANCE_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
}

static bool take_lock(struct instance *i, int how)
{
	i->lock = open_lock(i);
	while (i->lock >= 0 && flock(i->lock, how))
		if (errno != EINTR) {
			close(i->lock);
			i->lock = -1;
		}
	return i->lock >= 0;
}

static bool try_lock(const struct places *p, struct instance *i, int how)
{
	/* Alone: while an instance comes into being there is a moment before its lock is taken. */
	int all = p ? lock_all(p, LOCK_EX) : -1;
	bool taken = take_lock(i, how | LOCK_NB);

	if (all >= 0)
		close(all);
	return taken;
}

bool instance_try_lock(const struct places *p, struct instance *i)
{
	return try_lock(p, i, LOCK_EX);
}

/* Whether nobody keeps it. Any number may look at the same time. */
static bool is_free(const struct places *p, struct instance *i)
{
	if (!try_lock(p, i, LOCK_SH))
		return false;
	close(i->lock);
	i->lock = -1;
	return true;
}

static int create(const struct places *p, const char *name, struct instance *out, struct error *err)
{
	char id[INSTANCE_ID_LEN + 1];
	int tries, ret = 0;

	for (tries = 0; tries < CREATE_TRIES; tries++) {
		ret = instance_make_id(id, err);
		if (ret || mkdirat(p->state, id, 0700) == 0)
			break;
		ret = error_set(err, -errno, "%s/%s: %s", text_path_shown(p->state_path), id, strerror(errno));
		if (errno != EEXIST)
			break;
	}
	if (!ret)
		ret = open_folder(p, id, out, err);
	if (ret)
		return ret;
	/* Whoever else has it only looks. */
	if (!take_lock(out, LOCK_EX))
		ret = fail(out, INSTANCE_LOCK, err);
	else if (name)
		ret = take_name(p, name, out->id, err);
	if (ret) {
		(void)remove_tree(p->state, out->id, INSTANCE_LOCK, out->path, NULL);
		instance_close(out);
	}
	return ret;
}

int instance_create(const struct places *p, const char *name, struct instance *out, struct error *err)
{
	int all = lock_all(p, LOCK_SH), ret;

	*out = (struct instance){ .dir = -1, .lock = -1 };
	if (all < 0)
		return error_set(err, -errno, "%s/" GLOBAL_LOCK ": %s", text_path_shown(p->state_path),
				 strerror(errno));
	ret = create(p, name, out, err);
	close(all);
	return ret;
}

void instance_close(struct instance *i)
{
	if (i->dir >= 0)
		close(i->dir);
	if (i->lock >= 0)
		close(i->lock);
	i->dir = i->lock = -1;
}

/* The only id that begins so. Returns how many do, 2 for more than one. */
static int complete(const struct places *p, const char *prefix, char id[INSTANCE_ID_LEN + 1])
{
	const size_t len = strlen(prefix);
	int fd = openat(p->state, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), found = 0;
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	while (stream && found < 2 && (entry = readdir(stream)) != NULL) {
		if (strlen(entry->d_name) != INSTANCE_ID_LEN || !is_id(entry->d_name, INSTANCE_ID_LEN) ||
		    strncmp(entry->d_name, prefix, len) != 0)
			continue;
		memcpy(id, entry->d_name, INSTANCE_ID_LEN + 1);
		found++;
	}
	if (stream)
		closedir(stream);
	else if (fd >= 0)
		close(fd);
	return found;
}

int instance_open(const struct places *p, const char *reference, struct instance *out, struct error *err)
{
	char path[sizeof(NAMES) + 1 + INSTANCE_NAME_MAX + 1], id[INSTANCE_ID_LEN + 2], shown[80];
	const size_t length = strlen(reference);
	ssize_t len = -1;
	int found = 0;

	*out = (struct instance){ .dir = -1, .lock = -1 };
	if (instance_is_name(reference)) {
		snprintf(path, sizeof(path), NAMES "/%s", reference);
		len = readlinkat(p->state, path, id, sizeof(id) - 1);
	}
	if (len == INSTANCE_ID_LEN) {
		id[len] = '\0';
		found = is_id(id, (size_t)len) && faccessat(p->state, id, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	}
	if (!found && is_id(reference, length))
		found = complete(p, reference, id);
	text_escape(shown, sizeof(shown), reference, length);
	if (found == 2)
		return error_set(err, -ENOENT, "\"%s\": several ids begin so (needs more of it)", shown);
	if (!found)
		return error_set(err, -ENOENT, "\"%s\": no such container (`mayfly-run ps -a` lists all)", shown);
	return open_folder(p, id, out, err);
}

/* ---- status ---- */

static int too_long(const struct instance *i, struct error *err)
{
	return error_set(err, -EFBIG, "%s/" INSTANCE_STATUS ": longer than %d MiB", text_path_shown(i->path),
			 STATUS_MAX >> 20);
}

int instance_save(const struct instance *i, json_t *status, struct error *err)
{
	static const char fresh[] = INSTANCE_STATUS ".new";
	int fd = openat(i->dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600), ret = 0;

	if (fd < 0)
		return fail(i, fresh, err);
	if (json_dumpfd(status, fd, JSON_COMPACT) || write(fd, "\n", 1) != 1)
		ret = fail(i, INSTANCE_STATUS, err);
	else if (lseek(fd, 0, SEEK_CUR) > STATUS_MAX)
		ret = too_long(i, err);
	else if (renameat(i->dir, fresh, i->dir, INSTANCE_STATUS))
		ret = fail(i, INSTANCE_STATUS, err);
	close(fd);
	return ret;
}

int instance_load(const struct instance *i, json_t **out, struct error *err)
{
	int fd = openat(i->dir, INSTANCE_STATUS, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), ret = 0;
	char *text = NULL;
	struct stat st;
	ssize_t len;

	*out = NULL;
	if (fd < 0)
		return fail(i, INSTANCE_STATUS, err);
	if (fstat(fd, &st)) {
		ret = fail(i, INSTANCE_STATUS, err);
	} else if (st.st_size > STATUS_MAX) {
		ret = too_long(i, err);
	} else if (!(text = malloc((size_t)st.st_size + 1))) {
		ret = fail(i, INSTANCE_STATUS, err);
	} else {
		len = read(fd, text, (size_t)st.st_size);
		*out = json_loadb(text, len < 0 ? 0 : (size_t)len, JSON_REJECT_DUPLICATES, NULL);
		if (!json_is_object(*out)) {
			json_decref(*out);
			*out = NULL;
			ret = error_set(err, -EINVAL, "%s/" INSTANCE_STATUS ": not JSON", text_path_shown(i->path));
		}
	}
	free(text);
	close(fd);
	return ret;
}

enum instance_state instance_state(const struct places *p, struct instance *i, json_t *status)
{
	const char *state = status ? json_string_value(json_object_get(status, "state")) : NULL;

	if (state && strcmp(state, "exited") == 0)
		return INSTANCE_EXITED;
	/* The second look is for what comes into being; for that the folder of all is locked, which takes longer. */
	if (is_free(NULL, i) && (!p || is_free(p, i)))
		return INSTANCE_DEAD;
	return state && strcmp(state, "running") == 0 ? INSTANCE_RUNNING : INSTANCE_CREATED;
}

struct process status_process(json_t *status, const char *key)
{
	json_t *entry = json_object_get(status, key);

	return (struct process){ .pid = (pid_t)json_integer_value(json_object_get(entry, "pid")),
				 .start = (uint64_t)json_integer_value(json_object_get(entry, "start")) };
}

void status_set_process(json_t *status, const char *key, const struct process *process)
{
	json_object_set_new(
		status, key,
		json_pack("{s:I, s:I}", "pid", (json_int_t)process->pid, "start", (json_int_t)process->start));
}

/* ---- the end ---- */

void instance_jails(const struct places *p, const struct instance *i, char out[PATH_MAX])
{
	/* /run is mounted nodev, and root's jails have device nodes of their own. */
	if (p->uid == 0)
		snprintf(out, PATH_MAX, "%s/jails", p->data_path);
	else
		snprintf(out, PATH_MAX, "%s", i->path);
}

int instance_remove_jail(const struct places *p, const struct instance *i, struct error *err)
{
	char path[PATH_MAX + 32], jails[PATH_MAX];
	struct stat st;
	int fd, ret = 0;

	if (p->uid != 0)
		return 0;
	instance_jails(p, i, jails);
	snprintf(path, sizeof(path), "%s/mayfly", jails);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return 0;
	snprintf(path, sizeof(path), "%s/mayfly/%s", jails, i->id);
	if (fstatat(fd, i->id, &st, AT_SYMLINK_NOFOLLOW) == 0)
		ret = remove_tree(fd, i->id, "", path, err);
	close(fd);
	return ret;
}

void instance_tidy(const struct instance *i)
{
	static const char *const names[] = { INSTANCE_VSOCK, "mayfly" };
	unsigned int n;

	for (n = 0; n < sizeof(names) / sizeof(names[0]); n++)
		(void)remove_tree(i->dir, names[n], "", i->path, NULL);
}

int instance_remove(const struct places *p, struct instance *i, struct error *err)
{
	static const char *const others[] = { "jailer", "passt" };
	struct process process;
	json_t *status = NULL;
	unsigned int n;
	int all, ret = 0;

	if (instance_load(i, &status, NULL) == 0)
		for (n = 0; n < sizeof(others) / sizeof(others[0]); n++) {
			process = status_process(status, others[n]);
			if (!process_end(&process, END_PATIENCE))
				ret = error_set(err, -EBUSY, "%s: process %d (%s) does not end", i->id, process.pid,
						others[n]);
		}
	json_decref(status);
	if (ret)
		return ret;
	ret = instance_remove_jail(p, i, err);
	if (ret)
		return ret;
	all = lock_all(p, LOCK_EX);
	give_name_back(p, i);
	ret = remove_tree(p->state, i->id, INSTANCE_LOCK, i->path, err);
	if (all >= 0)
		close(all);
	return ret;
}

int instance_each(const struct places *p, int (*visit)(struct instance *, void *), void *arg, struct error *err)
{
	int fd = openat(p->state, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	struct instance instance;
	struct dirent *entry;

	if (!stream) {
		error_set(err, -errno, "%s: %s", text_path_shown(p->state_path), strerror(errno));
		if (fd >= 0)
			close(fd);
		return err->code;
	}
	while (!ret && (entry = readdir(stream)) != NULL) {
		if (strlen(entry->d_name) != INSTANCE_ID_LEN || !is_id(entry->d_name, INSTANCE_ID_LEN) ||
		    open_folder(p, entry->d_name, &instance, NULL))
			continue;
		ret = visit(&instance, arg);
		instance_close(&instance);
	}
	closedir(stream);
	return ret;
}
