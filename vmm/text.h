/* text.h: strings from outside made fit to print, and near misses of names. */
#ifndef MAYFLY_TEXT_H
#define MAYFLY_TEXT_H

#include <stddef.h>

/*
 * text_escape - copy len bytes of src so that they can go into one line of a log or a terminal
 * Control characters and bytes that are not UTF-8 become \n, \t, \r or \xNN, so nobody can forge a line or steer a
 * terminal. dst always ends in NUL; what does not fit its size (at least 4 bytes) is cut and ends in "...".
 * Returns the length of dst. Any thread.
 */
size_t text_escape(char *dst, size_t size, const char *src, size_t len);

/*
 * text_distance - how many single-letter edits lie between two names
 * Names longer than 63 bytes are taken to be far from everything (UINT_MAX). Any thread.
 */
unsigned int text_distance(const char *a, const char *b);

#endif
