/* test_syscall_filter.c: files of filters that are wrong in every way, and filters that do what they say, in children.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "syscall_filter.h"

#define TAKEN_CALL  SYS_getppid
#define OTHER_CALL  SYS_getpgid
#define EXIT_LOADED 40 /* of a child that may go on */

/* A file as mayfly-seccompiler writes it: each program answers TAKEN_CALL as it is told and allows the rest. */
struct file {
	struct filter_file head;
	struct sock_filter code[FILTER_THREADS][4];
	char more[8];
};

static char path[] = "/tmp/mayfly-filter-XXXXXX";

static struct file good_file(uint32_t action)
{
	struct file f = { .head = { .version = FILTER_FILE_VERSION, .arch = AUDIT_ARCH_X86_64 } };
	unsigned int i;

	memcpy(f.head.magic, FILTER_FILE_MAGIC, sizeof(f.head.magic));
	for (i = 0; i < FILTER_THREADS; i++) {
		const struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TAKEN_CALL, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, action),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};

		f.head.nr[i] = 4;
		memcpy(f.code[i], code, sizeof(code));
	}
	return f;
}

static void write_file(const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static void refused(const char *file, const char *why)
{
	struct error err = { 0 };

	assert_true(seccomp_use(file, &err) < 0);
	assert_non_null(strstr(err.message, "--seccomp-filter: "));
	if (!strstr(err.message, why))
		fail_msg("\"%s\" does not say \"%s\"", err.message, why);
	/* Nothing of it stays. */
	assert_string_equal(seccomp_state(), "off");
	assert_int_equal(seccomp_install(FILTER_STARTUP, &err), 0);
	assert_int_equal(syscall(TAKEN_CALL), getppid());
}

static void refused_bytes(const void *data, size_t len, const char *why)
{
	write_file(data, len);
	refused(path, why);
}

#define GOOD_LEN offsetof(struct file, more)

static void test_wrong_files(void **state)
{
	struct file f = good_file(SECCOMP_RET_TRAP);
	static const uint32_t sizes[] = { 0, BPF_MAXINSNS + 1, UINT32_MAX, 1u << 29, 1u << 31 };
	size_t i, len;

	(void)state;
	for (len = 0; len < GOOD_LEN; len++)
		refused_bytes(&f, len, len < 8 ? "is no filter" : "is cut short");
	refused_bytes(&f, GOOD_LEN + 1, "goes on after its end");
	f.head.version++;
	refused_bytes(&f, GOOD_LEN, "of another version");
	f = good_file(SECCOMP_RET_TRAP);
	f.head.arch = AUDIT_ARCH_AARCH64;
	refused_bytes(&f, GOOD_LEN, "another architecture");
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]) * FILTER_THREADS; i++) {
		f = good_file(SECCOMP_RET_TRAP);
		f.head.nr[i % FILTER_THREADS] = sizes[i / FILTER_THREADS];
		refused_bytes(&f, GOOD_LEN, "a program without instructions, or with more than 4096");
	}
	f = good_file(SECCOMP_RET_TRAP);
	f.head.nr[FILTER_VCPU] = BPF_MAXINSNS;
	refused_bytes(&f, GOOD_LEN, "is cut short");
	f.head.nr[FILTER_VCPU] = 3;
	refused_bytes(&f, GOOD_LEN, "goes on after its end");
}

static void test_no_files(void **state)
{
	(void)state;
	refused("/nonexistent/filter", "No such file");
	refused("/tmp", "Is a directory");
	refused("/dev/null", "is no filter");
	refused("/dev/zero", "is no filter");
	refused("/proc/self/exe", "is no filter");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	refused(path, "is no filter"); /* and does not wait for a writer */
	assert_int_equal(unlink(path), 0);
}

/* Runs in a child, since there is no way back. Returns its wait status; *said is what it wrote to standard error. */
static int in_child(void (*body)(void), char *said, size_t size)
{
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(fds[1], STDERR_FILENO);
		body();
		_exit(EXIT_LOADED);
	}
	close(fds[1]);
	n = read(fds[0], said, size - 1);
	said[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void load(enum filter_thread thread)
{
	struct error err = { 0 };

	if (seccomp_use(path, &err) || seccomp_install(thread, &err))
		_exit(1);
}

static void make_the_call(void)
{
	load(FILTER_VCPU);
	if (strcmp(seccomp_state(), "custom") != 0)
		_exit(2);
	if (syscall(OTHER_CALL, 0) < 0)
		_exit(3);
	if (syscall(TAKEN_CALL) >= 0 || errno != EDQUOT)
		_exit(4);
}

static void test_errno(void **state)
{
	const struct file f = good_file(SECCOMP_RET_ERRNO | EDQUOT);
	char said[512];

	(void)state;
	write_file(&f, GOOD_LEN);
	assert_int_equal(in_child(make_the_call, said, sizeof(said)), EXIT_LOADED << 8);
	assert_string_equal(said, "");
}

static void call_with_arguments(void)
{
	load(FILTER_VMM);
	syscall(TAKEN_CALL, 0xabcdef0123456789, 2, 3, 4, 5, 0xffffffffffffffff);
}

/* The line names the call with its arguments, and the process dies of SIGSYS. */
static void test_trap(void **state)
{
	const struct file f = good_file(SECCOMP_RET_TRAP);
	char said[512];
	int status;

	(void)state;
	write_file(&f, GOOD_LEN);
	status = in_child(call_with_arguments, said, sizeof(said));
	/* These filters allow everything else, so the second death of a thread that was caught has to be the exit. */
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 148);
	assert_non_null(
		strstr(said, "] seccomp: blocked getppid(0xabcdef0123456789, 0x2, 0x3, 0x4, 0x5, 0xffffffffffffffff), "
			     "system call 110: the process ends"));
	assert_int_equal(said[strlen(said) - 1], '\n');
}

static void call_unnamed(void)
{
	struct error err = { 0 };

	if (seccomp_use(NULL, &err) || seccomp_install(FILTER_VCPU, &err))
		_exit(1);
	syscall(400); /* a hole in the table */
}

static void call_beyond(void)
{
	struct error err = { 0 };

	if (seccomp_use(NULL, &err) || seccomp_install(FILTER_VCPU, &err))
		_exit(1);
	syscall(0x12345678);
}

static void call_x32(void)
{
	struct error err = { 0 };

	if (seccomp_use(NULL, &err) || seccomp_install(FILTER_VCPU, &err))
		_exit(1);
	syscall(0x40000000 + 1, 2, "x32\n", 4);
}

static void call_32bit(void)
{
	struct error err = { 0 };
	long ret;

	if (seccomp_use(NULL, &err) || seccomp_install(FILTER_VCPU, &err))
		_exit(1);
	/* 4: write in the 32-bit table, stat in the 64-bit one. */
	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(4), "b"(2), "c"(0), "d"(0) : "memory");
}

static void expect_killed(void (*body)(void), const char *line)
{
	char said[512];
	int status = in_child(body, said, sizeof(said));

	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	if (*line)
		assert_non_null(strstr(said, line));
	else
		assert_string_equal(said, "");
}

/* With the built-in filters, calls without a name, and those that come by other doors. */
static void test_odd_numbers(void **state)
{
	(void)state;
	expect_killed(call_unnamed, "blocked a system call without a name(");
	expect_killed(call_beyond, ", system call 305419896: ");
	expect_killed(call_x32, "");
	expect_killed(call_32bit, "");
}

static void signal_self(void)
{
	struct error err = { 0 };

	if (seccomp_use(NULL, &err))
		_exit(1);
	kill(getpid(), SIGSYS);
}

/* A SIGSYS that somebody sends blocked no call: no line says so, and it ends the process all the same. */
static void test_signal_of_others(void **state)
{
	char said[512];
	int status = in_child(signal_self, said, sizeof(said));

	(void)state;
	assert_string_equal(said, "");
	assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) ||
		    (WIFEXITED(status) && WEXITSTATUS(status) == 148));
}

/* FILTER_SELF in a jump is this process, and the same number elsewhere is only a number. */
static void self_is_filled_in(void)
{
	struct file f = good_file(SECCOMP_RET_ALLOW);
	struct error err = { 0 };
	const struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FILTER_SELF, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDQUOT),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	memcpy(f.code[FILTER_VMM], code, sizeof(code));
	write_file(&f, GOOD_LEN);
	if (seccomp_use(path, &err) || seccomp_install(FILTER_VMM, &err))
		_exit(1);
	if (syscall(OTHER_CALL, getpid()) >= 0 || errno != EDQUOT)
		_exit(2);
	if (syscall(OTHER_CALL, 0) < 0)
		_exit(3);
}

static void test_self(void **state)
{
	char said[512];

	(void)state;
	assert_int_equal(in_child(self_is_filled_in, said, sizeof(said)), EXIT_LOADED << 8);
}

/* What the kernel does not take is a sentence, and the process goes on as it was. */
static void not_a_program(void)
{
	struct file f = good_file(SECCOMP_RET_ALLOW);
	struct error err = { 0 };

	f.code[FILTER_VCPU][3] = f.code[FILTER_VCPU][0]; /* runs off its end */
	write_file(&f, GOOD_LEN);
	if (seccomp_use(path, &err))
		_exit(1);
	if (seccomp_install(FILTER_VCPU, &err) != -EINVAL || !strstr(err.message, "seccomp: Invalid argument"))
		_exit(2);
	if (seccomp_install(FILTER_VMM, &err))
		_exit(3);
}

static void test_not_a_program(void **state)
{
	char said[512];

	(void)state;
	assert_int_equal(in_child(not_a_program, said, sizeof(said)), EXIT_LOADED << 8);
}

static int make_path(void **state)
{
	int fd;

	(void)state;
	strcpy(path + strlen(path) - 6, "XXXXXX");
	fd = mkstemp(path);
	if (fd >= 0)
		close(fd);
	return fd < 0;
}

static int remove_path(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_wrong_files, make_path, remove_path),
		cmocka_unit_test_setup_teardown(test_no_files, make_path, remove_path),
		cmocka_unit_test_setup_teardown(test_errno, make_path, remove_path),
		cmocka_unit_test_setup_teardown(test_trap, make_path, remove_path),
		cmocka_unit_test(test_odd_numbers),
		cmocka_unit_test(test_signal_of_others),
		cmocka_unit_test_setup_teardown(test_self, make_path, remove_path),
		cmocka_unit_test_setup_teardown(test_not_a_program, make_path, remove_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
