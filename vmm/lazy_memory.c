/* lazy_memory.c: private memory from the kernel, page by page. */
#include "lazy_memory.h"

#include <sys/mman.h>

void *lazy_alloc(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/*
	 * Neighbouring mappings become one, and where huge pages are "always" the first byte touched in it would take
	 * 2 MiB: several times what all of the monitor needs. Kernels without huge pages refuse, and need no telling.
	 */
	(void)madvise(p, len, MADV_NOHUGEPAGE);
	return p;
}
