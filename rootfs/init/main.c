/* main.c: the first process of a container's machine: sets it up, runs the agent, resets with the command's exit
 * status. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "files.h"
#include "mounts.h"
#include "network.h"
#include "text.h"

/* The VMM's boot timer: a byte at 0 says "user space reached" (as Firecracker's), a word at 4 is our exit status. */
#define BOOT_TIMER          0xC0000000
#define STATUS_SETUP_FAILED 125 /* as podman's for "not the command, but what should run it" */

#define ARGUMENTS         "scratch tmpfs_size hostname mount ip gw ip6 gw6 dns search net mmds mtu"
#define NETWORK_ARGUMENTS "ip gw ip6 gw6 dns search mtu"

static volatile uint8_t *map_boot_timer(void)
{
	int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, BOOT_TIMER);

	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

/* Standard streams are the console, or nothing. */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

/* The kernel's arguments that begin with mayfly., as fields; %XX is a byte. */
static int read_arguments(struct field_buffer *out, struct error *err)
{
	static char line[4096];
	char *rest = line, *word;

	read_setting("/proc/cmdline", line, sizeof(line));
	while ((word = strsep(&rest, " \n"))) {
		char *value = strchr(word, '='), *to;

		if (strncmp(word, "mayfly.", 7) != 0)
			continue;
		if (!value || word_number(ARGUMENTS, word + 7, (size_t)(value - word - 7)) < 0)
			return error_set(err, -EINVAL, "%.60s: no such argument (mayfly. and one of: " ARGUMENTS ")",
					 word);
		*value++ = '\0';
		to = value;
		for (char *from = value; *from; from++) {
			unsigned int high = *from == '%' ? text_digit(from[1]) : 16,
				     low = high < 16 ? text_digit(from[2]) : 16;

			*to++ = low < 16 ? (char)(high << 4 | low) : *from;
			from += low < 16 ? 2 : 0;
		}
		*to = '\0';
		field_add(out, word + 7, value);
	}
	return 0;
}

/* Name and network, as far as the arguments say anything of them. */
static int set_identity(int root, struct field_buffer *args, struct error *err)
{
	struct fields f = { args->text, args->len };
	const char *net = field_get(&f, "net"), *name, *ip, *field = NULL;
	char address[64];
	bool wanted = false;
	int ret = 0;

	if (net && strcmp(net, "mmds"))
		return bad_field(err, &f, "net", "mmds");
	network_loopback();
	if (net)
		ret = network_from_mmds(field_get(&f, "mmds"), args, err);
	f.len = args->len;
	while ((field = field_next(&f, NULL, field)))
		wanted |= word_number(NETWORK_ARGUMENTS, field, strcspn(field, "=")) >= 0;
	if (!ret && (wanted || net))
		ret = network_configure(root, &f, err);
	name = field_get(&f, "hostname");
	ip = field_get(&f, "ip");
	if (ip)
		snprintf(address, sizeof(address), "%.*s", (int)strcspn(ip, "/"), ip);
	return !ret && name ? identity_hostname(root, name, ip ? address : NULL, err) : ret;
}

static int set_up(struct agent *agent, struct error *err)
{
	static char text[8192];
	struct field_buffer args = { .text = text, .size = sizeof(text) };
	const struct rlimit files = { 65536, 1048576 }, processes = { RLIM_INFINITY, RLIM_INFINITY };
	struct fields f;
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT };
	int ret;

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	ret = read_arguments(&args, err);
	f = (struct fields){ args.text, args.len };
	if (!ret)
		ret = mounts_enter_root(&f, err);
	if (ret)
		return ret;
	agent->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	ret = set_identity(agent->root, &args, err);
	if (ret)
		return ret;
	write_setting("/proc/self/oom_score_adj", "-1000");
	/* The kernel gives its first process less than any engine gives a container. */
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_NPROC, &processes);
	/* Before anybody is told that we are up. */
	agent->listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(agent->listener, (struct sockaddr *)&address, sizeof(address)) || listen(agent->listener, 128))
		return error_set(err, -errno, "vsock port %d: %s: the machine needs a vsock device", AGENT_PORT,
				 strerror(errno));
	agent->call_host = true;
	return 0;
}

int main(void)
{
	struct agent agent = { 0 };
	struct error err = { 0 };
	int status = STATUS_SETUP_FAILED;

	if (getpid() != 1)
		return dprintf(2, "mayfly-init: only useful as a machine's first process\n") > 0;
	mkdir("/dev", 0755);
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
	volatile uint8_t *timer = map_boot_timer();
	if (timer)
		*timer = 123;
	open_console();
	if (set_up(&agent, &err))
		dprintf(2, "mayfly-init: %s\n", err.message);
	else
		status = agent_run(&agent);
	kill(-1, SIGKILL);
	while (wait(NULL) > 0)
		;
	mounts_settle();
	if (timer)
		*(volatile uint32_t *)(timer + 4) = (uint32_t)status;
	return reboot(RB_AUTOBOOT);
}
