/* mptable.c: the Intel MultiProcessor Specification 1.4 table, for kernels without ACPI. */
#include <errno.h>
#include <string.h>

#include "x86/x86.h"

#define MP_GPA         BOOT_EBDA_GPA
#define MP_ROOM        (BOOT_VGA_GPA - BOOT_EBDA_GPA)
#define MP_SPEC_REV    4
#define APIC_VERSION   0x14 /* what KVM's local APIC says */
#define IOAPIC_VERSION 0x11 /* 82093AA */
#define ISA_BUS        0
#define ALL_APICS      0xff
#define MAX_CPUS       32u

/* Entry types, table 4-3; interrupt types, table 4-11. */
enum { MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_IO_INTERRUPT, MP_LOCAL_INTERRUPT };
enum { INT_VECTORED, INT_NMI, INT_SMI, INT_EXTINT };
enum { CPU_ENABLED = 1, CPU_BOOT = 2, IOAPIC_USABLE = 1 };

/* 4.1 */
struct mp_pointer {
	char signature[4];
	uint32_t table;
	uint8_t length, revision, checksum, features[5];
} __attribute__((packed));

/* 4.2 */
struct mp_header {
	char signature[4];
	uint16_t length;
	uint8_t revision, checksum;
	char oem[8], product[12];
	uint32_t oem_table;
	uint16_t oem_size, entries;
	uint32_t lapic;
	uint16_t ext_length;
	uint8_t ext_checksum, reserved;
} __attribute__((packed));

/* 4.3.1 to 4.3.5 */
struct mp_processor {
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features, reserved[2];
} __attribute__((packed));

struct mp_bus {
	uint8_t type, id;
	char name[6];
} __attribute__((packed));

struct mp_ioapic {
	uint8_t type, id, version, flags;
	uint32_t address;
} __attribute__((packed));

struct mp_interrupt {
	uint8_t type, kind;
	uint16_t flags; /* 0: as the bus has it; ISA is edge triggered, active high */
	uint8_t source_bus, source_irq, apic_id, pin;
} __attribute__((packed));

#define MP_SIZE(cpus)                                                                                  \
	(sizeof(struct mp_pointer) + sizeof(struct mp_header) + (cpus) * sizeof(struct mp_processor) + \
	 sizeof(struct mp_bus) + sizeof(struct mp_ioapic) + (X86_IOAPIC_PINS + 2) * sizeof(struct mp_interrupt))

_Static_assert(sizeof(struct mp_pointer) == 16 && sizeof(struct mp_header) == 44 && sizeof(struct mp_processor) == 20 &&
		       sizeof(struct mp_bus) == 8 && sizeof(struct mp_ioapic) == 8 && sizeof(struct mp_interrupt) == 8,
	       "layouts of the specification");
_Static_assert(MP_SIZE(MAX_CPUS) <= MP_ROOM, "the table fits the last KiB of base memory");

struct mp_table {
	uint8_t bytes[MP_ROOM];
	size_t len;
	uint16_t entries;
};

static void add(struct mp_table *t, const void *entry, size_t len)
{
	memcpy(t->bytes + t->len, entry, len);
	t->len += len;
	t->entries++;
}

static void add_processors_and_buses(struct mp_table *t, unsigned int nr_vcpus)
{
	struct mp_bus bus = { .type = MP_BUS, .id = ISA_BUS, .name = "ISA   " };
	struct mp_ioapic ioapic = { .type = MP_IOAPIC,
				    .id = (uint8_t)nr_vcpus, /* the first that no local APIC has */
				    .version = IOAPIC_VERSION,
				    .flags = IOAPIC_USABLE,
				    .address = X86_IOAPIC_GPA };

	for (unsigned int i = 0; i < nr_vcpus; i++) {
		struct mp_processor cpu = { .type = MP_PROCESSOR,
					    .apic_id = (uint8_t)i,
					    .apic_version = APIC_VERSION,
					    .flags = CPU_ENABLED | (i ? 0 : CPU_BOOT) };
		add(t, &cpu, sizeof(cpu));
	}
	add(t, &bus, sizeof(bus));
	add(t, &ioapic, sizeof(ioapic));
}

/* Every pin is the ISA interrupt of its number, those past 15 too: Linux sets up only pins that the table names. */
static void add_interrupts(struct mp_table *t, unsigned int nr_vcpus)
{
	struct mp_interrupt extint = { .type = MP_LOCAL_INTERRUPT, .kind = INT_EXTINT, .apic_id = 0, .pin = 0 };
	struct mp_interrupt nmi = { .type = MP_LOCAL_INTERRUPT, .kind = INT_NMI, .apic_id = ALL_APICS, .pin = 1 };

	for (unsigned int pin = 0; pin < X86_IOAPIC_PINS; pin++) {
		struct mp_interrupt irq = { .type = MP_IO_INTERRUPT,
					    .kind = INT_VECTORED,
					    .source_bus = ISA_BUS,
					    .source_irq = (uint8_t)pin,
					    .apic_id = (uint8_t)nr_vcpus,
					    .pin = (uint8_t)pin };
		add(t, &irq, sizeof(irq));
	}
	add(t, &extint, sizeof(extint));
	add(t, &nmi, sizeof(nmi));
}

int mptable_write(struct guest_memory *gm, unsigned int nr_vcpus, struct error *err)
{
	struct mp_pointer pointer = { .signature = { '_', 'M', 'P', '_' },
				      .table = MP_GPA + sizeof(pointer),
				      .length = sizeof(pointer) / 16,
				      .revision = MP_SPEC_REV };
	struct mp_header header = { .signature = { 'P', 'C', 'M', 'P' },
				    .revision = MP_SPEC_REV,
				    .oem = { 'M', 'A', 'Y', 'F', 'L', 'Y', ' ', ' ' },
				    .product = { 'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ', ' ', ' ', ' ', ' ' },
				    .lapic = (uint32_t)X86_LAPIC_GPA };
	struct mp_table t = { .len = sizeof(pointer) + sizeof(header) };

	if (!nr_vcpus || nr_vcpus > MAX_CPUS)
		return error_set(err, -EINVAL, "machine-config.vcpu_count: %u: must be from 1 to %u", nr_vcpus,
				 MAX_CPUS);
	add_processors_and_buses(&t, nr_vcpus);
	add_interrupts(&t, nr_vcpus);
	header.length = (uint16_t)(t.len - sizeof(pointer));
	header.entries = t.entries;
	pointer.checksum = x86_checksum(&pointer, sizeof(pointer));
	memcpy(t.bytes, &pointer, sizeof(pointer));
	memcpy(t.bytes + sizeof(pointer), &header, sizeof(header));
	header.checksum = x86_checksum(t.bytes + sizeof(pointer), header.length);
	memcpy(t.bytes + sizeof(pointer), &header, sizeof(header));
	if (gm_write(gm, MP_GPA, t.bytes, t.len))
		return error_set(err, -EFAULT, "machine-config.mem_size_mib: no RAM for the MP table");
	return 0;
}
