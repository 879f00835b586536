/* landlock.c: the three system calls of Landlock, and what each version of it can restrict. */
#include "landlock.h"

#include <errno.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the headers of older distributions (Linux 6.1) lack. */
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14) /* ABI 3, Linux 6.2 */
#endif
#ifndef LANDLOCK_ACCESS_NET_BIND_TCP
#define LANDLOCK_ACCESS_NET_BIND_TCP    (1ULL << 0) /* ABI 4, Linux 6.7 */
#define LANDLOCK_ACCESS_NET_CONNECT_TCP (1ULL << 1)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15) /* ABI 5, Linux 6.10 */
#endif
#ifndef LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
#define LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0) /* ABI 6, Linux 6.12 */
#define LANDLOCK_SCOPE_SIGNAL               (1ULL << 1)
#endif

/* struct landlock_ruleset_attr as of ABI 6. A kernel that knows less of it takes it as long as the rest is 0. */
struct ruleset_attr {
	uint64_t handled_access_fs;
	uint64_t handled_access_net;
	uint64_t scoped;
};

/* Rights are numbered in the order they came: all up to the last of this ABI. */
static uint64_t fs_rights(int abi)
{
	uint64_t last = LANDLOCK_ACCESS_FS_MAKE_SYM;

	if (abi >= 5)
		last = LANDLOCK_ACCESS_FS_IOCTL_DEV;
	else if (abi >= 3)
		last = LANDLOCK_ACCESS_FS_TRUNCATE;
	else if (abi == 2)
		last = LANDLOCK_ACCESS_FS_REFER;
	return (last << 1) - 1;
}

int landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? -errno : (int)abi;
}

int landlock_create(int abi, struct error *err)
{
	const struct ruleset_attr attr = {
		.handled_access_fs = fs_rights(abi),
		.handled_access_net = abi >= 4 ? LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP : 0,
		.scoped = abi >= 6 ? LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL : 0,
	};
	long fd = syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (fd < 0)
		return error_set(err, -errno, "Landlock: a set of rules: %s", strerror(errno));
	return (int)fd;
}

int landlock_allow(int rules, int abi, int fd, unsigned int grant)
{
	struct landlock_path_beneath_attr beneath = { .parent_fd = fd };

	/* A drive that is a block device has to be asked for its size. */
	if (grant & LANDLOCK_READ)
		beneath.allowed_access |= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_IOCTL_DEV;
	if (grant & LANDLOCK_WRITE)
		beneath.allowed_access |= LANDLOCK_ACCESS_FS_WRITE_FILE;
	if (grant & LANDLOCK_REMOVE)
		beneath.allowed_access |= LANDLOCK_ACCESS_FS_REMOVE_FILE;
	if (grant & LANDLOCK_MAKE)
		beneath.allowed_access |=
			LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_TRUNCATE | LANDLOCK_ACCESS_FS_READ_DIR;
	if (grant & LANDLOCK_MAKE_SOCK)
		beneath.allowed_access |= LANDLOCK_ACCESS_FS_MAKE_SOCK;
	beneath.allowed_access &= fs_rights(abi);
	if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) == 0)
		return 0;
	/* A memfd is on no file system that has paths: nothing to grant, and nothing that Landlock would refuse. */
	return errno == EBADFD ? 0 : -errno;
}

int landlock_enter(int rules)
{
	return syscall(SYS_landlock_restrict_self, rules, 0) ? -errno : 0;
}
