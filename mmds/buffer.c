/* buffer.c: bytes that grow at the end. */
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 512u

static bool make_room(struct buffer *b, size_t len)
{
	size_t size = b->size ? b->size : FIRST_SIZE;
	char *data;

	if (b->failed || __builtin_add_overflow(b->len, len, &len))
		return false;
	while (size < len) {
		if (__builtin_mul_overflow(size, (size_t)2, &size))
			return false;
	}
	if (size == b->size)
		return true;
	data = realloc(b->data, size);
	if (!data)
		return false;
	b->data = data;
	b->size = size;
	return true;
}

void buffer_add(struct buffer *b, const void *bytes, size_t len)
{
	if (len == 0)
		return;
	if (!make_room(b, len)) {
		b->failed = true;
		return;
	}
	memcpy(b->data + b->len, bytes, len);
	b->len += len;
}

void buffer_add_text(struct buffer *b, const char *text)
{
	buffer_add(b, text, strlen(text));
}
