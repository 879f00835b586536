/* capabilities.c: what --cap-add and --cap-drop make of a container's capabilities. */
#include "capabilities.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* By their numbers (linux/capability.h). */
static const char *const names[] = {
	"CHOWN",
	"DAC_OVERRIDE",
	"DAC_READ_SEARCH",
	"FOWNER",
	"FSETID",
	"KILL",
	"SETGID",
	"SETUID",
	"SETPCAP",
	"LINUX_IMMUTABLE",
	"NET_BIND_SERVICE",
	"NET_BROADCAST",
	"NET_ADMIN",
	"NET_RAW",
	"IPC_LOCK",
	"IPC_OWNER",
	"SYS_MODULE",
	"SYS_RAWIO",
	"SYS_CHROOT",
	"SYS_PTRACE",
	"SYS_PACCT",
	"SYS_ADMIN",
	"SYS_BOOT",
	"SYS_NICE",
	"SYS_RESOURCE",
	"SYS_TIME",
	"SYS_TTY_CONFIG",
	"MKNOD",
	"LEASE",
	"AUDIT_WRITE",
	"AUDIT_CONTROL",
	"SETFCAP",
	"MAC_OVERRIDE",
	"MAC_ADMIN",
	"SYSLOG",
	"WAKE_ALARM",
	"BLOCK_SUSPEND",
	"AUDIT_READ",
	"PERFMON",
	"BPF",
	"CHECKPOINT_RESTORE",
};

#define NR_NAMES (sizeof(names) / sizeof(names[0]))
#define ALL      ((1ull << NR_NAMES) - 1)

/* What podman gives: enough for a package manager or a web server, nothing over the machine. */
static const char *const usual[] = { "CHOWN",   "DAC_OVERRIDE", "FOWNER",  "FSETID", "KILL",      "NET_BIND_SERVICE",
				     "SETFCAP", "SETGID",       "SETPCAP", "SETUID", "SYS_CHROOT" };

/* 0: no capability is called so. */
static uint64_t by_name(const char *name)
{
	unsigned int i;

	if (strcasecmp(name, "all") == 0)
		return ALL;
	if (strncasecmp(name, "cap_", 4) == 0)
		name += 4;
	for (i = 0; i < NR_NAMES; i++)
		if (strcasecmp(names[i], name) == 0)
			return 1ull << i;
	return 0;
}

static int read_all(const char *option, const struct words *list, uint64_t *out, struct error *err)
{
	unsigned int i;
	uint64_t one;

	*out = 0;
	for (i = 0; i < list->nr; i++) {
		one = by_name(list->word[i]);
		if (!one)
			return error_set(err, -EINVAL, "--%s: \"%.40s\" (needs a capability, as in NET_RAW, or ALL)",
					 option, list->word[i]);
		*out |= one;
	}
	return 0;
}

int capabilities_list(const struct words *add, const struct words *drop, char out[CAPABILITIES_TEXT_MAX],
		      struct error *err)
{
	uint64_t set = 0, added, dropped;
	unsigned int i;
	size_t len = 0;
	int ret = read_all("cap-add", add, &added, err);

	if (!ret)
		ret = read_all("cap-drop", drop, &dropped, err);
	if (ret)
		return ret;
	for (i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
		set |= by_name(usual[i]);
	/* ALL of one kind is where to begin from, and the other makes exceptions. */
	if (dropped == ALL)
		set = added;
	else
		set = (set | added) & ~dropped;
	out[0] = '\0';
	for (i = 0; i < NR_NAMES; i++)
		if (set & 1ull << i)
			len += (size_t)snprintf(out + len, CAPABILITIES_TEXT_MAX - len, "%sCAP_%s", len ? "," : "",
						names[i]);
	return 0;
}
