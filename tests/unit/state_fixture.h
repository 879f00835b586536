/* state_fixture.h: a state file in memory: written, read back, and damaged behind the checksum's back. */
#ifndef MAYFLY_TEST_STATE_FIXTURE_H
#define MAYFLY_TEST_STATE_FIXTURE_H

#include "unit.h"

#include <errno.h>
#include <string.h>

#include "snapshot/state.h"

struct saved {
	struct state_writer w;
	struct state_reader r;
	struct error err;
};

static inline struct state_writer *saved_begin(struct saved *s)
{
	memset(s, 0, sizeof(*s));
	state_begin(&s->w);
	return &s->w;
}

/* Nothing more is written; reading begins. */
static inline void saved_end(struct saved *s)
{
	assert_int_equal(state_finish(&s->w, &s->err), 0);
	assert_int_equal(state_open(&s->r, s->w.data, s->w.len, &s->err), 0);
}

/* From the first record again. The checksum was looked at in saved_end: what is damaged since, nobody sees. */
static inline struct state_reader *saved_rewind(struct saved *s)
{
	memset(&s->err, 0, sizeof(s->err));
	s->r.at = sizeof(struct state_header);
	return &s->r;
}

/* The payload of a record, to be damaged. */
static inline void *saved_payload(struct saved *s, uint32_t tag, uint32_t index)
{
	const struct state_record *record;
	const void *payload;

	saved_rewind(s);
	while (state_next(&s->r, &record, &payload)) {
		if (record->tag == tag && record->index == index) {
			saved_rewind(s);
			return (void *)(uintptr_t)payload;
		}
	}
	fail_msg("no such record");
	return NULL;
}

/* All records have been read, and the one that was asked for has been refused: with the sentence that names it. */
static inline void assert_refused(const struct saved *s, int ret, const char *sentence)
{
	assert_int_equal(ret, -EINVAL);
	assert_int_equal(s->err.code, -EINVAL);
	if (!strstr(s->err.message, sentence))
		fail_msg("\"%s\" does not contain \"%s\"", s->err.message, sentence);
}

#endif
