/* program.h: the program that --exec-file names. */
#ifndef MAYFLY_JAILER_PROGRAM_H
#define MAYFLY_JAILER_PROGRAM_H

#include "place.h"

/*
 * program_open - open it, once; it is executed from place->fd and needs no copy in the jail
 * Refuses what could not run there: no ELF file, or one that needs a dynamic loader. Returns 0 or the sentence.
 */
int program_open(struct place *place, const char *path, struct error *err);

#endif
