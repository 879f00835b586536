/* hello.c: a function in C: says hello; /spin never ends, /crash dies, /eat takes memory. */
#include "../../guest/loader.h"

static size_t hello(const char *method, const char *path, const char *body, size_t length, char *out)
{
	struct timespec now;
	unsigned char seed[8] = { 0 };
	FILE *random = fopen("/dev/urandom", "rb");

	(void)method;
	while (!strcmp(path, "/spin"))
		__asm__ volatile("");
	if (!strcmp(path, "/crash"))
		abort();
	while (!strcmp(path, "/eat"))
		memset(malloc(1 << 20), 1, 1 << 20);
	if (random) {
		if (fread(seed, sizeof(seed), 1, random) != 1)
			seed[0] = 0;
		fclose(random);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	return (size_t)snprintf(out, LARGEST_REPLY,
				"hello %.*s, it is %lld, here is %02x%02x%02x%02x%02x%02x%02x%02x\n",
				(int)(length < 1024 ? length : 1024), body, (long long)now.tv_sec, seed[0], seed[1],
				seed[2], seed[3], seed[4], seed[5], seed[6], seed[7]);
}

int main(void)
{
	loader_main(hello);
}
