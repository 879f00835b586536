/* jail.h: what this process gives up by itself, so that a guest that breaks out of its microVM finds little to take. */
#ifndef MAYFLY_JAIL_H
#define MAYFLY_JAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "error.h"
#include "inherited.h"

#define JAIL_MAX_ALLOWED 16 /* --allow-path */

/* The process's one jail: zeroed, then filled by jail_allow, jail_allow_fds and jail_enter. Loop thread, which is the
 * main thread. */
struct jail {
	bool entered;         /* jail_enter has begun to give up things */
	int landlock;         /* ABI version that holds us; 0: none (yet) */
	bool may_write;       /* jail_allow or jail_allow_fds named something: snapshots may be written there */
	const char *api_sock; /* removed at the end; NULL: none */
	int allowed[JAIL_MAX_ALLOWED]; /* O_PATH; ours */
	unsigned int nr_allowed;
};

/*
 * jail_begin - give up what no microVM needs, as the first thing of the process, while it has one thread
 * No new privileges by exec, no core dump, no ptrace by others of the same user, an empty environment; as many open
 * files as the host lets us have. Inherited descriptors are noted, to be closed by jail_enter; named ones (those below
 * 0 are skipped) are none of its business. 0, or a negative errno with a sentence.
 */
int jail_begin(const int *named, unsigned int nr_named, struct error *err);

/*
 * jail_allow - leave nr paths (up to JAIL_MAX_ALLOWED), and all below those that are directories, to be opened after
 * jail_enter, too (--allow-path). Once. 0, or a negative errno with a sentence.
 */
int jail_allow(struct jail *jail, const char *const *paths, unsigned int nr, struct error *err);

/*
 * jail_allow_fds - leave these inherited descriptors (a bit for each) open after jail_enter, too (--allow-fd). Once. 0,
 * or -EBADF with a sentence.
 */
int jail_allow_fds(struct jail *jail, const uint64_t fds[INHERITED_FDS / 64], struct error *err);

/*
 * jail_enter - give up the rest, when everything is open and before the guest's first instruction: inherited
 * descriptors that are neither cfg's nor jail_allow_fds's, all files but those of the drives (drive_fd[i] is that of
 * cfg->drives[i]) and what jail_allow was told, all capabilities For the calling thread and those it creates from now
 * on, so no other may be there. What removes our sockets at the end stays possible. 0, or a negative errno with a
 * sentence; jail->entered says whether anything is lost then.
 */
int jail_enter(struct jail *jail, const struct config *cfg, const int *drive_fd, struct error *err);

/* jail_helper - for a forked process that works only on what is open: no file, no capability from now on. */
void jail_helper(void);

/*
 * jail_fork_server - for the process that makes copies: nothing but jail->allowed, and the devices that a microVM opens
 * Standard input and output are gone, and everything inherited but `keep` and what jail_allow opened. 0, or a negative
 * errno with a sentence.
 */
int jail_fork_server(struct jail *jail, int keep, struct error *err);

/* jail_refuses - was it the jail that refused to open this file, which the user's rights would allow? */
bool jail_refuses(const struct jail *jail, const char *path, bool read_only);

#endif
