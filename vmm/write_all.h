/* write_all.h: a write to a file that is whole, or has failed. */
#ifndef MAYFLY_WRITE_ALL_H
#define MAYFLY_WRITE_ALL_H

#include <stddef.h>
#include <sys/types.h>

/* write_all - put len bytes at offset; 0, or a negative errno with any part of them written. Any thread. */
int write_all(int fd, const void *data, size_t len, off_t offset);

#endif
