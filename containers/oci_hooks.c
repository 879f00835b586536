/* oci_hooks.c: programs of the host that config.json has called at the steps of a container's life. */
#include "oci_hooks.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "oci_commands.h"
#include "spawn.h"
#include "text.h"

#define SHOWN 200 /* bytes of what a hook that failed has said */

/* Where the container is in its life. */
struct step {
	struct oci_container *c;
	const char *status;
	int pid;
	int netns; /* that the hooks run in; 0: ours */
};

/* A list of texts as exec wants it, which the caller frees; the texts stay the JSON's. */
static const char **words_of(json_t *list)
{
	const char **words = calloc(json_array_size(list) + 1, sizeof(*words));
	size_t i;

	for (i = 0; words && i < json_array_size(list); i++)
		words[i] = json_string_value(json_array_get(list, i));
	return words;
}

/* What it wrote goes behind the sentence. */
static int failed(const char *when, int said, struct error *err)
{
	const struct error why = *err;
	char text[SHOWN], shown[SHOWN + 64];
	ssize_t len = pread(said, text, sizeof(text) - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	text_escape(shown, sizeof(shown), text, strcspn(text, "\n"));
	return error_set(err, why.code, "hooks.%s: %s%s%s", when, why.message, *shown ? ": " : "", shown);
}

static int run_one(const struct step *step, const char *when, json_t *hook, json_t *state, struct error *err)
{
	json_t *args = json_object_get(hook, "args");
	const char *path = json_string_value(json_object_get(hook, "path")), *alone[] = { path, NULL };
	const char **argv = words_of(args), **environment = words_of(json_object_get(hook, "env"));
	int in = memfd_create("state", MFD_CLOEXEC), said = memfd_create("said", MFD_CLOEXEC), ret;
	const struct spawn spawn = {
		.path = path,
		.argv = argv && *argv ? argv : alone,
		.environment = environment,
		.in = in,
		.out = said,
		.err = said,
		.death_signal = SIGKILL,
		.netns = step->netns,
		.seconds = (int)json_number_value(json_object_get(hook, "timeout")),
	};

	if (!argv || !environment || in < 0 || said < 0 || json_dumpfd(state, in, JSON_COMPACT) ||
	    lseek(in, 0, SEEK_SET))
		ret = error_set(err, -ENOMEM, "hooks.%s: no memory", when);
	else if ((ret = spawn_run(&spawn, err)))
		ret = failed(when, said, err);
	free(argv);
	free(environment);
	if (in >= 0)
		close(in);
	if (said >= 0)
		close(said);
	return ret;
}

/* o: where one that fails is reported before the next; NULL: it is the last. */
static int run_all(const struct step *step, const char *when, const struct oci_options *o, struct error *err)
{
	json_t *hooks = json_object_get(json_object_get(step->c->state, "hooks"), when), *hook;
	json_t *state = json_array_size(hooks) ? oci_state_describe(step->c, step->status, step->pid) : NULL;
	struct error own = { 0 };
	int ret = 0;
	size_t i;

	json_array_foreach(hooks, i, hook)
	{
		ret = run_one(step, when, hook, state, err ? err : &own);
		if (ret && !o)
			break;
		if (ret)
			oci_report(o, &own);
	}
	json_decref(state);
	return ret;
}

int oci_hooks_create(struct oci_container *c, int outside, struct error *err)
{
	const struct step step = { .c = c, .status = "creating", .pid = getpid(), .netns = outside };
	int ret = run_all(&step, "prestart", NULL, err);

	return ret ? ret : run_all(&step, "createRuntime", NULL, err);
}

void oci_hooks_poststart(const struct oci_options *o, struct oci_container *c, int pid)
{
	(void)run_all(&(struct step){ .c = c, .status = "running", .pid = pid }, "poststart", o, NULL);
}

void oci_hooks_poststop(const struct oci_options *o, struct oci_container *c)
{
	(void)run_all(&(struct step){ .c = c, .status = "stopped" }, "poststop", o, NULL);
}
