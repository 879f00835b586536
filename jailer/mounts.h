/* mounts.h: a mount namespace that holds the jail's directory and nothing else. */
#ifndef MAYFLY_JAILER_MOUNTS_H
#define MAYFLY_JAILER_MOUNTS_H

#include "options.h"
#include "place.h"
#include "root.h"

/*
 * mounts_enter - move this process into new namespaces whose root is the jail's directory
 * more: CLONE_NEW* flags of other namespaces to make at the same time. Where root may, the namespace does not start as
 * a copy of the host's mounts but of the kernel's own small one (docs/jailer.md, "What it costs"). Afterwards no path
 * of the host is left. Returns 0, or a negative errno with the sentence; the process is then good for nothing but to
 * end.
 */
int mounts_enter(const struct root *root, const struct options *options, const struct place *sources, int more,
		 struct error *err);

#endif
