/* text.h: strings from outside made fit to print, near misses of names, times. */
#ifndef MAYFLY_TEXT_H
#define MAYFLY_TEXT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/*
 * text_escape - copy len bytes of src so that they can go into one line of a log or a terminal
 * Control characters and bytes that are not UTF-8 become \n, \t, \r or \xNN, so nobody can forge a line or steer a
 * terminal. dst always ends in NUL; what does not fit its size (at least 4 bytes) is cut and ends in "...".
 * Returns the length of dst. Any thread.
 */
size_t text_escape(char *dst, size_t size, const char *src, size_t len);

/*
 * text_path - what an error sentence shows of a path so that its reason still fits: all, or "..." and the end of it
 * Returns dst. text_path_shown needs no buffer of the caller's; what it returns lives as long as the block. Any thread.
 */
#define TEXT_PATH_ROOM 124
const char *text_path(char dst[TEXT_PATH_ROOM], const char *path);
#define text_path_shown(path) text_path((char[TEXT_PATH_ROOM]){ 0 }, path)

/* text_folder - the folder that a path of less than PATH_MAX bytes lies in: its part up to the last slash, or ".". Any
 * thread. */
void text_folder(char dst[PATH_MAX], const char *path);

/*
 * text_distance - how many single-letter edits lie between two names
 * Names longer than 63 bytes are taken to be far from everything (UINT_MAX). Any thread.
 */
unsigned int text_distance(const char *a, const char *b);

/* text_digit - the value of a hexadecimal digit, 16 for any other character. */
unsigned int text_digit(char c);

/*
 * text_put, text_put_number - append to the string of length at that dst[size] holds; returns its new length
 * What does not fit is left out. Numbers get leading zeros up to width (at most 23). For signal handlers, where
 * snprintf must not be called. Any thread.
 */
size_t text_put(char *dst, size_t at, size_t size, const char *text);
size_t text_put_number(char *dst, size_t at, size_t size, uint64_t n, bool hex, unsigned int width);

/*
 * text_time - UTC as 2026-11-21T03:51:00.123456789; returns its length, 29 in a buffer of at least 30
 * For moments from 1970 to 9999. By hand, because localtime_r and glibc's gmtime_r open /etc/localtime, which no jail
 * has and no filter allows. Any thread.
 */
size_t text_time(char *dst, size_t size, const struct timespec *moment);

#endif
