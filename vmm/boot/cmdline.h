/* cmdline.h: the kernel command line: the user's words and what the machine adds to them. */
#ifndef MAYFLY_CMDLINE_H
#define MAYFLY_CMDLINE_H

#include "config.h"
#include "error.h"

/*
 * What a guest gets when boot-source.boot_args is not given: no serial output while booting (each character is an
 * exit), stop instead of hang on a panic, the reset line for reboot. Measured in docs/boot-time.md.
 */
#define CMDLINE_DEFAULT "console=ttyS0 quiet reboot=k panic=-1"

/*
 * cmdline_build - boot_args, then root= for the root drive, one virtio_mmio.device= per virtio device, and
 * vmgenid.device= (rootfs/kernel/vmgenid_cmdline.c), into out
 * Words after " -- " are the init program's and stay last. Returns 0, or -E2BIG with a sentence.
 */
int cmdline_build(char out[CONFIG_CMDLINE_SIZE], const struct config *cfg, unsigned int nr_virtio, struct error *err);

#endif
