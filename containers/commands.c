/* commands.c: what the sub-commands share: complaints, and a process of the guest in the words of the agent's protocol.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "terminal.h"
#include "text.h"

int complain(const struct error *err, int status)
{
	char shown[2 * sizeof(err->message)];

	text_escape(shown, sizeof(shown), err->message, strlen(err->message));
	dprintf(STDERR_FILENO, RUN_NAME ": %s\n", shown);
	return status;
}

/* NAME=VALUE as it is, NAME with the value that it has here, if it has one. */
static int add_env(struct request *r, const char *word, const char *from, struct error *err)
{
	const char *equals = strchr(word, '='), *value;
	char *both;
	int len;

	if (!*word || equals == word)
		return error_set(err, -EINVAL, "%s: \"%.96s\" (needs NAME=VALUE, or NAME)", from, word);
	if (equals) {
		request_add(r, "env", word);
		return 0;
	}
	value = getenv(word);
	if (!value)
		return 0;
	len = asprintf(&both, "%s=%s", word, value);
	if (len < 0)
		return error_set(err, -ENOMEM, "no memory");
	request_add(r, "env", both);
	free(both);
	return 0;
}

static int add_env_file(struct request *r, const char *path, struct error *err)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t len;
	int ret = 0;

	if (!file)
		return error_set(err, -errno, "--env-file: %s: %s", text_path_shown(path), strerror(errno));
	while (!ret && (len = getline(&line, &room, file)) > 0) {
		while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
			line[--len] = '\0';
		if (len > 0 && line[0] != '#')
			ret = add_env(r, line, "--env-file", err);
	}
	if (!ret && ferror(file))
		ret = error_set(err, -EIO, "--env-file: %s: cannot be read", text_path_shown(path));
	free(line);
	fclose(file);
	return ret;
}

static void add_terminal(struct request *r, const struct options *o)
{
	unsigned int rows, cols;

	request_add(r, "tty", "1");
	if (o->detach || !(terminal_size(STDIN_FILENO, &rows, &cols) || terminal_size(STDOUT_FILENO, &rows, &cols)))
		return;
	request_add_number(r, "rows", rows);
	request_add_number(r, "cols", cols);
}

int process_request(struct request *r, const struct options *o, struct error *err)
{
	unsigned int i;
	int ret = 0;

	/* Files first, so that -e wins. */
	for (i = 0; i < o->env_files.nr && !ret; i++)
		ret = add_env_file(r, o->env_files.word[i], err);
	for (i = 0; i < o->env.nr && !ret; i++)
		ret = add_env(r, o->env.word[i], "--env", err);
	if (o->user)
		request_add(r, "user", o->user);
	if (o->workdir)
		request_add(r, "cwd", o->workdir);
	if (o->interactive)
		request_add(r, "stdin", "1");
	if (o->tty)
		add_terminal(r, o);
	return ret;
}
