/* oci_process.c: what a process is to the guest's agent, and its terminal, which engines keep. */
#include "oci_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "text.h"

/* ---- the request ---- */

static void add_all(struct request *r, const char *key, json_t *list)
{
	size_t i;

	for (i = 0; i < json_array_size(list); i++)
		request_add(r, key, json_string_value(json_array_get(list, i)));
}

/* With commas between. An empty one is none at all, which a missing one would not be. */
static void add_capabilities(struct request *r, const char *key, json_t *list)
{
	char text[2048] = "";
	size_t len = 0, i;

	for (i = 0; i < json_array_size(list) && len < sizeof(text); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", len ? "," : "",
					json_string_value(json_array_get(list, i)));
	if (len >= sizeof(text))
		r->failed = true;
	request_add(r, key, text);
}

/* 2^64 - 1 is no limit. */
static void put_limit(char text[24], const json_t *value)
{
	if (json_is_integer(value))
		snprintf(text, 24, "%lld", (long long)json_integer_value(value));
	else if (json_real_value(value) < 9223372036854775808.0)
		snprintf(text, 24, "%.0f", json_real_value(value));
	else
		snprintf(text, 24, "unlimited");
}

static void add_rlimits(struct request *r, json_t *list)
{
	char text[96], soft[24], hard[24];
	json_t *entry;
	size_t i;

	for (i = 0; i < json_array_size(list); i++) {
		entry = json_array_get(list, i);
		put_limit(soft, json_object_get(entry, "soft"));
		put_limit(hard, json_object_get(entry, "hard"));
		snprintf(text, sizeof(text), "%.32s=%s:%s", json_string_value(json_object_get(entry, "type")), soft,
			 hard);
		request_add(r, "rlimit", text);
	}
}

void oci_process_request(const struct oci_process *p, const char *op, bool root_read_only, struct request *r)
{
	char text[32];
	unsigned int i;

	request_add_number(r, "version", AGENT_PROTOCOL);
	request_add(r, "op", op);
	/* What the engine says is all: nothing of a configuration that lies in the image counts. */
	if (strcmp(op, "main") == 0)
		request_add(r, "entrypoint", "");
	add_all(r, "arg", p->args);
	add_all(r, "env", p->env);
	request_add(r, "cwd", p->cwd);
	snprintf(text, sizeof(text), "%u:%u", p->uid, p->gid);
	request_add(r, "user", text);
	for (i = 0; i < p->nr_groups; i++)
		request_add_number(r, "group", p->groups[i]);
	add_capabilities(r, "caps", p->bounding);
	add_capabilities(r, "ambient", p->ambient);
	if (p->inheritable)
		add_capabilities(r, "inheritable", p->inheritable);
	add_rlimits(r, p->rlimits);
	request_add(r, "stdin", "1");
	if (p->terminal)
		request_add(r, "tty", "1");
	if (p->terminal && p->rows && p->cols) {
		request_add_number(r, "rows", p->rows);
		request_add_number(r, "cols", p->cols);
	}
	if (p->no_new_privs)
		request_add(r, "no_new_privs", "1");
	if (root_read_only)
		request_add(r, "readonly", "1");
	if (p->has_oom_score)
		request_add_number(r, "oom_score_adj", p->oom_score_adj);
	if (p->umask != OCI_UMASK_UNSET) {
		snprintf(text, sizeof(text), "%04o", (unsigned int)p->umask);
		request_add(r, "umask", text);
	}
}

/* ---- the terminal ---- */

static int send_master(const char *path, int master, const char *name, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)name, .iov_len = strlen(name) };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), ret = 0;

	*head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
				  .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(head), &master, sizeof(int));
	if ((size_t)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >= sizeof(address.sun_path))
		ret = error_set(err, -ENAMETOOLONG, "--console-socket: longer than 107 bytes");
	else if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
		 sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
		ret = error_set(err, -errno, "--console-socket: %s: %s", text_path_shown(path), strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}

int oci_console_open(const char *path, const struct oci_process *p, struct error *err)
{
	const struct winsize size = { .ws_row = (unsigned short)p->rows, .ws_col = (unsigned short)p->cols };
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave = -1, ret = 0, i;
	struct termios raw;
	char name[64];

	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof(name)) || !*name ||
	    (slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 || tcgetattr(slave, &raw))
		ret = error_set(err, -errno, "a terminal: %s", strerror(errno));
	if (!ret) {
		/* The line discipline is the guest's terminal's; this one only carries bytes. */
		cfmakeraw(&raw);
		(void)tcsetattr(slave, TCSANOW, &raw);
		if (size.ws_row && size.ws_col)
			(void)ioctl(master, TIOCSWINSZ, &size);
		ret = send_master(path, master, name, err);
	}
	/* So that SIGWINCH and the hangup of the engine reach us. */
	if (!ret && ioctl(slave, TIOCSCTTY, 0))
		ret = error_set(err, -errno, "a terminal: %s", strerror(errno));
	/* Engines wait for the end of what we had here before. */
	for (i = 0; !ret && i <= STDERR_FILENO; i++)
		(void)dup2(slave, i);
	if (master >= 0)
		close(master);
	if (ret && slave >= 0)
		close(slave);
	return ret ? ret : slave;
}

int oci_keeper_await(int fd, pid_t keeper, const char *killed, struct error *err)
{
	char sentence[sizeof(err->message)];
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(sentence) - 1 && (n = read(fd, sentence + len, sizeof(sentence) - 1 - len)) != 0) {
		if (n < 0 && errno != EINTR)
			break;
		len += n > 0 ? (size_t)n : 0;
		if (len && !sentence[0])
			return 0;
	}
	sentence[len] = '\0';
	(void)waitpid(keeper, NULL, 0);
	return error_set(err, -EIO, "%s", len ? sentence : killed);
}

int oci_keeper_wait(pid_t keeper)
{
	static const int forwarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };
	int status = 0, number;
	unsigned int i;
	sigset_t set;

	/* Whoever started us may have ignored it, and then no end would be told. */
	(void)signal(SIGCHLD, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++)
		sigaddset(&set, forwarded[i]);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	while (waitpid(keeper, &status, WNOHANG) == 0) {
		number = sigwaitinfo(&set, NULL);
		if (number > 0 && number != SIGCHLD)
			(void)kill(keeper, number);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int oci_pid_write(const char *path, int pid, struct error *err)
{
	char fresh[PATH_MAX];
	int fd, ret = 0;

	if (!path)
		return 0;
	if (snprintf(fresh, sizeof(fresh), "%s.mayfly", path) >= PATH_MAX)
		return error_set(err, -ENAMETOOLONG, "--pid-file: the path is too long");
	(void)unlink(fresh);
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || dprintf(fd, "%d", pid) < 0 || rename(fresh, path))
		ret = error_set(err, -errno, "--pid-file: %s: %s", text_path_shown(path), strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}
