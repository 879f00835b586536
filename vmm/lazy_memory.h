/* lazy_memory.h: large private memory that costs nothing until it is touched. */
#ifndef MAYFLY_LAZY_MEMORY_H
#define MAYFLY_LAZY_MEMORY_H

#include <stddef.h>

/*
 * lazy_alloc - len bytes of zeros, of which the process has only the 4 KiB pages that it touches
 * NULL without address space. Given back with munmap(p, len). Any thread.
 */
void *lazy_alloc(size_t len);

#endif
