/* program.c: the program that --exec-file names. */
#include "program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

#define SEGMENTS_MAX 64

/*
 * Why it cannot run, NULL when it can. execve would say so, too, but not as well, and when the process is in a user
 * namespace already it is too late to undo everything.
 */
static const char *what_is_wrong(int fd)
{
	Elf64_Phdr segment;
	Elf64_Ehdr head;
	unsigned int i;

	if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
	    head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(segment))
		return "not a program (needs an ELF executable)";
	if (head.e_machine != EM_X86_64)
		return "a program for another machine (needs one for x86-64)";
	for (i = 0; i < head.e_phnum && i < SEGMENTS_MAX; i++)
		if (pread(fd, &segment, sizeof(segment), (off_t)(head.e_phoff + i * sizeof(segment))) ==
			    (ssize_t)sizeof(segment) &&
		    segment.p_type == PT_INTERP)
			return "needs libraries that the jail has not (needs to be linked statically)";
	return NULL;
}

int program_open(struct place *place, const char *path, struct error *err)
{
	int fd, ret = place_open(place, "--exec-file", path, PLACE_NAMED, err);
	const char *why = NULL;
	struct stat st;

	if (ret)
		return ret;
	if (!S_ISREG(place->st.st_mode))
		why = "not a file";
	/* Who may not read a program may run it all the same. */
	fd = why ? -1 : openat(place->parent, place->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == place->st.st_ino && st.st_dev == place->st.st_dev)
		why = what_is_wrong(fd);
	if (fd >= 0)
		close(fd);
	return why ? error_set(err, -EINVAL, "--exec-file: %s: %s", text_path_shown(path), why) : 0;
}
