/* probe.h: what this host's KVM can run. */
#ifndef MAYFLY_PROBE_H
#define MAYFLY_PROBE_H

/*
 * probe_host - print one line per capability and a verdict on standard output; takes well under a second
 * Returns the exit code: 0 when Linux guests run here, PROBE_USER_MODE_ONLY when KVM is there but emulates kernel-mode
 * code (KVM on PVM, some nested clouds), EXIT_HOST_CANNOT without a usable KVM. Start-up thread, nothing else running.
 */
#define PROBE_USER_MODE_ONLY 1
int probe_host(void);

#endif
