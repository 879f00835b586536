/* text.h: strings from outside made fit to print, near misses of names, times. */
#ifndef MAYFLY_TEXT_H
#define MAYFLY_TEXT_H

#include <stddef.h>
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

/*
 * text_distance - how many single-letter edits lie between two names
 * Names longer than 63 bytes are taken to be far from everything (UINT_MAX). Any thread.
 */
unsigned int text_distance(const char *a, const char *b);

/*
 * text_time - UTC as 2026-11-21T03:51:00.123456789; returns its length, 29 in a buffer of at least 30
 * For moments from 1970 to 9999. By hand, because localtime_r and glibc's gmtime_r open /etc/localtime, which no jail
 * has and no filter allows. Any thread.
 */
size_t text_time(char *dst, size_t size, const struct timespec *moment);

#endif
