/* privileges.c: capabilities and limits of a command. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "user.h"

/* In the order of their numbers. */
static const char cap_names[] =
	"CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
	"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
	"SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
	"SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
	"WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";
static const char limit_names[] =
	"CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO "
	"RTTIME";
static const char podman_default[] =
	"CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,NET_BIND_SERVICE,SETFCAP,SETGID,SETPCAP,SETUID,"
	"SYS_CHROOT";

/* "CAP_KILL,CAP_CHOWN", with or without CAP_; "all"; "" is none. */
static int parse_caps(const struct fields *f, const char *key, const char *otherwise, uint64_t *caps, struct error *err)
{
	const char *text = field_get(f, key);

	text = text ? text : otherwise;
	*caps = 0;
	if (!strcmp(text, "all")) {
		*caps = UINT64_MAX;
		return 0;
	}
	for (size_t len; *text; text += len + (text[len] == ',')) {
		int n;

		len = strcspn(text, ",");
		n = strncmp(text, "CAP_", 4) ? word_number(cap_names, text, len)
					     : word_number(cap_names, text + 4, len - 4);
		if (n < 0)
			return error_set(err, -EINVAL, "%s: %.*s is no capability (CAP_KILL,CAP_CHOWN,… or all)", key,
					 (int)(len > 40 ? 40 : len), text);
		*caps |= 1ULL << n;
	}
	return 0;
}

/* "NAME=SOFT:HARD", NAME as nofile or RLIMIT_NOFILE. */
static int parse_limit(const char *text, struct privileges *p, struct error *err)
{
	char name[24] = "", value[2][24] = { "", "" }, *end = "", *c;
	unsigned long long n[2];
	int resource;

	sscanf(text, "%23[A-Za-z_]=%23[-0-9a-z]:%23[-0-9a-z]", name, value[0], value[1]);
	for (c = name; *c; c++)
		*c &= (char)~(*c >= 'a' ? 0x20 : 0);
	c = strncmp(name, "RLIMIT_", 7) ? name : name + 7;
	resource = word_number(limit_names, c, strlen(c));
	for (int i = 0; i < 2 && !*end; i++) {
		bool none = !strcmp(value[i], "unlimited") || !strcmp(value[i], "-1");

		n[i] = none ? RLIM_INFINITY : strtoull(value[i], &end, 10);
		end = none ? "" : *value[i] >= '0' && *value[i] <= '9' ? end : "?";
	}
	if (resource < 0 || *end || n[0] > n[1] || p->limit_count == USER_LIMITS)
		return error_set(err, -EINVAL,
				 "rlimit=%.60s: must be as nofile=1024:4096, soft limit below hard, or unlimited",
				 text);
	p->limits[p->limit_count].resource = resource;
	p->limits[p->limit_count++].limit = (struct rlimit){ n[0], n[1] };
	return 0;
}

int privileges_parse(const struct fields *f, struct privileges *out, struct error *err)
{
	const char *limit = NULL;
	int64_t no_new_privs = 0;
	int ret = parse_caps(f, "caps", podman_default, &out->caps, err);

	if (!ret)
		ret = parse_caps(f, "ambient", "", &out->ambient, err);
	if (!ret)
		ret = parse_caps(f, "inheritable", "", &out->inheritable, err);
	if (!ret)
		ret = number_field(f, "no_new_privs", 0, 1, &no_new_privs, err);
	out->ambient &= out->caps;
	out->inheritable &= out->caps;
	out->no_new_privs = no_new_privs;
	while (!ret && (limit = field_next(f, "rlimit", limit)))
		ret = parse_limit(limit, out, err);
	return ret;
}

static int set_caps(uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	for (int i = 0; i < 2; i++) {
		data[i].permitted = data[i].effective = (uint32_t)(permitted >> (32 * i));
		data[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	return (int)syscall(SYS_capset, &header, data);
}

int privileges_drop(const struct user *user, const struct privileges *p)
{
	uint64_t present = 0, ambient = p->ambient;

	for (int i = 0; i < p->limit_count; i++)
		if (setrlimit((int)p->limits[i].resource, &p->limits[i].limit))
			return -1;
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap) >= 0; cap++) {
		present |= 1ULL << cap;
		if (!(p->caps >> cap & 1) && prctl(PR_CAPBSET_DROP, cap))
			return -1;
	}
	ambient &= present;
	if (prctl(PR_SET_KEEPCAPS, 1) || setgroups(user->group_count, user->groups) || setgid(user->gid) ||
	    setuid(user->uid))
		return -1;
	/* As podman does: root has them, another user only those that were named for it. */
	if (set_caps(user->uid ? ambient : p->caps & present, ambient | (p->inheritable & present)))
		return -1;
	for (int cap = 0; cap < 64; cap++)
		if (ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
			return -1;
	return p->no_new_privs ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) : 0;
}
