/* firmware_check.c: walks ACPI tables, their AML, and the MP table, with nothing taken for granted. */
#include "firmware_check.h"

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "x86/x86.h"

static uint8_t sum(const uint8_t *p, size_t len)
{
	return (uint8_t)-x86_checksum(p, len);
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

/* ACPI 6.5, 5.2.6. */
static const uint8_t *table_at(const struct guest_memory *gm, uint64_t gpa, const char *signature)
{
	const uint8_t *t = gm_at(gm, gpa, 36);

	CHECK(t && gpa >= BOOT_ACPI_GPA && memcmp(t, signature, 4) == 0);
	CHECK(get32(t + 4) >= 36 && gpa + get32(t + 4) <= BOOT_VMGENID_GPA);
	CHECK(sum(t, get32(t + 4)) == 0);
	return t;
}

/* ---- AML: names, integers, strings, devices, their resources, and a method that notifies; nothing else is written
 * ---- */

struct aml_reader {
	const uint8_t *at, *end;
	unsigned int devices, virtio, addresses_of_id, notifications;
	uint32_t gsis;      /* each belongs to one device */
	uint64_t addresses; /* pages from X86_VIRTIO_GPA on, each belongs to one device */
};

static uint8_t next8(struct aml_reader *r)
{
	CHECK(r->at < r->end);
	return *r->at++;
}

static uint32_t next_int(struct aml_reader *r, unsigned int bytes)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < bytes; i++)
		value |= (uint32_t)next8(r) << (8 * i);
	return value;
}

/* 20.2.4: the length counts itself. Returns where the package ends. */
static const uint8_t *package_end(struct aml_reader *r)
{
	const uint8_t *start = r->at;
	uint8_t lead = next8(r);
	size_t len = lead & 0x3f;

	if (lead >> 6) {
		CHECK((lead & 0x30) == 0);
		len = lead & 0xf;
		for (unsigned int i = 0; i < lead >> 6; i++)
			len |= (size_t)next8(r) << (4 + 8 * i);
	}
	CHECK(len <= (size_t)(r->end - start) && start + len >= r->at);
	return start + len;
}

static void name_segment(struct aml_reader *r, char name[5])
{
	for (unsigned int i = 0; i < 4; i++) {
		uint8_t c = next8(r);

		CHECK((c >= 'A' && c <= 'Z') || c == '_' || (i && c >= '0' && c <= '9'));
		name[i] = (char)c;
	}
	name[4] = '\0';
}

/* 6.4.3.4 and 6.4.3.6, 6.4.2.5, and the end tag of 6.4.2.9 as the last. */
static void resources(struct aml_reader *r)
{
	uint8_t tag, len;
	uint32_t gsi, base;

	while ((tag = next8(r)) != 0x79) {
		if (tag == 0x86) {
			CHECK(next_int(r, 2) == 9 && next8(r) == 1);
			base = next_int(r, 4);
			CHECK(next_int(r, 4) == X86_VIRTIO_SIZE);
			CHECK(base >= X86_VIRTIO_GPA && base % 4096 == 0 && base < X86_IOAPIC_GPA);
			CHECK(!(r->addresses >> ((base - X86_VIRTIO_GPA) / 4096) & 1));
			r->addresses |= 1ull << (base - X86_VIRTIO_GPA) / 4096;
		} else if (tag == 0x89) {
			CHECK(next_int(r, 2) == 6 && next8(r) == 3 && next8(r) == 1);
			gsi = next_int(r, 4);
			CHECK(gsi < X86_IOAPIC_PINS && !(r->gsis >> gsi & 1));
			r->gsis |= 1u << gsi;
		} else {
			CHECK(tag == 0x47 && next8(r) == 1);
			base = next_int(r, 2);
			CHECK(next_int(r, 2) == base && next8(r) == 1);
			len = next8(r);
			CHECK(len && base + len <= 0x10000);
		}
	}
	next8(r); /* checksum, 0: not given */
	CHECK(r->at == r->end);
}

static void buffer(struct aml_reader *r)
{
	const uint8_t *end = package_end(r);
	struct aml_reader inside = *r;
	uint8_t op = next8(&inside);

	CHECK(op == 0x0a || op == 0x0b);
	op = (uint8_t)(op == 0x0a ? next_int(&inside, 1) != (size_t)(end - inside.at)
				  : next_int(&inside, 2) != (size_t)(end - inside.at));
	CHECK(op == 0);
	inside.end = end;
	resources(&inside);
	r->at = end;
	r->gsis = inside.gsis;
	r->addresses = inside.addresses;
}

/* The one package is the address of the generation ID: two integers, low half first. */
static void package(struct aml_reader *r)
{
	const uint8_t *end = package_end(r);

	CHECK(next8(r) == 2);
	CHECK(next8(r) == 0x0c && next_int(r, 4) == BOOT_VMGENID_GPA);
	CHECK(next8(r) == 0x0c && next_int(r, 4) == 0);
	CHECK(r->at == end);
	r->addresses_of_id++;
}

/* The one method's body is Notify (VGEN, 0x80). */
static void method(struct aml_reader *r)
{
	const uint8_t *end = package_end(r);
	char name[5];

	name_segment(r, name);
	CHECK(strcmp(name, "_EVT") == 0 && next8(r) == 1 && next8(r) == 0x86);
	name_segment(r, name);
	CHECK(strcmp(name, "VGEN") == 0 && next8(r) == 0x0a && next8(r) == 0x80);
	CHECK(r->at == end);
	r->notifications++;
}

static void named(struct aml_reader *r)
{
	char name[5], text[16] = "";
	size_t len = 0;
	uint8_t op;

	name_segment(r, name);
	op = next8(r);
	switch (op) {
	case 0x00: /* zero, one */
	case 0x01:
		break;
	case 0x0a:
	case 0x0b:
	case 0x0c:
		next_int(r, 1u << (op - 0x0a));
		break;
	case 0x0d:
		while ((op = next8(r)) && len < sizeof(text) - 1)
			text[len++] = (char)op;
		CHECK(op == 0);
		r->virtio += strcmp(name, "_HID") == 0 && strcmp(text, "LNRO0005") == 0;
		break;
	case 0x12:
		package(r);
		break;
	default:
		CHECK(op == 0x11);
		buffer(r);
	}
}

static void terms(struct aml_reader *r, unsigned int depth)
{
	char name[5];

	CHECK(depth < 4);
	while (r->at < r->end) {
		const uint8_t op = next8(r), *end, *outer = r->end;

		if (op == 0x08) {
			named(r);
			continue;
		}
		if (op == 0x14) {
			method(r);
			continue;
		}
		CHECK(op == 0x10 || (op == 0x5b && next8(r) == 0x82));
		end = package_end(r);
		if (op == 0x10)
			CHECK(next8(r) == '\\');
		name_segment(r, name);
		r->devices += op == 0x5b;
		r->end = end;
		terms(r, depth + 1);
		r->end = outer;
	}
	CHECK(r->at == r->end);
}

static void check_dsdt(const uint8_t *dsdt, unsigned int nr_virtio)
{
	struct aml_reader r = { .at = dsdt + 36, .end = dsdt + get32(dsdt + 4) };

	terms(&r, 0);
	CHECK(r.virtio == nr_virtio && r.devices == nr_virtio + 4);
	CHECK(r.addresses_of_id == 1 && r.notifications == 1);
	CHECK((unsigned int)__builtin_popcount(r.gsis) == nr_virtio + 3 && (r.gsis >> X86_VMGENID_GSI & 1));
	CHECK((unsigned int)__builtin_popcountll(r.addresses) == nr_virtio);
}

static void check_madt(const uint8_t *madt, unsigned int nr_vcpus)
{
	const uint8_t *e = madt + 44, *end = madt + get32(madt + 4);
	unsigned int ioapics = 0;
	uint32_t ids = 0;

	CHECK(get32(madt + 36) == X86_LAPIC_GPA);
	for (; e < end; e += e[1]) {
		CHECK(end - e >= 2 && e[1] >= 2 && e[1] <= end - e);
		if (e[0] == 0) {
			CHECK(e[1] == 8 && e[3] < nr_vcpus && !(ids >> e[3] & 1) && get32(e + 4) == 1);
			ids |= 1u << e[3];
		} else {
			CHECK(e[0] == 1 && e[1] == 12 && get32(e + 4) == X86_IOAPIC_GPA && get32(e + 8) == 0);
			ioapics++;
		}
	}
	CHECK((unsigned int)__builtin_popcount(ids) == nr_vcpus && ioapics == 1);
}

void firmware_check_acpi(const struct guest_memory *gm, uint64_t rsdp_gpa, unsigned int nr_vcpus,
			 unsigned int nr_virtio)
{
	const uint8_t *rsdp = gm_at(gm, rsdp_gpa, 36), *xsdt, *fadt;

	CHECK(rsdp && rsdp_gpa % 16 == 0 && memcmp(rsdp, "RSD PTR ", 8) == 0);
	CHECK(sum(rsdp, 20) == 0 && sum(rsdp, 36) == 0 && rsdp[15] == 2 && get32(rsdp + 20) == 36);
	xsdt = table_at(gm, get64(rsdp + 24), "XSDT");
	CHECK(get32(xsdt + 4) == 36 + 2 * 8);
	fadt = table_at(gm, get64(xsdt + 36), "FACP");
	CHECK(get32(fadt + 4) == 276 && get64(fadt + 140) == get32(fadt + 40));
	check_dsdt(table_at(gm, get64(fadt + 140), "DSDT"), nr_virtio);
	check_madt(table_at(gm, get64(xsdt + 44), "APIC"), nr_vcpus);
}

/* MP 1.4, 4. */
void firmware_check_mptable(const struct guest_memory *gm, unsigned int nr_vcpus)
{
	const uint8_t *pointer = gm_at(gm, BOOT_EBDA_GPA, 1024), *table, *e, *end;
	unsigned int cpus = 0, entries = 0;
	uint32_t len;

	CHECK(pointer && memcmp(pointer, "_MP_", 4) == 0 && sum(pointer, 16) == 0 && pointer[8] == 1);
	CHECK(get32(pointer + 4) >= BOOT_EBDA_GPA && get32(pointer + 4) + 44 <= BOOT_VGA_GPA);
	table = gm_at(gm, get32(pointer + 4), 44);
	len = get32(table + 4) & 0xffff;
	CHECK(memcmp(table, "PCMP", 4) == 0 && get32(pointer + 4) + len <= BOOT_VGA_GPA && sum(table, len) == 0);
	end = table + len;
	for (e = table + 44; e < end; e += e[0] ? 8 : 20) {
		CHECK(e[0] <= 4 && end - e >= (e[0] ? 8 : 20));
		cpus += e[0] == 0;
		entries++;
	}
	CHECK(e == end && cpus == nr_vcpus && entries == (get32(table + 32) >> 16));
}
