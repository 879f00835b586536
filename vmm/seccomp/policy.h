/*
 * policy.h: seccomp policies as people write them.
 *
 * A policy file says which system calls a thread may make. One statement a line; # starts a comment:
 *
 *	default ACTION                            what happens to every call that no rule names (once, before the rules)
 *	CALL [if CONDITION [and CONDITION]...] [-> ACTION]
 *	+CALL …                                   the same, and what the files before say of this call stays
 *
 *	CONDITION    argN == VALUE                the argument N (0 to 5) is VALUE
 *	             argN & VALUE == VALUE        of the bits of the first VALUE, those of the second are set
 *	VALUE        a number (decimal, octal or 0x…), a constant of the kernel's headers (KVM_RUN), several of either
 *	             joined by | without blanks (PROT_READ|PROT_WRITE), or SELF: the process that installs the filter
 *	ACTION       allow                        of a rule that names none
 *	             trap                         SIGSYS: Mayfly logs the call and dies; of a policy that names no
 *default kill                         the process dies and logs nothing log                          allowed, and the
 *kernel's audit log gets a line errno NAME                   not done: it returns this error (EIO, ENOSPC, ...)
 *
 * Conditions look at the lower 32 bits of an argument, since that is all the kernel takes of an int or of flags: the
 * upper half would be a way around a rule, or a reason to refuse a call that is right. A rule with several conditions
 * needs them all; several rules for one call are alternatives. A call that two files name follows the later file alone.
 */
#ifndef MAYFLY_SECCOMP_POLICY_H
#define MAYFLY_SECCOMP_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POLICY_ARGS 6

struct policy_condition {
	unsigned int arg;
	uint32_t mask, value;
};

struct policy_rule {
	const char *file; /* where it stands */
	unsigned int line;
	int call; /* its number on x86-64 */
	uint32_t action;
	unsigned int nr_conditions;
	struct policy_condition condition[POLICY_ARGS];
};

struct policy {
	uint32_t action; /* SCMP_ACT_*, of what no rule names */
	size_t nr_rules;
	struct policy_rule *rule;
};

/*
 * policy_read - add what the file says to the policy
 * Returns 0; otherwise -1, and a line on standard error says where and what would be right. The rules belong to the
 * policy and file to the caller, who keeps it as long as the policy.
 */
int policy_read(struct policy *policy, const char *file);

/* policy_init, policy_free - one without rules that traps everything; and its end. */
void policy_init(struct policy *policy);
void policy_free(struct policy *policy);

/* policy_constant - the value of a name from the kernel's headers; false when it is not known. */
bool policy_constant(const char *name, size_t len, uint32_t *value);

#endif
