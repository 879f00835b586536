/* image.h: an image as people name it, made into a disk: by mayfly-image, which is asked once. */
#ifndef MAYFLY_CONTAINERS_IMAGE_H
#define MAYFLY_CONTAINERS_IMAGE_H

#include "error.h"
#include "options.h"
#include "places.h"

/*
 * image_open - open the disk of an image: of one as it is (EROFS, ext4), or what `mayfly-image get` makes of source
 * Its answer is remembered with what the source was then, so that the next time costs a few system calls; pull is
 * --pull: "always" asks in any case, "never" not at all. Returns a descriptor or an error with the sentence.
 */
int image_open(const struct places *places, const char *source, const char *pull, struct error *err);

#endif
