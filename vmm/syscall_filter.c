/* syscall_filter.c: takes the compiled seccomp filters, installs them, and says which call was blocked when one was. */
#include "syscall_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "exit_codes.h"
#include "log.h"
#include "text.h"

/* Header and the longest programs the kernel takes. */
#define FILE_MAX (sizeof(struct filter_file) + (size_t)FILTER_THREADS * BPF_MAXINSNS * sizeof(struct sock_filter))

/* Debian 12's glibc does not have it, and the kernel's header that has collides with its own. */
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif

/* A call that no policy names: to die of SIGSYS once more, now that its action is the default one. */
#define NO_SUCH_CALL 0x3fffffff

/* builtin.S */
extern const uint8_t seccomp_builtin[];
extern const uint32_t seccomp_builtin_size;
/* NUL-terminated, in the order of their numbers; empty where there is no call. */
extern const char seccomp_call_names[];
extern const uint32_t seccomp_call_names_size;

static struct {
	const uint8_t *pristine; /* the file, with FILTER_SELF where a process id goes */
	size_t len;
	uint8_t *file;                               /* the same for this process */
	struct sock_filter *program[FILTER_THREADS]; /* NULL: off */
	uint16_t nr[FILTER_THREADS];
	bool custom;
} filters;

/* ---- the file ---- */

/* Puts our own process id wherever a program says FILTER_SELF. */
static void fill_in_self(struct sock_filter *program, size_t nr)
{
	const uint32_t self = (uint32_t)getpid();
	size_t i;

	for (i = 0; i < nr; i++) {
		if (BPF_CLASS(program[i].code) == BPF_JMP && program[i].k == FILTER_SELF)
			program[i].k = self;
	}
}

/* Why these bytes cannot be installed; NULL: they can, and stay for seccomp_install. */
static const char *adopt(uint8_t *data, size_t len)
{
	const struct filter_file *head = (const void *)data;
	size_t at = sizeof(*head);
	unsigned int i;

	if (len < sizeof(head->magic) || memcmp(head->magic, FILTER_FILE_MAGIC, sizeof(head->magic)) != 0)
		return "is no filter of mayfly-seccompiler's (which makes one from policies)";
	if (len < sizeof(*head))
		return "is cut short";
	if (head->version != FILTER_FILE_VERSION)
		return "is of another version (compile the policies again with this version's mayfly-seccompiler)";
	if (head->arch != AUDIT_ARCH_X86_64)
		return "is for another architecture (needs x86-64)";
	for (i = 0; i < FILTER_THREADS; i++) {
		if (!head->nr[i] || head->nr[i] > BPF_MAXINSNS)
			return "has a program without instructions, or with more than 4096";
		filters.nr[i] = (uint16_t)head->nr[i];
		filters.program[i] = (void *)(data + at);
		at += head->nr[i] * sizeof(struct sock_filter);
	}
	if (at != len)
		return at > len ? "is cut short" : "goes on after its end";
	/* The instructions are for the kernel to judge, which takes none that could do it harm. */
	return NULL;
}

/* The whole file, one byte more than is allowed at most; -errno. */
static ssize_t read_file(const char *path, uint8_t *data)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	do {
		n = read(fd, data + len, FILE_MAX + 1 - len);
		len += n > 0 ? (size_t)n : 0;
	} while (n > 0);
	n = n < 0 ? -errno : (ssize_t)len;
	close(fd);
	return n;
}

/* What is at data stays there. Why it cannot be used, or NULL. */
static const char *use(const uint8_t *data, size_t len)
{
	const char *why = "does not fit into memory";

	filters.file = malloc(len ? len : 1);
	if (filters.file) {
		memcpy(filters.file, data, len);
		why = adopt(filters.file, len);
	}
	if (!why) {
		filters.pristine = data;
		filters.len = len;
		seccomp_forked();
		return NULL;
	}
	free(filters.file);
	memset(&filters, 0, sizeof(filters));
	return why;
}

void seccomp_forked(void)
{
	unsigned int i;

	if (!filters.file)
		return;
	memcpy(filters.file, filters.pristine, filters.len);
	for (i = 0; i < FILTER_THREADS; i++)
		fill_in_self(filters.program[i], filters.nr[i]);
}

static int use_builtin(struct error *err)
{
	return use(seccomp_builtin, seccomp_builtin_size) ? error_set(err, -ENOMEM, "seccomp: no memory") : 0;
}

static int use_file(const char *path, struct error *err)
{
	uint8_t *data = calloc(1, FILE_MAX + 1);
	const char *why = NULL;
	ssize_t len;

	if (!data)
		return error_set(err, -ENOMEM, "--seccomp-filter: no memory");
	len = read_file(path, data);
	if (len >= 0)
		why = use(data, (size_t)len);
	if (len >= 0 && !why)
		return 0;
	free(data);
	if (len < 0)
		return error_set(err, (int)len, "--seccomp-filter: %s: %s (needs a file that mayfly-seccompiler wrote)",
				 text_path_shown(path), strerror((int)-len));
	return error_set(err, -EINVAL, "--seccomp-filter: %s: %s", text_path_shown(path), why);
}

/* ---- a blocked call ---- */

static const char *call_name(int number)
{
	uint32_t at = 0;

	if (number < 0)
		return "";
	while (number-- && at < seccomp_call_names_size)
		at += (uint32_t)strlen(seccomp_call_names + at) + 1;
	return at < seccomp_call_names_size ? seccomp_call_names + at : "";
}

static size_t put_arguments(char *text, size_t at, size_t size, const mcontext_t *mc)
{
	/* The order of the kernel's calling convention. */
	static const int reg[] = { REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9 };
	unsigned int i;

	for (i = 0; i < sizeof(reg) / sizeof(reg[0]); i++) {
		at = text_put(text, at, size, i ? ", 0x" : "(0x");
		at = text_put_number(text, at, size, (uint64_t)mc->gregs[reg[i]], true, 1);
	}
	return text_put(text, at, size, ")");
}

/* Anything may have been under way, so nothing here takes a lock or memory (signal-safety(7)). */
static void on_blocked(int signo, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	const char *name = call_name(info->si_syscall);
	char text[320];
	size_t at;

	(void)signo;
	/* Somebody's kill -SYS is none. */
	if (info->si_code == SYS_SECCOMP) {
		at = text_put(text, 0, sizeof(text), "seccomp: blocked ");
		at = text_put(text, at, sizeof(text), *name ? name : "a system call without a name");
		at = put_arguments(text, at, sizeof(text), &uc->uc_mcontext);
		at = text_put(text, at, sizeof(text), ", system call ");
		at = text_put_number(text, at, sizeof(text), (uint32_t)info->si_syscall, false, 1);
		text_put(text, at, sizeof(text), ": the process ends (docs/seccomp.md)");
		log_from_handler(LOG_ERROR, __FILE__, __LINE__, text);
	}
	/* SA_RESETHAND: this time it kills, and who waits for us sees that it was SIGSYS. */
	syscall(NO_SUCH_CALL);
	_exit(EXIT_BAD_SYSCALL); /* where a policy of the user's traps nothing */
}

int seccomp_use(const char *path, struct error *err)
{
	const struct sigaction action = {
		.sa_sigaction = on_blocked,
		.sa_flags = (int)(SA_SIGINFO | SA_RESETHAND | SA_NODEFER),
	};
	int ret = path ? use_file(path, err) : use_builtin(err);

	if (ret)
		return ret;
	filters.custom = path != NULL;
	sigaction(SIGSYS, &action, NULL);
	/* Filters are for processes that cannot gain privileges by exec, or they could be used against a program that
	 * does. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return error_set(err, -errno, "no_new_privs: %s", strerror(errno));
	return 0;
}

/* ---- installing ---- */

int seccomp_install(enum filter_thread thread, struct error *err)
{
	const struct sock_fprog program = { .len = filters.nr[thread], .filter = filters.program[thread] };
	sigset_t blocked_call;

	if (!program.filter)
		return 0;
	/* A thread that blocks it would be killed without a line. */
	sigemptyset(&blocked_call);
	sigaddset(&blocked_call, SIGSYS);
	pthread_sigmask(SIG_UNBLOCK, &blocked_call, NULL);
	if (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		return 0;
	return error_set(err, -errno, "seccomp: %s (needs CONFIG_SECCOMP_FILTER; --no-seccomp goes without)",
			 strerror(errno));
}

const char *seccomp_state(void)
{
	if (!filters.program[FILTER_STARTUP])
		return "off";
	return filters.custom ? "custom" : "default";
}
