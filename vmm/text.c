/* text.c: strings from outside made fit to print, near misses of names, times. */
#include "text.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_LEN 63u

/* The length of the printable UTF-8 sequence at s, 0 when it must be escaped (RFC 3629, 4). */
static size_t printable_len(const unsigned char *s, size_t left)
{
	size_t len, i;

	if (s[0] >= 0x20 && s[0] < 0x7f)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		len = 2;
	else if ((s[0] & 0xf0) == 0xe0)
		len = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		len = 4;
	else
		return 0;
	if (left < len)
		return 0;
	for (i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* U+0080..U+009F steer terminals too (0x9b is CSI). */
	if (s[0] == 0xc2 && s[1] < 0xa0)
		return 0;
	/* Overlong forms, surrogates, beyond U+10FFFF. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

static size_t escape_byte(char out[8], unsigned char byte)
{
	static const char hex[] = "0123456789abcdef";

	out[0] = '\\';
	switch (byte) {
	case '\n':
		out[1] = 'n';
		return 2;
	case '\t':
		out[1] = 't';
		return 2;
	case '\r':
		out[1] = 'r';
		return 2;
	default:
		out[1] = 'x';
		out[2] = hex[byte >> 4];
		out[3] = hex[byte & 15];
		return 4;
	}
}

size_t text_escape(char *dst, size_t size, const char *src, size_t len)
{
	const unsigned char *s = (const unsigned char *)src;
	size_t in = 0, out = 0, safe = 0;

	while (in < len) {
		size_t take = printable_len(s + in, len - in), n;
		char piece[8];

		if (take) {
			n = take;
			memcpy(piece, s + in, n);
		} else {
			take = 1;
			n = escape_byte(piece, s[in]);
		}
		if (out + n >= size) {
			memcpy(dst + safe, "...", 4);
			return safe + 3;
		}
		memcpy(dst + out, piece, n);
		out += n;
		in += take;
		/* The last place where "..." and the NUL still fit. */
		if (out + 4 <= size)
			safe = out;
	}
	dst[out] = '\0';
	return out;
}

const char *text_path(char dst[TEXT_PATH_ROOM], const char *path)
{
	const size_t shown = TEXT_PATH_ROOM - sizeof("...");
	size_t len = strlen(path);

	snprintf(dst, TEXT_PATH_ROOM, "%s%s", len > shown ? "..." : "", len > shown ? path + len - shown : path);
	return dst;
}

unsigned int text_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), i, j;
	unsigned int row[NAME_MAX_LEN + 1];

	if (la > NAME_MAX_LEN || lb > NAME_MAX_LEN)
		return UINT_MAX;
	for (j = 0; j <= lb; j++)
		row[j] = (unsigned int)j;
	for (i = 1; i <= la; i++) {
		unsigned int diagonal = row[0];

		row[0] = (unsigned int)i;
		for (j = 1; j <= lb; j++) {
			unsigned int best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

size_t text_put(char *dst, size_t at, size_t size, const char *text)
{
	while (*text && at + 1 < size)
		dst[at++] = *text++;
	dst[at] = '\0';
	return at;
}

size_t text_put_number(char *dst, size_t at, size_t size, uint64_t n, bool hex, unsigned int width)
{
	const unsigned int base = hex ? 16 : 10;
	char digits[24];
	size_t i = sizeof(digits) - 1, least = sizeof(digits) - 1 - width;

	digits[i] = '\0';
	for (; i && (n || i > least); n /= base)
		digits[--i] = "0123456789abcdef"[n % base];
	return text_put(dst, at, size, digits + i);
}

static size_t put_field(char *dst, size_t at, size_t size, long long n, unsigned int width, const char *after)
{
	at = text_put_number(dst, at, size, (uint64_t)n, false, width);
	return text_put(dst, at, size, after);
}

/* Days are counted from 1 March of year 0, so that the leap day is a year's last and months have a regular length. */
size_t text_time(char *dst, size_t size, const struct timespec *moment)
{
	long long days = moment->tv_sec / 86400 + 719468, second = moment->tv_sec % 86400;
	long long era = days / 146097, of_era = days % 146097;
	long long year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	long long of_year = of_era - (365 * year + year / 4 - year / 100);
	long long month = (5 * of_year + 2) / 153;
	long long day = of_year - (153 * month + 2) / 5 + 1;
	size_t at = 0;

	month += month < 10 ? 3 : -9;
	year += era * 400 + (month <= 2);
	at = put_field(dst, at, size, year, 4, "-");
	at = put_field(dst, at, size, month, 2, "-");
	at = put_field(dst, at, size, day, 2, "T");
	at = put_field(dst, at, size, second / 3600, 2, ":");
	at = put_field(dst, at, size, second / 60 % 60, 2, ":");
	at = put_field(dst, at, size, second % 60, 2, ".");
	return put_field(dst, at, size, moment->tv_nsec, 9, "");
}

void text_folder(char dst[PATH_MAX], const char *path)
{
	const char *slash = strrchr(path, '/');

	snprintf(dst, PATH_MAX, "%.*s", slash ? (int)(slash + 1 - path) : 1, slash ? path : ".");
}

unsigned int text_digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned int)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned int)(c - 'a') + 10;
	if (c >= 'A' && c <= 'F')
		return (unsigned int)(c - 'A') + 10;
	return 16;
}
