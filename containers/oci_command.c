/* oci_command.c: looks for a container's command in its root file system, so that create can say what is wrong with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "oci_disks.h"
#include "text.h"

/* 0: can be run; or why not. Links are followed as inside, never out of the root. */
static int look_at(int root, const char *path, const char *cwd)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	char whole[PATH_MAX];
	struct stat st;
	int fd;

	if (snprintf(whole, sizeof(whole), "%s%s%s", *path == '/' ? "" : cwd, *path == '/' ? "" : "/", path) >=
	    PATH_MAX)
		return ENAMETOOLONG;
	fd = (int)syscall(SYS_openat2, root, whole, &how, sizeof(how));
	if (fd < 0)
		return errno;
	if (fstat(fd, &st))
		st.st_mode = 0;
	close(fd);
	if (S_ISDIR(st.st_mode))
		return EISDIR;
	return st.st_mode & 0111 ? 0 : EACCES;
}

/* What lies in a folder of the host, or on a file system of the guest's, is not in this root. */
static bool may_be_elsewhere(const struct oci_spec *spec)
{
	unsigned int i;

	for (i = 0; i < spec->nr_mounts; i++)
		if (spec->mounts[i].kind == MOUNT_BIND && strncmp(spec->mounts[i].destination, "/etc/", 5) != 0 &&
		    strncmp(spec->mounts[i].destination, "/run/", 5) != 0 &&
		    strncmp(spec->mounts[i].destination, "/dev/", 5) != 0)
			return true;
	return false;
}

static const char *path_of(const struct oci_process *p)
{
	json_t *entry;
	size_t i;

	json_array_foreach(p->env, i, entry) if (strncmp(json_string_value(entry), "PATH=", 5) ==
						 0) return json_string_value(entry) +
		5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

static int search(int root, const char *name, const struct oci_process *p)
{
	const char *path = path_of(p);
	char candidate[PATH_MAX];
	int ret = ENOENT, why;
	size_t len;

	if (strchr(name, '/'))
		return look_at(root, name, p->cwd);
	for (; *path; path += len + (path[len] == ':')) {
		len = strcspn(path, ":");
		if (snprintf(candidate, sizeof(candidate), "%.*s/%s", (int)len, path, name) >= PATH_MAX)
			continue;
		why = look_at(root, candidate, p->cwd);
		if (!why)
			return 0;
		if (why == EACCES)
			ret = why;
	}
	return ret;
}

int oci_command_check(const struct oci_spec *spec, struct error *err)
{
	const char *name = json_string_value(json_array_get(spec->process.args, 0));
	int root = open(spec->root, O_PATH | O_DIRECTORY | O_CLOEXEC), why;
	char shown[100];

	if (root < 0)
		return error_set(err, -errno, "root.path: %s: %s", text_path_shown(spec->root), strerror(errno));
	why = search(root, name, &spec->process);
	close(root);
	if (!why || (why != EACCES && may_be_elsewhere(spec)))
		return 0;
	/* Engines make exit statuses 127 and 126 of these words. */
	text_escape(shown, sizeof(shown), name, strlen(name));
	if (why == EISDIR || why == EACCES)
		return error_set(err, -EACCES, "exec: \"%s\": permission denied%s", shown,
				 why == EISDIR ? " (a folder)" : "");
	if (strchr(name, '/'))
		return error_set(err, -why, "exec: \"%s\": no such file or directory", shown);
	return error_set(err, -ENOENT, "exec: \"%s\": executable file not found in $PATH", shown);
}
