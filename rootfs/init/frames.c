/* frames.c: the agent's protocol as bytes: see frames.h. Without allocation, globals or input and output of its own. */
#include "frames.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void frame_header(uint8_t header[FRAME_HEADER], enum frame_type type, size_t len)
{
	for (int i = 0; i < 4; i++)
		header[i] = (uint8_t)(len >> (8 * i));
	header[4] = (uint8_t)type;
	header[5] = header[6] = header[7] = 0;
}

size_t frame_wanted(const struct frame_reader *r)
{
	return (r->have < FRAME_HEADER ? FRAME_HEADER : FRAME_HEADER + (size_t)r->len) - r->have;
}

void *frame_space(struct frame_reader *r)
{
	return r->bytes + r->have;
}

int frame_got(struct frame_reader *r, size_t n)
{
	const uint8_t *b = r->bytes;
	bool had_header = r->have >= FRAME_HEADER;

	r->have += n;
	if (r->have < FRAME_HEADER)
		return 0;
	if (!had_header) {
		r->len = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
		r->type = b[4];
		if (r->len > FRAME_MAX)
			return -EMSGSIZE;
		if (r->type < FRAME_REQUEST || r->type >= FRAME_TYPES || b[5] || b[6] || b[7])
			return -EPROTO;
	}
	if (frame_wanted(r))
		return 0;
	r->bytes[r->have] = 0;
	return 1;
}

const char *frame_payload(const struct frame_reader *r)
{
	return (const char *)r->bytes + FRAME_HEADER;
}

void frame_next(struct frame_reader *r)
{
	r->have = 0;
	r->len = 0;
}

/* The length of the key at the start of a field, 0 when it has none. */
static size_t key_length(const char *field)
{
	size_t n = strspn(field, "abcdefghijklmnopqrstuvwxyz0123456789_");

	return field[n] == '=' ? n : 0;
}

int fields_check(const char *text, size_t len)
{
	if (len && text[len - 1])
		return -EPROTO;
	for (size_t at = 0; at < len; at += strlen(text + at) + 1)
		if (!key_length(text + at))
			return -EPROTO;
	return 0;
}

bool fields_are_whole(const char *text, size_t len)
{
	static const char end[] = "end=1";

	return len >= sizeof(end) && !memcmp(text + len - sizeof(end), end, sizeof(end)) &&
	       (len == sizeof(end) || !text[len - sizeof(end) - 1]);
}

const char *field_next(const struct fields *f, const char *key, const char *after)
{
	const char *at = after ? after + strlen(after) + 1 : f->text, *end = f->text + f->len;
	size_t n;

	for (; at < end; at += strlen(at) + 1) {
		if (!key)
			return at;
		n = key_length(at);
		if (n == strlen(key) && !memcmp(at, key, n))
			return at + n + 1;
	}
	return NULL;
}

const char *field_get(const struct fields *f, const char *key)
{
	return field_next(f, key, NULL);
}

int field_number(const struct fields *f, const char *key, int64_t min, int64_t max, int64_t *out)
{
	const char *value = field_get(f, key);
	char *end;
	long long n;

	if (!value)
		return -ENOENT;
	errno = 0;
	n = strtoll(value, &end, 10);
	/* strtoll would also take blanks and a plus in front. */
	if (errno || *end || !((*value >= '0' && *value <= '9') || (*value == '-' && end > value + 1)) || n < min ||
	    n > max)
		return -EINVAL;
	*out = n;
	return 0;
}

void field_add(struct field_buffer *b, const char *key, const char *value)
{
	size_t key_len = strlen(key), value_len = strlen(value), room = b->size - b->len;

	if (b->full || key_len >= room || value_len >= room - key_len || room - key_len - value_len < 2) {
		b->full = true;
		return;
	}
	memcpy(b->text + b->len, key, key_len);
	b->text[b->len + key_len] = '=';
	memcpy(b->text + b->len + key_len + 1, value, value_len + 1);
	b->len += key_len + value_len + 2;
}

void field_add_number(struct field_buffer *b, const char *key, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	field_add(b, key, text);
}
