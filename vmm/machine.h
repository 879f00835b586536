/* machine.h: the life of one microVM: configured, running, paused, gone. */
#ifndef MAYFLY_MACHINE_H
#define MAYFLY_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "board.h"
#include "config.h"
#include "error.h"
#include "event_loop.h"
#include "jail.h"
#include "mmds/mmds.h"
#include "timeline.h"
#include "x86/host_cpuid.h"

struct machine;

enum machine_state { MACHINE_NOT_STARTED, MACHINE_RUNNING, MACHINE_PAUSING, MACHINE_PAUSED };

/* What happens to it; told on the loop thread. */
enum machine_event {
	MACHINE_STARTED,
	MACHINE_LOADED,      /* from a snapshot; it is paused */
	MACHINE_GUEST_READY, /* the guest wrote the boot timer */
	MACHINE_HAS_PAUSED,
	MACHINE_HAS_RESUMED,
	MACHINE_DEVICE_BROKEN, /* a driver broke the rules: device_id needs a reset */
	MACHINE_VSOCK_LISTENS, /* a connection that waited for the guest to listen on port was taken */
	MACHINE_ENDED,         /* machine_result says how; the loop stops next */
};

struct machine_news {
	enum machine_event event;
	const char *device_id;
	uint32_t port;
};

/* Why a microVM ended. */
enum machine_end {
	MACHINE_GUEST_OFF,   /* the guest shut down or reset itself */
	MACHINE_GUEST_CRASH, /* triple fault, or KVM could not go on with it */
	MACHINE_HOST_ERROR,  /* KVM_RUN failed */
	MACHINE_SIGNAL,      /* SIGINT, SIGTERM or SIGHUP to this process */
	MACHINE_QUIT,        /* Ctrl-A x on the console */
};

struct machine_result {
	enum machine_end end;
	int signal;            /* for MACHINE_SIGNAL */
	bool has_guest_status; /* the guest wrote the boot timer's status register */
	uint32_t guest_status;
};

/*
 * machine_create - an event loop that watches signals, and a microVM that is not started
 * cfg, jail (begun), timeline and host_cpuid (begun or not) stay the caller's and outlive the machine; cfg may change
 * until machine_start. timeline is marked at each step, and logged once the guest reports user space when
 * timeline->wanted. Returns 0, or a negative errno with a sentence. *out is set in any case (NULL only without memory)
 * and is for machine_finish.
 */
int machine_create(struct machine **out, const struct config *cfg, struct jail *jail, struct timeline *timeline,
		   struct host_cpuid *host_cpuid, struct error *err);

/* machine_listen - have everything that happens told to one listener. Loop thread, as all below. */
typedef void machine_told(void *opaque, const struct machine_news *news);
void machine_listen(struct machine *m, machine_told *told, void *opaque);

/* machine_expect_start - begin now what takes long and needs no configuration. Harmless at any time, and repeated. */
void machine_expect_start(struct machine *m);

/*
 * machine_start - make everything that cfg says, enter the jail, and let the vCPUs run
 * Returns 0, or a negative errno with a sentence, *blame saying whose mistake it was. The machine is then as it was
 * before, and may be started again, unless it failed in the jail already.
 */
int machine_start(struct machine *m, enum board_blame *blame, struct error *err);

/*
 * machine_load - the same from a snapshot: cfg says what it was made of, with what is different now; it is paused then
 * restore stays the caller's, but for its descriptor.
 */
int machine_load(struct machine *m, struct board_restore *restore, enum board_blame *blame, struct error *err);

/*
 * machine_expect_load - a microVM is on its way here: nothing else starts or is loaded before machine_expects_no_load,
 * for the filter of a running one does not allow what takes it in. 0, or -EBUSY with a sentence: one is already.
 */
int machine_expect_load(struct machine *m, struct error *err);
void machine_expects_no_load(struct machine *m);

/*
 * machine_pause - waiter->done is called once no vCPU is in the guest and no drive has I/O in flight (perhaps at once)
 * The waiter stays the caller's until then; should the microVM end first, it is never called. Only once started.
 */
struct machine_waiter {
	void (*done)(struct machine_waiter *waiter);
	struct machine_waiter *next;
};
void machine_pause(struct machine *m, struct machine_waiter *waiter);

/* machine_resume - 0 (also when it runs already), or -EBUSY while a pause or a snapshot is under way. Only once
 * started. */
int machine_resume(struct machine *m, struct error *err);

/*
 * machine_begin_save - from now on it stays paused: a snapshot is written. 0, or -EBUSY with a sentence: it is not
 * paused. machine_begin_live_save - the same, paused or not. machine_save - the records behind STATE_CONFIG; 0, or a
 * negative errno with a sentence. machine_saved - that is over; memory_id, when it is whole, is what the next diff is
 * on top of (else NULL).
 */
int machine_begin_save(struct machine *m, struct error *err);
int machine_begin_live_save(struct machine *m, struct error *err);
int machine_save(struct machine *m, struct state_writer *w, struct error *err);
void machine_saved(struct machine *m, const uint8_t *memory_id);

/* machine_saving - between the two: what machine_finish is to call if that is never over, so that nothing half written
 * is left. */
void machine_saving(struct machine *m, void (*give_up)(void *opaque), void *opaque);

/* machine_save_in_background - between the two: may it be resumed, and paused? No other snapshot begins. */
void machine_save_in_background(struct machine *m, bool may_run);

/* machine_forget_saved - what was written since the last snapshot is not known any more: the next diff is a full one.
 */
void machine_forget_saved(struct machine *m);

/* machine_saved_id - STATE_ID_SIZE bytes: the memory file that a diff would be on top of; NULL: there is none. */
const uint8_t *machine_saved_id(const struct machine *m);

/* machine_board - what a snapshot is made of. Only once started. */
struct board *machine_board(struct machine *m);

/* machine_ctrl_alt_del - press Ctrl-Alt-Del; 0, or -errno with a sentence when the guest does not listen. Only once
 * started. */
int machine_ctrl_alt_del(struct machine *m, struct error *err);

/* machine_renew_id - a new generation ID (vmgenid_renew), running or paused; 0 or -errno with a sentence. Only once
 * started. */
int machine_renew_id(struct machine *m, struct error *err);

/*
 * machine_mmds - its metadata service, made when it is first asked for; the machine's. Any time, loop thread
 * 0 or -errno with a sentence.
 */
int machine_mmds(struct machine *m, struct mmds **out, struct error *err);

/* machine_run - serve the loop until the microVM ends, or this process is told to. */
struct machine_result machine_run(struct machine *m);

/*
 * machine_finish - what must be right when the process ends: console written and terminal restored, vCPUs out of the
 * guest. Memory and descriptors are left to the exit of the process, which is quicker at it. m may be NULL.
 */
void machine_finish(struct machine *m);

struct event_loop *machine_loop(struct machine *m);
const struct jail *machine_jail(const struct machine *m);
enum machine_state machine_state(const struct machine *m);

/* machine_result - how it ended; any time after MACHINE_ENDED was told. */
struct machine_result machine_result(struct machine *m);

/*
 * machine_update_net - the egress policy of cfg->nets[i] has changed, or with rx, tx its limits: these begin anew
 * Only once started.
 */
void machine_update_net(struct machine *m, unsigned int i, bool rx, bool tx);

/* machine_flap_net - the link of cfg->nets[i] goes down and up again, so that the guest renews its address. Only once
 * started.
 */
void machine_flap_net(struct machine *m, unsigned int i);

/* machine_drive - the device behind cfg->drives[i]; NULL before machine_start. */
struct block *machine_drive(struct machine *m, unsigned int i);

#endif
