/* command.c: what a command shall be: the request, the image's configuration under it, defaults under that. */
#include "command.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"

#define CONFIG       "/.mayfly/config"
#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The image's configuration as fields; an image without has none. */
static int read_config(int root, char **text, struct fields *f, struct error *err)
{
	*text = root_read(root, CONFIG, AGENT_REQUEST_MAX, &f->len);
	f->text = *text;
	if (!*text && errno != ENOENT && errno != ENOTDIR)
		return error_set(err, -errno, "the image's " CONFIG ": %s", strerror(errno));
	if (!*text)
		f->len = 0;
	if (fields_check(f->text, f->len))
		return error_set(err, -EPROTO,
				 "the image's " CONFIG ": has something else than fields, key=value and 0");
	return 0;
}

/* Every value of a key, appended to a list that ends in NULL. */
static void append(char **list, size_t *n, const struct fields *f, const char *key)
{
	const char *value = NULL;

	while ((value = field_next(f, key, value)))
		list[(*n)++] = (char *)value;
	list[*n] = NULL;
}

static size_t count(const struct fields *f, const char *key)
{
	const char *value = NULL;
	size_t n = 0;

	while ((value = field_next(f, key, value)))
		n++;
	return n;
}

/* As in every engine: another entrypoint makes the image's command void, an empty one is none. */
static int parse_argv(const struct fields *request, const struct fields *config, struct command *out, struct error *err)
{
	const char *entry = field_get(request, "entrypoint");
	size_t n = 0;

	out->argv = calloc(count(request, "arg") + count(request, "entrypoint") + count(config, "entrypoint") +
				   count(config, "cmd") + 1,
			   sizeof(char *));
	if (!out->argv)
		return error_set(err, -ENOMEM, "no memory for the arguments");
	if (entry && (*entry || count(request, "entrypoint") > 1))
		append(out->argv, &n, request, "entrypoint");
	else if (out->is_main && !entry)
		append(out->argv, &n, config, "entrypoint");
	if (field_get(request, "arg"))
		append(out->argv, &n, request, "arg");
	else if (out->is_main && !entry)
		append(out->argv, &n, config, "cmd");
	out->exit_code = EXIT_NOT_FOUND;
	if (!n || !*out->argv[0])
		return error_set(err, -ENOENT, "no command: %s",
				 out->is_main ? "the image names none and the request has no arg="
					      : "the request has no arg=");
	return 0;
}

/* Put a variable into the list, in place of one of the same name; `weak`: only if there is none. */
static void set_variable(char **list, size_t *n, char *variable, bool weak)
{
	size_t i = 0, name = strcspn(variable, "=") + 1;

	while (i < *n && strncmp(list[i], variable, name) != 0)
		i++;
	if (i < *n && weak)
		return;
	list[i] = variable;
	if (i == *n)
		list[++*n] = NULL;
}

static int parse_env(const struct fields *request, const struct fields *config, struct command *out, struct error *err)
{
	const struct fields *both[] = { config, request };
	char home[300], host[HOST_NAME_MAX + 10] = "HOSTNAME=", *at;
	const char *defaults[] = { DEFAULT_PATH, home, host, out->tty ? "TERM=xterm" : NULL };
	const char *value = NULL;
	size_t n = 0;

	snprintf(home, sizeof(home), "HOME=%s", out->user.home);
	gethostname(host + strlen(host), HOST_NAME_MAX);
	out->envp = calloc(count(request, "env") + count(config, "env") + 5, sizeof(char *));
	out->defaults = at = calloc(1, sizeof(home) + sizeof(host) + 200);
	if (!out->envp || !at)
		return error_set(err, -ENOMEM, "no memory for the environment");
	for (int i = 0; i < 2; i++)
		while ((value = field_next(both[i], "env", value))) {
			if (!strchr(value, '=') || *value == '=')
				return error_set(err, -EINVAL, "env=%.60s: must be NAME=VALUE", value);
			set_variable(out->envp, &n, (char *)value, false);
		}
	for (size_t i = 0; i < sizeof(defaults) / sizeof(*defaults) && defaults[i]; at += strlen(at) + 1, i++)
		set_variable(out->envp, &n, strcpy(at, defaults[i]), true);
	return 0;
}

/* yes-or-no fields, and the other numbers. */
static int parse_numbers(const struct fields *f, struct command *out, struct error *err)
{
	struct {
		const char *key;
		int64_t min, max, value;
	} n[] = { { "tty", 0, 1, 0 },
		  { "stdin", 0, 1, 0 },
		  { "detach", 0, 1, 0 },
		  { "readonly", 0, 1, 0 },
		  { "rows", 0, 65535, 0 },
		  { "cols", 0, 65535, 0 },
		  { "oom_score_adj", -1000, 1000, 0 } };
	const char *mask = field_get(f, "umask");
	char *end = "";
	int ret = 0;

	for (size_t i = 0; i < sizeof(n) / sizeof(*n) && !ret; i++)
		ret = number_field(f, n[i].key, n[i].min, n[i].max, &n[i].value, err);
	out->tty = n[0].value;
	out->input = n[1].value;
	out->detach = n[2].value;
	out->readonly = n[3].value;
	out->size.ws_row = (unsigned short)n[4].value;
	out->size.ws_col = (unsigned short)n[5].value;
	out->oom_score_adj = n[6].value;
	out->umask = mask ? (mode_t)strtoul(mask, &end, 8) : 022;
	if (!ret && (out->umask > 0777 || *end || (mask && !*mask)))
		ret = bad_field(err, f, "umask", "octal, up to 777");
	if (!ret && out->detach && (out->tty || out->input))
		ret = error_set(err, -EINVAL, "detach=1: has no streams, so neither tty=1 nor stdin=1 goes with it");
	return ret;
}

int command_parse(const struct agent *agent, const struct fields *request, bool is_main, struct command *out,
		  struct error *err)
{
	const char *user = field_get(request, "user"), *cwd = field_get(request, "cwd"), *signal, *group = NULL;
	struct fields config = { 0 };
	int ret = read_config(agent->root, &out->config, &config, err);

	out->is_main = is_main;
	out->exit_code = EXIT_CANNOT_RUN;
	if (ret)
		return ret;
	out->make_cwd = is_main || !cwd;
	user = user ? user : field_get(&config, "user");
	cwd = cwd ? cwd : field_get(&config, "cwd");
	signal = field_get(&config, "stop_signal");
	out->cwd = cwd && *cwd ? cwd : "/";
	out->stop_signal = signal && *signal ? signal_number(signal) : SIGTERM;
	if (*out->cwd != '/')
		return error_set(err, -EINVAL, "cwd=%.100s: must begin with /", out->cwd);
	if (out->stop_signal < 0)
		return error_set(err, -EINVAL, "the image's stop_signal=%.40s: no such signal", signal);
	ret = parse_numbers(request, out, err);
	if (!ret)
		ret = user_find(agent->root, user ? user : "", &out->user, err);
	while (!ret && (group = field_next(request, "group", group)))
		ret = user_add_group(agent->root, group, &out->user, err);
	if (!ret)
		ret = privileges_parse(request, &out->privileges, err);
	if (!ret)
		ret = parse_env(request, &config, out, err);
	if (!ret)
		ret = parse_argv(request, &config, out, err);
	return ret;
}

void command_free(struct command *command)
{
	free(command->argv);
	free(command->envp);
	free(command->config);
	free(command->defaults);
}
