/* acpi.c: the ACPI tables of a machine without legacy hardware (ACPI 6.5, 5.2), in one piece at BOOT_ACPI_GPA. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "x86/aml.h"
#include "x86/x86.h"

/* All tables and the generation ID in one page: one fault before the guest starts. */
#define TABLES_ROOM      (BOOT_VMGENID_GPA - BOOT_ACPI_GPA)
#define MAX_CPUS         32u
#define SERIAL_PORT      0x3f8
#define SERIAL_PORTS     8
#define RESET_PORT       0x64
#define RESET_VALUE      0xfe /* i8042: pulse the reset line */
#define KEYBOARD_DATA    0x60
#define KEYBOARD_COMMAND 0x64
#define EISA_PNP0303     0x0303d041u /* keyboard, as EISAID ("PNP0303") encodes it */
#define EISA_PNP0501     0x0105d041u /* 16550A */
#define NOTIFY_CHANGED   0x80        /* the first value that a device defines for itself (5.6.6) */

/* 5.2.9, FADT: boot architecture flags and fixed feature flags. */
enum { BOOT_8042 = 1 << 1, BOOT_NO_VGA = 1 << 2, BOOT_NO_CMOS_RTC = 1 << 5 };
enum {
	FADT_WBINVD = 1 << 0,
	FADT_POWER_BUTTON = 1 << 4, /* set: no fixed-hardware button */
	FADT_SLEEP_BUTTON = 1 << 5, /* the same */
	FADT_RESET_REG = 1 << 10,
	FADT_HW_REDUCED = 1 << 20,
};

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t ext_checksum, reserved[3];
} __attribute__((packed));

struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct xsdt {
	struct header header;
	uint64_t entry[2];
} __attribute__((packed));

/* 5.2.3.2, generic address structure */
struct address {
	uint8_t space, width, offset, access;
	uint64_t address;
} __attribute__((packed));

enum { SPACE_IO = 1, ACCESS_BYTE = 1 };

/* 5.2.9; what hardware-reduced machines do not have is left zero and unnamed. */
struct fadt {
	struct header header;
	uint32_t facs, dsdt;
	uint8_t legacy1[109 - 44];
	uint16_t boot_flags;
	uint8_t reserved;
	uint32_t flags;
	struct address reset;
	uint8_t reset_value;
	uint16_t arm_boot_flags;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	uint8_t legacy2[244 - 148];
	struct address sleep_control, sleep_status;
	char hypervisor[8];
} __attribute__((packed));

/* 5.2.12 */
struct madt_lapic {
	uint8_t type, length, processor, apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, length, id, reserved;
	uint32_t address, gsi_base;
} __attribute__((packed));

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, LAPIC_ENABLED = 1 };

struct madt {
	struct header header;
	uint32_t lapic_address, flags; /* flags 0: no 8259 pair */
	struct madt_ioapic ioapic;
	struct madt_lapic lapic[MAX_CPUS];
} __attribute__((packed));

_Static_assert(sizeof(struct rsdp) == 36 && sizeof(struct header) == 36 && sizeof(struct fadt) == 276 &&
		       offsetof(struct fadt, flags) == 112 && offsetof(struct fadt, x_dsdt) == 140 &&
		       offsetof(struct fadt, sleep_control) == 244,
	       "layouts of the specification");

/* Tables in the order in which they are written; each starts on 16 bytes. */
struct tables {
	uint8_t bytes[TABLES_ROOM];
	size_t len;
	bool overflow;
};

static struct header make_header(const char signature[4], uint8_t revision, size_t length)
{
	struct header h = { .length = (uint32_t)length,
			    .revision = revision,
			    .oem_id = { 'M', 'A', 'Y', 'F', 'L', 'Y' },
			    .oem_table_id = { 'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ' },
			    .oem_revision = 1,
			    .creator_id = { 'M', 'Y', 'F', 'L' },
			    .creator_revision = 1 };

	memcpy(h.signature, signature, sizeof(h.signature));
	return h;
}

/* Append a table and return its guest address. */
static uint64_t append(struct tables *t, const void *table, size_t len)
{
	size_t at = (t->len + 15) & ~(size_t)15;

	if (t->overflow || at > sizeof(t->bytes) || len > sizeof(t->bytes) - at) {
		t->overflow = true;
		return 0;
	}
	memcpy(t->bytes + at, table, len);
	t->len = at + len;
	return BOOT_ACPI_GPA + at;
}

/* The same for what begins with a struct header: its checksum is set. */
static uint64_t append_table(struct tables *t, void *table, size_t len)
{
	struct header *h = table;

	h->checksum = 0;
	h->checksum = x86_checksum(table, len);
	return append(t, table, len);
}

static void describe_virtio(struct aml *a, unsigned int n)
{
	char name[8];
	size_t device, crs;

	snprintf(name, sizeof(name), "V%03u", n % 1000);
	device = aml_device(a, name);
	aml_name_string(a, "_HID", "LNRO0005");
	aml_name_dword(a, "_UID", n);
	crs = aml_resources(a);
	aml_memory32(a, (uint32_t)(X86_VIRTIO_GPA + n * X86_VIRTIO_SIZE), X86_VIRTIO_SIZE);
	aml_interrupt(a, X86_VIRTIO_GSI + n);
	aml_end_resources(a, crs);
	aml_end(a, device);
}

static void describe_serial(struct aml *a)
{
	size_t device = aml_device(a, "COM1");
	size_t crs;

	aml_name_dword(a, "_HID", EISA_PNP0501);
	aml_name_dword(a, "_UID", 1);
	crs = aml_resources(a);
	aml_io(a, SERIAL_PORT, SERIAL_PORTS);
	aml_interrupt(a, X86_SERIAL_GSI);
	aml_end_resources(a, crs);
	aml_end(a, device);
}

/*
 * Where there are no legacy devices by default, interrupt 1 exists for Linux only if a device asks for it. A keyboard
 * without a mouse beside it also spares the guest a second of looking for one.
 */
static void describe_keyboard(struct aml *a)
{
	size_t device = aml_device(a, "PS2_");
	size_t crs;

	aml_name_dword(a, "_HID", EISA_PNP0303);
	crs = aml_resources(a);
	aml_io(a, KEYBOARD_DATA, 1);
	aml_io(a, KEYBOARD_COMMAND, 1);
	aml_interrupt(a, X86_KEYBOARD_GSI);
	aml_end_resources(a, crs);
	aml_end(a, device);
}

/*
 * "Virtual Machine Generation ID" (Microsoft, 2018): where it is, and whom to notify once it has changed. Drivers go by
 * the compatible ID. Without general-purpose events, an interrupt becomes a notification in a Generic Event Device
 * (5.6.9), whose _EVT is told the interrupt; there is only one.
 */
static void describe_vmgenid(struct aml *a)
{
	size_t device = aml_device(a, "VGEN"), crs, method;

	aml_name_string(a, "_HID", "MAYF0001");
	aml_name_string(a, "_CID", "VM_Gen_Counter");
	aml_name_string(a, "_DDN", "VM_Gen_Counter");
	aml_name_address(a, "ADDR", BOOT_VMGENID_GPA);
	aml_end(a, device);
	device = aml_device(a, "GED_");
	aml_name_string(a, "_HID", "ACPI0013");
	crs = aml_resources(a);
	aml_interrupt(a, X86_VMGENID_GSI);
	aml_end_resources(a, crs);
	method = aml_method(a, "_EVT", 1);
	aml_notify(a, "VGEN", NOTIFY_CHANGED);
	aml_end(a, method);
	aml_end(a, device);
}

static uint64_t add_dsdt(struct tables *t, unsigned int nr_virtio)
{
	uint8_t dsdt[TABLES_ROOM];
	struct aml a = { .buf = dsdt, .len = sizeof(struct header), .room = sizeof(dsdt) };
	size_t scope = aml_scope(&a, "\\_SB_");
	struct header h;

	describe_serial(&a);
	describe_keyboard(&a);
	describe_vmgenid(&a);
	for (unsigned int i = 0; i < nr_virtio; i++)
		describe_virtio(&a, i);
	aml_end(&a, scope);
	if (a.overflow) {
		t->overflow = true;
		return 0;
	}
	h = make_header("DSDT", 2, a.len);
	memcpy(dsdt, &h, sizeof(h));
	return append_table(t, dsdt, a.len);
}

static uint64_t add_fadt(struct tables *t, uint64_t dsdt)
{
	struct fadt f = {
		.header = make_header("FACP", 6, sizeof(f)),
		.dsdt = (uint32_t)dsdt,
		.x_dsdt = dsdt,
		.boot_flags = BOOT_8042 | BOOT_NO_VGA | BOOT_NO_CMOS_RTC,
		.flags = FADT_WBINVD | FADT_POWER_BUTTON | FADT_SLEEP_BUTTON | FADT_RESET_REG | FADT_HW_REDUCED,
		.reset = { .space = SPACE_IO, .width = 8, .access = ACCESS_BYTE, .address = RESET_PORT },
		.reset_value = RESET_VALUE,
		.minor = 5,
		.hypervisor = { 'M', 'A', 'Y', 'F', 'L', 'Y' },
	};

	return append_table(t, &f, sizeof(f));
}

/* No interrupt source overrides: every ISA interrupt is the GSI of its number. */
static uint64_t add_madt(struct tables *t, unsigned int nr_vcpus)
{
	size_t len = offsetof(struct madt, lapic) + nr_vcpus * sizeof(struct madt_lapic);
	struct madt m = {
		.header = make_header("APIC", 6, len),
		.lapic_address = (uint32_t)X86_LAPIC_GPA,
		.ioapic = { .type = MADT_IOAPIC,
			    .length = sizeof(m.ioapic),
			    .id = (uint8_t)nr_vcpus,
			    .address = X86_IOAPIC_GPA },
	};

	for (unsigned int i = 0; i < nr_vcpus; i++)
		m.lapic[i] = (struct madt_lapic){ .type = MADT_LAPIC,
						  .length = sizeof(m.lapic[i]),
						  .processor = (uint8_t)i,
						  .apic_id = (uint8_t)i,
						  .flags = LAPIC_ENABLED };
	return append_table(t, &m, len);
}

static void fill_rsdp(struct tables *t, uint64_t xsdt)
{
	struct rsdp r = { .signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
			  .oem_id = { 'M', 'A', 'Y', 'F', 'L', 'Y' },
			  .revision = 2,
			  .length = sizeof(r),
			  .xsdt = xsdt };

	r.checksum = x86_checksum(&r, offsetof(struct rsdp, length));
	r.ext_checksum = x86_checksum(&r, sizeof(r));
	memcpy(t->bytes, &r, sizeof(r));
}

int acpi_write(struct guest_memory *gm, unsigned int nr_vcpus, unsigned int nr_virtio, uint64_t *rsdp_gpa,
	       struct error *err)
{
	struct tables t = { .len = sizeof(struct rsdp) };
	struct xsdt x = { .header = make_header("XSDT", 1, sizeof(x)) };
	uint64_t dsdt, xsdt;

	if (!nr_vcpus || nr_vcpus > MAX_CPUS)
		return error_set(err, -EINVAL, "machine-config.vcpu_count: %u: must be from 1 to %u", nr_vcpus,
				 MAX_CPUS);
	if (nr_virtio > X86_MAX_VIRTIO)
		return error_set(err, -EINVAL, "%u devices are configured; there are interrupts for %u", nr_virtio,
				 X86_MAX_VIRTIO);
	dsdt = add_dsdt(&t, nr_virtio);
	x.entry[0] = add_fadt(&t, dsdt);
	x.entry[1] = add_madt(&t, nr_vcpus);
	xsdt = append_table(&t, &x, sizeof(x));
	fill_rsdp(&t, xsdt);
	if (t.overflow)
		return error_set(err, -ENOSPC, "the ACPI tables outgrew their %u bytes", TABLES_ROOM);
	if (gm_write(gm, BOOT_ACPI_GPA, t.bytes, t.len))
		return error_set(err, -EFAULT, "machine-config.mem_size_mib: no RAM for the ACPI tables");
	*rsdp_gpa = BOOT_ACPI_GPA;
	return 0;
}
