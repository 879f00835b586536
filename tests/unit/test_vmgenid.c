/* test_vmgenid.c: the generation ID in guest memory, and the interrupt that a change of it raises. */
#include "unit.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "legacy/vmgenid.h"

#define NR_VCPUS 3u

static struct guest_memory memory;
static struct bus mmio, pio;
static struct ioapic ioapic;
static struct vmgenid vmgenid;
static struct kvm_msi sent[2 * NR_VCPUS];
static unsigned int nr_sent;

/* What ioapic.c asks of KVM. */
int ioctl(int fd, unsigned long request, ...)
{
	va_list args;

	assert_int_equal(fd, -1);
	assert_int_equal(request, KVM_SIGNAL_MSI);
	assert_in_range(nr_sent, 0, 2 * NR_VCPUS - 1);
	va_start(args, request);
	sent[nr_sent++] = *va_arg(args, struct kvm_msi *);
	va_end(args);
	return 1;
}

static int init(struct guest_memory *gm, struct error *err)
{
	pio = (struct bus){ 0 };
	return vmgenid_init(&vmgenid, gm, &ioapic, NR_VCPUS, &pio, err);
}

static int setup(void **state)
{
	struct error err;

	(void)state;
	mmio = (struct bus){ 0 };
	assert_int_equal(gm_create(&memory, 2, HUGE_PAGES_NONE, &err), 0);
	assert_int_equal(ioapic_init(&ioapic, -1, &mmio, &err), 0);
	nr_sent = 0;
	return init(&memory, &err);
}

static int teardown(void **state)
{
	(void)state;
	gm_destroy(&memory);
	return 0;
}

static void read_id(uint8_t id[VMGENID_SIZE])
{
	assert_int_equal(gm_read(&memory, BOOT_VMGENID_GPA, id, VMGENID_SIZE), 0);
}

static void every_guest_has_an_id_of_its_own(void **state)
{
	uint8_t first[VMGENID_SIZE], second[VMGENID_SIZE];
	struct error err;

	(void)state;
	read_id(first);
	assert_int_equal(BOOT_VMGENID_GPA % 8, 0);
	assert_int_equal(init(&memory, &err), 0);
	read_id(second);
	assert_memory_not_equal(first, second, sizeof(first));
	assert_memory_not_equal(first, second, 8); /* both halves are random */
	assert_memory_not_equal(first + 8, second + 8, 8);
	assert_int_equal(ioapic.pending, 0); /* no news for a guest that has not looked yet */
}

static void a_renewal_changes_the_id_and_says_so(void **state)
{
	uint8_t seen[50][VMGENID_SIZE];
	struct error err;

	(void)state;
	read_id(seen[0]);
	for (unsigned int i = 1; i < 50; i++) {
		ioapic.pending = 0;
		assert_int_equal(vmgenid_renew(&vmgenid, &err), 0);
		assert_int_equal(ioapic.pending, 1u << X86_VMGENID_GSI); /* its pin is masked */
		read_id(seen[i]);
		for (unsigned int j = 0; j < i; j++)
			assert_memory_not_equal(seen[i], seen[j], VMGENID_SIZE);
	}
}

static void nothing_beside_the_id_is_written(void **state)
{
	uint8_t before[4096], after[4096];
	struct error err;

	(void)state;
	memset(before, 0x5a, sizeof(before));
	gm_write(&memory, BOOT_ACPI_GPA, before, sizeof(before));
	gm_write(&memory, BOOT_ACPI_GPA + sizeof(before), before, sizeof(before));
	assert_int_equal(vmgenid_renew(&vmgenid, &err), 0);
	gm_read(&memory, BOOT_ACPI_GPA, after, sizeof(after));
	assert_memory_equal(after, before, sizeof(after) - VMGENID_SIZE);
	gm_read(&memory, BOOT_ACPI_GPA + sizeof(before), after, sizeof(after));
	assert_memory_equal(after, before, sizeof(after));
}

static void no_memory_there_is_an_error(void **state)
{
	struct guest_memory none = { 0 };
	struct error err;

	(void)state;
	assert_int_equal(init(&none, &err), -EFAULT);
	assert_int_equal(vmgenid_renew(&vmgenid, &err), -EFAULT);
	assert_int_equal(ioapic.pending, 0);
}

static void wish(uint8_t vector)
{
	bus_write(&pio, X86_VMGENID_PORT, &vector, 1);
}

/* What a renewal sends when the driver has wished for these two, one after the other. */
static void a_renewal_sends(unsigned int n, uint8_t first, uint8_t second)
{
	struct error err;

	wish(first);
	wish(second);
	nr_sent = 0;
	assert_int_equal(vmgenid_renew(&vmgenid, &err), 0);
	assert_int_equal(nr_sent, n);
}

static void every_vcpu_gets_the_vector_that_the_driver_wants(void **state)
{
	(void)state;
	a_renewal_sends(NR_VCPUS, 0, 0xf7);
	for (unsigned int i = 0; i < NR_VCPUS; i++) {
		assert_int_equal(sent[i].address_lo, 0xfee00000u | i << 12);
		assert_int_equal(sent[i].address_hi, 0);
		assert_int_equal(sent[i].data, 0xf7);
	}
	a_renewal_sends(NR_VCPUS, 0xf7, 32);
	assert_int_equal(sent[0].data, 32);
}

static void no_vector_and_exceptions_are_none(void **state)
{
	struct error err;

	(void)state;
	assert_int_equal(vmgenid_renew(&vmgenid, &err), 0);
	assert_int_equal(nr_sent, 0); /* as with ACPI: nobody has asked */
	a_renewal_sends(0, 0xf7, 0);
	a_renewal_sends(0, 0, 31);
	a_renewal_sends(NR_VCPUS, 0xf7, 2); /* no answer to nonsense */
	assert_int_equal(sent[0].data, 0xf7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_guest_has_an_id_of_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(a_renewal_changes_the_id_and_says_so, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_beside_the_id_is_written, setup, teardown),
		cmocka_unit_test_setup_teardown(no_memory_there_is_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(every_vcpu_gets_the_vector_that_the_driver_wants, setup, teardown),
		cmocka_unit_test_setup_teardown(no_vector_and_exceptions_are_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
