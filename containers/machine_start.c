/* machine_start.c: a container's machine: its configuration, and the jail that Mayfly is started in. */
#include "machine_start.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "rootfs/init/frames.h"
#include "text.h"

/* Errors of the kernel are heard: that somebody was killed for want of memory is one. */
#define BOOT_ARGS     "console=ttyS0 loglevel=4 reboot=k panic=-1"
#define BOOT_ARGS_MAX 1800 /* Mayfly adds a few words of its own to these, and Linux takes 2047 bytes */
#define GUEST_CID     3
#define MIB           (1ull << 20)

/* In the jail. */
#define JAIL_KERNEL "/vmlinux"
#define JAIL_INITRD "/initrd"
#define JAIL_CONFIG "/config.json"
#define JAIL_VSOCK  "/vsock"

/*
 * As root, every jail has a user of its own, by its id: of the numbers that no distribution gives to anybody
 * (systemd's table of UIDs: 1879048192 to 2147483647 are unused).
 */
#define ROOTS_FIRST_UID 1879048192u
#define ROOTS_UIDS      (1u << 28)

/* ---- the kernel's command line ---- */

struct line {
	char *text;
	size_t len, size;
	bool full;
};

static void put(struct line *l, const char *text)
{
	const size_t n = strlen(text);

	l->full |= n >= l->size - l->len;
	if (l->full)
		return;
	memcpy(l->text + l->len, text, n + 1);
	l->len += n;
}

/* A value that may hold anything: what would end a word becomes %XX. */
static void put_value(struct line *l, const char *key, const char *value)
{
	char piece[4];

	put(l, " mayfly.");
	put(l, key);
	put(l, "=");
	for (; *value; value++) {
		if ((unsigned char)*value <= ' ' || (unsigned char)*value >= 0x7f || strchr("\"'%", *value))
			snprintf(piece, sizeof(piece), "%%%02X", (unsigned char)*value);
		else
			snprintf(piece, sizeof(piece), "%c", *value);
		put(l, piece);
	}
}

static void put_drives(struct line *l, const struct drives *drives)
{
	char device[] = "/dev/vdX", value[PATH_MAX + 16];
	unsigned int i;

	for (i = 1; i < drives->nr; i++) {
		const struct drive *d = &drives->drive[i];

		device[sizeof(device) - 2] = (char)('a' + i);
		if (d->is_scratch) {
			put_value(l, "scratch", device);
			continue;
		}
		if ((size_t)snprintf(value, sizeof(value), "%s:%s%s", device, d->target, d->read_only ? ":ro" : "") >=
		    sizeof(value))
			l->full = true;
		put_value(l, "mount", value);
	}
}

int machine_boot_args(const struct machine_config *c, char *dst, size_t size, struct error *err)
{
	struct line l = { .text = dst, .size = size < BOOT_ARGS_MAX ? size : BOOT_ARGS_MAX };
	unsigned int i;

	put(&l, BOOT_ARGS);
	for (i = 0; c->kernel_args && c->kernel_args[i]; i++) {
		put(&l, " ");
		put(&l, c->kernel_args[i]);
	}
	put_value(&l, "hostname", c->hostname);
	put_drives(&l, c->drives);
	if (c->network->ip)
		put_value(&l, "ip", c->network->ip);
	if (c->network->gateway)
		put_value(&l, "gw", c->network->gateway);
	if (c->network->dns[0])
		put_value(&l, "dns", c->network->dns);
	return l.full ? error_set(err, -E2BIG,
				  "volumes and host name make the kernel's command line longer than %d bytes (needs "
				  "shorter or fewer of them)",
				  BOOT_ARGS_MAX)
		      : 0;
}

/* ---- Mayfly's configuration ---- */

static json_t *drive_json(unsigned int n, const struct drive *d)
{
	char id[16], path[16];

	snprintf(id, sizeof(id), "disk%u", n);
	snprintf(path, sizeof(path), "fd:%d", d->fd);
	return json_pack("{s:s, s:s, s:b, s:b}", "drive_id", id, "path_on_host", path, "is_root_device", 0,
			 "is_read_only", d->read_only);
}

static json_t *config_json(const struct machine_config *c, const char *boot_args)
{
	json_t *drives = json_array(), *cards = json_array(), *card;
	char fd[16];
	unsigned int i;

	for (i = 0; i < c->drives->nr; i++)
		json_array_append_new(drives, drive_json(i, &c->drives->drive[i]));
	if (c->network->fd >= 0) {
		snprintf(fd, sizeof(fd), "fd:%d", c->network->fd);
		card = json_pack("{s:s, s:s}", "iface_id", "eth0", "host_dev_name", fd);
		if (c->network->mac)
			json_object_set_new(card, "guest_mac", json_string(c->network->mac));
		json_array_append_new(cards, card);
	}
	return json_pack("{s:{s:s, s:s, s:s}, s:{s:I, s:I}, s:o, s:o, s:{s:i, s:s}}", "boot-source",
			 "kernel_image_path", JAIL_KERNEL, "initrd_path", JAIL_INITRD, "boot_args", boot_args,
			 "machine-config", "vcpu_count", (json_int_t)c->cpus, "mem_size_mib",
			 (json_int_t)(c->memory / MIB), "drives", drives, "network-interfaces", cards, "vsock",
			 "guest_cid", GUEST_CID, "uds_path", JAIL_VSOCK "/" INSTANCE_SOCKET);
}

static int write_config(const struct instance *i, const struct machine_config *c, uid_t uid, struct error *err)
{
	char boot_args[BOOT_ARGS_MAX];
	json_t *config;
	int ret = machine_boot_args(c, boot_args, sizeof(boot_args), err), fd;

	if (ret)
		return ret;
	config = config_json(c, boot_args);
	fd = openat(i->dir, INSTANCE_CONFIG, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (!config || fd < 0 || json_dumpfd(config, fd, JSON_INDENT(1)) || (uid && fchown(fd, uid, uid)))
		ret = error_set(err, config ? -errno : -EINVAL, "%s/" INSTANCE_CONFIG ": %s", text_path_shown(i->path),
				config ? strerror(errno) : "a mount's path is no UTF-8");
	if (fd >= 0)
		close(fd);
	json_decref(config);
	return ret;
}

/* ---- the jail ---- */

static uid_t jail_uid(const struct places *p, const struct instance *i)
{
	return p->uid ? 0 : ROOTS_FIRST_UID + (uid_t)(strtoull(i->id, NULL, 16) % ROOTS_UIDS);
}

/* The agent calls at a socket of ours in the folder that the jail sees. */
static int listen_for_agent(const struct instance *i, uid_t uid, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int folder, fd;

	if (mkdirat(i->dir, INSTANCE_VSOCK, 0700))
		return error_set(err, -errno, "%s/" INSTANCE_VSOCK ": %s", text_path_shown(i->path), strerror(errno));
	folder = openat(i->dir, INSTANCE_VSOCK, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* By descriptor: paths of sockets end after 107 bytes. */
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" INSTANCE_SOCKET "_%d", folder,
		 AGENT_PORT);
	if (folder < 0 || fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1) ||
	    (uid && (fchownat(folder, strrchr(address.sun_path, '/') + 1, uid, uid, AT_SYMLINK_NOFOLLOW) ||
		     fchown(folder, uid, uid))))
		error_set(err, -errno, "%s/" INSTANCE_VSOCK ": %s", text_path_shown(i->path), strerror(errno));
	if (folder >= 0)
		close(folder);
	if (!err->code)
		return fd;
	if (fd >= 0)
		close(fd);
	return err->code;
}

#define JAILER_WORDS (40 + 2 * DRIVES_MAX)

/* The jailer's command line, with the memory of its words. */
struct command_line {
	const char *argv[JAILER_WORDS];
	unsigned int nr;
	char jailer[PATH_MAX], monitor[PATH_MAX], jails[PATH_MAX];
	char kernel[PATH_MAX + 16], initrd[PATH_MAX + 16], config[PATH_MAX + 32], vsock[PATH_MAX + 32];
	char numbers[DRIVES_MAX + 2][12], uid[12];
	int keep[DRIVES_MAX + 3];
	unsigned int nr_keep;
};

static void word(struct command_line *c, const char *text)
{
	c->argv[c->nr++] = text;
}

static void option(struct command_line *c, const char *name, const char *value)
{
	word(c, name);
	word(c, value);
}

static void pass(struct command_line *c, int fd)
{
	char *number = c->numbers[c->nr_keep];

	snprintf(number, sizeof(c->numbers[0]), "%d", fd);
	option(c, "--pass-fd", number);
	c->keep[c->nr_keep++] = fd;
	c->keep[c->nr_keep] = -1;
}

static int find_files(struct command_line *c, const struct places *p, const struct machine_config *config,
		      struct error *err)
{
	const bool one = config->cpus == 1;
	char path[PATH_MAX];
	int ret = places_file(p, "mayfly-jailer", "mayfly-jailer", "mayfly-jailer", c->jailer, err);

	if (!ret)
		ret = places_file(p, "mayfly", "mayfly", "mayfly", c->monitor, err);
	if (!ret && config->kernel)
		snprintf(path, sizeof(path), "%s", config->kernel);
	else if (!ret)
		ret = places_file(p, one ? "kernel/vmlinux-up" : "kernel/vmlinux-smp",
				  one ? "vmlinux-up" : "vmlinux-smp", "the guest's kernel", path, err);
	if (ret)
		return ret;
	snprintf(c->kernel, sizeof(c->kernel), "%s:" JAIL_KERNEL ":ro", path);
	ret = places_file(p, "images/container-initrd.cpio", "container-initrd.cpio", "the guest's init", path, err);
	if (!ret)
		snprintf(c->initrd, sizeof(c->initrd), "%s:" JAIL_INITRD ":ro", path);
	return ret;
}

static void make_command_line(struct command_line *c, const struct places *p, const struct instance *i,
			      const struct machine_config *config)
{
	static const char *const fixed[] = { "--new-user-ns", "--new-pid-ns", "--new-net-ns",
					     "--new-ipc-ns",  "--new-uts-ns", "--cleanup" };
	unsigned int n, api;

	instance_jails(p, i, c->jails);
	snprintf(c->config, sizeof(c->config), "%s/" INSTANCE_CONFIG ":" JAIL_CONFIG ":ro", i->path);
	snprintf(c->vsock, sizeof(c->vsock), "%s/" INSTANCE_VSOCK ":" JAIL_VSOCK, i->path);
	word(c, c->jailer);
	for (n = 0; n < sizeof(fixed) / sizeof(fixed[0]); n++)
		word(c, fixed[n]);
	option(c, "--id", i->id);
	option(c, "--exec-file", c->monitor);
	option(c, "--chroot-base-dir", c->jails);
	if (p->uid == 0) {
		snprintf(c->uid, sizeof(c->uid), "%u", jail_uid(p, i));
		option(c, "--uid", c->uid);
		option(c, "--gid", c->uid);
	}
	option(c, "--bind", c->kernel);
	option(c, "--bind", c->initrd);
	option(c, "--bind", c->config);
	option(c, "--bind", c->vsock);
	for (n = 0; n < config->drives->nr; n++)
		pass(c, config->drives->drive[n].fd);
	if (config->network->fd >= 0)
		pass(c, config->network->fd);
	api = c->nr_keep;
	if (config->api)
		pass(c, config->api);
	word(c, "--");
	if (config->api)
		option(c, "--api-fd", c->numbers[api]);
	else
		word(c, "--no-api");
	option(c, "--config-file", JAIL_CONFIG);
}

static int start_jailer(struct command_line *c, struct machine *m, struct error *err)
{
	int console[2] = { -1, -1 }, errors[2] = { -1, -1 };
	/* SIGTERM: the jailer hands it on, and removes the jail when the monitor has ended. */
	struct spawn spawn = {
		.argv = c->argv, .in = -1, .keep = c->keep, .death_signal = SIGTERM, .new_session = true
	};
	pid_t pid = -1;

	if (pipe2(console, O_CLOEXEC | O_NONBLOCK) || pipe2(errors, O_CLOEXEC | O_NONBLOCK)) {
		error_set(err, -errno, "pipe: %s", strerror(errno));
	} else {
		spawn.out = console[1];
		spawn.err = errors[1];
		pid = spawn_start(&spawn, err);
	}
	if (console[1] >= 0)
		close(console[1]);
	if (errors[1] >= 0)
		close(errors[1]);
	m->console = console[0];
	m->errors = errors[0];
	if (pid < 0)
		return err->code;
	m->jailer = process_find(pid);
	return 0;
}

int machine_start(const struct places *p, const struct instance *i, const struct machine_config *config,
		  struct machine *m, struct error *err)
{
	struct command_line *c = calloc(1, sizeof(*c));
	const uid_t uid = jail_uid(p, i);
	int ret, jails;

	*m = (struct machine){ .listener = -1, .console = -1, .errors = -1 };
	if (!c)
		return error_set(err, -ENOMEM, "no memory");
	ret = find_files(c, p, config, err);
	if (!ret)
		ret = write_config(i, config, uid, err);
	if (!ret && p->uid == 0) {
		jails = places_data(p, "jails", err);
		ret = jails < 0 ? jails : 0;
		if (jails >= 0)
			close(jails);
	}
	if (!ret) {
		m->listener = listen_for_agent(i, uid, err);
		ret = m->listener < 0 ? m->listener : 0;
	}
	if (!ret) {
		make_command_line(c, p, i, config);
		ret = start_jailer(c, m, err);
	}
	free(c);
	return ret;
}

void machine_close(struct machine *m)
{
	const int fds[] = { m->listener, m->console, m->errors };
	unsigned int n;

	for (n = 0; n < sizeof(fds) / sizeof(fds[0]); n++)
		if (fds[n] >= 0)
			close(fds[n]);
	m->listener = m->console = m->errors = -1;
}
