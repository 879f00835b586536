/* config.h: what a microVM is made of, as plain structs; filled from JSON by api-server/, read by the machine. */
#ifndef MAYFLY_CONFIG_H
#define MAYFLY_CONFIG_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest_memory.h"
#include "log.h"
#include "rate_limiter.h"

#define CONFIG_MAX_VCPUS       32
#define CONFIG_MAX_DRIVES      16
#define CONFIG_ID_LEN          64 /* bytes with the final NUL: 1-63 of [A-Za-z0-9_-] for drives, [A-Za-z0-9-] for --id */
#define CONFIG_CMDLINE_SIZE    2048 /* bytes with the final NUL, after everything we append (x86 COMMAND_LINE_SIZE) */
#define CONFIG_DEFAULT_VCPUS   1
#define CONFIG_DEFAULT_MEM_MIB 128
#define CONFIG_MIN_MEM_MIB     1
#define CONFIG_MAX_MEM_MIB     (4ull << 20) /* 4 TiB */

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
	char cpu_template[16]; /* "None" or empty: none */
};

/* one entry of drives */
struct drive_config {
	char drive_id[CONFIG_ID_LEN];
	char path_on_host[PATH_MAX];
	char partuuid[64];
	bool is_root_device;
	bool is_read_only;
	enum cache_type cache_type;
	enum io_engine io_engine;
	struct rate_limiter_config rate_limiter;
};

/* serial: where console output goes; empty path: standard output. */
struct serial_config {
	char serial_out_path[PATH_MAX];
	struct token_bucket_config rate_limiter; /* bytes of output; size 0: unlimited */
};

struct config {
	struct boot_source_config boot;
	struct machine_config machine;
	struct drive_config *drives; /* nr_drives of them in the order given; owned, freed by config_free */
	unsigned int nr_drives;
	struct serial_config serial;
	struct log_config log;
	char metrics_path[PATH_MAX]; /* empty: no metrics are written */
	bool metrics_emit_id;
	char *metrics_properties; /* a JSON object as text for every metrics line, or NULL; owned, freed by config_free
				   */
};

/* config_init - Firecracker's defaults: 1 vCPU, 128 MiB, everything else empty. config_free undoes it. */
void config_init(struct config *cfg);
void config_free(struct config *cfg);

#endif
