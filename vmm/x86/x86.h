/* x86.h: what an x86 guest finds in its CPU and firmware tables. */
#ifndef MAYFLY_X86_H
#define MAYFLY_X86_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot.h"
#include "error.h"
#include "guest_memory.h"

#define X86_IOAPIC_GPA     0xfec00000ull
#define X86_LAPIC_GPA      0xfee00000ull
#define X86_IOAPIC_PINS    24
#define X86_KEYBOARD_GSI   1
#define X86_VMGENID_GSI    3 /* where a second serial port would be */
#define X86_VMGENID_PORT   0x600
#define X86_SERIAL_GSI     4
#define X86_VIRTIO_GPA     0xC0001000ull /* + n * X86_VIRTIO_SIZE */
#define X86_VIRTIO_SIZE    0x1000ull
#define X86_VIRTIO_GSI     5 /* + n */
#define X86_MAX_VIRTIO     (X86_IOAPIC_PINS - X86_VIRTIO_GSI)
#define X86_BOOT_TIMER_GPA 0xC0000000ull

/* mptable_write - Intel MP 1.4 table for nr_vcpus, one IOAPIC, ISA identity IRQs; in the last KiB of base memory. 0 or
 * -errno. */
int mptable_write(struct guest_memory *gm, unsigned int nr_vcpus, struct error *err);

/* x86_checksum - the byte that makes a firmware table's bytes add up to 0 (ACPI 6.5, 5.2.5.3; MP 1.4, 4.2). */
static inline uint8_t x86_checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	unsigned int sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

/*
 * acpi_write - XSDT, hardware-reduced FADT, MADT, DSDT (nr_virtio LNRO0005 devices, COM1, the generation ID at
 * BOOT_VMGENID_GPA) at BOOT_ACPI_GPA
 * Sets *rsdp_gpa. ACPI 6.5, 5.2. 0 or -errno.
 */
int acpi_write(struct guest_memory *gm, unsigned int nr_vcpus, unsigned int nr_virtio, uint64_t *rsdp_gpa,
	       struct error *err);

/* cpuid_supported - KVM_GET_SUPPORTED_CPUID into out (room for CPUID_MAX entries). Once per microVM. */
#define CPUID_MAX 256
struct cpuid_table {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[CPUID_MAX];
};
int cpuid_supported(int kvm_fd, struct cpuid_table *out, struct error *err);

/* cpuid_find - the entry of a leaf and subleaf, or NULL: then the guest reads zeros there. */
struct kvm_cpuid_entry2 *cpuid_find(struct cpuid_table *table, uint32_t leaf, uint32_t index);

/*
 * cpuid_normalize - make the host's table describe vCPU index of nr_vcpus
 * Topology (1, 4, 0xb, 0x1f, 0x8000001e, 0x8000001d), APIC id, TSC-deadline and hypervisor bits, TSC frequency (0x15
 * where real, 0x40000010), no host brand leak beyond the model name, no leaf that would differ between vCPUs otherwise.
 * tsc_khz from KVM_GET_TSC_KHZ; smt: two threads per core.
 */
void cpuid_normalize(struct cpuid_table *table, unsigned int index, unsigned int nr_vcpus, bool smt, uint32_t tsc_khz);

/* x86_tables_write - GDT and identity page tables (first 1 GiB of RAM, 2 MiB pages) for BOOT_LINUX64, GDT alone for
 * BOOT_PVH. */
int x86_tables_write(struct guest_memory *gm, enum boot_protocol protocol, struct error *err);

/* x86_boot_regs, x86_boot_sregs - fill in what the first vCPU starts with; sregs comes from KVM_GET_SREGS. Application
 * processors keep reset state. */
void x86_boot_regs(struct kvm_regs *regs, const struct boot_entry *entry);
void x86_boot_sregs(struct kvm_sregs *sregs, const struct boot_entry *entry);

/* x86_set_msrs - MSRs that a firmware would have set: MTRR default write-back, misc enable (fast string). 0 or -errno.
 */
int x86_set_msrs(int vcpu_fd, struct error *err);

#endif
