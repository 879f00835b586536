/* diff_cpu.c: in what the processors of two snapshots differ: CPUID leaves by bit, MSRs by number. */
#include "diff.h"

#include <inttypes.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Either kind of entry, by what it is found by; of those with the same key, the order of the file counts. */
struct entry {
	uint64_t key;
	size_t position;
	const void *value;
};

struct table {
	struct entry *entry;
	size_t nr;
};

static int by_key(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;

	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	return a->position < b->position ? -1 : a->position > b->position;
}

static struct table sort(const void *data, size_t size, size_t unit, uint64_t (*key)(const void *))
{
	struct table t = { .nr = size / unit };
	size_t i;

	t.entry = calloc(t.nr + 1, sizeof(*t.entry));
	if (!t.entry)
		t.nr = 0;
	for (i = 0; i < t.nr; i++) {
		const void *value = (const uint8_t *)data + i * unit;

		t.entry[i] = (struct entry){ .key = key(value), .position = i, .value = value };
	}
	if (t.nr)
		qsort(t.entry, t.nr, sizeof(*t.entry), by_key);
	return t;
}

typedef void compare_fn(json_t *list, const char *record, uint64_t key, const void *a, const void *b);

/* Calls compare for each pair with the same key, with NULL in the place of one that is missing. */
static void merge(json_t *list, const char *record, const struct table *a, const struct table *b, compare_fn *compare)
{
	size_t i = 0, j = 0;

	while (i < a->nr || j < b->nr) {
		const bool first = i < a->nr && (j == b->nr || a->entry[i].key <= b->entry[j].key);
		const bool second = j < b->nr && (i == a->nr || b->entry[j].key <= a->entry[i].key);

		compare(list, record, first ? a->entry[i].key : b->entry[j].key, first ? a->entry[i].value : NULL,
			second ? b->entry[j].value : NULL);
		i += first;
		j += second;
	}
}

static json_t *hex(uint64_t value, int digits)
{
	return json_sprintf("0x%0*" PRIx64, digits, value);
}

/* ---- CPUID ---- */

static uint64_t cpuid_key(const void *value)
{
	const struct kvm_cpuid_entry2 *e = value;

	return (uint64_t)e->function << 32 | e->index;
}

static void add_bits(json_t *difference, uint64_t key, unsigned int reg, uint32_t bits)
{
	json_t *numbers = json_array(), *names = json_array();
	unsigned int bit;

	for (bit = 0; bit < 32; bit++) {
		const char *name = cpuid_bit_name((uint32_t)(key >> 32), (uint32_t)key, reg, bit);

		if (!(bits & 1u << bit))
			continue;
		(void)json_array_append_new(numbers, json_integer(bit));
		(void)json_array_append_new(names, name ? json_string(name) : json_null());
	}
	(void)json_object_set_new(difference, "bits", numbers);
	(void)json_object_set_new(difference, "names", names);
}

static void compare_leaf(json_t *list, const char *record, uint64_t key, const void *left, const void *right)
{
	static const char *const name[] = { "eax", "ebx", "ecx", "edx" };
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *a = left ? left : &none, *b = right ? right : &none;
	const uint32_t in_a[] = { a->eax, a->ebx, a->ecx, a->edx }, in_b[] = { b->eax, b->ebx, b->ecx, b->edx };
	char leaf[40], where[64];
	unsigned int reg;

	snprintf(leaf, sizeof(leaf), "leaf 0x%x.%u", (uint32_t)(key >> 32), (uint32_t)key);
	if (!left || !right) {
		json_t *there = json_sprintf("0x%08x 0x%08x 0x%08x 0x%08x", in_a[0] | in_b[0], in_a[1] | in_b[1],
					     in_a[2] | in_b[2], in_a[3] | in_b[3]);

		diff_add(list, record, leaf, left ? there : NULL, right ? there : NULL);
		return;
	}
	for (reg = 0; reg < 4; reg++) {
		if (in_a[reg] == in_b[reg])
			continue;
		snprintf(where, sizeof(where), "%s %s", leaf, name[reg]);
		add_bits(diff_add(list, record, where, hex(in_a[reg], 8), hex(in_b[reg], 8)), key, reg,
			 in_a[reg] ^ in_b[reg]);
	}
	if (a->flags != b->flags)
		diff_add(list, record, leaf, hex(a->flags, 1), hex(b->flags, 1));
}

void diff_cpuid(json_t *list, const char *record, const void *a, size_t a_size, const void *b, size_t b_size)
{
	struct table in_a = sort(a, a_size, sizeof(struct kvm_cpuid_entry2), cpuid_key);
	struct table in_b = sort(b, b_size, sizeof(struct kvm_cpuid_entry2), cpuid_key);

	merge(list, record, &in_a, &in_b, compare_leaf);
	free(in_a.entry);
	free(in_b.entry);
}

/* ---- MSRs ---- */

static uint64_t msr_key(const void *value)
{
	return ((const struct kvm_msr_entry *)value)->index;
}

static void compare_msr(json_t *list, const char *record, uint64_t key, const void *left, const void *right)
{
	const struct kvm_msr_entry *a = left, *b = right;
	const uint32_t index = (uint32_t)key;
	const char *name = msr_name(index);
	char where[64];

	if (a && b && a->data == b->data)
		return;
	snprintf(where, sizeof(where), "0x%x%s%s%s", index, name ? " (" : "", name ? name : "", name ? ")" : "");
	diff_add(list, record, where, a ? hex(a->data, 1) : NULL, b ? hex(b->data, 1) : NULL);
}

void diff_msrs(json_t *list, const char *record, const void *a, size_t a_size, const void *b, size_t b_size)
{
	struct table in_a = sort(a, a_size, sizeof(struct kvm_msr_entry), msr_key);
	struct table in_b = sort(b, b_size, sizeof(struct kvm_msr_entry), msr_key);

	merge(list, record, &in_a, &in_b, compare_msr);
	free(in_a.entry);
	free(in_b.entry);
}
