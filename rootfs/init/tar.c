/* tar.c: the format of a tar archive: see tar.h. No input or output, no allocation. */
#include "tar.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Octal, or GNU's base 256 for what is larger. -1: neither. */
static int64_t number(const char *field, size_t size)
{
	int64_t n = 0;
	size_t i = 0;

	if ((unsigned char)field[0] == 0x80) {
		for (i = 1; i < size && n <= INT64_MAX >> 8; i++)
			n = n << 8 | (unsigned char)field[i];
		return i == size ? n : -1;
	}
	while (i < size && field[i] == ' ')
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
		n = n << 3 | (field[i] - '0');
	return i == size || !field[i] || field[i] == ' ' ? n : -1;
}

static unsigned int sum_of(const struct tar_header *h)
{
	const unsigned char *b = (const unsigned char *)h;
	unsigned int sum = 0;

	for (size_t i = 0; i < sizeof(*h); i++)
		sum += i >= offsetof(struct tar_header, sum) && i < offsetof(struct tar_header, type) ? ' ' : b[i];
	return sum;
}

int tar_parse(const struct tar_header *h, struct tar_entry *e)
{
	static const struct tar_header zeros;
	int64_t mode = number(h->mode, sizeof(h->mode)), uid = number(h->uid, sizeof(h->uid)),
		gid = number(h->gid, sizeof(h->gid));

	if (!memcmp(h, &zeros, sizeof(zeros)))
		return 0;
	if (number(h->sum, sizeof(h->sum)) != sum_of(h) || memcmp(h->magic, "ustar", 5) != 0)
		return -1;
	e->type = h->type ? h->type : '0';
	e->mode = (mode_t)mode & 07777;
	e->mtime = number(h->mtime, sizeof(h->mtime));
	if (e->uid == (uid_t)-1)
		e->uid = (uid_t)uid;
	if (e->gid == (gid_t)-1)
		e->gid = (gid_t)gid;
	if (e->size < 0)
		e->size = number(h->size, sizeof(h->size));
	/* "ustar" and a 0 has a prefix; GNU's "ustar " keeps other things there. */
	if (!*e->name && *h->prefix && !h->magic[5])
		snprintf(e->name, sizeof(e->name), "%.155s/%.100s", h->prefix, h->name);
	else if (!*e->name)
		snprintf(e->name, sizeof(e->name), "%.100s", h->name);
	if (!*e->link)
		snprintf(e->link, sizeof(e->link), "%.100s", h->link);
	return mode < 0 || uid < 0 || gid < 0 || e->mtime < 0 || e->size < 0 ? -1 : 1;
}

static bool keep(char *out, const char *text, size_t len)
{
	if (len >= PATH_MAX || strnlen(text, len) != len)
		return false;
	memcpy(out, text, len);
	out[len] = '\0';
	return true;
}

/* One record of a pax header: key=value. False: broken, or something that cannot be passed over. */
static bool take_record(char *record, size_t len, struct tar_entry *e)
{
	char *value = memchr(record, '=', len);
	size_t value_len;

	if (!value)
		return false;
	*value++ = '\0';
	value_len = (size_t)(record + len - value);
	if (!strcmp(record, "path"))
		return keep(e->name, value, value_len);
	if (!strcmp(record, "linkpath"))
		return keep(e->link, value, value_len);
	if (!strcmp(record, "size"))
		e->size = strtoll(value, NULL, 10);
	else if (!strcmp(record, "uid"))
		e->uid = (uid_t)strtoul(value, NULL, 10);
	else if (!strcmp(record, "gid"))
		e->gid = (gid_t)strtoul(value, NULL, 10);
	return strncmp(record, "GNU.sparse", 10) != 0 && (strcmp(record, "size") != 0 || e->size >= 0);
}

bool tar_records(char type, char *data, size_t len, struct tar_entry *e)
{
	char *at = data, *end = data + len;

	if (type != 'x')
		return keep(type == 'L' ? e->name : e->link, data, strnlen(data, len));
	while (at < end) {
		char *text;
		unsigned long record = strtoul(at, &text, 10); /* the caller's bytes end in a 0 */

		if (*text != ' ' || record > (size_t)(end - at) || at + record < text + 3 || at[record - 1] != '\n')
			return false;
		at[record - 1] = '\0';
		if (!take_record(text + 1, (size_t)(at + record - 1 - (text + 1)), e))
			return false;
		at += record;
	}
	return true;
}

bool tar_name_ok(const char *name)
{
	if (!*name || *name == '/')
		return false;
	for (; *name; name += strspn(name, "/")) {
		size_t len = strcspn(name, "/");

		if (len == 2 && name[0] == '.' && name[1] == '.')
			return false;
		name += len;
	}
	return true;
}

/* A record says its own length, which its own length is part of. */
static size_t add_record(char *out, size_t size, const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3, len = rest + 1;

	while ((size_t)snprintf(NULL, 0, "%zu", len) + rest != len)
		len++;
	return len < size ? (size_t)snprintf(out, size, "%zu %s=%s\n", len, key, value) : size;
}

static void put_header(const struct tar_entry *e, char type, int64_t size, char *out)
{
	struct tar_header h = { .type = type, .magic = "ustar", .version = "00" };

	memcpy(h.name, e->name, strnlen(e->name, sizeof(h.name)));
	memcpy(h.link, e->link, strnlen(e->link, sizeof(h.link)));
	snprintf(h.mode, sizeof(h.mode), "%07o", e->mode & 07777);
	snprintf(h.uid, sizeof(h.uid), "%07o", e->uid & 07777777);
	snprintf(h.gid, sizeof(h.gid), "%07o", e->gid & 07777777);
	snprintf(h.size, sizeof(h.size), "%011llo", (unsigned long long)size & 077777777777);
	snprintf(h.mtime, sizeof(h.mtime), "%011llo", (unsigned long long)e->mtime & 077777777777);
	snprintf(h.sum, sizeof(h.sum), "%06o", sum_of(&h));
	h.sum[7] = ' ';
	memcpy(out, &h, sizeof(h));
}

size_t tar_format(const struct tar_entry *e, char *out, size_t size)
{
	char text[24], *records = out + TAR_BLOCK;
	size_t room = size - 3 * TAR_BLOCK, len = 0, padded;

	if (strlen(e->name) > sizeof(((struct tar_header *)0)->name))
		len += add_record(records + len, room - len, "path", e->name);
	if (len < room && strlen(e->link) > sizeof(((struct tar_header *)0)->link))
		len += add_record(records + len, room - len, "linkpath", e->link);
	const struct {
		const char *key;
		int64_t value, most;
	} numbers[] = { { "size", e->size, 077777777777 }, { "uid", e->uid, 07777777 }, { "gid", e->gid, 07777777 } };
	for (size_t i = 0; i < 3 && len < room; i++) {
		snprintf(text, sizeof(text), "%lld", (long long)numbers[i].value);
		if (numbers[i].value > numbers[i].most)
			len += add_record(records + len, room - len, numbers[i].key, text);
	}
	if (len >= room)
		return 0;
	padded = (len + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
	memset(records + len, 0, padded - len);
	if (len)
		put_header(e, 'x', (int64_t)len, out);
	put_header(e, e->type, e->size, len ? records + padded : out);
	return len ? padded + (size_t)2 * TAR_BLOCK : TAR_BLOCK;
}
