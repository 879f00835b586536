/* replay.c: gives a fuzz target every file of some folders, without libFuzzer: for compilers that do not have it. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

#define INPUT_MAX 65536u

static void replay(const char *path)
{
	static uint8_t bytes[INPUT_MAX];
	FILE *f = fopen(path, "rb");
	size_t len;

	CHECK(f);
	len = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	LLVMFuzzerTestOneInput(bytes, len);
}

int main(int argc, char **argv)
{
	const struct dirent *entry;
	unsigned int n = 0;
	char path[4096];
	DIR *dir;
	int i;

	LLVMFuzzerInitialize(&argc, &argv);
	for (i = 1; i < argc; i++) {
		dir = opendir(argv[i]);
		CHECK(dir);
		while ((entry = readdir(dir))) {
			if (entry->d_name[0] == '.')
				continue;
			snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
			replay(path);
			n++;
		}
		closedir(dir);
	}
	fuzz_over = true;
	printf("%u inputs\n", n);
	return 0;
}
