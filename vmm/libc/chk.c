/*
 * chk.c: the checked functions behind fortify.h, which Debian's static jansson (compiled with fortification for glibc)
 * calls as well.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void *__memcpy_chk(void *dst, const void *src, size_t n, size_t size);
void *__memmove_chk(void *dst, const void *src, size_t n, size_t size);
void *__memset_chk(void *dst, int c, size_t n, size_t size);
char *__strcpy_chk(char *dst, const char *src, size_t size);
char *__strncpy_chk(char *dst, const char *src, size_t n, size_t size);
int __snprintf_chk(char *dst, size_t n, int flag, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
int __vsnprintf_chk(char *dst, size_t n, int flag, size_t size, const char *fmt, va_list ap)
	__attribute__((format(printf, 5, 0)));

static void check(size_t n, size_t size)
{
	if (n > size)
		__builtin_trap();
}

void *__memcpy_chk(void *dst, const void *src, size_t n, size_t size)
{
	check(n, size);
	return memcpy(dst, src, n);
}

void *__memmove_chk(void *dst, const void *src, size_t n, size_t size)
{
	check(n, size);
	return memmove(dst, src, n);
}

void *__memset_chk(void *dst, int c, size_t n, size_t size)
{
	check(n, size);
	return memset(dst, c, n);
}

char *__strcpy_chk(char *dst, const char *src, size_t size)
{
	size_t n = strlen(src) + 1;

	check(n, size);
	return memcpy(dst, src, n);
}

char *__strncpy_chk(char *dst, const char *src, size_t n, size_t size)
{
	check(n, size);
	return strncpy(dst, src, n);
}

int __vsnprintf_chk(char *dst, size_t n, int flag, size_t size, const char *fmt, va_list ap)
{
	(void)flag;
	check(n, size);
	return vsnprintf(dst, n, fmt, ap);
}

int __snprintf_chk(char *dst, size_t n, int flag, size_t size, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = __vsnprintf_chk(dst, n, flag, size, fmt, ap);
	va_end(ap);
	return ret;
}
