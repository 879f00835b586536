/* firmware_check.h: reads firmware tables as strictly as a kernel might; whatever is wrong in them is a finding. */
#ifndef MAYFLY_FUZZ_FIRMWARE_CHECK_H
#define MAYFLY_FUZZ_FIRMWARE_CHECK_H

#include "guest_memory.h"

/* firmware_check_acpi - from the RSDP at gpa: each table, each CPU, and each device with resources of its own. */
void firmware_check_acpi(const struct guest_memory *gm, uint64_t rsdp_gpa, unsigned int nr_vcpus,
			 unsigned int nr_virtio);
/* firmware_check_mptable - found as a kernel finds it. */
void firmware_check_mptable(const struct guest_memory *gm, unsigned int nr_vcpus);

#endif
