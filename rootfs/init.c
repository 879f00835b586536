/* init.c: the guest's first process: tells the VMM that user space runs, runs mayfly.exec=, resets with its status. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The VMM's boot timer: a byte at 0 says "user space reached" (as Firecracker's), a word at 4 is our exit status. */
#define BOOT_TIMER 0xC0000000
#define QUIET_FS   (MS_NOSUID | MS_NODEV | MS_NOEXEC)

/* NULL where the kernel finds RAM or another driver at that address (other VMMs). */
static volatile uint8_t *map_boot_timer(void)
{
	int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, BOOT_TIMER);

	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

/* A small file as a string, empty when it cannot be read. Returns its length. */
static size_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, buf, size - 1);

	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

/* Standard input, output and error exist whatever the kernel opened; a silent console is no reason to die. */
static void ensure_stdio(void)
{
	int fd = 0;

	while (fd >= 0 && fd <= 2)
		if ((fd = open("/dev/console", O_RDWR)) < 0)
			fd = open("/dev/null", O_RDWR);
	close(fd);
}

/* A read-only root may lack a mount point, an earlier init may have been here: neither is an error. */
static void mount_on(const char *type, const char *where, unsigned long flags, const char *options)
{
	mkdir(where, 0755);
	mount(type, where, type, flags, options);
}

/* What programs take for granted: the usual mounts, and localhost. */
static void set_up_system(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	mount_on("proc", "/proc", QUIET_FS, NULL);
	mount_on("sysfs", "/sys", QUIET_FS, NULL);
	mount_on("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mount_on("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_on("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_on("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
	mount_on("cgroup2", "/sys/fs/cgroup", QUIET_FS, NULL);
	ioctl(fd, SIOCSIFFLAGS, &lo);
	close(fd);
}

/* One line: kernel, CPUs, when user space was reached, and the root as mounted (by name: mounts say /dev/root). */
static void announce(const struct timespec *up, const char *cmdline)
{
	char mounts[4096], type[32] = "?", mode[3] = "", device[64] = "initramfs";
	const char *root = strstr(cmdline, "root="), *at = mounts;
	struct utsname u;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	read_file("/proc/mounts", mounts, sizeof(mounts));
	while ((at = strstr(at, " / ")))
		sscanf(at += 3, "%31s %2s", type, mode);
	if (root && strcmp(type, "rootfs"))
		sscanf(root, "root=%63s", device);
	uname(&u);
	dprintf(1, "mayfly-init: %s %s %s, %ld vCPU%s, up %ld.%06ld s, root %s %s %s\n", u.sysname, u.release,
		u.machine, cpus, cpus == 1 ? "" : "s", (long)up->tv_sec, up->tv_nsec / 1000, device, type, mode);
}

/* The value of mayfly.exec=, or NULL. As in the kernel, double quotes round the value or the whole argument keep
 * spaces together; a command that needs a double quote itself writes it %22 (any %XX is a byte). */
static const char *wanted_command(char *cmdline)
{
	char *in = strstr(cmdline, "mayfly.exec="), *start, *out;
	int quoted = in && in > cmdline && in[-1] == '"';

	start = out = in ? in + strlen("mayfly.exec=") : NULL;
	for (in = start; in && *in && *in != '\n' && (quoted || *in != ' '); in++) {
		if (*in == '%' && isxdigit(in[1]) && isxdigit(in[2])) {
			*out++ = (char)strtol((char[]){ in[1], in[2], '\0' }, NULL, 16);
			in += 2;
		} else if (*in == '"') {
			quoted = !quoted;
		} else {
			*out++ = *in;
		}
	}
	if (out)
		*out = '\0';
	return start;
}

/* /dev/console cannot be a controlling terminal (job control): take the tty behind it. Not by the shell: when a
 * session's leader ends, the terminal is hung up and what was not sent yet is dropped. */
static void take_terminal(void)
{
	char path[64] = "/dev/", active[48];

	setsid();
	read_file("/sys/class/tty/console/active", active, sizeof(active));
	active[strcspn(active, "\n")] = '\0';
	strcat(path, strrchr(active, ' ') ? strrchr(active, ' ') + 1 : active);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	for (int i = 0; !ioctl(fd, TIOCSCTTY, 0) && i <= 2; i++)
		dup2(fd, i);
}

/* Run the command or a shell and bury orphans until it ends. Returns its exit status, 128 + n for signal n. */
static int run(const char *command)
{
	pid_t pid = fork();
	int status = 127 << 8;

	if (pid == 0) {
		setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
		execl("/bin/sh", command ? "sh" : "-sh", command ? "-c" : NULL, command, NULL);
		dprintf(2, "mayfly-init: /bin/sh: %s\n", strerror(errno));
		_exit(127);
	}
	setpgid(pid, pid);
	tcsetpgrp(0, pid);
	while (wait(&status) != pid)
		;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Nothing may be lost when the machine goes away: send what is printed (for 5 s at most: perhaps nobody reads the
 * console), stop everybody, then unmount or freeze every disk, last one first. */
static void settle(void)
{
	char mounts[4096], where[256];
	int unsent;

	for (int i = 0; i < 500 && ioctl(1, TIOCOUTQ, &unsent) == 0 && unsent > 0; i++)
		usleep(10000);
	kill(-1, SIGKILL);
	while (wait(NULL) > 0)
		;
	sync();
	for (size_t end = read_file("/proc/mounts", mounts, sizeof(mounts)); end; mounts[--end] = '\0') {
		if (end > 1 && mounts[end - 2] != '\n')
			continue;
		if (sscanf(mounts + end - 1, "/dev/%*s %255s", where) == 1 && umount2(where, 0))
			mount(NULL, where, NULL, MS_REMOUNT | MS_RDONLY, NULL);
	}
}

int main(void)
{
	static char cmdline[4096];
	struct timespec up;

	if (getpid() != 1)
		return dprintf(2, "mayfly-init: only useful as a machine's first process\n") > 0;
	mount_on("devtmpfs", "/dev", MS_NOSUID, "mode=755");
	volatile uint8_t *timer = map_boot_timer();
	if (timer)
		*timer = 123;
	clock_gettime(CLOCK_BOOTTIME, &up);
	ensure_stdio();
	set_up_system();
	read_file("/proc/cmdline", cmdline, sizeof(cmdline));
	announce(&up, cmdline);
	take_terminal();
	int status = run(wanted_command(cmdline));
	settle();
	if (timer)
		*(volatile uint32_t *)(timer + 4) = (uint32_t)status;
	return reboot(RB_AUTOBOOT);
}
