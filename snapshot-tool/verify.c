/* verify.c: would these files be loaded? All that can be said without KVM. */
#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "files.h"
#include "memory.h"
#include "state_file.h"

static int check_memory(const struct memory *m, const struct state_info *info, struct error *err)
{
	if (m->trailer.kind == MEMORY_DIFF)
		return error_set(err, -EINVAL,
				 "the memory file is a diff (needs mayfly-snapshot rebase onto its base)");
	if (memcmp(m->trailer.id, info->memory_id, STATE_ID_SIZE) != 0)
		return error_set(err, -EINVAL, "the memory file belongs to another state file");
	if (m->trailer.size != info->memory_size)
		return error_set(err, -EINVAL, "the memory file is for %llu bytes of RAM, the state file for %llu",
				 (unsigned long long)m->trailer.size, (unsigned long long)info->memory_size);
	return 0;
}

static int verify_memory(const char *path, const struct state_info *info, struct error *err)
{
	struct memory m;
	char shown[FILES_SHOWN];
	int ret = memory_open(&m, path, O_RDONLY, err);

	if (!ret)
		ret = memory_whole(&m, err);
	if (!ret) {
		ret = check_memory(&m, info, err);
		if (ret)
			files_blame(err, path);
	}
	memory_close(&m);
	if (!ret)
		printf("%s: good, and belongs to it\n", files_show(shown, path));
	return ret;
}

int command_verify(const struct options *o, struct error *err)
{
	char shown[FILES_SHOWN];
	struct state_file s;
	int ret = state_file_read(&s, o->file[0], err);

	if (!ret) {
		printf("%s: good (format %d.%u; vCPUs: %u, RAM: %llu MiB, devices: %u)\n",
		       files_show(shown, o->file[0]), STATE_MAJOR, s.first.minor, s.info.nr_vcpus,
		       (unsigned long long)(s.info.memory_size >> 20), s.info.nr_transports);
		if (o->file[1])
			ret = verify_memory(o->file[1], &s.info, err);
	}
	state_file_free(&s);
	return ret;
}
