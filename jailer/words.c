/* words.c: limits as people write them, made into what cgroups take. */
#include "words.h"

#include <string.h>

const char *const io_names[IO_KINDS] = { "rbps", "wbps", "riops", "wiops" };

/* Returns what follows the digits, NULL when there are none or too many. */
static const char *number(const char *text, uint64_t *out)
{
	uint64_t n = 0;
	const char *p;

	for (p = text; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return NULL;
	*out = n;
	return p == text ? NULL : p;
}

bool words_number(const char *text, uint64_t *out)
{
	const char *rest = number(text, out);

	return rest && !*rest;
}

bool words_size(const char *text, uint64_t *out)
{
	static const char units[] = "KMGT";
	const char *rest = number(text, out), *unit;

	if (!rest || *out == 0)
		return false;
	if (!*rest)
		return true;
	unit = strchr(units, *rest);
	return unit && !rest[1] && !__builtin_mul_overflow(*out, 1ull << (10 * (unit - units + 1)), out);
}

bool words_cpu(const char *text, uint64_t *out)
{
	const char *rest = number(text, out);

	if (!rest || strcmp(rest, "%") != 0 || *out < 1 || *out > 1000000)
		return false;
	*out *= CPU_PERIOD_US / 100;
	return true;
}

static bool one_limit(char *word, struct io_limit *out)
{
	char *value = strchr(word, '=');
	unsigned int i;

	if (!value)
		return false;
	*value++ = '\0';
	for (i = 0; i < IO_KINDS; i++)
		if (strcmp(word, io_names[i]) == 0)
			return out->most[i] == 0 && words_size(value, &out->most[i]);
	return false;
}

bool words_io(char *text, struct io_limit *out)
{
	char *word = strrchr(text, ':'), *next;

	*out = (struct io_limit){ .path = text };
	if (!word || word == text)
		return false;
	for (*word++ = '\0'; word; word = next) {
		next = strchr(word, ',');
		if (next)
			*next++ = '\0';
		if (!one_limit(word, out))
			return false;
	}
	return true;
}
