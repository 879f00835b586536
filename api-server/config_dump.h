/* config_dump.h: struct config back into the JSON that it was read from. */
#ifndef MAYFLY_CONFIG_DUMP_H
#define MAYFLY_CONFIG_DUMP_H

#include <jansson.h>

#include "config.h"

/*
 * Each returns a new object with every field of the resource, null where nothing was given; NULL without memory.
 * Parsed again it gives the same configuration. Any thread.
 */
json_t *config_dump_boot_source(const struct boot_source_config *boot);
json_t *config_dump_machine_config(const struct machine_config *machine);
json_t *config_dump_drive(const struct drive_config *drive);
json_t *config_dump_net(const struct net_config *net);
json_t *config_dump_egress(const struct egress_config *egress);
json_t *config_dump_vsock(const struct vsock_config *vsock);
json_t *config_dump_mmds_config(const struct mmds_config *mmds);
json_t *config_dump_cpu_config(const struct cpu_template *cpu_template);
json_t *config_dump_serial(const struct serial_config *serial);
json_t *config_dump_logger(const struct log_config *log);
json_t *config_dump_drives(const struct config *cfg);
json_t *config_dump_nets(const struct config *cfg);

/* config_dump - the whole microVM, with null for what is not configured; --config-file takes it. */
json_t *config_dump(const struct config *cfg);

#endif
