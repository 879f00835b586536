/* oci_disks.c: what of config.json becomes disks of the machine, and what files go into it before its command runs. */
#include "oci_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jailer/words.h"
#include "tar_files.h"
#include "text.h"

#define SCRATCH_NAME "mayfly-scratch.ext4"

/* ---- what can be had ---- */

static bool is_below(const char *path, const char *folder)
{
	const size_t len = strlen(folder);

	return strncmp(path, folder, len) == 0 && (path[len] == '/' || !path[len]);
}

/* Where the guest has file systems of its own, whatever the host would put there. */
static bool is_of_guest(const struct oci_mount *m)
{
	static const char *const folders[] = { "/proc", "/sys", "/dev/shm", "/dev/pts", "/dev/mqueue" };
	unsigned int i;

	if (m->kind == MOUNT_OF_GUEST)
		return true;
	for (i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (is_below(m->destination, folders[i]))
			return true;
	return false;
}

/* What is written to the copies stays inside, which whoever sets the annotation knows. */
static bool copies_folders(const struct oci_spec *spec)
{
	const char *word = oci_annotation(spec, OCI_ANNOTATION_FOLDERS);

	return word && strcmp(word, "copy") == 0;
}

static int check_bind(const struct oci_spec *spec, const struct oci_mount *m, struct error *err)
{
	char shown[100];
	struct stat st;

	text_escape(shown, sizeof(shown), m->destination, strlen(m->destination));
	if (stat(m->source, &st))
		return error_set(err, -errno, "mounts: %s: %s: %s", shown, text_path_shown(m->source), strerror(errno));
	if (S_ISREG(st.st_mode) && st.st_size <= OCI_FILE_MAX)
		return 0;
	if (S_ISREG(st.st_mode))
		return error_set(err, -EFBIG,
				 "mounts: %s: a file of %lld MiB (needs 1 MiB at most, since it is copied into the "
				 "microVM; a folder, read-only, may hold more)",
				 shown, (long long)st.st_size >> 20);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, -ENOTSUP,
				 "mounts: %s: a socket or device of the host cannot be had in a microVM (needs to "
				 "be a file or a read-only folder)",
				 shown);
	if (m->read_only || copies_folders(spec))
		return 0;
	return error_set(
		err, -ENOTSUP,
		"mounts: %s: a folder of the host cannot be written to from a microVM (needs :ro, a copy of what is "
		"in it now, or the annotation " OCI_ANNOTATION_FOLDERS "=copy, a copy that can be written to)",
		shown);
}

int oci_disks_check(const struct oci_spec *spec, struct error *err)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < spec->nr_mounts && !ret; i++)
		if (!is_of_guest(&spec->mounts[i]))
			ret = check_bind(spec, &spec->mounts[i], err);
	return ret;
}

/* ---- disks ---- */

static int open_folder(const char *bundle, struct error *err)
{
	int fd = open(bundle, O_RDONLY | O_DIRECTORY | O_CLOEXEC), work;

	if (fd < 0)
		return error_set(err, -errno, "--bundle: %s: %s", text_path_shown(bundle), strerror(errno));
	work = openat(fd, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (work < 0)
		return fd;
	close(fd);
	return work;
}

/* Whole before it has its name. */
static int make_scratch(int folder, uint64_t size, struct error *err)
{
	static const char fresh[] = SCRATCH_NAME ".new";
	int fd, ret;

	(void)unlinkat(folder, fresh, 0);
	fd = openat(folder, fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(err, -errno, "the writable layer: %s", strerror(errno));
	ret = drives_make_ext4(fd, size, true, err);
	if (!ret && renameat(folder, fresh, folder, SCRATCH_NAME))
		ret = error_set(err, -errno, "the writable layer: %s", strerror(errno));
	if (!ret)
		return fd;
	(void)unlinkat(folder, fresh, 0);
	close(fd);
	return ret;
}

static int add_scratch(const char *bundle, const char *word, struct drives *out, struct error *err)
{
	int folder, fd;
	uint64_t size;

	if (!words_size(word, &size) || size < 4 << 20)
		return error_set(err, -EINVAL,
				 OCI_ANNOTATION_SCRATCH ": \"%.40s\" (needs tmpfs or a size from 4M, as in 2G)", word);
	folder = open_folder(bundle, err);
	if (folder < 0)
		return folder;
	fd = openat(folder, SCRATCH_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		fd = make_scratch(folder, size, err);
	else if (fd < 0)
		error_set(err, -errno, "the writable layer: %s", strerror(errno));
	close(folder);
	if (fd < 0)
		return err->code;
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		error_set(err, -errno, "the writable layer: in use by another microVM");
		close(fd);
		return err->code;
	}
	out->drive[out->nr++] = (struct drive){ .fd = fd, .is_scratch = true };
	return 0;
}

static int add_folders(const struct oci_spec *spec, const struct places *places, struct drives *out, struct error *err)
{
	struct stat st;
	unsigned int i;
	int fd;

	for (i = 0; i < spec->nr_mounts; i++) {
		const struct oci_mount *m = &spec->mounts[i];

		if (is_of_guest(m) || !m->read_only || stat(m->source, &st) || !S_ISDIR(st.st_mode))
			continue;
		if (out->nr == DRIVES_MAX)
			return error_set(err, -E2BIG, "mounts: more than %d folders of the host", DRIVES_MAX - 2);
		fd = drives_make_erofs(m->source, NULL, places, err);
		if (fd < 0)
			return fd;
		out->drive[out->nr++] = (struct drive){ .fd = fd, .read_only = true, .target = m->destination };
	}
	return 0;
}

int oci_disks_open(const struct oci_spec *spec, const char *bundle, const struct places *places, struct drives *out,
		   struct error *err)
{
	/* An engine's root folder may be the bundle, where the writable layer lies (open_folder). */
	static const char without[] = "--exclude-regex=^(work/)?" SCRATCH_NAME "(\\.new)?$";
	const char *scratch = oci_annotation(spec, OCI_ANNOTATION_SCRATCH);
	int fd = drives_make_erofs(spec->root, without, places, err), ret = 0;

	out->nr = 0;
	if (fd < 0)
		return fd;
	drives_image(out, fd);
	if (!scratch)
		scratch = spec->root_read_only ? "tmpfs" : OCI_SCRATCH_SIZE;
	if (strcmp(scratch, "tmpfs") != 0)
		ret = add_scratch(bundle, scratch, out, err);
	if (!ret)
		ret = add_folders(spec, places, out, err);
	if (ret)
		drives_close(out);
	return ret;
}

/* ---- files ---- */

static int send_file(struct agent_client *agent, int fd, struct error *err)
{
	char data[16384];
	size_t sent = 0;
	ssize_t n = 0;
	int ret = 0;

	while (!ret && (n = read(fd, data, sizeof(data))) > 0) {
		sent += (size_t)n;
		if (sent > OCI_FILE_MAX)
			ret = error_set(err, -EFBIG, "a file of more than 1 MiB");
		else
			ret = agent_send(agent, FRAME_DATA, data, (size_t)n, err);
	}
	if (!ret && n < 0)
		ret = error_set(err, -errno, "%s", strerror(errno));
	return ret ? ret : agent_send(agent, FRAME_DATA, NULL, 0, err);
}

/* An archive below /, where what is missing on the way is made. */
static int put_folder(const struct oci_mount *m, const struct instance *instance, struct error *err)
{
	struct request request = { 0 };
	struct agent_client *agent;
	struct fields fields;
	int ret = agent_dial(instance, AGENT_PATIENCE_MS, &agent, err);

	if (ret)
		return ret;
	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "put");
	request_add(&request, "path", "/");
	request_add(&request, "tar", "1");
	ret = agent_request(agent, &request, err);
	if (!ret)
		ret = tar_send(agent, AT_FDCWD, m->source, m->destination + strspn(m->destination, "/"), err);
	if (!ret || ret == -EPIPE)
		ret = agent_reply(agent, AGENT_PATIENCE_MS, &fields, err);
	request_free(&request);
	agent_hang_up(agent);
	return ret;
}

static int put_file(const struct oci_mount *m, int fd, const struct stat *st, const struct instance *instance,
		    struct error *err)
{
	struct request request = { 0 };
	struct agent_client *agent;
	struct fields fields;
	char mode[16];
	int ret = agent_dial(instance, AGENT_PATIENCE_MS, &agent, err);

	if (ret)
		return ret;
	snprintf(mode, sizeof(mode), "%04o", st->st_mode & 07777);
	request_add_number(&request, "version", AGENT_PROTOCOL);
	request_add(&request, "op", "put");
	request_add(&request, "path", m->destination);
	request_add(&request, "mode", mode);
	request_add_number(&request, "uid", st->st_uid);
	request_add_number(&request, "gid", st->st_gid);
	ret = agent_request(agent, &request, err);
	if (!ret)
		ret = send_file(agent, fd, err);
	if (!ret)
		ret = agent_reply(agent, AGENT_PATIENCE_MS, &fields, err);
	request_free(&request);
	agent_hang_up(agent);
	return ret;
}

static int put(const struct oci_mount *m, const struct instance *instance, struct error *err)
{
	struct stat st;
	int fd, ret;

	if (stat(m->source, &st))
		return error_set(err, -errno, "%s", strerror(errno));
	/* Read-only folders are disks. */
	if (S_ISDIR(st.st_mode))
		return m->read_only ? 0 : put_folder(m, instance, err);
	/* It may be another than was checked: a FIFO would have us wait. */
	fd = open(m->source, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		ret = error_set(err, -errno, "%s", strerror(errno));
	else if (!S_ISREG(st.st_mode))
		ret = error_set(err, -ENOTSUP, "neither a file nor a folder any more");
	else
		ret = put_file(m, fd, &st, instance, err);
	if (fd >= 0)
		close(fd);
	return ret;
}

int oci_files_put(const struct oci_spec *spec, const struct instance *instance, struct error *err)
{
	struct error why = { 0 };
	unsigned int i;
	int ret = 0;

	for (i = 0; i < spec->nr_mounts && !ret; i++) {
		if (is_of_guest(&spec->mounts[i]))
			continue;
		ret = put(&spec->mounts[i], instance, &why);
		if (ret)
			error_set(err, ret, "mounts: %.100s: %s", spec->mounts[i].destination, why.message);
	}
	return ret;
}
