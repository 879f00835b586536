/* buffer.h: bytes that grow at the end; running out of memory is remembered and asked for once. */
#ifndef MAYFLY_MMDS_BUFFER_H
#define MAYFLY_MMDS_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

/* Zero it before the first use; data is the owner's to free(). */
struct buffer {
	char *data;
	size_t len, size; /* bytes used, bytes allocated */
	bool failed;      /* there was no memory for something: what is in data is not all */
};

/* buffer_add, buffer_add_text - append len bytes, or a string without its NUL. One thread at a time. */
void buffer_add(struct buffer *b, const void *bytes, size_t len);
void buffer_add_text(struct buffer *b, const char *text);

#endif
