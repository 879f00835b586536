/* user.c: users and groups as the image's /etc/passwd and /etc/group name them. */
#include "user.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"

#define MAX_FILE (1 << 20)
#define COLUMNS  7

/* A number that can be an id; false for anything else. */
static bool is_id(const char *text, unsigned int *id)
{
	char *end;
	unsigned long n;

	if (*text < '0' || *text > '9')
		return false;
	n = strtoul(text, &end, 10);
	*id = (unsigned int)n;
	return !*end && n < UINT32_MAX;
}

/* Cut the next line of *rest into its columns; a line with less than `wanted` of them is passed over. False at the end.
 */
static bool next_line(char **rest, char *column[COLUMNS], int wanted)
{
	char *line;

	while ((line = strsep(rest, "\n"))) {
		int n = 0;

		while (n < COLUMNS && line)
			column[n++] = strsep(&line, ":");
		if (n >= wanted)
			return true;
	}
	return false;
}

static bool listed(char *members, const char *name)
{
	char *member;

	while ((member = strsep(&members, ",")))
		if (!strcmp(member, name))
			return true;
	return false;
}

/* The id of a group by name or number; false when it has neither. */
static bool find_group(int root, const char *name, gid_t *gid)
{
	char *text = root_read(root, "/etc/group", MAX_FILE, NULL), *rest = text, *column[COLUMNS];
	bool found = false;

	while (!found && next_line(&rest, column, 3))
		found = !strcmp(column[0], name) && is_id(column[2], gid);
	free(text);
	return found || is_id(name, gid);
}

/* Every group that lists the user. */
static void find_groups(int root, const char *name, struct user *out)
{
	char *text = root_read(root, "/etc/group", MAX_FILE, NULL), *rest = text, *column[COLUMNS];

	while (out->group_count < USER_GROUPS && next_line(&rest, column, 4))
		if (listed(column[3], name) && is_id(column[2], &out->groups[out->group_count]))
			out->group_count++;
	free(text);
}

int user_add_group(int root, const char *group, struct user *out, struct error *err)
{
	if (out->group_count == USER_GROUPS || !find_group(root, group, &out->groups[out->group_count]))
		return error_set(err, -ENOENT, "group=%.60s: neither a number nor in the image's /etc/group", group);
	out->group_count++;
	return 0;
}

int user_find(int root, const char *spec, struct user *out, struct error *err)
{
	char *text = root_read(root, "/etc/passwd", MAX_FILE, NULL), *rest = text, *column[COLUMNS], name[256];
	const char *colon = strchrnul(spec, ':'), *group = *colon && colon[1] ? colon + 1 : NULL;
	unsigned int uid = 0, row_uid;
	bool number, found = false;
	int ret = 0;

	*out = (struct user){ .home = "/" };
	snprintf(name, sizeof(name), "%.*s", colon > spec ? (int)(colon - spec) : 1, colon > spec ? spec : "0");
	number = is_id(name, &uid);
	while (!found && next_line(&rest, column, 6)) {
		if (!is_id(column[2], &row_uid) || (strcmp(column[0], name) && !(number && row_uid == uid)))
			continue;
		found = is_id(column[3], &out->gid);
		uid = row_uid;
		if (*column[5])
			snprintf(out->home, sizeof(out->home), "%s", column[5]);
		if (!group)
			find_groups(root, column[0], out);
	}
	out->uid = uid;
	if (!found && !number)
		ret = error_set(err, -ENOENT, "user=%.60s: not in the image's /etc/passwd (a number would do)", spec);
	else if (group && !find_group(root, group, &out->gid))
		ret = error_set(err, -ENOENT, "user=%.60s: the group is neither a number nor in the image's /etc/group",
				spec);
	free(text);
	return ret;
}
