/* test_jail.c: what the process gives up, each time in a child that is thrown away. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jail.h"
#include "landlock.h"
#include "log.h"

struct fixture {
	char dir[64];
	char file[80], other[80], below[80]; /* below: in dir/below/ */
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	unsigned int i;

	snprintf(f->dir, sizeof(f->dir), "/tmp/mayfly-jail.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->below, sizeof(f->below), "%s/below", f->dir);
	assert_int_equal(mkdir(f->below, 0700), 0);
	snprintf(f->file, sizeof(f->file), "%s/file", f->dir);
	snprintf(f->other, sizeof(f->other), "%s/other", f->dir);
	snprintf(f->below, sizeof(f->below), "%s/below/x", f->dir);
	for (i = 0; i < 3; i++)
		close(open((const char *[]){ f->file, f->other, f->below }[i], O_CREAT | O_RDWR, 0600));
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	char below[80];

	unlink(f->file);
	unlink(f->other);
	unlink(f->below);
	snprintf(below, sizeof(below), "%s/below", f->dir);
	rmdir(below);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

/* In a child: a check that does not hold says so and ends it. */
#define HOLDS(what)                                                                               \
	do {                                                                                      \
		if (!(what)) {                                                                    \
			dprintf(STDERR_FILENO, "%s:%d: not so: " #what "\n", __FILE__, __LINE__); \
			_exit(1);                                                                 \
		}                                                                                 \
	} while (0)

static void in_child(void (*run)(const struct fixture *f, int arg), const struct fixture *f, int arg)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		run(f, arg);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

static int fails(int result)
{
	return result ? errno : 0;
}

/* ---- Landlock ---- */

static int connect_abstract(const char *name)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), ret;

	memcpy(addr.sun_path + 1, name, strlen(name));
	ret = fails(connect(fd, (struct sockaddr *)&addr, (socklen_t)(sizeof(sa_family_t) + 1 + strlen(name))));
	close(fd);
	return ret;
}

static void landlocked(const struct fixture *f, int abi)
{
	int file = open(f->file, O_PATH), dir = open(f->dir, O_PATH), readable = open(f->below, O_RDONLY);
	int rules = landlock_create(abi, NULL), memory = memfd_create("disk", MFD_CLOEXEC);
	char by_fd[32];

	HOLDS(rules >= 0);
	HOLDS(landlock_allow(rules, abi, file, LANDLOCK_READ | LANDLOCK_WRITE) == 0);
	HOLDS(landlock_allow(rules, abi, dir, LANDLOCK_REMOVE) == 0);
	HOLDS(landlock_allow(rules, abi, readable, LANDLOCK_READ) == 0);
	HOLDS(landlock_allow(rules, abi, memory, LANDLOCK_READ | LANDLOCK_WRITE) == 0);
	HOLDS(landlock_allow(rules, abi, -1, LANDLOCK_READ) == -EBADF);
	HOLDS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	HOLDS(landlock_enter(rules) == 0);

	HOLDS(try_open(f->file, O_RDWR) == 0);
	HOLDS(try_open(f->other, O_RDONLY) == EACCES);
	HOLDS(try_open(f->below, O_RDONLY) == 0);
	HOLDS(try_open(f->below, O_WRONLY) == EACCES);
	snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", memory);
	HOLDS(try_open(by_fd, O_RDWR) == 0);
	snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", readable);
	HOLDS(try_open(by_fd, O_RDWR) == EACCES);
	HOLDS(try_open(f->dir, O_RDONLY | O_DIRECTORY) == EACCES);
	HOLDS(try_open("/tmp/mayfly-new", O_RDWR | O_CREAT) == EACCES);
	HOLDS(fails(truncate(f->file, 10)) == (abi >= 3 ? EACCES : 0));
	HOLDS(fails(rename(f->file, f->other)) == EACCES);
	HOLDS(fails(unlink("/etc/passwd")) == EACCES);
	HOLDS(fails(unlink(f->other)) == 0);
	HOLDS(fails(kill(getppid(), 0)) == (abi >= 6 ? EPERM : 0));
	/* Nobody is there: refused by the jail, or by nobody being there. */
	HOLDS(connect_abstract("mayfly-unit-nobody") == ECONNREFUSED);
	HOLDS(connect_abstract("mayfly-unit-test") == (abi >= 6 ? EPERM : 0));
}

/* Each older version can be asked of a newer kernel. */
static void landlock_of_every_version(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "\0mayfly-unit-test" };
	int abi, fd = socket(AF_UNIX, SOCK_STREAM, 0), newest = landlock_abi();

	if (newest < 0)
		skip();
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, (socklen_t)(sizeof(sa_family_t) + 17)), 0);
	assert_int_equal(listen(fd, 16), 0);
	for (abi = 1; abi <= newest; abi++) {
		in_child(landlocked, *state, abi);
		close(open(((struct fixture *)*state)->other, O_CREAT | O_RDWR, 0600));
	}
	close(fd);
}

/* ---- the beginning ---- */

static void begun(const struct fixture *f, int arg)
{
	static char secret[] = "MAYFLY_SECRET=x";
	struct rlimit core;
	struct error err;
	int low = fcntl(STDERR_FILENO, F_DUPFD, 100), named = fcntl(STDERR_FILENO, F_DUPFD, 101);
	int high = fcntl(STDERR_FILENO, F_DUPFD, INHERITED_FDS),
	    kept = fcntl(STDERR_FILENO, F_DUPFD, INHERITED_FDS + 1);
	int higher = fcntl(STDERR_FILENO, F_DUPFD, INHERITED_FDS + 2),
	    next = fcntl(STDERR_FILENO, F_DUPFD, INHERITED_FDS + 3);

	(void)f;
	(void)arg;
	putenv(secret);
	HOLDS(low == 100 && named == 101 && high == INHERITED_FDS && higher == INHERITED_FDS + 2);
	HOLDS(jail_begin((const int[]){ kept, -1, named, next }, 4, &err) == 0);
	HOLDS(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	HOLDS(prctl(PR_GET_DUMPABLE) == 0);
	HOLDS(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 0);
	HOLDS(environ[0] == NULL && !memchr(secret, 'M', sizeof(secret)) && secret[0] == '\0');
	/* Above, all but the named ones are closed at once, the last of all included; below they are noted. */
	HOLDS(fcntl(high, F_GETFD) < 0 && fcntl(higher, F_GETFD) < 0);
	HOLDS(fcntl(kept, F_GETFD) >= 0 && fcntl(next, F_GETFD) >= 0 && fcntl(low, F_GETFD) >= 0);
	HOLDS(inherited_keep(100) == 0);
	HOLDS(inherited_keep(101) == -EBADF);
	HOLDS(inherited_keep(102) == -EBADF);
	HOLDS(inherited_keep(2) == -EBADF && inherited_keep(-1) == -EBADF && inherited_keep(INHERITED_FDS) == -EBADF);
}

static void from_the_beginning(void **state)
{
	in_child(begun, *state, 0);
}

static void begun_without_environment(const struct fixture *f, int arg)
{
	struct error err;

	(void)f;
	(void)arg;
	environ = NULL;
	HOLDS(jail_begin(NULL, 0, &err) == 0);
}

static void few_files(const struct fixture *f, int limit)
{
	const struct rlimit files = { (rlim_t)limit, (rlim_t)limit };
	struct error err;

	(void)f;
	/* Both opened before the limit came, as a parent may do it. */
	HOLDS(fcntl(STDERR_FILENO, F_DUPFD, 30) == 30 && fcntl(STDERR_FILENO, F_DUPFD, 200) == 200);
	HOLDS(setrlimit(RLIMIT_NOFILE, &files) == 0);
	HOLDS(jail_begin(NULL, 0, &err) == 0);
	if (limit) {
		HOLDS(inherited_keep(30) == 0);
		HOLDS(inherited_keep(200) == 0);
	}
}

static void unusual_parents(void **state)
{
	in_child(begun_without_environment, *state, 0);
	in_child(few_files, *state, 0);
	in_child(few_files, *state, 10);
	in_child(few_files, *state, 64);
}

/* ---- the whole ---- */

static void entered(const struct fixture *f, int arg)
{
	struct config cfg;
	struct jail jail = { .api_sock = f->below };
	struct net_config net = { .host_dev_name = "fd:101" };
	struct error err = { 0 };
	int kept, low, allowed;

	(void)arg;
	config_init(&cfg);
	cfg.log.level = LOG_OFF;
	log_init(&cfg.log, NULL, &err);
	low = fcntl(STDERR_FILENO, F_DUPFD, 100);
	kept = fcntl(STDERR_FILENO, F_DUPFD, 101);
	allowed = fcntl(STDERR_FILENO, F_DUPFD, 102);
	cfg.nets = &net;
	cfg.nr_nets = 1;
	HOLDS(jail_begin(NULL, 0, &err) == 0);
	HOLDS(jail_allow(&jail, (const char *[]){ "/no such" }, 1, &err) == -ENOENT);
	HOLDS(strcmp(err.message, "--allow-path: /no such: No such file or directory (needs a file or folder that is "
				  "there)") == 0);
	HOLDS(jail_allow(&jail, (const char *[]){ f->file }, 1, &err) == 0);
	HOLDS(jail_allow_fds(&jail, (const uint64_t[4]){ 0, 1ull << (103 - 64) }, &err) == -EBADF);
	HOLDS(strcmp(err.message,
		     "--allow-fd: 103: Bad file descriptor (needs a descriptor that is open when Mayfly starts)") == 0);
	HOLDS(jail_allow_fds(&jail, (const uint64_t[4]){ 0, 1ull << (102 - 64) }, &err) == 0);
	HOLDS(inherited_open("fd:100", "x", &err) >= 0 && inherited_open("fd:103", "x", &err) == -EBADF);
	HOLDS(jail_enter(&jail, &cfg, NULL, &err) == 0);
	HOLDS(jail.entered && fcntl(low, F_GETFD) < 0 && fcntl(kept, F_GETFD) >= 0 && fcntl(allowed, F_GETFD) >= 0);
	/* What takes the number of one that was closed is none of them. */
	HOLDS(fcntl(STDERR_FILENO, F_DUPFD, 100) == 100 && inherited_open("fd:100", "x", &err) == -EBADF);
	HOLDS(strcmp(err.message, "x: Bad file descriptor (a running microVM has those of --allow-fd alone)") == 0);
	HOLDS(inherited_open("fd:102", "x", &err) >= 0 && inherited_open("fd:102", "x", &err) >= 0);
	inherited_forget();
	HOLDS(inherited_open("fd:102", "x", &err) == -EBADF);
	HOLDS(try_open(f->file, O_RDWR) == 0 && !jail_refuses(&jail, "/no such", false));
	if (!jail.landlock)
		return;
	HOLDS(try_open(f->other, O_RDONLY) == EACCES && jail_refuses(&jail, f->other, true));
	/* The folder of the socket, and no other. */
	HOLDS(fails(unlink(f->other)) == EACCES && fails(unlink(f->below)) == 0);
}

static void the_whole(void **state)
{
	in_child(entered, *state, 0);
}

/* What a bounding set is for, and no_new_privs does as well. */
static void exec_gives_nothing(const struct fixture *f, int arg)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0, 0, 0 }, { 0, 0, 0 } };
	struct error err;

	(void)f;
	(void)arg;
	HOLDS(jail_begin(NULL, 0, &err) == 0);
	HOLDS(syscall(SYS_capset, &header, none) == 0);
	execl("/bin/grep", "grep", "-q", "^CapPrm:\t0*$", "/proc/self/status", NULL);
	_exit(1);
}

static void no_capability_comes_back(void **state)
{
	in_child(exec_gives_nothing, *state, 0);
}

static void lost_folder(const struct fixture *f, int arg)
{
	struct config cfg;
	struct jail jail = { .api_sock = "/no such/api.socket" };
	struct error err = { 0 };

	(void)arg;
	config_init(&cfg);
	HOLDS(jail_begin(NULL, 0, &err) == 0);
	if (landlock_abi() < 0)
		return;
	HOLDS(jail_enter(&jail, &cfg, NULL, &err) == -ENOENT);
	HOLDS(strcmp(err.message, "--api-sock: the folder of /no such/api.socket: No such file or directory") == 0);
	/* It may be tried again: nothing was given up. */
	HOLDS(!jail.entered && try_open(f->file, O_RDWR) == 0);
}

static void a_folder_that_is_gone(void **state)
{
	in_child(lost_folder, *state, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(landlock_of_every_version), TEST(from_the_beginning),       TEST(unusual_parents), TEST(the_whole),
		TEST(a_folder_that_is_gone),     TEST(no_capability_comes_back),
	};

	return cmocka_run_group_tests_name("jail", tests, NULL, NULL);
}
