/* state.c: writes and reads the records of a state file, and believes none that is not whole. */
#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN        8u
#define FIRST_ROOM   (64u << 10)
#define CRC64_POLY   0xc96c5795d7870f42ull /* ECMA-182, reflected: as of XZ */
#define TAG_TEXT_LEN 4

_Static_assert(sizeof(struct state_header) % ALIGN == 0 && sizeof(struct state_record) % ALIGN == 0 &&
		       sizeof(struct state_info) == STATE_ID_SIZE + 2 * 8 + 32 + 48 + 2 * 4,
	       "no holes, nothing to align");

static size_t padded(size_t size)
{
	return (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

uint64_t crc64(uint64_t crc, const void *data, size_t len)
{
	static uint64_t table[256];
	const uint8_t *p = data;
	unsigned int i, bit;

	/* Whoever comes at the same time writes the same. */
	for (i = 0; !table[255] && i < 256; i++) {
		uint64_t v = i;

		for (bit = 0; bit < 8; bit++)
			v = v >> 1 ^ (v & 1 ? CRC64_POLY : 0);
		table[i] = v;
	}
	for (crc = ~crc; len; len--)
		crc = crc >> 8 ^ table[(uint8_t)crc ^ *p++];
	return ~crc;
}

/* ---- writing ---- */

static void append(struct state_writer *w, const void *bytes, size_t size)
{
	size_t room = w->room ? w->room : FIRST_ROOM;
	uint8_t *data;

	if (w->failed || size > STATE_MAX - w->len) {
		w->failed = true;
		return;
	}
	while (room < w->len + padded(size))
		room *= 2;
	if (room != w->room) {
		data = realloc(w->data, room);
		if (!data) {
			w->failed = true;
			return;
		}
		w->data = data;
		w->room = room;
	}
	if (size)
		memcpy(w->data + w->len, bytes, size);
	memset(w->data + w->len + size, 0, padded(size) - size);
	w->len += padded(size);
}

void state_begin(struct state_writer *w)
{
	const struct state_header head = { .magic = STATE_MAGIC, .major = STATE_MAJOR, .minor = STATE_MINOR };

	w->len = 0;
	w->failed = false;
	append(w, &head, sizeof(head));
}

static void put(struct state_writer *w, enum state_tag tag, uint32_t index, const void *payload, size_t size,
		uint32_t flags)
{
	const struct state_record record = { .tag = tag, .index = index, .size = (uint32_t)size, .flags = flags };

	if (size > STATE_MAX) {
		w->failed = true;
		return;
	}
	append(w, &record, sizeof(record));
	append(w, payload, size);
}

void state_put(struct state_writer *w, enum state_tag tag, uint32_t index, const void *payload, size_t size)
{
	put(w, tag, index, payload, size, 0);
}

void state_put_optional(struct state_writer *w, enum state_tag tag, uint32_t index, const void *payload, size_t size)
{
	put(w, tag, index, payload, size, STATE_OPTIONAL);
}

int state_finish(struct state_writer *w, struct error *err)
{
	const uint64_t size = w->len + sizeof(uint64_t);
	uint64_t crc;

	if (!w->failed) {
		memcpy(w->data + offsetof(struct state_header, size), &size, sizeof(size));
		crc = crc64(0, w->data, w->len);
		append(w, &crc, sizeof(crc));
	}
	return w->failed ? error_set(err, -ENOMEM, "the state file: no memory for it") : 0;
}

void state_free(struct state_writer *w)
{
	free(w->data);
	*w = (struct state_writer){ 0 };
}

/* ---- reading ---- */

static int bad_file(struct error *err, const char *why)
{
	return error_set(err, -EINVAL, "the state file %s (needs a file that PUT /snapshot/create wrote)", why);
}

/* The record at `at`; NULL: it is not whole. */
static const struct state_record *record_at(const struct state_reader *r, size_t at)
{
	const struct state_record *record = (const void *)(r->data + at);

	if (r->end - at < sizeof(*record) || record->size > r->end - at - sizeof(*record) ||
	    padded(record->size) > r->end - at - sizeof(*record))
		return NULL;
	return record;
}

static size_t whole_size(const struct state_record *record)
{
	return sizeof(*record) + padded(record->size);
}

int state_open(struct state_reader *r, const void *data, size_t len, struct error *err)
{
	const struct state_header *head = data;
	const struct state_record *record;
	uint64_t crc;
	size_t at;

	*r = (struct state_reader){ .data = data, .at = sizeof(*head) };
	if (len < sizeof(head->magic) || memcmp(head->magic, STATE_MAGIC, sizeof(head->magic)) != 0)
		return bad_file(err, "is none of Mayfly's");
	if (len < sizeof(*head) + sizeof(crc))
		return bad_file(err, "is cut short");
	if (head->major != STATE_MAJOR || head->minor > STATE_MINOR)
		return error_set(err, -ENOTSUP,
				 "the state file has format %u.%u, this Mayfly reads %u.0 to %u.%u (needs %s Mayfly)",
				 head->major, head->minor, STATE_MAJOR, STATE_MAJOR, STATE_MINOR,
				 head->major < STATE_MAJOR ? "an older" : "a newer");
	if (head->size != len || len % ALIGN)
		return bad_file(err, head->size > len ? "is cut short" : "goes on after its end");
	r->end = len - sizeof(crc);
	memcpy(&crc, r->data + r->end, sizeof(crc));
	if (crc != crc64(0, data, r->end))
		return bad_file(err, "is damaged: its checksum does not fit");
	for (at = r->at; at < r->end; at += whole_size(record)) {
		record = record_at(r, at);
		if (!record)
			return bad_file(err, "has a record that goes on after its end");
	}
	r->minor = head->minor;
	return 0;
}

bool state_next(struct state_reader *r, const struct state_record **record, const void **payload)
{
	if (r->at >= r->end)
		return false;
	*record = record_at(r, r->at);
	if (!*record)
		return false; /* state_open has seen that all are whole */
	*payload = *record + 1;
	r->at += whole_size(*record);
	return true;
}

/* The next record if it is this one, else NULL; optional ones before it are passed over. */
static const struct state_record *find(struct state_reader *r, enum state_tag tag, uint32_t index)
{
	const struct state_record *record;
	size_t at;

	for (at = r->at; at < r->end; at += whole_size(record)) {
		record = record_at(r, at);
		if (!record)
			break; /* state_open has seen that all are whole */
		if (record->tag == tag && record->index == index) {
			r->at = at;
			return record;
		}
		if (!(record->flags & STATE_OPTIONAL))
			break;
	}
	return NULL;
}

static void tag_text(uint32_t tag, char text[TAG_TEXT_LEN + 1])
{
	unsigned int i;

	for (i = 0; i < TAG_TEXT_LEN; i++) {
		text[i] = (char)(tag >> 8 * i);
		if (text[i] < ' ' || text[i] > '~')
			text[i] = '?';
	}
	text[TAG_TEXT_LEN] = '\0';
}

int state_bad(struct error *err, enum state_tag tag, uint32_t index, const char *why)
{
	char text[TAG_TEXT_LEN + 1];

	tag_text(tag, text);
	return error_set(err, -EINVAL, "the state file: %s %u: %s", text, index, why);
}

int state_view(struct state_reader *r, enum state_tag tag, uint32_t index, const void **payload, size_t *size,
	       size_t unit, struct error *err)
{
	const struct state_record *record = find(r, tag, index);

	if (!record)
		return state_bad(err, tag, index, "this record is missing, or out of order");
	if (record->size % unit)
		return state_bad(err, tag, index, "this record has a size that it cannot have");
	*payload = record + 1;
	*size = record->size;
	r->at += whole_size(record);
	return 0;
}

int state_get(struct state_reader *r, enum state_tag tag, uint32_t index, void *out, size_t least, size_t size,
	      struct error *err)
{
	const void *payload = NULL;
	size_t got = 0;
	int ret = state_view(r, tag, index, &payload, &got, 1, err);

	if (ret)
		return ret;
	if (got < least || got > size)
		return state_bad(err, tag, index, "this record has a size that it cannot have");
	if (got)
		memcpy(out, payload, got);
	memset((uint8_t *)out + got, 0, size - got);
	return 0;
}

bool state_has(struct state_reader *r, enum state_tag tag, uint32_t index)
{
	return find(r, tag, index) != NULL;
}

int state_end(struct state_reader *r, struct error *err)
{
	const struct state_record *record;
	const void *payload;

	while (state_next(r, &record, &payload)) {
		if (!(record->flags & STATE_OPTIONAL))
			return state_bad(err, record->tag, record->index, "this record is one too many");
	}
	return 0;
}
