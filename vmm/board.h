/* board.h: everything the guest can see: memory, interrupt controller, devices, vCPUs. */
#ifndef MAYFLY_BOARD_H
#define MAYFLY_BOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "block.h"
#include "boot/boot.h"
#include "bus.h"
#include "config.h"
#include "console.h"
#include "error.h"
#include "event_loop.h"
#include "guest_memory.h"
#include "kvm.h"
#include "legacy/boot_timer.h"
#include "legacy/i8042.h"
#include "legacy/ioapic.h"
#include "legacy/serial.h"
#include "legacy/vmgenid.h"
#include "mmio.h"
#include "net.h"
#include "net_path.h"
#include "snapshot/background.h"
#include "snapshot/state.h"
#include "snapshot/uffd.h"
#include "snapshot/working_set.h"
#include "timeline.h"
#include "vcpu.h"
#include "vsock.h"
#include "x86/host_cpuid.h"

/* What the board tells its machine. All of them run on vCPU threads, but for the last three. */
struct board_events {
	void (*vcpu_ended)(struct vcpu *vcpu, enum vcpu_end end); /* vcpu->opaque is the opaque below */
	void (*vcpu_confined)(struct vcpu *vcpu);
	void (*vcpu_parked)(struct vcpu *vcpu);
	void (*reset)(void *opaque);
	void (*booted)(void *opaque);
	void (*status)(void *opaque, uint32_t status);
	void (*quit)(void *opaque);                          /* loop thread */
	void (*device_broken)(void *opaque, const char *id); /* loop thread */
	void (*vsock_listens)(void *opaque, uint32_t port);  /* loop thread */
	void *opaque;
};

struct board {
	const struct config *cfg;
	struct mmds *mmds; /* NULL: no metadata service */
	struct event_loop *loop;
	struct timeline *timeline;
	struct board_events events;
	struct kvm kvm;
	struct guest_memory memory;
	struct uffd uffd;                /* whoever brings its pages */
	struct background background;    /* whoever saves them while the guest runs */
	struct working_set *working_set; /* who knows which come first; NULL: nobody */
	struct bus pio, mmio;
	struct ioapic ioapic;
	struct i8042 i8042;
	struct boot_timer boot_timer;
	struct serial serial;
	struct vmgenid vmgenid;
	struct console console;
	struct block *drive[CONFIG_MAX_DRIVES]; /* in the order of cfg->drives */
	struct net *net[CONFIG_MAX_NETS];       /* and of cfg->nets */
	struct net_path net_path[CONFIG_MAX_NETS];
	struct vsock *vsock; /* NULL: none */
	struct virtio_mmio transport[X86_MAX_VIRTIO];
	unsigned int nr_transports;
	struct boot_entry entry;
	const struct cpu_template *cpu_template; /* NULL: none */
	struct vcpu vcpu[CONFIG_MAX_VCPUS];
	unsigned int nr_vcpus; /* created */
};

/* Where a board comes from that goes on where another stopped. */
struct board_restore {
	struct state_reader *state; /* behind STATE_CONFIG; taken to its end */
	bool same_host;             /* as cpu_check_host says: features need no check */
	const char *handler_path;   /* where a page-fault handler listens; NULL: RAM comes from memory_fd */
	int memory_fd;              /* -1 once it is the board's, which has restored RAM from it */
	uint64_t memory_file_size;  /* bytes */
	bool memory_is_ours;        /* memory_fd is a memfd for this microVM alone: RAM may be in it */
	const char *memory_path;    /* of memory_fd; NULL: not known, and nothing is prefetched */
	const uint8_t *memory_id;   /* STATE_ID_SIZE bytes */
	bool record_working_set;
	bool clock_realtime; /* the guest's clocks go on as if they had not stopped */
};

/* Whose mistake it was that a machine could not be made. */
enum board_blame { BLAME_CONFIG, BLAME_HOST };

/*
 * board_create - everything up to the first instruction; the vCPUs are set up and not started
 * b is zeroed, but may have its VM already (kvm_open); cfg, mmds (NULL unless cfg->mmds.present), loop and timeline
 * stay the caller's and outlive it. Returns 0, or a negative errno with a sentence, and *blame then; what was made so
 * far is for board_destroy. Start-up thread, which is the loop's.
 */
int board_create(struct board *b, const struct config *cfg, struct mmds *mmds, struct event_loop *loop,
		 struct timeline *timeline, struct host_cpuid *host_cpuid, const struct board_events *events,
		 struct board_restore *restore, enum board_blame *blame, struct error *err);

/* board_destroy - undo board_create, also a failed one, as if it had never been; no vCPU runs (any more). b is zeroed.
 */
void board_destroy(struct board *b);

#endif
