/* frames.h: the agent's protocol as bytes: frames of a stream, and the fields in some of them. For guest and host. */
#ifndef MAYFLY_FRAMES_H
#define MAYFLY_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PORT        1024 /* the guest's, where the agent listens; the host's, where it calls once at boot */
#define AGENT_PROTOCOL    1
#define FRAME_HEADER      8
#define FRAME_MAX         65536     /* bytes of payload */
#define AGENT_REQUEST_MAX (1 << 20) /* bytes of all frames of a request together */

enum frame_type {
	FRAME_REQUEST = 1,
	FRAME_REPLY,
	FRAME_STDIN,
	FRAME_STDOUT,
	FRAME_STDERR,
	FRAME_SIGNAL,
	FRAME_RESIZE,
	FRAME_EXIT,
	FRAME_DATA,
	FRAME_TYPES, /* one more than the last */
};

/* frame_header - the 8 bytes in front of a payload of len bytes (at most FRAME_MAX). */
void frame_header(uint8_t header[FRAME_HEADER], enum frame_type type, size_t len);

/*
 * One frame at a time out of a stream, in any pieces: read at most frame_wanted() bytes to frame_space(), then say
 * by frame_got() how many they were. It never takes bytes of the frame behind. All zeros is a reader at its start.
 */
struct frame_reader {
	size_t have;  /* bytes so far, with the header */
	uint32_t len; /* of the payload, known once the header is there */
	uint8_t type;
	uint8_t bytes[FRAME_HEADER + FRAME_MAX + 1];
};

/* frame_wanted, frame_space - how many bytes are missing (never 0 until a frame is whole), and where they go. */
size_t frame_wanted(const struct frame_reader *r);
void *frame_space(struct frame_reader *r);

/*
 * frame_got - n more bytes are there
 * Returns 1 when the frame is whole: type, len and frame_payload() are valid until frame_next(). 0: more bytes are
 * needed. -EMSGSIZE: its payload is longer than FRAME_MAX; -EPROTO: unknown type, or reserved bytes that are not 0.
 * After an error nothing more can be read from that stream.
 */
int frame_got(struct frame_reader *r, size_t n);

/* frame_payload - the payload of a whole frame, with a 0 behind it that does not count. */
const char *frame_payload(const struct frame_reader *r);

/* frame_next - forget the frame, be ready for the next. */
void frame_next(struct frame_reader *r);

/* Fields: `key=value` and a 0 byte, any number of them; keys are of a-z, 0-9 and _. The bytes are the caller's. */
struct fields {
	const char *text;
	size_t len;
};

/* fields_check - 0, or -EPROTO when the bytes are not fields from the first to the last. To be called before the
 * others. */
int fields_check(const char *text, size_t len);

/* fields_are_whole - true when the last field is end=1: no REQUEST frame of this request follows. */
bool fields_are_whole(const char *text, size_t len);

/*
 * field_next - the value of the first field with that key behind the value `after` (NULL: from the start); NULL at the
 * end. Key NULL: the next field whatever its key, and what is returned is the field itself, `key=value`.
 */
const char *field_next(const struct fields *f, const char *key, const char *after);

/* field_get - the value of the first field with that key, or NULL. */
const char *field_get(const struct fields *f, const char *key);

/* field_number - a whole decimal number from min to max. 0; -ENOENT: no such field; -EINVAL: something else. */
int field_number(const struct fields *f, const char *key, int64_t min, int64_t max, int64_t *out);

/* Fields that are put together, in the caller's memory. What does not fit is left out whole, and `full` says so. */
struct field_buffer {
	char *text;
	size_t size, len;
	bool full;
};

void field_add(struct field_buffer *b, const char *key, const char *value);
void field_add_number(struct field_buffer *b, const char *key, int64_t value);

#endif
