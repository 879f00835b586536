/* records.c: which records a state file has, in which order, and what they are called. */
#include "records.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>

#define MAX_RECORDS 4096u /* 32 vCPUs and 33 devices have some 200 */

enum group {
	FIRST,       /* one of each */
	FIRST_MAYBE, /* none or one, among those */
	TRANSPORT,   /* of each slot */
	DEVICE,      /* after a transport, of the same slot: at least one of these, each once */
	VCPU,        /* of each vCPU, one of each */
	LAST,        /* one of each */
};

/* In the order of the file. */
static const struct kind {
	enum state_tag tag;
	enum group group;
	uint32_t part; /* of several records that make up one: which */
	const char *what;
	size_t unit, least; /* bytes of payload: a multiple of one, at least the other */
} kinds[] = {
	{ STATE_INFO, FIRST, 0, "what this is", 1, 1 },
	{ STATE_HOST, FIRST_MAYBE, 0, "the host's processor and kernel", 1, 1 },
	{ STATE_CONFIG, FIRST, 0, "configuration", 1, 1 },
	{ STATE_METADATA, FIRST_MAYBE, 0, "metadata service", 1, 1 },
	{ STATE_IOAPIC, FIRST, 0, "interrupt controller", 1, 1 },
	{ STATE_I8042, FIRST, 0, "keyboard controller", 1, 1 },
	{ STATE_SERIAL, FIRST, 0, "serial port", 1, 1 },
	{ STATE_SERIAL, FIRST, 1, "serial port, output that waits", 1, 0 },
	{ STATE_SERIAL, FIRST, 2, "serial port, more output that waits", 1, 0 },
	{ STATE_SERIAL, FIRST, 3, "serial port, input that waits", 1, 0 },
	{ STATE_VMGENID, FIRST, 0, "generation ID", 1, 1 },
	{ STATE_TRANSPORT, TRANSPORT, 0, "virtio transport", 1, 1 },
	{ STATE_BLOCK, DEVICE, 0, "drive", 1, 1 },
	{ STATE_NET, DEVICE, 0, "network interface", 1, 1 },
	{ STATE_VSOCK, DEVICE, 0, "vsock", 1, 1 },
	{ STATE_CPUID, VCPU, 0, "vCPU, CPUID", sizeof(struct kvm_cpuid_entry2), 0 },
	{ STATE_VCPU, VCPU, 0, "vCPU, registers", 1, 1 },
	{ STATE_XSAVE, VCPU, 0, "vCPU, vectors and floating point", 1, sizeof(struct kvm_xsave) },
	{ STATE_MSRS, VCPU, 0, "vCPU, MSRs", sizeof(struct kvm_msr_entry), 0 },
	{ STATE_CLOCK, LAST, 0, "clock", 1, 1 },
};

#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static int take(struct state_reader *r, const struct kind *kind, uint32_t index, struct error *err)
{
	const void *payload = NULL;
	size_t size = 0;
	int ret = state_view(r, kind->tag, index, &payload, &size, kind->unit, err);

	if (!ret && size < kind->least)
		ret = state_bad(err, kind->tag, index, "this record is too short");
	return ret;
}

/* One of each in the group, and of those that may be left out, what is there. */
static int take_all(struct state_reader *r, enum group group, enum group maybe, uint32_t index, struct error *err)
{
	size_t i;
	int ret = 0;

	for (i = 0; i < NR_KINDS && !ret; i++) {
		const struct kind *kind = &kinds[i];

		if (kind->group == group || (kind->group == maybe && state_has(r, kind->tag, index + kind->part)))
			ret = take(r, kind, index + kind->part, err);
	}
	return ret;
}

static int take_device(struct state_reader *r, uint32_t slot, struct error *err)
{
	unsigned int taken = 0;
	size_t i;
	int ret = take_all(r, TRANSPORT, TRANSPORT, slot, err);

	for (i = 0; i < NR_KINDS && !ret; i++)
		if (kinds[i].group == DEVICE && state_has(r, kinds[i].tag, slot)) {
			ret = take(r, &kinds[i], slot, err);
			taken++;
		}
	if (!ret && !taken)
		ret = state_bad(err, STATE_TRANSPORT, slot, "no device comes after this record");
	return ret;
}

static int count(struct state_reader r, struct error *err)
{
	const struct state_record *record;
	const void *payload;
	unsigned int nr = 0;

	while (state_next(&r, &record, &payload))
		if (++nr > MAX_RECORDS)
			return error_set(err, -EINVAL, "the state file has more than %u records", MAX_RECORDS);
	return 0;
}

int records_check(const struct state_reader *first, const struct state_info *info, struct error *err)
{
	struct state_reader r = *first;
	int ret = count(r, err);
	uint32_t i;

	if (!ret)
		ret = take_all(&r, FIRST, FIRST_MAYBE, 0, err);
	for (i = 0; i < info->nr_transports && !ret; i++)
		ret = take_device(&r, i, err);
	for (i = 0; i < info->nr_vcpus && !ret; i++)
		ret = take_all(&r, VCPU, VCPU, i, err);
	if (!ret)
		ret = take_all(&r, LAST, LAST, 0, err);
	return ret ? ret : state_end(&r, err);
}

const char *record_name(char name[RECORD_NAME_ROOM], uint32_t tag, uint32_t index)
{
	char text[4];
	unsigned int i;

	for (i = 0; i < sizeof(text); i++) {
		text[i] = (char)(tag >> 8 * i);
		if (text[i] < ' ' || text[i] > '~')
			text[i] = '?';
	}
	snprintf(name, RECORD_NAME_ROOM, "%.4s %u", text, index);
	return name;
}

const char *record_what(uint32_t tag, uint32_t index)
{
	size_t i;

	/* From the end: parts come before what they are a part of. */
	for (i = NR_KINDS; i--;)
		if (kinds[i].tag == tag && (!kinds[i].part || kinds[i].part == index))
			return kinds[i].what;
	return "unknown to this version";
}
