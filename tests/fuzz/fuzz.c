/* fuzz.c: reads inputs, and stands between Mayfly and the host (linked with --wrap): clock, KVM, TAPs, files. */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "guest_memory.h"
#include "log.h"

#define START_NS  5000000000ull
#define MAX_TURNS 4096u

struct fuzz_host fuzz_host;
bool fuzz_sockets_are_taps, fuzz_over;

#define MAX_FILES 4u
static struct file {
	const char *path;
	int fd;
} files[MAX_FILES];
static unsigned int nr_files;

/* ---- the input ---- */

struct input take_span(struct input *in, size_t len)
{
	struct input span = { in->at, len < in->left ? len : in->left };

	in->at += span.left;
	in->left -= span.left;
	return span;
}

size_t take_bytes(struct input *in, void *buf, size_t len)
{
	struct input span = take_span(in, len);

	memset(buf, 0, len);
	if (span.left)
		memcpy(buf, span.at, span.left);
	return span.left;
}

uint8_t take8(struct input *in)
{
	uint8_t value;

	take_bytes(in, &value, sizeof(value));
	return value;
}

uint16_t take16(struct input *in)
{
	uint16_t value;

	take_bytes(in, &value, sizeof(value));
	return value;
}

uint32_t take32(struct input *in)
{
	uint32_t value;

	take_bytes(in, &value, sizeof(value));
	return value;
}

uint64_t take64(struct input *in)
{
	uint64_t value;

	take_bytes(in, &value, sizeof(value));
	return value;
}

/* ---- the host ---- */

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
void *__real_gm_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len);
void *__wrap_gm_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len);
int __real_gm_read(const struct guest_memory *gm, uint64_t gpa, void *dst, size_t len);
int __wrap_gm_read(const struct guest_memory *gm, uint64_t gpa, void *dst, size_t len);
size_t __real_iov_read(const struct iovec *iov, unsigned int n, size_t offset, void *dst, size_t len);
size_t __wrap_iov_read(const struct iovec *iov, unsigned int n, size_t offset, void *dst, size_t len);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	ts->tv_sec = (time_t)(fuzz_host.now_ns / 1000000000u);
	ts->tv_nsec = (long)(fuzz_host.now_ns % 1000000000u);
	return 0;
}

static int vm_ioctl(unsigned long request, const void *arg)
{
	const struct kvm_ioeventfd *ioev = arg;

	switch (request) {
	case KVM_SIGNAL_MSI:
		fuzz_host.msis++;
		return 1;
	case KVM_IOEVENTFD:
		CHECK(ioev->datamatch < 4);
		fuzz_host.ioeventfd[ioev->datamatch] = ioev->flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? -1 : ioev->fd;
		return 0;
	default:
		errno = ENOTTY;
		return -1;
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	struct ifreq *ifr;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (fd == FUZZ_VM_FD)
		return vm_ioctl(request, arg);
	if (!fuzz_sockets_are_taps)
		return __real_ioctl(fd, request, arg);
	if (request == TUNGETIFF) {
		ifr = arg;
		memcpy(ifr->ifr_name, "tap0", 5);
		ifr->ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	}
	return 0;
}

/* Paths come from inputs: of the host nothing is opened but what a target names, and the well-known device. */
static const char *resolve(const char *path, char own[32])
{
	unsigned int i;

	for (i = 0; i < nr_files; i++) {
		if (strcmp(path, files[i].path) == 0) {
			snprintf(own, 32, "/proc/self/fd/%d", files[i].fd);
			return own;
		}
	}
	errno = ENOENT;
	return strcmp(path, "/dev/null") == 0 ? path : NULL;
}

void fuzz_file(const char *path, int fd)
{
	CHECK(nr_files < MAX_FILES);
	files[nr_files++] = (struct file){ path, fd };
}

int __wrap_open(const char *path, int flags, ...)
{
	char own[32];

	if (fuzz_over)
		return __real_open(path, flags, 0644);
	path = resolve(path, own);
	return path ? __real_open(path, flags & ~O_CREAT) : -1;
}

int __wrap_openat(int dir, const char *path, int flags, ...)
{
	(void)dir;
	return __wrap_open(path, flags);
}

static void before_access(void)
{
	if (fuzz_host.on_access)
		fuzz_host.on_access();
}

void *__wrap_gm_at(const struct guest_memory *gm, uint64_t gpa, uint64_t len)
{
	before_access();
	return __real_gm_at(gm, gpa, len);
}

int __wrap_gm_read(const struct guest_memory *gm, uint64_t gpa, void *dst, size_t len)
{
	before_access();
	return __real_gm_read(gm, gpa, dst, len);
}

size_t __wrap_iov_read(const struct iovec *iov, unsigned int n, size_t offset, void *dst, size_t len)
{
	before_access();
	return __real_iov_read(iov, n, offset, dst, len);
}

/* ---- the loop ---- */

static int lowest_free_fd(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

static int fds_before;

/* Called by libFuzzer. Lines are formatted, which is part of what is tested, and thrown away. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct log_config cfg;
	struct error err;

	(void)argc;
	(void)argv;
	signal(SIGPIPE, SIG_IGN);
	log_config_init(&cfg);
	memcpy(cfg.log_path, "/dev/null", sizeof("/dev/null"));
	cfg.level = LOG_TRACE;
	cfg.show_level = cfg.show_log_origin = true;
	CHECK(log_init(&cfg, "fuzz", &err) == 0);
	return 0;
}

void fuzz_begin(struct event_loop *loop)
{
	struct error err;

	fuzz_host = (struct fuzz_host){ .now_ns = START_NS, .ioeventfd = { -1, -1, -1, -1 } };
	fuzz_sockets_are_taps = false;
	nr_files = 0;
	if (!loop->works_tail)
		CHECK(event_loop_init(loop, &err) == 0);
	fds_before = lowest_free_fd();
}

void fuzz_end(struct event_loop *loop)
{
	fuzz_host.on_access = NULL;
	fuzz_rest(loop);
	CHECK(!loop->timers);
	CHECK(!loop->works);
	CHECK(lowest_free_fd() == fds_before);
}

static void on_stop(struct event_timer *timer)
{
	event_loop_stop(timer->opaque);
}

static bool timer_due(const struct event_loop *loop)
{
	return loop->timers && loop->timers->deadline_ns <= fuzz_host.now_ns;
}

bool fuzz_turn(struct event_loop *loop)
{
	struct event_timer stop = { .expired = on_stop, .opaque = loop };
	struct pollfd ready = { .fd = loop->epoll_fd, .events = POLLIN };

	if (!timer_due(loop) && poll(&ready, 1, 0) == 0)
		return false;
	/* Last of the timers that are due; one that is armed anew for later than now stays for the next turn. */
	event_loop_arm(loop, &stop, fuzz_host.now_ns);
	loop->stop = false;
	event_loop_run(loop);
	event_loop_disarm(loop, &stop);
	/* Turns that a device asks for "in a nanosecond" would never come while the clock stands. */
	fuzz_pass_ns(1000);
	return true;
}

void fuzz_rest(struct event_loop *loop)
{
	unsigned int i;

	for (i = 0; i < MAX_TURNS; i++) {
		if (!fuzz_turn(loop))
			return;
	}
	CHECK(!"the loop comes to rest");
}
