/* lib.c: the few library functions a freestanding program needs. */
#include "guest.h"

void *memset(void *dst, int value, size_t len)
{
	void *d = dst;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(len) : "a"(value) : "memory");
	return dst;
}

void *memcpy(void *dst, const void *src, size_t len)
{
	void *d = dst;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(len) : : "memory");
	return dst;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

bool equal(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

const char *starts_with(const char *s, const char *prefix)
{
	while (*prefix) {
		if (*s++ != *prefix++)
			return NULL;
	}
	return s;
}

static int digit(char c, unsigned int base)
{
	int d = -1;

	if (c >= '0' && c <= '9')
		d = c - '0';
	else if (base == 16 && (c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		d = (c | 0x20) - 'a' + 10;
	return d;
}

bool parse_number(const char *s, uint64_t *value, const char **end)
{
	unsigned int base = 10;
	uint64_t v = 0;
	int d;

	if (s[0] == '0' && (s[1] | 0x20) == 'x') {
		base = 16;
		s += 2;
	}
	if (digit(*s, base) < 0)
		return false;
	while ((d = digit(*s, base)) >= 0) {
		v = v * base + (uint64_t)d;
		s++;
	}
	if (*s == 'k' || *s == 'K') {
		v <<= 10;
		s++;
	} else if (*s == 'M') {
		v <<= 20;
		s++;
	} else if (*s == 'G') {
		v <<= 30;
		s++;
	}
	*value = v;
	if (end)
		*end = s;
	return end || !*s;
}

void *reserve(struct guest *g, uint64_t len, uint64_t align)
{
	uint64_t start = (g->arena + align - 1) & ~(align - 1);

	if (start < g->arena || start > g->arena_end || len > g->arena_end - start)
		return NULL;
	g->arena = start + len;
	return (void *)start;
}

void *alloc(struct guest *g, uint64_t len, uint64_t align)
{
	void *p = reserve(g, len, align);

	/* RAM above the image should still be zero, unless a loader put something there. */
	return p ? memset(p, 0, len) : NULL;
}
