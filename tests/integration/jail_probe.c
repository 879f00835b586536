/* jail_probe.c: what a program in the jail sees and can do, one fact a line; then it does what its last argument says.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>

extern char **environ;

/* PATH MODE UID GID, and the numbers of a device. */
static void list(const char *path, int depth)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) != NULL) {
		char name[4096];
		struct stat st;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof(name), "%s%s%s", path, path[1] ? "/" : "", entry->d_name);
		if (lstat(name, &st))
			continue;
		printf("file %s %o %u %u %u:%u\n", name, st.st_mode, st.st_uid, st.st_gid, major(st.st_rdev),
		       minor(st.st_rdev));
		if (S_ISDIR(st.st_mode) && depth < 4)
			list(name, depth + 1);
	}
	if (dir)
		closedir(dir);
}

static void capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	unsigned long long bounding = 0;
	int cap;

	syscall(SYS_capget, &header, data);
	for (cap = 0; cap < 64; cap++)
		bounding |= prctl(PR_CAPBSET_READ, cap) == 1 ? 1ull << cap : 0;
	printf("cap effective %x%08x\ncap permitted %x%08x\ncap inheritable %x%08x\ncap bounding %llx\n",
	       data[1].effective, data[0].effective, data[1].permitted, data[0].permitted, data[1].inheritable,
	       data[0].inheritable, bounding);
	printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void process(char **argv)
{
	uid_t uids[3];
	gid_t gids[3], groups[64];
	struct rlimit limit;
	struct utsname names;
	char name[17] = "", cwd[4096] = "";
	mode_t mask = umask(0);
	int i, n, deathsig = 0;
	sigset_t blocked;

	getresuid(&uids[0], &uids[1], &uids[2]);
	getresgid(&gids[0], &gids[1], &gids[2]);
	printf("uid %u %u %u\ngid %u %u %u\n", uids[0], uids[1], uids[2], gids[0], gids[1], gids[2]);
	n = getgroups(64, groups);
	for (i = 0; i < n; i++)
		printf("group %u\n", groups[i]);
	prctl(PR_GET_NAME, name);
	prctl(PR_GET_PDEATHSIG, &deathsig);
	uname(&names);
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	printf("pid %d\nppid %d\nsid %d\nname %s\nhost %s\ndeathsig %d\numask %o\ncwd %s\n", getpid(), getppid(),
	       getsid(0), name, names.nodename, deathsig, mask, getcwd(cwd, sizeof(cwd)));
	for (i = 1; i < 65; i++)
		if (sigismember(&blocked, i) == 1)
			printf("blocked %d\n", i);
	getrlimit(RLIMIT_NOFILE, &limit);
	printf("limit no-file %llu %llu\n", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
	getrlimit(RLIMIT_FSIZE, &limit);
	printf("limit fsize %llu %llu\n", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
	for (i = 0; environ[i]; i++)
		printf("env %s\n", environ[i]);
	for (i = 0; argv[i]; i++)
		printf("arg %s\n", argv[i]);
	for (i = 0; i < 1024; i++)
		if (fcntl(i, F_GETFD) >= 0)
			printf("fd %d\n", i);
}

#define TRY(what, call) printf("try " what " %s\n", (call) < 0 ? strerrorname(errno) : "ok")

static const char *strerrorname(int code)
{
	static char text[16];

	snprintf(text, sizeof(text), "%d", code);
	return text;
}

/* Ways out. */
static void escape(void)
{
	struct stat root, up;
	int i;

	/* A user that is root within a new namespace can chroot below and then climb. */
	stat("/", &root);
	for (i = 0; i < 64; i++)
		if (chdir(".."))
			break;
	stat(".", &up);
	printf("try climb %s\n", root.st_ino == up.st_ino && root.st_dev == up.st_dev ? "stays" : "OUT");
	TRY("mount", mount("none", "/run", "tmpfs", 0, NULL));
	TRY("umount", umount2("/", MNT_DETACH));
	TRY("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
	TRY("mknod", mknod("/run/null", S_IFCHR | 0600, makedev(1, 3)));
	TRY("chroot", chroot("/run"));
	TRY("setuid", setuid(0));
	TRY("setgroups", setgroups(0, NULL));
	TRY("netdev", unshare(CLONE_NEWNET));
	TRY("hostname", sethostname("x", 1));
	TRY("proc", open("/proc/self/status", O_RDONLY));
	TRY("urandom", open("/dev/urandom", O_RDONLY));
	TRY("kvm", open("/dev/kvm", O_RDWR));
	TRY("tun", open("/dev/net/tun", O_RDWR));
	TRY("userfaultfd", open("/dev/userfaultfd", O_RDWR));
	TRY("write", open("/run/file", O_CREAT | O_WRONLY, 0755));
	TRY("exec", execve("/run/file", (char *[]){ "x", NULL }, environ));
}

/* Directories within directories, and names that a careless remover would follow or stumble over. */
static void litter(const char *outside)
{
	int i;

	mkdir("/deep", 0700);
	chdir("/deep");
	for (i = 0; i < 3000; i++)
		if (mkdir("d", 0700) || chdir("d"))
			break;
	symlink(outside, "link");
	chdir("/");
	mkdir("/.removed-0", 0700);
	mkdir("/.removed-0/x", 0700);
	mkdir("/shut", 0700);
	mkdir("/shut/in", 0700);
	close(open("/shut/in/file", O_CREAT | O_WRONLY, 0400));
	chmod("/shut/in", 0500);
	mkdir("/shut/out", 0);
	chmod("/shut", 0);
	symlink(outside, "/link");
	printf("littered\n");
}

/* Processes that outlive this one, in sessions of their own; the first has a new child and ends, and so on. */
static void leave(int nr)
{
	int i;

	for (i = 0; i < nr; i++) {
		if (fork() != 0)
			continue;
		setsid();
		for (;;) {
			if (i != 0)
				pause();
			else if (fork() != 0)
				_exit(0);
		}
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[argc - 1] : "";
	char byte;

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	process(argv);
	capabilities();
	list("/", 0);
	if (strcmp(what, "escape") == 0)
		escape();
	if (strncmp(what, "litter=", 7) == 0)
		litter(what + 7);
	if (strncmp(what, "cat=", 4) == 0) {
		char text[256] = "";
		int fd = open(what + 4, O_RDONLY);

		printf("read %zd %s\n", read(fd, text, sizeof(text) - 1), text);
		TRY("append", open(what + 4, O_WRONLY | O_APPEND));
	}
	printf("done\n");
	fflush(stdout);
	if (strcmp(what, "hold") == 0)
		while (read(0, &byte, 1) > 0)
			;
	if (strcmp(what, "pause") == 0)
		pause();
	if (strncmp(what, "exit=", 5) == 0)
		return atoi(what + 5);
	if (strncmp(what, "kill=", 5) == 0)
		raise(atoi(what + 5));
	if (strncmp(what, "eat=", 4) == 0)
		memset(malloc((size_t)atoi(what + 4) << 20), 1, (size_t)atoi(what + 4) << 20);
	if (strncmp(what, "leave=", 6) == 0)
		leave(atoi(what + 6));
	return 0;
}
