/* policy.c: reads policy files, and says where one is wrong. */
#include "seccomp/policy.h"

#include <errno.h>
#include <seccomp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seccomp/filter_file.h"

#define MAX_WORDS 64
#define BLANKS    " \t\r\n"

/* One line, cut into words. */
struct statement {
	const char *file;
	unsigned int line;
	char *word[MAX_WORDS + 1]; /* NULL after the last */
	unsigned int at;           /* the next that is not understood yet */
};

static int __attribute__((format(printf, 2, 3))) wrong(const struct statement *s, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "mayfly-seccompiler: %s:%u: ", s->file, s->line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return -1;
}

static const char *peek(const struct statement *s)
{
	return s->word[s->at] ? s->word[s->at] : "";
}

static bool take(struct statement *s, const char *word)
{
	if (strcmp(peek(s), word) != 0)
		return false;
	s->at++;
	return true;
}

/* ---- values ---- */

static bool parse_part(const char *text, size_t len, uint32_t *value)
{
	char number[24], *end;
	unsigned long long n;

	if (!len || text[0] < '0' || text[0] > '9')
		return policy_constant(text, len, value);
	if (len >= sizeof(number))
		return false;
	memcpy(number, text, len);
	number[len] = '\0';
	errno = 0;
	n = strtoull(number, &end, 0);
	*value = (uint32_t)n;
	return !*end && !errno && n <= UINT32_MAX;
}

static int parse_value(struct statement *s, uint32_t *value)
{
	const char *text = peek(s);
	uint32_t part;
	size_t len;

	s->at++;
	*value = 0;
	if (strcmp(text, "SELF") == 0) {
		*value = FILTER_SELF;
		return 0;
	}
	for (;; text += len + 1) {
		len = strcspn(text, "|");
		if (!parse_part(text, len, &part))
			return wrong(s,
				     "\"%.*s\" is no value (needs a number below 2^32, a constant of the kernel's "
				     "headers, or SELF; constants that are not known are written as numbers)",
				     (int)len, text);
		*value |= part;
		if (!text[len])
			return 0;
	}
}

/* ---- actions ---- */

static int parse_action(struct statement *s, uint32_t *action)
{
	static const struct {
		const char *word;
		uint32_t action;
	} actions[] = {
		{ "allow", SCMP_ACT_ALLOW },
		{ "trap", SCMP_ACT_TRAP },
		{ "kill", SCMP_ACT_KILL_PROCESS },
		{ "log", SCMP_ACT_LOG },
	};
	uint32_t code;
	size_t i;

	if (take(s, "errno")) {
		if (parse_value(s, &code))
			return -1;
		*action = SCMP_ACT_ERRNO(code);
		return code && code < 4096 ? 0 : wrong(s, "errno: no error has this number (needs 1 to 4095)");
	}
	for (i = 0; i < sizeof(actions) / sizeof(actions[0]); i++) {
		if (take(s, actions[i].word)) {
			*action = actions[i].action;
			return 0;
		}
	}
	return wrong(s, "\"%s\" is no action (needs allow, trap, kill, log, or errno NAME)", peek(s));
}

/* ---- rules ---- */

static int parse_condition(struct statement *s, struct policy_rule *rule)
{
	struct policy_condition *c = &rule->condition[rule->nr_conditions];
	const char *word = peek(s);
	unsigned int i;

	if (strncmp(word, "arg", 3) != 0 || word[3] < '0' || word[3] > '5' || word[4])
		return wrong(s, "\"%s\" is no argument (needs arg0 to arg5)", word);
	s->at++;
	c->arg = (unsigned int)(word[3] - '0');
	for (i = 0; i < rule->nr_conditions; i++) {
		if (rule->condition[i].arg == c->arg)
			return wrong(s, "%s: twice in one rule (needs one condition for each argument)", word);
	}
	c->mask = UINT32_MAX;
	if (take(s, "&") && parse_value(s, &c->mask))
		return -1;
	if (!take(s, "=="))
		return wrong(s, "\"%s\" after %s (needs %s == VALUE, or %s & VALUE == VALUE)", peek(s), word, word,
			     word);
	if (parse_value(s, &c->value))
		return -1;
	if (c->value & ~c->mask)
		return wrong(s, "%s: can never be true: bits are asked for that the mask leaves out", word);
	rule->nr_conditions++;
	return 0;
}

static int parse_rule(struct statement *s, struct policy_rule *rule)
{
	rule->call = seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86_64, peek(s));
	/* Negative: known to libseccomp, but only on other architectures. */
	if (rule->call < 0)
		return wrong(s, "\"%s\" is no system call of x86-64", peek(s));
	s->at++;
	rule->action = SCMP_ACT_ALLOW;
	if (take(s, "if")) {
		do {
			if (parse_condition(s, rule))
				return -1;
		} while (take(s, "and"));
	}
	return take(s, "->") ? parse_action(s, &rule->action) : 0;
}

static int add_rule(struct policy *policy, const struct policy_rule *rule)
{
	struct policy_rule *more = realloc(policy->rule, (policy->nr_rules + 1) * sizeof(*more));

	if (!more)
		return -1;
	policy->rule = more;
	policy->rule[policy->nr_rules++] = *rule;
	return 0;
}

/* The later file has the say. */
static void drop_earlier(struct policy *policy, const struct policy_rule *rule)
{
	size_t from, to = 0;

	for (from = 0; from < policy->nr_rules; from++) {
		if (policy->rule[from].call != rule->call || policy->rule[from].file == rule->file)
			policy->rule[to++] = policy->rule[from];
	}
	policy->nr_rules = to;
}

static bool same(const struct policy_rule *a, const struct policy_rule *b)
{
	return a->call == b->call && a->nr_conditions == b->nr_conditions &&
	       memcmp(a->condition, b->condition, sizeof(a->condition)) == 0;
}

static int take_rule(struct policy *policy, struct statement *s)
{
	struct policy_rule rule = { .file = s->file, .line = s->line };
	bool adds = peek(s)[0] == '+';
	size_t i;

	s->word[s->at] += adds;
	if (parse_rule(s, &rule))
		return -1;
	if (!adds)
		drop_earlier(policy, &rule);
	for (i = 0; i < policy->nr_rules; i++) {
		const struct policy_rule *other = &policy->rule[i];

		if (same(other, &rule))
			return wrong(s, "says the same as line %u", other->line);
		/* libseccomp would quietly leave the conditions out. */
		if (other->call == rule.call && (!other->nr_conditions || !rule.nr_conditions))
			return wrong(s, "line %u is about this call, too, and one of the two has no condition",
				     other->line);
	}
	return add_rule(policy, &rule);
}

static int take_statement(struct policy *policy, struct statement *s, bool *rules_began)
{
	int ret;

	if (take(s, "default")) {
		if (*rules_began)
			return wrong(s, "default: comes too late (needs to stand before the rules, once)");
		ret = parse_action(s, &policy->action);
	} else {
		ret = take_rule(policy, s);
	}
	*rules_began = true;
	if (!ret && s->word[s->at])
		return wrong(s, "\"%s\" is too much here (needs: CALL [if CONDITION [and CONDITION]...] [-> ACTION])",
			     peek(s));
	return ret;
}

/* ---- files ---- */

static int split(struct statement *s, char *line)
{
	char *rest = NULL, *word;
	unsigned int n = 0;

	line[strcspn(line, "#")] = '\0';
	for (word = strtok_r(line, BLANKS, &rest); word; word = strtok_r(NULL, BLANKS, &rest)) {
		if (n == MAX_WORDS)
			return wrong(s, "more than %d words", MAX_WORDS);
		s->word[n++] = word;
	}
	s->word[n] = NULL;
	s->at = 0;
	return 0;
}

int policy_read(struct policy *policy, const char *file)
{
	struct statement s = { .file = file };
	FILE *in = fopen(file, "re");
	bool rules_began = false;
	char *line = NULL;
	size_t size = 0;
	int ret = 0;

	if (!in) {
		fprintf(stderr, "mayfly-seccompiler: %s: %s\n", file, strerror(errno));
		return -1;
	}
	while (!ret && getline(&line, &size, in) >= 0) {
		s.line++;
		ret = split(&s, line);
		if (!ret && s.word[0])
			ret = take_statement(policy, &s, &rules_began);
	}
	free(line);
	fclose(in);
	return ret;
}

void policy_init(struct policy *policy)
{
	*policy = (struct policy){ .action = SCMP_ACT_TRAP };
}

void policy_free(struct policy *policy)
{
	free(policy->rule);
	policy->rule = NULL;
}
