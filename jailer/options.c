/* options.c: one table of options that both the parser and --help read. */
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "text.h"

#define DEFAULT_BASE "/srv/jailer"
#define ID_MAX       64
#define SHOWN_SIZE   96 /* of a value in a sentence */

enum option_kind { FLAG, PATH, PARENT, ID, NUMBER, VERSION, MEMORY, CPU, CGROUP, LIMIT, BIND, IO, PASS_FD, ACTION };

struct option {
	const char *name;
	enum option_kind kind;
	bool repeats;
	const char *value; /* what --help calls it, NULL for those that take none */
	const char *help;
	size_t offset; /* in struct options */
};

#define INTO(member) offsetof(struct options, member)

static const struct option options[] = {
	{ "id", ID, false, "ID", "name of the microVM", INTO(id) },
	{ "exec-file", PATH, false, "PATH", "the program to jail, statically linked", INTO(exec_file) },
	{ "uid", NUMBER, false, "UID", "user it runs as", INTO(uid) },
	{ "gid", NUMBER, false, "GID", "group it runs as", INTO(gid) },
	{ "chroot-base-dir", PATH, false, "DIR", "where jails are made [" DEFAULT_BASE "]", INTO(chroot_base) },
	{ "netns", PATH, false, "PATH", "network namespace to join, as in /run/netns/NAME", INTO(netns) },
	{ "cgroup", CGROUP, true, "FILE=VALUE", "cgroup file and what to write to it", 0 },
	{ "cgroup-version", VERSION, false, "1|2", "cgroup hierarchy to use [2 where /sys/fs/cgroup is one, else 1]",
	  INTO(cgroup_version) },
	{ "parent-cgroup", PARENT, false, "PATH", "cgroup to make ID's in [name of the program]", INTO(parent_cgroup) },
	{ "resource-limit", LIMIT, true, "NAME=N", "fsize (bytes of a file) or no-file (descriptors) [no-file=2048]",
	  0 },
	{ "daemonize", FLAG, false, NULL, "leave the terminal and the session", INTO(daemonize) },
	{ "new-pid-ns", FLAG, false, NULL, "in a PID namespace of its own", INTO(new_pid_ns) },
	{ "new-user-ns", FLAG, false, NULL, "in a user namespace of its own; all that is needed without root",
	  INTO(new_user_ns) },
	{ "new-net-ns", FLAG, false, NULL, "in a network namespace of its own, empty", INTO(new_net_ns) },
	{ "new-ipc-ns", FLAG, false, NULL, "in an IPC namespace of its own", INTO(new_ipc_ns) },
	{ "new-uts-ns", FLAG, false, NULL, "in a UTS namespace of its own, with ID as host name", INTO(new_uts_ns) },
	{ "bind", BIND, true, "SRC:DST[:ro]", "show the host's file or directory SRC in the jail as DST", 0 },
	{ "pass-fd", PASS_FD, true, "N", "leave this inherited descriptor open", 0 },
	{ "memory-max", MEMORY, false, "SIZE", "most memory, as in 256M", INTO(memory_max) },
	{ "cpu-max", CPU, false, "N%", "most CPU time, as in 150% (one and a half CPUs)", INTO(cpu_max) },
	{ "io-max", IO, true, "PATH:LIMITS", "most I/O on the disk under PATH, as in /srv:rbps=100M,wiops=2000", 0 },
	{ "cleanup", FLAG, false, NULL, "wait for the program's end and remove jail and cgroup", INTO(cleanup) },
	{ "version", ACTION, false, NULL, "print the version", OPTIONS_VERSION },
	{ "help", ACTION, false, NULL, "print this page", OPTIONS_HELP },
};

#define NR_OPTIONS (sizeof(options) / sizeof(options[0]))

/* ---- values ---- */

static const char *show(char shown[SHOWN_SIZE], const char *text)
{
	text_escape(shown, SHOWN_SIZE, text, strlen(text));
	return shown;
}

static int fail_value(struct error *err, const struct option *o, const char *value, const char *needs)
{
	char shown[SHOWN_SIZE];

	if (!*value)
		return error_set(err, -EINVAL, "--%s: the value is empty (needs %s)", o->name, needs);
	return error_set(err, -EINVAL, "--%s: \"%s\" (needs %s)", o->name, show(shown, value), needs);
}

/* No part of a relative path may be empty, . or .. */
static bool stays_below(const char *path)
{
	size_t len;

	for (; *path; path += len + (path[len] == '/')) {
		len = strcspn(path, "/");
		if (len == 0 || (len == 1 && path[0] == '.') || (len == 2 && path[0] == '.' && path[1] == '.'))
			return false;
	}
	return true;
}

/* As Firecracker reads it: slashes count once, and not at the end. */
static void squeeze(char *path)
{
	char *start = path, *to = path;

	for (; *path; path++)
		if (*path != '/' || to == start || (path[1] != '/' && path[1]))
			*to++ = *path;
	*to = '\0';
}

static bool is_id(const char *text)
{
	size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

	return len > 0 && len <= ID_MAX && text[len] == '\0';
}

static int add_cgroup(struct options *out, const struct option *o, char *value, struct error *err)
{
	static const char needs[] = "FILE=VALUE, as in cpuset.cpus=0";
	char *equals = strchr(value, '='), *dot = strchr(value, '.');

	if (!equals || !equals[1] || !dot || dot == value || dot > equals ||
	    memchr(value, '/', (size_t)(equals - value)))
		return fail_value(err, o, value, needs);
	*equals = '\0';
	out->settings[out->nr_settings++] = (struct cgroup_option){ value, equals + 1 };
	return 0;
}

static int add_bind(struct options *out, const struct option *o, char *value, struct error *err)
{
	static const char needs[] = "SRC:DST or SRC:DST:ro, DST a path in the jail without . or ..";
	struct bind *bind = &out->binds[out->nr_binds];
	size_t len = strlen(value);
	const char *target;
	char *colon;

	bind->read_only = len > 3 && strcmp(value + len - 3, ":ro") == 0;
	colon = bind->read_only ? memrchr(value, ':', len - 3) : strrchr(value, ':');
	if (!colon || colon == value)
		return fail_value(err, o, value, needs);
	target = colon + 1 + strspn(colon + 1, "/");
	len -= (size_t)(target - value) + (bind->read_only ? 3 : 0);
	if (len == 0 || len >= PATH_MAX || target[len - 1] == '/')
		return fail_value(err, o, value, needs);
	value[target - value + (ptrdiff_t)len] = '\0';
	if (!stays_below(target))
		return fail_value(err, o, target, needs);
	*colon = '\0';
	bind->source = value;
	bind->target = target;
	out->nr_binds++;
	return 0;
}

static int add_fd(struct options *out, const struct option *o, const char *value, struct error *err)
{
	unsigned int i = out->nr_pass_fds;
	uint64_t fd;

	if (!words_number(value, &fd) || fd < 3 || fd > INT_MAX)
		return fail_value(err, o, value, "the number of an open descriptor, 3 or more");
	for (; i > 0 && out->pass_fds[i - 1] > (int)fd; i--)
		out->pass_fds[i] = out->pass_fds[i - 1];
	if (i > 0 && out->pass_fds[i - 1] == (int)fd)
		return fail_value(err, o, value, "each descriptor once");
	out->pass_fds[i] = (int)fd;
	out->nr_pass_fds++;
	return 0;
}

static int add_limit(struct options *out, const struct option *o, const char *value, struct error *err)
{
	static const char needs[] = "fsize=BYTES or no-file=N";
	const char *equals = strchr(value, '=');
	size_t len = equals ? (size_t)(equals - value) : 0;
	uint64_t n;

	if (!equals || !words_number(equals + 1, &n))
		return fail_value(err, o, value, needs);
	if (len == 5 && memcmp(value, "fsize", len) == 0)
		out->fsize = n;
	else if (len == 7 && memcmp(value, "no-file", len) == 0)
		out->no_file = n;
	else
		return fail_value(err, o, value, needs);
	return 0;
}

static int store_number(struct options *out, const struct option *o, const char *value, struct error *err)
{
	uint64_t n;

	/* 4294967295 means "leave it as it is" to the kernel: root. */
	if (!words_number(value, &n) || n >= UINT32_MAX)
		return fail_value(err, o, value, "a number, 0 to 4294967294");
	*(uint32_t *)(void *)((char *)out + o->offset) = (uint32_t)n;
	out->uid_given |= o->offset == INTO(uid);
	out->gid_given |= o->offset == INTO(gid);
	return 0;
}

static int store(struct options *out, const struct option *o, char *value, struct error *err)
{
	void *dst = (char *)out + o->offset;

	switch (o->kind) {
	case FLAG:
		*(bool *)dst = true;
		return 0;
	case ID:
		if (!is_id(value))
			return fail_value(err, o, value, "1 to 64 letters, digits or -");
		break;
	case PATH:
		if (!*value || strlen(value) >= PATH_MAX)
			return fail_value(err, o, value, "a path of 1 to 4095 bytes");
		break;
	case PARENT:
		squeeze(value);
		if (!*value || *value == '/' || strlen(value) >= PATH_MAX || !stays_below(value))
			return fail_value(err, o, value, "a relative path without . or ..");
		break;
	case NUMBER:
		return store_number(out, o, value, err);
	case VERSION:
		if (strcmp(value, "1") != 0 && strcmp(value, "2") != 0)
			return fail_value(err, o, value, "1 or 2");
		out->cgroup_version = (unsigned int)(*value - '0');
		return 0;
	case MEMORY:
		return words_size(value, dst) ? 0 : fail_value(err, o, value, "bytes, or a number with K, M, G or T");
	case CPU:
		return words_cpu(value, dst) ? 0 : fail_value(err, o, value, "1% to 1000000%, 100% being one CPU");
	case IO:
		return words_io(value, &out->io[out->nr_io++])
			       ? 0
			       : fail_value(err, o, value,
					    "PATH:rbps=SIZE,wbps=SIZE,riops=N,wiops=N, at least one of them");
	case CGROUP:
		return add_cgroup(out, o, value, err);
	case LIMIT:
		return add_limit(out, o, value, err);
	case BIND:
		return add_bind(out, o, value, err);
	case PASS_FD:
		return add_fd(out, o, value, err);
	case ACTION:
	default:
		out->action = (enum options_action)o->offset;
		return 0;
	}
	*(const char **)dst = value;
	return 0;
}

/* ---- the command line ---- */

static const struct option *find(const char *name, size_t len)
{
	size_t i;

	for (i = 0; i < NR_OPTIONS; i++)
		if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
			return &options[i];
	return NULL;
}

/* Takes the option at argv[*i] and its value; *i is left on the last word used. */
static int take(int argc, char **argv, int *i, struct options *out, unsigned int *times, struct error *err)
{
	char *word = argv[*i], *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
	const struct option *o = NULL;
	char shown[SHOWN_SIZE], empty[1] = "";

	if (strncmp(word, "--", 2) == 0)
		o = find(word + 2, (equals ? (size_t)(equals - word) : strlen(word)) - 2);
	if (!o)
		return error_set(err, -EINVAL, "%s: unknown option (--help lists them all; the VMM's own go after --)",
				 *word ? show(shown, word) : "\"\"");
	if (++times[o - options] > (o->repeats ? LIST_MAX : 1))
		return error_set(err, -EINVAL, "--%s: given too often (needs to be there %s)", o->name,
				 o->repeats ? "32 times at most" : "once");
	if (!o->value && value)
		return error_set(err, -EINVAL, "--%s: takes no value (leave out \"=%s\")", o->name, show(shown, value));
	if (o->value && !value) {
		if (*i + 1 == argc || strncmp(argv[*i + 1], "--", 2) == 0)
			return error_set(err, -EINVAL, "--%s: the value is missing (needs --%s %s)", o->name, o->name,
					 o->value);
		value = argv[++*i];
	}
	return store(out, o, value ? value : empty, err);
}

static int check(const struct options *o, struct error *err)
{
	if (!o->id)
		return error_set(err, -EINVAL, "--id: missing (needs 1 to 64 letters, digits or -)");
	if (!o->exec_file)
		return error_set(err, -EINVAL, "--exec-file: missing (needs the path of the program to jail)");
	/* In a user namespace of one's own there is one user, and it need not be named. */
	if (!o->new_user_ns && (!o->uid_given || !o->gid_given))
		return error_set(err, -EINVAL, "--%s: missing (needs the number that the program runs as)",
				 o->uid_given ? "gid" : "uid");
	if (o->netns && o->new_net_ns)
		return error_set(err, -EINVAL, "--new-net-ns: --netns names one already (needs one of them)");
	return 0;
}

int options_parse(int argc, char **argv, struct options *out, struct error *err)
{
	unsigned int times[NR_OPTIONS] = { 0 };
	int i, ret;

	*out = (struct options){
		.chroot_base = DEFAULT_BASE,
		.memory_max = NO_LIMIT,
		.cpu_max = NO_LIMIT,
		.fsize = NO_LIMIT,
		.no_file = NO_LIMIT,
	};
	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			out->action = OPTIONS_HELP;
		else if (strcmp(argv[i], "--version") == 0 && out->action == OPTIONS_RUN)
			out->action = OPTIONS_VERSION;
	}
	if (out->action != OPTIONS_RUN)
		return 0;
	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		ret = take(argc, argv, &i, out, times, err);
		if (ret)
			return ret;
	}
	out->vmm_args = i < argc ? argv + i + 1 : argv + argc;
	return check(out, err);
}

void options_help(FILE *out)
{
	char left[40];
	size_t i;

	fprintf(out,
		"Mayfly " MAYFLY_VERSION " jailer: starts a program with a root directory and a user of its own\n\n"
		"  " JAILER_NAME " --id ID --exec-file PATH --uid UID --gid GID [more options] [-- ARGS OF PATH]\n"
		"  " JAILER_NAME " --id ID --exec-file PATH --new-user-ns [more options] [-- ARGS OF PATH]\n\n");
	for (i = 0; i < NR_OPTIONS; i++) {
		const struct option *o = &options[i];

		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		fprintf(out, "  %-28s %s%s\n", left, o->help, o->repeats ? " (may be repeated)" : "");
	}
	fprintf(out, "\nAll of it is explained in docs/jailer.md.\n");
}
