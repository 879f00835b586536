/* seccompiler.c: compiles policies into the file of filters that is built into Mayfly, and that --seccomp-filter takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "seccomp/filter_file.h"
#include "seccomp/policy.h"
#include "seccomp/shrink.h"

static const char *const thread_names[FILTER_THREADS] = { FILTER_THREAD_NAMES };

static const char usage[] =
	"mayfly-seccompiler: turns policies of system calls into filters for mayfly --seccomp-filter FILE\n\n"
	"  mayfly-seccompiler --output FILE startup=POLICY[,POLICY...] vmm=... snapshot=... fork=... copies=... "
	"vcpu=... block_io=... working_set=...\n"
	"  mayfly-seccompiler --list startup=POLICY[,POLICY...] ...\n\n"
	"Where several files of a thread name one system call, the last file has the say.\n"
	"--list prints what was understood instead: thread, file:line, action, call, and for each condition argument, "
	"mask\n"
	"and value, all as numbers. How policies are written: docs/seccomp.md\n";

struct program {
	struct sock_filter *code;
	uint32_t nr;
};

static int fail(const char *what, int code)
{
	fprintf(stderr, "mayfly-seccompiler: %s: %s\n", what, strerror(code));
	return -1;
}

/* ---- policies ---- */

/* files: a list with commas, which is cut up and must stay as long as the policy. */
static int read_all(struct policy *policy, char *files)
{
	char *rest = NULL, *file;

	for (file = strtok_r(files, ",", &rest); file; file = strtok_r(NULL, ",", &rest)) {
		if (policy_read(policy, file))
			return -1;
	}
	return 0;
}

static int read_argument(struct policy policy[FILTER_THREADS], bool seen[FILTER_THREADS], char *argument)
{
	char *equals = strchr(argument, '=');
	unsigned int i;

	for (i = 0; i < FILTER_THREADS && equals; i++) {
		if (strlen(thread_names[i]) != (size_t)(equals - argument) ||
		    strncmp(argument, thread_names[i], (size_t)(equals - argument)) != 0)
			continue;
		if (seen[i]) {
			fprintf(stderr, "mayfly-seccompiler: %s: given twice (several files are joined by commas)\n",
				thread_names[i]);
			return -1;
		}
		seen[i] = true;
		return read_all(&policy[i], equals + 1);
	}
	fprintf(stderr,
		"mayfly-seccompiler: \"%s\" (needs startup=, vmm=, snapshot=, fork=, copies=, vcpu=, block_io= or "
		"working_set= and a policy file)\n",
		argument);
	return -1;
}

static void list(unsigned int thread, const struct policy *policy)
{
	size_t i;
	unsigned int j;

	for (i = 0; i < policy->nr_rules; i++) {
		const struct policy_rule *rule = &policy->rule[i];

		printf("%s %s:%u %#x %d", thread_names[thread], rule->file, rule->line, rule->action, rule->call);
		for (j = 0; j < rule->nr_conditions; j++)
			printf(" %u:%#x:%#x", rule->condition[j].arg, rule->condition[j].mask,
			       rule->condition[j].value);
		putchar('\n');
	}
}

/* ---- BPF ---- */

static int add_rule(scmp_filter_ctx ctx, const struct policy_rule *rule)
{
	struct scmp_arg_cmp cmp[POLICY_ARGS];
	unsigned int i;

	for (i = 0; i < rule->nr_conditions; i++)
		cmp[i] = SCMP_CMP(rule->condition[i].arg, SCMP_CMP_MASKED_EQ, rule->condition[i].mask,
				  rule->condition[i].value);
	return seccomp_rule_add_exact_array(ctx, rule->action, rule->call, rule->nr_conditions, cmp);
}

static int add_rules(scmp_filter_ctx ctx, const struct policy *policy)
{
	size_t i;
	int ret;

	for (i = 0; i < policy->nr_rules; i++) {
		const struct policy_rule *rule = &policy->rule[i];

		if (rule->action == policy->action)
			continue; /* which is how a later file takes a rule away */
		ret = add_rule(ctx, rule);
		if (ret) {
			fprintf(stderr, "mayfly-seccompiler: %s:%u: libseccomp does not take it: %s\n", rule->file,
				rule->line, strerror(-ret));
			return -1;
		}
	}
	return 0;
}

/* libseccomp 2.5 writes to descriptors only. */
static int export(scmp_filter_ctx ctx, struct program *out)
{
	FILE *file = tmpfile();
	struct stat st;
	int ret;

	if (!file)
		return fail("a temporary file", errno);
	ret = seccomp_export_bpf(ctx, fileno(file));
	if (ret || fstat(fileno(file), &st)) {
		fclose(file);
		return fail("libseccomp", ret ? -ret : errno);
	}
	out->nr = (uint32_t)((size_t)st.st_size / sizeof(*out->code));
	out->code = calloc(out->nr, sizeof(*out->code));
	rewind(file);
	ret = out->code && fread(out->code, sizeof(*out->code), out->nr, file) == out->nr
		      ? 0
		      : fail("a temporary file", EIO);
	fclose(file);
	return ret;
}

/*
 * x86-64 alone: what comes by another door (32-bit, x32) is killed on the spot. A binary tree, since a program of
 * comparisons one after the other would run half of them for every call.
 */
static int compile(const struct policy *policy, struct program *out)
{
	scmp_filter_ctx ctx = seccomp_init(policy->action);
	int ret;

	if (!ctx)
		return fail("libseccomp", ENOMEM);
	/* On other hosts the native architecture is another one. */
	ret = seccomp_arch_native() == SCMP_ARCH_X86_64 ? 0 : -ENOTSUP;
	if (!ret)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (!ret)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (ret)
		fail("libseccomp", -ret);
	else
		ret = add_rules(ctx, policy);
	if (!ret)
		ret = export(ctx, out);
	seccomp_release(ctx);
	if (!ret)
		out->nr = bpf_shrink(out->code, out->nr);
	if (!ret && out->nr > BPF_MAXINSNS) {
		fprintf(stderr, "mayfly-seccompiler: %u instructions are too many for the kernel (at most %d)\n",
			out->nr, BPF_MAXINSNS);
		return -1;
	}
	return ret ? -1 : 0;
}

/* ---- the file ---- */

static int write_file(const char *path, const struct program program[FILTER_THREADS])
{
	struct filter_file head = { .version = FILTER_FILE_VERSION, .arch = AUDIT_ARCH_X86_64 };
	FILE *out = fopen(path, "we");
	unsigned int i;
	bool failed;

	if (!out)
		return fail(path, errno);
	memcpy(head.magic, FILTER_FILE_MAGIC, sizeof(head.magic));
	for (i = 0; i < FILTER_THREADS; i++)
		head.nr[i] = program[i].nr;
	failed = fwrite(&head, sizeof(head), 1, out) != 1;
	for (i = 0; i < FILTER_THREADS && !failed; i++)
		failed = fwrite(program[i].code, sizeof(*program[i].code), program[i].nr, out) != program[i].nr;
	failed |= fclose(out) != 0;
	return failed ? fail(path, errno) : 0;
}

static int compile_all(const struct policy policy[FILTER_THREADS], const bool seen[FILTER_THREADS], const char *path)
{
	struct program program[FILTER_THREADS] = { 0 };
	unsigned int i;
	int ret = 0;

	for (i = 0; i < FILTER_THREADS && !ret; i++) {
		if (!seen[i]) {
			fprintf(stderr, "mayfly-seccompiler: %s= is missing (needs a policy for each kind of thread)\n",
				thread_names[i]);
			ret = -1;
		} else {
			ret = compile(&policy[i], &program[i]);
		}
	}
	if (!ret)
		ret = write_file(path, program);
	for (i = 0; i < FILTER_THREADS; i++)
		free(program[i].code);
	return ret;
}

int main(int argc, char **argv)
{
	struct policy policy[FILTER_THREADS];
	bool seen[FILTER_THREADS] = { false };
	bool only_list = argc > 1 && strcmp(argv[1], "--list") == 0;
	int first = only_list ? 2 : 3, i, ret = 0;

	if (argc <= first || (!only_list && strcmp(argv[1], "--output") != 0)) {
		fputs(usage, argc == 2 && strcmp(argv[1], "--help") == 0 ? stdout : stderr);
		return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
	}
	for (i = 0; i < FILTER_THREADS; i++)
		policy_init(&policy[i]);
	for (i = first; i < argc && !ret; i++)
		ret = read_argument(policy, seen, argv[i]);
	for (i = 0; i < FILTER_THREADS && only_list && !ret; i++)
		list((unsigned int)i, &policy[i]);
	if (!only_list && !ret)
		ret = compile_all(policy, seen, argv[2]);
	for (i = 0; i < FILTER_THREADS; i++)
		policy_free(&policy[i]);
	return ret ? 1 : 0;
}
