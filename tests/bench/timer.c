/* timer.c: times a command from exec to a line of its output and to its end, and prints the figures. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "timer.h"

static const char usage_text[] =
	"Usage: timer [OPTION]... -- CMD [ARG]...\n"
	"\n"
	"Starts CMD and notes, in nanoseconds from just before exec, when MARKER first appears in its output and when\n"
	"the process is gone.\n"
	"\n"
	"  -n, --runs N         measured runs (1)\n"
	"  -w, --warmup N       runs before that, not counted (0)\n"
	"  -m, --marker TEXT    what to wait for on stdout; then CMD is killed\n"
	"      --wait           after the marker wait for CMD to end by itself\n"
	"      --both           look for the marker on stderr as well\n"
	"      --timeout S      give up a run after S seconds (60)\n"
	"      --pty            give CMD a terminal\n"
	"      --memory         at the marker, read CMD's memory and threads\n"
	"      --settle MS      wait that long after the marker before reading (0)\n"
	"      --ram-mib N      size of guest RAM: mappings of that size do not count as CMD's memory\n"
	"      --exclude PATH   neither do mappings of this file; may be repeated\n"
	"      --kvm            when the guest was first entered, and its exits (root, tracefs)\n"
	"  -o, --json FILE      append one line of JSON per run to FILE (-: stdout) instead of printing a table\n"
	"\n"
	"Exit status: 0 when every run reached its marker (or ended, without one), 1 when one did not, 2 for bad "
	"usage.\n";

enum {
	OPT_WAIT = 256,
	OPT_BOTH,
	OPT_TIMEOUT,
	OPT_PTY,
	OPT_MEMORY,
	OPT_SETTLE,
	OPT_RAM,
	OPT_EXCLUDE,
	OPT_KVM,
	OPT_HELP
};

static const struct option options[] = {
	{ "runs", required_argument, NULL, 'n' },
	{ "warmup", required_argument, NULL, 'w' },
	{ "marker", required_argument, NULL, 'm' },
	{ "json", required_argument, NULL, 'o' },
	{ "wait", no_argument, NULL, OPT_WAIT },
	{ "both", no_argument, NULL, OPT_BOTH },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "pty", no_argument, NULL, OPT_PTY },
	{ "memory", no_argument, NULL, OPT_MEMORY },
	{ "settle", required_argument, NULL, OPT_SETTLE },
	{ "ram-mib", required_argument, NULL, OPT_RAM },
	{ "exclude", required_argument, NULL, OPT_EXCLUDE },
	{ "kvm", no_argument, NULL, OPT_KVM },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static void __attribute__((noreturn)) bad_usage(const char *what, const char *value)
{
	fprintf(stderr, "timer: %s: '%s' (--help lists the options)\n", what, value);
	exit(2);
}

static unsigned int number(const char *name, const char *text, unsigned int least)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (!*text || *end || *text == '-' || value < least || value > 1000000)
		bad_usage(name, text);
	return (unsigned int)value;
}

static void take_option(struct plan *plan, int opt, char *arg)
{
	switch (opt) {
	case 'n':
		plan->runs = number("--runs", arg, 1);
		break;
	case 'w':
		plan->warmup = number("--warmup", arg, 0);
		break;
	case 'm':
		plan->marker = arg;
		break;
	case 'o':
		plan->json = arg;
		break;
	case OPT_WAIT:
		plan->wait = true;
		break;
	case OPT_BOTH:
		plan->both = true;
		break;
	case OPT_TIMEOUT:
		plan->timeout = number("--timeout", arg, 1);
		break;
	case OPT_PTY:
		plan->pty = true;
		break;
	case OPT_MEMORY:
		plan->memory = true;
		break;
	case OPT_SETTLE:
		plan->settle_ms = number("--settle", arg, 0);
		break;
	case OPT_RAM:
		plan->ram_mib = number("--ram-mib", arg, 1);
		break;
	case OPT_EXCLUDE:
		if (plan->nr_exclude == MAX_EXCLUDE)
			bad_usage("too many --exclude", arg);
		plan->exclude[plan->nr_exclude++] = arg;
		break;
	case OPT_KVM:
		plan->kvm = true;
		break;
	case OPT_HELP:
		fputs(usage_text, stdout);
		exit(0);
	default:
		exit(2);
	}
}

/* Looked up once, before the clock runs. */
static const char *find_program(const char *name)
{
	const char *path = getenv("PATH");
	static char full[4096];

	if (strchr(name, '/'))
		return name;
	while (path && *path) {
		size_t n = strcspn(path, ":");
		struct stat st;

		snprintf(full, sizeof(full), "%.*s/%s", (int)n, path, name);
		if (!access(full, X_OK) && !stat(full, &st) && S_ISREG(st.st_mode))
			return full;
		path += n + (path[n] == ':');
	}
	bad_usage("no such program", name);
}

static void print_text(FILE *f, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(f, "\\u%04x", c);
		else
			fputc(c, f);
	}
}

static void print_json(FILE *f, const struct plan *plan, const struct outcome *o)
{
	fprintf(f, "{\"marker_ns\": %llu, \"gone_ns\": %llu, \"status\": %d, \"timed_out\": %s, \"line\": \"",
		(unsigned long long)o->marker, (unsigned long long)o->gone, o->status, o->timed_out ? "true" : "false");
	print_text(f, o->line);
	fputs("\", \"tail\": \"", f);
	print_text(f, o->tail);
	fputc('"', f);
	if (plan->kvm)
		fprintf(f,
			", \"first_entry_ns\": %llu, \"exits\": %llu, \"exits_io\": %llu, \"exits_mmio\": %llu, "
			"\"exits_halt\": %llu, \"exits_page_fault\": %llu",
			(unsigned long long)o->first_entry, (unsigned long long)o->exits.all,
			(unsigned long long)o->exits.io, (unsigned long long)o->exits.mmio,
			(unsigned long long)o->exits.halt, (unsigned long long)o->exits.page_faults);
	if (plan->memory)
		fprintf(f,
			", \"threads\": %u, \"pss_kb\": %llu, \"rss_kb\": %llu, \"private_clean_kb\": %llu, "
			"\"private_dirty_kb\": %llu, \"guest_kb\": %llu",
			o->memory.threads, (unsigned long long)o->memory.pss, (unsigned long long)o->memory.rss,
			(unsigned long long)o->memory.private_clean, (unsigned long long)o->memory.private_dirty,
			(unsigned long long)o->memory.guest);
	fputs("}\n", f);
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Quartiles are the nearest measured values. Runs without the event (0) do not count. */
static void print_row(const char *name, uint64_t *v, unsigned int n, double unit, const char *unit_name)
{
	unsigned int zero = 0;

	qsort(v, n, sizeof(*v), by_value);
	while (zero < n && !v[zero])
		zero++;
	v += zero;
	n -= zero;
	if (!n)
		return;
	printf("%-16s %4u  %12.3f %12.3f %12.3f %12.3f  %s\n", name, n, (double)v[0] / unit, (double)v[n / 2] / unit,
	       (double)v[n - 1] / unit, (double)(v[(n * 3) / 4] - v[n / 4]) / unit, unit_name);
}

static uint64_t field(const struct outcome *o, int which)
{
	const uint64_t all[] = { o->marker,
				 o->gone,
				 o->first_entry,
				 o->exits.all,
				 o->memory.pss,
				 o->memory.private_clean + o->memory.private_dirty,
				 o->memory.private_dirty,
				 o->memory.threads };

	return all[which];
}

static int print_table(const struct outcome *o, unsigned int n)
{
	static const struct {
		const char *name, *unit;
		double scale;
	} rows[] = {
		{ "marker", "ms", 1e6 }, { "gone", "ms", 1e6 },  { "first entry", "ms", 1e6 }, { "exits", "", 1 },
		{ "pss", "kB", 1 },      { "private", "kB", 1 }, { "dirty", "kB", 1 },         { "threads", "", 1 },
	};
	uint64_t *v = calloc(n, sizeof(*v));

	if (!v)
		return -ENOMEM;
	printf("%-16s %4s  %12s %12s %12s %12s\n", "", "runs", "min", "median", "max", "iqr");
	for (int r = 0; r < (int)(sizeof(rows) / sizeof(rows[0])); r++) {
		for (unsigned int i = 0; i < n; i++)
			v[i] = field(&o[i], r);
		print_row(rows[r].name, v, n, rows[r].scale, rows[r].unit);
	}
	free(v);
	return 0;
}

static bool went_well(const struct plan *plan, const struct outcome *o)
{
	return !o->timed_out && (!plan->marker || o->marker);
}

/* Returns how many runs failed, or -errno. Only measured runs are kept. */
static int run_all(const struct plan *plan, FILE *json, struct outcome *out)
{
	int failed = 0;

	for (unsigned int i = 0; i < plan->warmup + plan->runs; i++) {
		struct outcome *o = &out[i < plan->warmup ? 0 : i - plan->warmup];
		int ret = run_once(plan, o);

		if (ret)
			return ret;
		if (i < plan->warmup)
			continue;
		if (json)
			print_json(json, plan, o);
		if (!went_well(plan, o)) {
			failed++;
			fprintf(stderr, "timer: run %u: %s, status %d; it said last: %s\n", i - plan->warmup + 1,
				o->timed_out ? "timed out" : "no marker", o->status, o->tail);
		}
	}
	return failed;
}

int main(int argc, char **argv)
{
	struct plan plan = { .runs = 1, .timeout = 60 };
	struct outcome *out;
	FILE *json = NULL;
	int opt, failed;

	while ((opt = getopt_long(argc, argv, "+n:w:m:o:", options, NULL)) != -1)
		take_option(&plan, opt, optarg);
	if (optind == argc)
		bad_usage("what should be timed?", "");
	plan.command = argv + optind;
	plan.program = find_program(argv[optind]);
	if (plan.json) {
		json = strcmp(plan.json, "-") ? fopen(plan.json, "ae") : stdout;
		if (!json)
			bad_usage(strerror(errno), plan.json);
	}
	out = calloc(plan.runs, sizeof(*out));
	failed = out ? run_all(&plan, json, out) : -ENOMEM;
	if (failed < 0)
		fprintf(stderr, "timer: %s: %s\n", plan.program, strerror(-failed));
	else if (!json)
		print_table(out, plan.runs);
	if (json && fclose(json))
		failed = -errno;
	free(out);
	return failed ? 1 : 0;
}
