/* shrink.h: takes out of a compiled program what can make no difference. */
#ifndef MAYFLY_SECCOMP_SHRINK_H
#define MAYFLY_SECCOMP_SHRINK_H

#include <linux/filter.h>
#include <stdint.h>

/*
 * bpf_shrink - leave out the tests that libseccomp makes of the upper halves of arguments which no rule looks at
 * Three instructions for every chain of rules about one argument, run for every such call. code is changed in place;
 * returns how many of its nr instructions are left.
 */
uint32_t bpf_shrink(struct sock_filter *code, uint32_t nr);

#endif
