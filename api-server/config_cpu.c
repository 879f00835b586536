/* config_cpu.c: a custom CPU template from JSON, and back: numbers and bitmaps are strings there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_dump.h"
#include "config_json.h"
#include "json.h"
#include "text.h"
#include "x86/cpu_template.h"

#define FIELDS(table) table, sizeof(table) / sizeof((table)[0])

#define NEEDS_NUMBER        "a string with a number of 32 bits, as \"0x10a\" or \"0b101\""
#define NEEDS_CAP           "a string with the number of a KVM capability, as \"121\", or \"!121\" to take it back"
#define NEEDS_REGISTERS     "a list of registers in brackets"
#define NEEDS_BITMAP(width) "a string of 1 to " width " of 0, 1 and x, last bit 0, as \"0bxxxx_01x1\""
#define NEEDS_ARM           "is for Arm processors, this is an x86 (leave it out, or [])"

/* While it is read: the arrays behind a struct cpu_template, which nobody changes later. */
struct draft {
	struct cap_modifier *caps;
	struct cpuid_modifier *leaves;
	struct msr_modifier *msrs;
};

/* ---- numbers and bitmaps ---- */

/* All of text, one digit or more, as a number of 32 bits. */
static bool to_number(const char *text, unsigned int base, uint32_t *out)
{
	uint64_t n = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		unsigned int digit = text_digit(*text);

		if (digit >= base)
			return false;
		n = n * base + digit;
		if (n > UINT32_MAX)
			return false;
	}
	*out = (uint32_t)n;
	return true;
}

/* NULL unless value is a string that is all there is to it. */
static const char *plain_string(const json_t *value)
{
	const char *text = json_string_value(value);

	return text && strlen(text) == json_string_length(value) ? text : NULL;
}

static int fail_value(struct error *err, const struct json_where *where, const json_t *value, const char *needs)
{
	return json_is_string(value) ? json_fail_unknown(err, where, value, needs)
				     : json_fail_type(err, where, value, needs);
}

/* Without 0x or 0b it would not be clear what "10" is; Firecracker takes none either. */
static int read_number(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	const char *text = plain_string(json);
	bool ok = false;

	if (text && strncmp(text, "0x", 2) == 0)
		ok = to_number(text + 2, 16, dst);
	else if (text && strncmp(text, "0b", 2) == 0)
		ok = to_number(text + 2, 2, dst);
	return ok ? 0 : fail_value(err, where, json, NEEDS_NUMBER);
}

/* The last character is bit 0; bits that are not written are as good as x. */
static int read_bitmap(const json_t *json, const struct json_where *where, unsigned int width, uint64_t *clear,
		       uint64_t *set, struct error *err)
{
	const char *text = plain_string(json), *at;
	unsigned int bit = 0;
	const char *needs = width == 32 ? NEEDS_BITMAP("32") : NEEDS_BITMAP("64");

	if (!text)
		return fail_value(err, where, json, needs);
	if (strncmp(text, "0b", 2) == 0)
		text += 2;
	*clear = *set = 0;
	for (at = text + strlen(text); at > text; at--) {
		char c = at[-1];

		if (c == '_')
			continue;
		if (bit == width || (c != '0' && c != '1' && c != 'x'))
			return fail_value(err, where, json, needs);
		*clear |= (uint64_t)(c == '0') << bit;
		*set |= (uint64_t)(c == '1') << bit;
		bit++;
	}
	return bit ? 0 : fail_value(err, where, json, needs);
}

/* ---- elements of the lists ---- */

static int read_cap(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct cap_modifier *out = dst;
	const char *text = plain_string(json);

	out->dropped = text && text[0] == '!';
	if (!text || !to_number(text + out->dropped, 10, &out->cap))
		return fail_value(err, where, json, NEEDS_CAP);
	return 0;
}

static int read_bitmap32(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct cpuid_bits *out = dst;
	uint64_t clear, set;
	int ret = read_bitmap(json, where, 32, &clear, &set, err);

	if (!ret)
		*out = (struct cpuid_bits){ (uint32_t)clear, (uint32_t)set };
	return ret;
}

struct register_bits {
	enum cpuid_reg reg;
	struct cpuid_bits bits;
};

_Static_assert(sizeof(enum cpuid_reg) == sizeof(int), "choices are stored as int");

static const struct json_choice register_choices[] = {
	{ "eax", CPUID_EAX }, { "ebx", CPUID_EBX }, { "ecx", CPUID_ECX }, { "edx", CPUID_EDX }, { NULL, 0 },
};

static const struct json_field register_fields[] = {
	{ .name = "register",
	  .kind = JSON_FIELD_CHOICE,
	  .required = true,
	  .choices = register_choices,
	  JSON_AT(struct register_bits, reg) },
	{ .name = "bitmap",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_bitmap32,
	  .extra = NEEDS_BITMAP("32"),
	  JSON_AT(struct register_bits, bits) },
};

static int read_registers(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct cpuid_bits *regs = dst;
	size_t i;
	int ret = 0;

	if (!json_is_array(json))
		return json_fail_type(err, where, json, NEEDS_REGISTERS);
	for (i = 0; i < json_array_size(json) && !ret; i++) {
		struct json_where here = { .up = where, .index = i };
		struct register_bits one;

		ret = json_read_object(json_array_get(json, i), &here, FIELDS(register_fields), &one, err);
		if (ret)
			break;
		/* A register may come twice: the later bit counts. */
		regs[one.reg].clear = (regs[one.reg].clear & ~one.bits.set) | one.bits.clear;
		regs[one.reg].set = (regs[one.reg].set & ~one.bits.clear) | one.bits.set;
	}
	return ret;
}

static const struct json_field leaf_fields[] = {
	{ .name = "leaf",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_number,
	  .extra = NEEDS_NUMBER,
	  JSON_AT(struct cpuid_modifier, leaf) },
	{ .name = "subleaf",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_number,
	  .extra = NEEDS_NUMBER,
	  JSON_AT(struct cpuid_modifier, subleaf) },
	{ .name = "flags",
	  .kind = JSON_FIELD_UINT,
	  .required = true,
	  .max = UINT32_MAX,
	  JSON_AT(struct cpuid_modifier, flags) },
	{ .name = "modifiers",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_registers,
	  .extra = NEEDS_REGISTERS,
	  JSON_AT(struct cpuid_modifier, reg) },
};

static int read_leaf(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return json_read_object(json, where, FIELDS(leaf_fields), dst, err);
}

static int read_msr_bitmap(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	struct msr_modifier *out = dst;

	return read_bitmap(json, where, 64, &out->clear, &out->set, err);
}

static const struct json_field msr_fields[] = {
	{ .name = "addr",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_number,
	  .extra = NEEDS_NUMBER,
	  JSON_AT(struct msr_modifier, index) },
	{ .name = "bitmap",
	  .kind = JSON_FIELD_SUB,
	  .required = true,
	  .parse = read_msr_bitmap,
	  .extra = NEEDS_BITMAP("64") },
};

static int read_msr(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return json_read_object(json, where, FIELDS(msr_fields), dst, err);
}

/* ---- the lists ---- */

/* A list into an array that has been made for as many elements. */
static int read_list(const json_t *json, const struct json_where *where, json_sub_fn *read_element, void *array,
		     size_t size, struct error *err)
{
	size_t i;
	int ret = 0;

	if (!json_is_array(json))
		return json_fail_type(err, where, json, "a list in brackets");
	for (i = 0; i < json_array_size(json) && !ret; i++) {
		struct json_where here = { .up = where, .index = i };

		ret = read_element(json_array_get(json, i), &here, (char *)array + i * size, err);
	}
	return ret;
}

static int read_caps(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return read_list(json, where, read_cap, ((struct draft *)dst)->caps, sizeof(struct cap_modifier), err);
}

static int read_leaves(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return read_list(json, where, read_leaf, ((struct draft *)dst)->leaves, sizeof(struct cpuid_modifier), err);
}

static int read_msrs(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	return read_list(json, where, read_msr, ((struct draft *)dst)->msrs, sizeof(struct msr_modifier), err);
}

static const struct json_field template_fields[] = {
	{ .name = "kvm_capabilities", .kind = JSON_FIELD_SUB, .parse = read_caps },
	{ .name = "cpuid_modifiers", .kind = JSON_FIELD_SUB, .parse = read_leaves },
	{ .name = "msr_modifiers", .kind = JSON_FIELD_SUB, .parse = read_msrs },
	{ .name = "reg_modifiers", .kind = JSON_FIELD_REFUSED, .empty_list = true, .refusal = NEEDS_ARM },
	{ .name = "vcpu_features", .kind = JSON_FIELD_REFUSED, .empty_list = true, .refusal = NEEDS_ARM },
};

static int count(const json_t *json, const struct json_where *where, const char *name, unsigned int max,
		 unsigned int *nr, struct error *err)
{
	struct json_where here = { .up = where, .name = name };
	size_t n = json_array_size(json_object_get(json, name));

	if (n > max)
		return json_fail(err, &here, "%zu are too many (at most %u)", n, max);
	*nr = (unsigned int)n;
	return 0;
}

/* One block, the widest elements first: config_free needs to know no more of it. */
static struct cpu_template *make_room(const struct cpu_template *sizes, struct draft *draft)
{
	struct cpu_template *t = calloc(1, sizeof(*t) + sizes->nr_msrs * sizeof(struct msr_modifier) +
						   sizes->nr_leaves * sizeof(struct cpuid_modifier) +
						   sizes->nr_caps * sizeof(struct cap_modifier));

	if (!t)
		return NULL;
	*t = *sizes;
	draft->msrs = (struct msr_modifier *)(t + 1);
	draft->leaves = (struct cpuid_modifier *)(draft->msrs + t->nr_msrs);
	draft->caps = (struct cap_modifier *)(draft->leaves + t->nr_leaves);
	t->msrs = draft->msrs;
	t->leaves = draft->leaves;
	t->caps = draft->caps;
	return t;
}

int config_parse_cpu_config(const json_t *json, struct cpu_template **out, struct error *err)
{
	struct json_where where = { .name = "cpu-config" };
	struct cpu_template sizes = { 0 }, *t;
	struct draft draft;
	int ret;

	ret = count(json, &where, "kvm_capabilities", CPU_TEMPLATE_MAX_CAPS, &sizes.nr_caps, err);
	if (!ret)
		ret = count(json, &where, "cpuid_modifiers", CPU_TEMPLATE_MAX_LEAVES, &sizes.nr_leaves, err);
	if (!ret)
		ret = count(json, &where, "msr_modifiers", CPU_TEMPLATE_MAX_MSRS, &sizes.nr_msrs, err);
	if (ret)
		return ret;
	t = make_room(&sizes, &draft);
	if (!t)
		return error_set(err, -ENOMEM, "no memory for cpu-config");
	ret = json_read_object(json, &where, FIELDS(template_fields), &draft, err);
	if (ret)
		free(t);
	else
		*out = t;
	return ret;
}

int config_read_cpu_config(const json_t *json, const struct json_where *where, void *config, struct error *err)
{
	struct cpu_template *t = NULL;
	json_t *inner = NULL;
	int ret = 0;

	/* In the file it may also be the path of a file with the template alone. */
	if (json_is_string(json)) {
		static const struct json_field path_field = { .kind = JSON_FIELD_PATH, .size = PATH_MAX };
		char path[PATH_MAX];

		ret = json_read_value(json, where, &path_field, path, err);
		if (!ret)
			ret = json_parse_file(path, CONFIG_FILE_MAX, &inner, err);
		json = inner;
	}
	if (!ret)
		ret = config_parse_cpu_config(json, &t, err);
	if (!ret)
		config_set_cpu_template(config, t);
	json_decref(inner);
	return ret;
}

int config_read_cpu_template_name(const json_t *json, const struct json_where *where, void *dst, struct error *err)
{
	const char *name = plain_string(json);

	if (name && strcmp(name, "V1N1") == 0)
		return json_fail(err, where,
				 "\"V1N1\" is for Arm processors, this is an x86 (needs one of \"None\", %s)",
				 CPU_TEMPLATE_NAMES);
	if (!name || (strcmp(name, "None") != 0 && !cpu_template_static(name)))
		return fail_value(err, where, json, "one of \"None\", " CPU_TEMPLATE_NAMES);
	memcpy(dst, name, strlen(name) + 1);
	return 0;
}

/* ---- back to JSON ---- */

static json_t *dump_number(uint32_t n)
{
	char text[16];

	snprintf(text, sizeof(text), "0x%x", n);
	return json_string(text);
}

static json_t *dump_bitmap(uint64_t clear, uint64_t set, unsigned int width)
{
	char text[2 + 64 + 1] = "0b", *at = text + 2;

	while (width--) {
		if (set >> width & 1)
			*at++ = '1';
		else
			*at++ = clear >> width & 1 ? '0' : 'x';
	}
	*at = '\0';
	return json_string(text);
}

static json_t *dump_leaf(const struct cpuid_modifier *m)
{
	static const char *const names[] = { CPUID_REG_NAMES };
	json_t *regs = json_array();
	unsigned int r;

	for (r = 0; r < NR_CPUID_REGS; r++) {
		const struct cpuid_bits *bits = &m->reg[r];

		if (bits->clear || bits->set)
			(void)json_array_append_new(regs, json_pack("{s:s, s:o}", "register", names[r], "bitmap",
								    dump_bitmap(bits->clear, bits->set, 32)));
	}
	return json_pack("{s:o, s:o, s:I, s:o}", "leaf", dump_number(m->leaf), "subleaf", dump_number(m->subleaf),
			 "flags", (json_int_t)m->flags, "modifiers", regs);
}

json_t *config_dump_cpu_config(const struct cpu_template *t)
{
	json_t *caps = json_array(), *leaves = json_array(), *msrs = json_array();
	unsigned int i;

	for (i = 0; i < t->nr_caps; i++) {
		char text[16];

		snprintf(text, sizeof(text), "%s%u", t->caps[i].dropped ? "!" : "", t->caps[i].cap);
		(void)json_array_append_new(caps, json_string(text));
	}
	for (i = 0; i < t->nr_leaves; i++)
		(void)json_array_append_new(leaves, dump_leaf(&t->leaves[i]));
	for (i = 0; i < t->nr_msrs; i++)
		(void)json_array_append_new(msrs,
					    json_pack("{s:o, s:o}", "addr", dump_number(t->msrs[i].index), "bitmap",
						      dump_bitmap(t->msrs[i].clear, t->msrs[i].set, 64)));
	return json_pack("{s:o, s:o, s:o}", "kvm_capabilities", caps, "cpuid_modifiers", leaves, "msr_modifiers", msrs);
}
