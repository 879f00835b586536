/* test_acpi.c: the ACPI tables, read back as a kernel reads them, and by ACPICA's own disassembler. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "x86/aml.h"
#include "x86/x86.h"

static unsigned int sum(const uint8_t *p, size_t len)
{
	unsigned int total = 0;

	while (len--)
		total += *p++;
	return total & 0xff;
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

/* A table at gpa, with its signature and checksum right, and all of it below the generation ID. */
static const uint8_t *table_at(const struct guest_memory *gm, uint64_t gpa, const char *signature)
{
	const uint8_t *t = gm_at(gm, gpa, 36);

	assert_in_range(gpa, BOOT_ACPI_GPA, BOOT_HIGH_GPA - 36);
	assert_memory_equal(t, signature, 4);
	assert_in_range(gpa + get32(t + 4), BOOT_ACPI_GPA, BOOT_VMGENID_GPA);
	assert_int_equal(sum(t, get32(t + 4)), 0);
	return t;
}

static const uint8_t *write_tables(struct guest_memory *gm, unsigned int cpus, unsigned int virtio)
{
	struct error err = { 0 };
	uint64_t rsdp = 0;
	const uint8_t *r;

	assert_int_equal(gm_create(gm, 1, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(acpi_write(gm, cpus, virtio, &rsdp, &err), 0);
	assert_int_equal(rsdp % 16, 0); /* kernels that are not told scan for it in steps of 16 */
	r = gm_at(gm, rsdp, 36);
	assert_memory_equal(r, "RSD PTR ", 8);
	assert_int_equal(sum(r, 20), 0);
	assert_int_equal(sum(r, 36), 0);
	assert_int_equal(r[15], 2);
	return table_at(gm, get64(r + 24), "XSDT");
}

static void check_madt(const uint8_t *madt, unsigned int cpus)
{
	unsigned int lapics = 0, ioapics = 0;
	const uint8_t *end = madt + get32(madt + 4);

	assert_int_equal(get32(madt + 36), X86_LAPIC_GPA);
	assert_int_equal(get32(madt + 40), 0); /* no 8259s */
	for (const uint8_t *e = madt + 44; e < end; e += e[1]) {
		assert_true(e[1] >= 2 && e + e[1] <= end);
		if (e[0] == 0) {
			assert_int_equal(e[1], 8);
			assert_int_equal(e[3], lapics);
			assert_int_equal(get32(e + 4), 1);
			lapics++;
		} else {
			assert_int_equal(e[0], 1);
			assert_int_equal(e[1], 12);
			assert_int_equal(e[2], cpus);
			assert_int_equal(get32(e + 4), X86_IOAPIC_GPA);
			assert_int_equal(get32(e + 8), 0);
			ioapics++;
		}
	}
	assert_int_equal(lapics, cpus);
	assert_int_equal(ioapics, 1);
}

static void tables_are_well_formed(void **state)
{
	static const unsigned int cpus[] = { 1, 2, 3, 8, 31, 32 };

	(void)state;
	for (size_t i = 0; i < sizeof(cpus) / sizeof(cpus[0]); i++) {
		for (unsigned int virtio = 0; virtio <= X86_MAX_VIRTIO; virtio++) {
			struct guest_memory gm;
			const uint8_t *xsdt = write_tables(&gm, cpus[i], virtio);
			const uint8_t *fadt;

			assert_int_equal(get32(xsdt + 4), 36 + 2 * 8);
			fadt = table_at(&gm, get64(xsdt + 36), "FACP");
			assert_int_equal(get32(fadt + 4), 276);
			assert_int_equal(get32(fadt + 112) & 1u << 20, 1u << 20); /* hardware-reduced */
			assert_int_equal(get32(fadt + 112) & 1u << 10,
					 1u << 10); /* reset register: byte 0xfe to port 0x64 */
			assert_int_equal(fadt[116], 1);
			assert_int_equal(get64(fadt + 120), 0x64);
			assert_int_equal(fadt[128], 0xfe);
			assert_int_equal(fadt[109] & 2, 2); /* a keyboard controller */
			table_at(&gm, get64(fadt + 140), "DSDT");
			check_madt(table_at(&gm, get64(xsdt + 44), "APIC"), cpus[i]);
			gm_destroy(&gm);
		}
	}
}

static void impossible_machines_are_refused(void **state)
{
	struct error err = { 0 };
	struct guest_memory gm;
	uint64_t rsdp = 0;

	(void)state;
	assert_int_equal(gm_create(&gm, 1, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(acpi_write(&gm, 0, 1, &rsdp, &err), -EINVAL);
	assert_int_equal(acpi_write(&gm, 33, 1, &rsdp, &err), -EINVAL);
	assert_non_null(strstr(err.message, "machine-config.vcpu_count: 33"));
	assert_int_equal(acpi_write(&gm, 1, X86_MAX_VIRTIO + 1, &rsdp, &err), -EINVAL);
	assert_non_null(strstr(err.message, "there are interrupts for 19"));
	assert_int_equal(acpi_write(&gm, 1, UINT32_MAX, &rsdp, &err), -EINVAL);
	gm_destroy(&gm);
}

static void aml_that_does_not_fit_is_noticed(void **state)
{
	uint8_t bytes[5000];

	(void)state;
	for (size_t room = 0; room < 64; room++) {
		struct aml a = { .buf = bytes, .room = room };
		size_t device = aml_device(&a, "TEST");

		bytes[room] = 0x5a;
		aml_name_string(&a, "_HID", "LNRO0005");
		size_t crs = aml_resources(&a);
		aml_memory32(&a, 0xc0000000, 0x1000);
		aml_interrupt(&a, 5);
		aml_end_resources(&a, crs);
		aml_end(&a, device);
		assert_int_equal(a.overflow, room < 57);
		assert_true(a.len <= room);
		assert_int_equal(bytes[room], 0x5a);
	}
	/* A block longer than its two length bytes can say. */
	struct aml a = { .buf = bytes, .room = sizeof(bytes) };
	size_t scope = aml_scope(&a, "\\_SB_");

	for (unsigned int i = 0; i < 409; i++)
		aml_name_dword(&a, "NAME", i);
	assert_false(a.overflow);
	aml_end(&a, scope);
	assert_true(a.overflow);
}

/* ---- what ACPICA reads ---- */

static void save(const char *dir, const char *name, const uint8_t *table)
{
	char path[96];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(table, get32(table + 4), 1, f), 1);
	assert_int_equal(fclose(f), 0);
}

/* Output of a command that must succeed; the caller frees it. */
static char *run(const char *command)
{
	const size_t room = 1 << 20;
	char *output = malloc(room);
	size_t len;
	int status;
	FILE *pipe;

	assert_non_null(output);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	len = fread(output, 1, room - 1, pipe);
	output[len] = '\0';
	status = pclose(pipe);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("%s (iasl is in Debian's acpica-tools):\n%s", command, output);
	return output;
}

static char *disassemble(const char *dir, const char *name)
{
	char command[256];
	char *text;

	snprintf(command, sizeof(command), "cd %s && iasl -d %s.dat 2>&1 && cat %s.dsl", dir, name, name);
	text = run(command);
	if (strstr(text, "Error") || strstr(text, "Warning") || strstr(text, "Invalid"))
		fail_msg("%s", text);
	return text;
}

static void expect(const char *text, const char *wanted)
{
	if (!strstr(text, wanted))
		fail_msg("no \"%s\" in:\n%s", wanted, text);
}

static void check_dsdt(const char *dir)
{
	static const char *const wanted[] = {
		"Scope (\\_SB)",
		"Device (COM1)",
		"EisaId (\"PNP0501\")",
		"0x03F8,             // Range Minimum",
		"Device (PS2)",
		"EisaId (\"PNP0303\")",
		"0x0060,             // Range Minimum",
		"0x0064,             // Range Minimum",
		"0x00000001,", /* its interrupt */
		"Device (VGEN)",
		"Name (_CID, \"VM_Gen_Counter\")",
		"Name (_DDN, \"VM_Gen_Counter\")",
		"Name (ADDR, Package (0x02)",
		"0x000E0FF0, \n                0x00000000",
		"Device (GED)",
		"Name (_HID, \"ACPI0013\"",
		"0x00000003,", /* its interrupt */
		"Method (_EVT, 1, NotSerialized)",
		"Notify (VGEN, 0x80)",
		"Device (V000)",
		"Name (_HID, \"LNRO0005\")",
		"0xC0001000,         // Address Base",
		"Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )",
		"Device (V018)",
		"0xC0013000,         // Address Base",
		"0x00000017,", /* its interrupt: the last pin */
	};
	char command[256];
	char *text = disassemble(dir, "dsdt");

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		expect(text, wanted[i]);
	free(text);
	/* Compiled again, its rules about names and resources apply as well. */
	snprintf(command, sizeof(command), "cd %s && iasl -p again dsdt.dsl 2>&1", dir);
	text = run(command);
	expect(text, "0 Errors, 0 Warnings");
	free(text);
}

static void acpica_understands_every_table(void **state)
{
	char dir[] = "/tmp/mayfly-acpi-XXXXXX", command[64];
	struct guest_memory gm;
	const uint8_t *xsdt = write_tables(&gm, 4, X86_MAX_VIRTIO);
	const uint8_t *fadt = table_at(&gm, get64(xsdt + 36), "FACP");
	char *text;

	(void)state;
	assert_non_null(mkdtemp(dir));
	save(dir, "dsdt", table_at(&gm, get64(fadt + 140), "DSDT"));
	save(dir, "facp", fadt);
	save(dir, "apic", table_at(&gm, get64(xsdt + 44), "APIC"));
	save(dir, "xsdt", xsdt);
	gm_destroy(&gm);
	check_dsdt(dir);
	text = disassemble(dir, "facp");
	expect(text, "Hardware Reduced (V5) : 1");
	expect(text, "Reset Register Supported (V2) : 1");
	free(text);
	text = disassemble(dir, "apic");
	expect(text, "[I/O APIC]");
	free(text);
	free(disassemble(dir, "xsdt"));
	snprintf(command, sizeof(command), "rm -r %s", dir);
	free(run(command));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_are_well_formed),
		cmocka_unit_test(impossible_machines_are_refused),
		cmocka_unit_test(aml_that_does_not_fit_is_noticed),
		cmocka_unit_test(acpica_understands_every_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
