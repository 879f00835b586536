/* exit_codes.h: what the exit status of mayfly tells (for users: docs/exit-codes.md). */
#ifndef MAYFLY_EXIT_CODES_H
#define MAYFLY_EXIT_CODES_H

/* 1 to EXIT_GUEST_MAX belong to the guest: the status it reported when it shut down. */
#define EXIT_GUEST_OK  0
#define EXIT_GUEST_MAX 127
/* The values Firecracker has for the same thing. */
#define EXIT_BAD_SYSCALL   148
#define EXIT_BAD_CONFIG    152
#define EXIT_BAD_ARGUMENTS 153
/* Ours: Firecracker has one code, 1, for all of these. */
#define EXIT_HOST_CANNOT    154
#define EXIT_GUEST_CRASHED  155
#define EXIT_INTERNAL_ERROR 156

#endif
