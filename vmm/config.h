/* config.h: what a microVM is made of, as plain structs; filled from JSON by api-server/, read by the machine. */
#ifndef MAYFLY_CONFIG_H
#define MAYFLY_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "egress.h"
#include "guest_memory.h"
#include "log.h"
#include "rate_limiter.h"

#define CONFIG_MAX_VCPUS         32
#define CONFIG_MAX_DRIVES        16
#define CONFIG_MAX_NETS          16
#define CONFIG_ID_LEN            64   /* bytes with the final NUL: 1-63 of [A-Za-z0-9_-] */
#define CONFIG_CMDLINE_SIZE      2048 /* bytes with the final NUL, after everything we append (x86 COMMAND_LINE_SIZE) */
#define CONFIG_DEFAULT_VCPUS     1
#define CONFIG_DEFAULT_MEM_MIB   128
#define CONFIG_DEFAULT_MMDS_SIZE 51200
#define CONFIG_MIN_MEM_MIB       1
#define CONFIG_MAX_MEM_MIB       (4ull << 20) /* 4 TiB */

enum cache_type { CACHE_UNSAFE, CACHE_WRITEBACK };
enum io_engine { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

/* boot-source; empty strings mean "not given". */
struct boot_source_config {
	bool present;
	char kernel_image_path[PATH_MAX]; /* empty: the kernel built for this vCPU count, see machine.c */
	char initrd_path[PATH_MAX];
	char boot_args[CONFIG_CMDLINE_SIZE]; /* empty and !boot_args_given: CMDLINE_DEFAULT */
	bool boot_args_given;
};

/* machine-config */
struct machine_config {
	unsigned int vcpu_count; /* 1..32, default 1 */
	uint64_t mem_size_mib;   /* default 128 */
	bool smt;
	bool track_dirty_pages;
	enum huge_pages huge_pages;
	char cpu_template[16]; /* a static template's name; "None", or empty (not given): none */
};

/* one entry of drives */
struct drive_config {
	char drive_id[CONFIG_ID_LEN];
	char path_on_host[PATH_MAX];
	char overlay_path[PATH_MAX]; /* empty: path_on_host is written to; else it is the base, and this is */
	char partuuid[64];
	bool is_root_device;
	bool is_read_only;
	enum cache_type cache_type;
	enum io_engine io_engine;
	struct rate_limiter_config rate_limiter;
};

/* one entry of network-interfaces */
struct net_config {
	char iface_id[CONFIG_ID_LEN];
	char host_dev_name[128]; /* a TAP's name, "unix:/path" (passt's stream socket) or "fd:N" (inherited TAP) */
	bool mac_given;
	uint8_t guest_mac[6]; /* never multicast */
	unsigned int mtu;     /* bytes, 68..65535; 0: not offered to the guest */
	struct rate_limiter_config rx, tx;
	struct egress_config egress;
};

/* vsock */
struct vsock_config {
	bool present;
	unsigned int guest_cid; /* 3..2^32-1 */
	char uds_path[108];     /* what sun_path holds, with the final NUL */
	char vsock_id[CONFIG_ID_LEN];
};

/* mmds-config: the metadata service. Interfaces are named before they need to exist. */
enum mmds_version { MMDS_V1, MMDS_V2 };
struct mmds_config {
	bool present;
	enum mmds_version version;
	char network_interfaces[CONFIG_MAX_NETS][CONFIG_ID_LEN];
	unsigned int nr_interfaces;
	uint32_t ipv4_address; /* host byte order, in 169.254.1.0 - 169.254.254.255 */
	bool imds_compat;
};

/* serial: where console output goes; both paths empty: standard output. */
struct serial_config {
	char serial_out_path[PATH_MAX];
	char serial_socket_path[108];            /* terminals attach here; what sun_path holds, with the final NUL */
	struct token_bucket_config rate_limiter; /* bytes of output; size 0: unlimited */
};

struct cpu_template; /* x86/cpu_template.h */

struct config {
	struct boot_source_config boot;
	struct machine_config machine;
	struct drive_config *drives; /* nr_drives of them in the order given; owned, freed by config_free */
	unsigned int nr_drives;
	struct net_config *nets; /* nr_nets of them in the order given; owned, freed by config_free */
	unsigned int nr_nets;
	struct vsock_config vsock;
	struct mmds_config mmds;
	bool allow_fork;          /* --allow-fork: RAM is kept so that others can begin with it */
	uint64_t mmds_size_limit; /* bytes of JSON that the metadata service keeps; --mmds-size-limit */
	struct serial_config serial;
	struct cpu_template *cpu_template; /* cpu-config; NULL: none. One block; owned, freed by config_free */
	struct log_config log;
	char metrics_path[PATH_MAX]; /* empty: no metrics are written */
	bool metrics_emit_id;
	char *metrics_properties; /* a JSON object as text for every metrics line, or NULL; owned, freed by config_free
				   */
};

/* config_find_drive, config_find_net - the index of the one with that id; nr_drives or nr_nets when there is none. */
unsigned int config_find_drive(const struct config *cfg, const char *drive_id);
unsigned int config_find_net(const struct config *cfg, const char *iface_id);

/*
 * config_check_mmds - every interface that mmds names has to be there. 0, or -ENOENT with a sentence.
 * Checked with the request, and again at the start: interfaces can be taken back meanwhile.
 */
int config_check_mmds(const struct config *cfg, const struct mmds_config *mmds, struct error *err);

/* config_init - Firecracker's defaults: 1 vCPU, 128 MiB, everything else empty. config_free undoes it. */
void config_init(struct config *cfg);
void config_free(struct config *cfg);

/* config_set_cpu_template - make this cfg's only CPU template, in the place of a custom or a static one; NULL: none. */
void config_set_cpu_template(struct config *cfg, struct cpu_template *cpu_template);

#endif
