/* uffd.c: RAM whose pages another process brings when they are first touched. */
#include "snapshot/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "retry.h"
#include "text.h"
#include "unix_socket.h"

#define FLAGS         (O_CLOEXEC | O_NONBLOCK)
#define HUGE_PAGE     (2ull << 20)
#define MAX_PER_ENTRY 160 /* bytes of text about a region */

int uffd_open(void)
{
	int device = RETRY_INTERRUPTED(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)), fd = -1;

	if (device >= 0) {
		fd = ioctl(device, USERFAULTFD_IOC_NEW, FLAGS);
		close(device);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, FLAGS);
	return fd < 0 ? -errno : fd;
}

static int open_uffd(struct error *err)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = uffd_open();

	if (fd < 0)
		return error_set(err, fd,
				 "snapshot: userfaultfd: %s (needs read and write access to "
				 "/dev/userfaultfd, or vm.unprivileged_userfaultfd = 1)",
				 strerror(-fd));
	if (ioctl(fd, UFFDIO_API, &api) == 0)
		return fd;
	error_set(err, -errno, "snapshot: UFFDIO_API: %s", strerror(errno));
	close(fd);
	return err->code;
}

static int watch(int fd, const struct guest_memory *gm, struct error *err)
{
	unsigned int i;

	for (i = 0; i < gm->nr_regions; i++) {
		struct uffdio_register reg = {
			.range = { .start = (uintptr_t)gm->region[i].hva, .len = gm->region[i].size },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
			return error_set(err, -errno, "snapshot: UFFDIO_REGISTER: %s", strerror(errno));
	}
	return 0;
}

int uffd_begin(const struct guest_memory *gm, struct error *err)
{
	int fd = open_uffd(err), ret = fd < 0 ? fd : watch(fd, gm, err);

	if (!ret)
		return fd;
	if (fd >= 0)
		close(fd);
	return ret;
}

/* Both members with "page_size" hold bytes, whatever the older one's name says. */
static size_t describe(char *text, size_t room, const struct guest_memory *gm)
{
	const uint64_t page = gm->small_pages ? GM_PAGE : HUGE_PAGE;
	uint64_t offset = 0;
	size_t len = 0;
	unsigned int i;

	for (i = 0; i < gm->nr_regions; i++) {
		len += (size_t)snprintf(
			text + len, room - len,
			"%c{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64
			",\"page_size\":%" PRIu64 ",\"page_size_kib\":%" PRIu64 "}",
			i ? ',' : '[', (uintptr_t)gm->region[i].hva, gm->region[i].size, offset, page, page);
		offset += gm->region[i].size;
	}
	return len + (size_t)snprintf(text + len, room - len, "]");
}

static int send_to(int socket, int fd, const struct guest_memory *gm)
{
	char text[GM_MAX_REGIONS * MAX_PER_ENTRY + 2];
	struct iovec iov = { .iov_base = text, .iov_len = describe(text, sizeof(text), gm) };
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	const struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};

	control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	control.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return RETRY_INTERRUPTED(sendmsg(socket, &msg, MSG_NOSIGNAL)) == (ssize_t)iov.iov_len ? 0 : -EIO;
}

int uffd_hand_over(struct uffd *u, struct guest_memory *gm, const char *path, struct error *err)
{
	int socket = unix_socket_connect(path), fd, ret;

	if (socket < 0)
		return error_set(err, socket,
				 "snapshot.mem_backend.backend_path: %s: %s (needs a page-fault handler that listens "
				 "there)",
				 text_path_shown(path), strerror(-socket));
	fd = uffd_begin(gm, err);
	*u = (struct uffd){ .is_open = true, .fd = fd, .socket = socket };
	ret = fd < 0 ? fd : 0;
	if (!ret && send_to(socket, fd, gm))
		ret = error_set(err, -EIO, "snapshot.mem_backend.backend_path: %s: the handler hung up",
				text_path_shown(path));
	if (ret)
		uffd_close(u);
	gm->is_brought = !ret;
	return ret;
}

void uffd_give_up(const struct uffd *u, const struct guest_memory *gm)
{
	unsigned int i;

	for (i = 0; u->is_open && i < gm->nr_regions; i++) {
		struct uffdio_range range = { .start = (uintptr_t)gm->region[i].hva, .len = gm->region[i].size };

		(void)ioctl(u->fd, UFFDIO_UNREGISTER, &range);
	}
}

/* Not before the end of the microVM: with the last descriptor, a handler that died would leave zeros behind. */
void uffd_close(struct uffd *u)
{
	if (!u->is_open)
		return;
	if (u->fd >= 0)
		close(u->fd);
	close(u->socket);
	u->is_open = false;
}
