/*
 * fortify.h: _FORTIFY_SOURCE=2 for the release build; musl's headers have none of their own.
 *
 * Included before every release source. The compiler knows how large most buffers are: where it does, the call goes to
 * a checked variant in chk.c that traps on overflow; where not, it stays the plain call.
 */
#ifndef MAYFLY_FORTIFY_H
#define MAYFLY_FORTIFY_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the format is checked where it is written */

#define fortify_inline       extern inline __attribute__((gnu_inline, always_inline, artificial))
#define fortify_size(ptr)    __builtin_object_size(ptr, 0) /* up to the end of the object */
#define fortify_size_of(ptr) __builtin_object_size(ptr, 1) /* up to the end of the member: for strings */

fortify_inline void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
	return __builtin___memcpy_chk(dst, src, n, fortify_size(dst));
}

fortify_inline void *memmove(void *dst, const void *src, size_t n)
{
	return __builtin___memmove_chk(dst, src, n, fortify_size(dst));
}

fortify_inline void *memset(void *dst, int c, size_t n)
{
	return __builtin___memset_chk(dst, c, n, fortify_size(dst));
}

fortify_inline char *strcpy(char *restrict dst, const char *restrict src)
{
	return __builtin___strcpy_chk(dst, src, fortify_size_of(dst));
}

fortify_inline char *strncpy(char *restrict dst, const char *restrict src, size_t n)
{
	return __builtin___strncpy_chk(dst, src, n, fortify_size_of(dst));
}

fortify_inline int snprintf(char *restrict dst, size_t n, const char *restrict fmt, ...)
{
	return __builtin___snprintf_chk(dst, n, 1, fortify_size_of(dst), fmt, __builtin_va_arg_pack());
}

fortify_inline int vsnprintf(char *restrict dst, size_t n, const char *restrict fmt, va_list ap)
{
	return __builtin___vsnprintf_chk(dst, n, 1, fortify_size_of(dst), fmt, ap);
}

extern ssize_t fortify_plain_read(int fd, void *dst, size_t n) __asm__("read");
extern ssize_t fortify_plain_pread(int fd, void *dst, size_t n, off_t at) __asm__("pread");

/* Reads into a buffer that is too small are what a lying length leads to. */
fortify_inline ssize_t read(int fd, void *dst, size_t n)
{
	if (n > fortify_size(dst))
		__builtin_trap();
	return fortify_plain_read(fd, dst, n);
}

fortify_inline ssize_t pread(int fd, void *dst, size_t n, off_t at)
{
	if (n > fortify_size(dst))
		__builtin_trap();
	return fortify_plain_pread(fd, dst, n, at);
}

#pragma GCC diagnostic pop

#endif
