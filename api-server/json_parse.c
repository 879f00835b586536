/* json_parse.c: text to a JSON document, with errors that say the line and column. */
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "retry.h"
#include "text.h"

#define FIRST_READ 4096

struct place {
	size_t line, column;
};

static int fail_at(struct error *err, const char *source, struct place at, const char *sentence)
{
	char shown[160];

	text_escape(shown, sizeof(shown), source, strlen(source));
	return error_set(err, -EINVAL, "%s:%zu:%zu: %s", shown, at.line, at.column, sentence);
}

/* jansson recurses up to 2048 levels, more stack than this thread has to give away: count before it starts. */
static int check_depth(const char *text, size_t len, const char *source, struct error *err)
{
	struct place at = { .line = 1 };
	unsigned int depth = 0;
	bool in_string = false;
	char sentence[64];
	size_t i;

	for (i = 0; i < len; i++) {
		char c = text[i];

		at.column++;
		if (c == '\n') {
			at.line++;
			at.column = 0;
		} else if (in_string && c == '\\') {
			i++;
			at.column++;
		} else if (c == '"') {
			in_string = !in_string;
		} else if (!in_string && (c == '{' || c == '[')) {
			if (++depth > JSON_MAX_DEPTH) {
				snprintf(sentence, sizeof(sentence), "nested deeper than %d levels", JSON_MAX_DEPTH);
				return fail_at(err, source, at, sentence);
			}
		} else if (!in_string && (c == '}' || c == ']') && depth) {
			depth--;
		}
	}
	return 0;
}

/* Without a seed jansson opens /dev/urandom for one, once per process. The kernel gave us 16 random bytes already. */
static void seed_hash(void)
{
	const void *random = (const void *)getauxval(AT_RANDOM); /* NOLINT(performance-no-int-to-ptr) */
	size_t seed = 0;

	/* The first half is the stack protector's secret. */
	if (random)
		memcpy(&seed, (const char *)random + 8, sizeof(seed));
	json_object_seed(seed ? seed : 1);
}

/* What jansson calls it, in words for a person; NULL to take jansson's own text. */
static const char *explain(enum json_error_code code)
{
	switch (code) {
	case json_error_premature_end_of_input:
		return "the text ends in the middle (a bracket, brace or quote is not closed)";
	case json_error_end_of_input_expected:
		return "there is something after the end of the document";
	case json_error_invalid_utf8:
		return "not UTF-8 text";
	case json_error_stack_overflow:
		return "nested too deeply";
	case json_error_null_byte_in_key:
		return "NUL in a key";
	case json_error_numeric_overflow:
		return "the number is too large (integers go up to 9223372036854775807)";
	case json_error_duplicate_key:
	default:
		return NULL;
	}
}

static int fail_syntax(struct error *err, const char *source, const json_error_t *e)
{
	struct place at = { e->line > 0 ? (size_t)e->line : 1, e->column > 0 ? (size_t)e->column : 1 };
	enum json_error_code code = json_error_code(e);
	const char *sentence = explain(code);
	char text[JSON_ERROR_TEXT_LENGTH + 64];

	if (!sentence) {
		char shown[JSON_ERROR_TEXT_LENGTH];

		text_escape(shown, sizeof(shown), e->text, strlen(e->text));
		if (code == json_error_duplicate_key)
			snprintf(text, sizeof(text), "a key is given twice (%s)", shown);
		else
			snprintf(text, sizeof(text), "not JSON: %s", shown);
		sentence = text;
	}
	return fail_at(err, source, at, sentence);
}

static bool is_blank(const char *text, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (text[i] == '\0' || !strchr(" \t\r\n", text[i]))
			return false;
	return true;
}

int json_parse(const char *text, size_t len, const char *source, json_t **out, struct error *err)
{
	json_error_t e;
	int ret = check_depth(text, len, source, err);

	if (ret)
		return ret;
	if (is_blank(text, len))
		return fail_at(err, source, (struct place){ 1, 1 }, "empty (needs an object in braces)");
	seed_hash();
	/* NUL and values other than objects are let through so that we can name the field they stand in. */
	*out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
	if (*out)
		return 0;
	if (json_error_code(&e) == json_error_out_of_memory)
		return error_set(err, -ENOMEM, "no memory to read JSON");
	return fail_syntax(err, source, &e);
}

/* What has been read: in `first`, or on the heap once that was too small. Most configurations never need the heap. */
struct input {
	char first[FIRST_READ];
	char *text;
	size_t len, room;
};

static int grow(struct input *in)
{
	size_t room = in->room * 4;
	char *more = in->text == in->first ? malloc(room) : realloc(in->text, room);

	if (!more)
		return -ENOMEM;
	if (in->text == in->first)
		memcpy(more, in->first, in->len);
	in->text = more;
	in->room = room;
	return 0;
}

/* Reads until the end: a pipe has no size to ask for. */
static int read_all(int fd, size_t max_len, struct input *in)
{
	ssize_t n;

	for (;;) {
		n = read(fd, in->text + in->len, in->room - in->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		in->len += (size_t)n;
		if (in->len > max_len)
			return -EFBIG;
		if (in->len == in->room && grow(in))
			return -ENOMEM;
	}
}

int json_parse_file(const char *path, size_t max_len, json_t **out, struct error *err)
{
	/* musl's open() spends a second system call on O_CLOEXEC, its openat() does not. */
	int fd = RETRY_INTERRUPTED(openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY)), ret;
	struct input in = { .text = in.first, .room = sizeof(in.first) };
	char shown[160];

	text_escape(shown, sizeof(shown), path, strlen(path));
	if (fd < 0) {
		ret = -errno;
		return error_set(err, ret, "%s: %s (needs a JSON file that can be read)", shown, strerror(-ret));
	}
	ret = read_all(fd, max_len, &in);
	close(fd);
	if (ret == -EFBIG)
		error_set(err, ret, "%s: too large for a configuration (at most %zu KiB)", shown, max_len / 1024);
	else if (ret)
		error_set(err, ret, "%s: %s", shown, strerror(-ret));
	else
		ret = json_parse(in.text, in.len, path, out, err);
	if (in.text != in.first)
		free(in.text);
	return ret;
}
