/* remove.h: taking away a directory whose contents were made by someone hostile. */
#ifndef MAYFLY_JAILER_REMOVE_H
#define MAYFLY_JAILER_REMOVE_H

#include "error.h"

/*
 * remove_tree - remove the directory called name in parent, and all that is in it, at the end the file called last
 * path is where it is. Follows no symbolic link, enters and moves no mount, and needs neither deep stacks nor many
 * descriptors however deep the tree is. When last is gone someone else may be making the directory's next contents.
 * Returns 0, or a negative errno with the sentence when something is left.
 */
int remove_tree(int parent, const char *name, const char *last, const char *path, struct error *err);

#endif
