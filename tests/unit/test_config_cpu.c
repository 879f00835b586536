/* test_config_cpu.c: custom CPU templates from JSON, every way to get them wrong, and back to JSON. */
#include "config_fixture.h"

#include <jansson.h>

#include "config_dump.h"
#include "x86/cpu_template.h"

static int parse_text(const char *text, struct cpu_template **out, struct error *err)
{
	json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	int ret;

	assert_non_null(json);
	memset(err, 0, sizeof(*err));
	*out = NULL;
	ret = config_parse_cpu_config(json, out, err);
	json_decref(json);
	assert_true(ret ? !*out : !!*out);
	return ret;
}

static struct cpu_template *good(const char *text)
{
	struct cpu_template *t;
	struct error err;

	if (parse_text(text, &t, &err))
		fail_msg("%s\n  was refused: %s", text, err.message);
	return t;
}

/* The example of Firecracker's documentation, and all the ways to write a number. */
static void test_good(void **state)
{
	struct cpu_template *t =
		good("{\"kvm_capabilities\":[\"!56\",\"121\",\"4294967295\"],\"cpuid_modifiers\":["
		     "{\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":["
		     " {\"register\":\"eax\",\"bitmap\":\"0bxxxx000000000011xx00011011110010\"}]},"
		     "{\"leaf\":\"0x8000001D\",\"subleaf\":\"0b101\",\"flags\":1,\"modifiers\":["
		     " {\"register\":\"edx\",\"bitmap\":\"0b101\"},{\"register\":\"ebx\",\"bitmap\":\"1xxx_0000\"}]},"
		     "{\"leaf\":\"0xffffffff\",\"subleaf\":\"0x10\",\"flags\":4294967295,\"modifiers\":[]}],"
		     "\"msr_modifiers\":[{\"addr\":\"0x10a\",\"bitmap\":"
		     "\"0b0000000000000000000000000000000000000000000000000000000000000000\"},"
		     "{\"addr\":\"0b100001010\",\"bitmap\":\"0b1x_x0\"}],\"reg_modifiers\":[],\"vcpu_features\":null}");

	(void)state;
	assert_int_equal(t->nr_caps, 3);
	assert_int_equal(t->caps[0].cap, 56);
	assert_true(t->caps[0].dropped);
	assert_int_equal(t->caps[1].cap, 121);
	assert_false(t->caps[1].dropped);
	assert_int_equal(t->caps[2].cap, UINT32_MAX);
	assert_int_equal(t->nr_leaves, 3);
	assert_int_equal(t->leaves[0].leaf, 1);
	assert_int_equal(t->leaves[0].reg[CPUID_EAX].set, 0x306f2);
	assert_int_equal(t->leaves[0].reg[CPUID_EAX].clear, 0x0fff3fff & ~0x306f2);
	assert_int_equal(t->leaves[0].reg[CPUID_EBX].set | t->leaves[0].reg[CPUID_EBX].clear, 0);
	assert_int_equal(t->leaves[1].leaf, 0x8000001d);
	assert_int_equal(t->leaves[1].subleaf, 5);
	assert_int_equal(t->leaves[1].flags, 1);
	assert_int_equal(t->leaves[1].reg[CPUID_EDX].set, 5);
	assert_int_equal(t->leaves[1].reg[CPUID_EDX].clear, 2);
	assert_int_equal(t->leaves[1].reg[CPUID_EBX].set, 0x80);
	assert_int_equal(t->leaves[1].reg[CPUID_EBX].clear, 0x0f);
	assert_int_equal(t->leaves[2].leaf, UINT32_MAX);
	assert_int_equal(t->leaves[2].subleaf, 0x10);
	assert_int_equal(t->leaves[2].flags, UINT32_MAX);
	assert_int_equal(t->nr_msrs, 2);
	assert_int_equal(t->msrs[0].index, 0x10a);
	assert_true(t->msrs[0].clear == UINT64_MAX && !t->msrs[0].set);
	assert_int_equal(t->msrs[1].index, 266);
	assert_true(t->msrs[1].clear == 1 && t->msrs[1].set == 8);
	free(t);
}

static void test_a_register_twice(void **state)
{
	struct cpu_template *t =
		good("{\"cpuid_modifiers\":[{\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":["
		     "{\"register\":\"ecx\",\"bitmap\":\"0011\"},{\"register\":\"ecx\",\"bitmap\":\"x01x\"},"
		     "{\"register\":\"ecx\",\"bitmap\":\"1xx0\"}]}]}");

	(void)state;
	assert_int_equal(t->leaves[0].reg[CPUID_ECX].set, 0xa);
	assert_int_equal(t->leaves[0].reg[CPUID_ECX].clear, 0x5);
	free(t);
}

static void test_empty(void **state)
{
	static const char *const empty[] = { "{}",
					     "{\"kvm_capabilities\":[],\"cpuid_modifiers\":[],\"msr_modifiers\":[]}",
					     "{\"cpuid_modifiers\":null}" };

	(void)state;
	for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
		struct cpu_template *t = good(empty[i]);

		assert_int_equal(t->nr_caps + t->nr_leaves + t->nr_msrs, 0);
		free(t);
	}
}

#define LEAF(members) "{\"cpuid_modifiers\":[{" members "}]}"
#define REG(members)  LEAF("\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[{" members "}]")
#define MSR(members)  "{\"msr_modifiers\":[{" members "}]}"
#define ZEROS32       "00000000000000000000000000000000"
#define NUMBER        "(needs a string with a number of 32 bits, as \"0x10a\" or \"0b101\")"
#define CAPABILITY    "(needs a string with the number of a KVM capability, as \"121\", or \"!121\" to take it back)"

static const struct {
	const char *text, *says;
} bad[] = {
	{ "[]", "cpu-config: [...] is a list (needs an object in braces)" },
	{ "\"T2\"", "cpu-config: \"T2\" is a string (needs an object" },
	{ "{\"cpuid\":[]}",
	  "cpu-config: unknown key \"cpuid\" (accepted: kvm_capabilities, cpuid_modifiers, msr_modifiers)" },
	{ "{\"reg_modifiers\":[{}]}", "cpu-config.reg_modifiers: is for Arm processors, this is an x86" },
	{ "{\"vcpu_features\":[{}]}", "cpu-config.vcpu_features: is for Arm processors" },
	{ "{\"kvm_capabilities\":{}}", "cpu-config.kvm_capabilities: {...} is an object (needs a list in brackets)" },
	{ "{\"kvm_capabilities\":[\"1\",121]}", "cpu-config.kvm_capabilities[1]: 121 is a number " CAPABILITY },
	{ "{\"kvm_capabilities\":[\"\"]}", "cpu-config.kvm_capabilities[0]: \"\" is not known " CAPABILITY },
	{ "{\"kvm_capabilities\":[\"!\"]}", "[0]: \"!\" is not known" },
	{ "{\"kvm_capabilities\":[\"!!1\"]}", "[0]: \"!!1\" is not known" },
	{ "{\"kvm_capabilities\":[\"-1\"]}", "[0]: \"-1\" is not known" },
	{ "{\"kvm_capabilities\":[\"0x79\"]}", "[0]: \"0x79\" is not known" },
	{ "{\"kvm_capabilities\":[\"4294967296\"]}", "[0]: \"4294967296\" is not known" },
	{ "{\"kvm_capabilities\":[\"18446744073709551617\"]}", "[0]: \"18446744073709551617\" is not known" },
	{ "{\"kvm_capabilities\":[\"12\\u0000\"]}", "[0]: \"12\\x00\" is not known" },
	{ "{\"cpuid_modifiers\":7}", "cpu-config.cpuid_modifiers: 7 is a number (needs a list in brackets)" },
	{ "{\"cpuid_modifiers\":[[]]}", "cpu-config.cpuid_modifiers[0]: [...] is a list (needs an object in braces)" },
	{ LEAF(""), "cpu-config.cpuid_modifiers[0].leaf: is missing " NUMBER },
	{ LEAF("\"leaf\":\"0x1\""), "cpuid_modifiers[0].subleaf: is missing" },
	{ LEAF("\"leaf\":1,\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"),
	  "cpu-config.cpuid_modifiers[0].leaf: 1 is a number " NUMBER },
	{ LEAF("\"leaf\":\"0x\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"),
	  "leaf: \"0x\" is not known " NUMBER },
	{ LEAF("\"leaf\":\"\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"), "leaf: \"\" is not known" },
	{ LEAF("\"leaf\":\"7\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"), "leaf: \"7\" is not known" },
	{ LEAF("\"leaf\":\"0x7g\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"), "leaf: \"0x7g\" is not known" },
	{ LEAF("\"leaf\":\"0X7\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"), "leaf: \"0X7\" is not known" },
	{ LEAF("\"leaf\":\" 7\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"), "leaf: \" 7\" is not known" },
	{ LEAF("\"leaf\":\"0x100000000\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]"),
	  "leaf: \"0x100000000\" is not" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0b2\",\"flags\":0,\"modifiers\":[]"),
	  "cpu-config.cpuid_modifiers[0].subleaf: \"0b2\" is not known" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":null,\"flags\":0,\"modifiers\":[]"), "subleaf: is null " NUMBER },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"modifiers\":[]"),
	  "flags: is missing (needs an integer from 0 to 4294967295)" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":\"0\",\"modifiers\":[]"), "flags: \"0\" is a string" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":4294967296,\"modifiers\":[]"),
	  "flags: 4294967296 is out of range" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":-1,\"modifiers\":[]"), "flags: -1 is out of range" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":0"),
	  "modifiers: is missing (needs a list of registers in brackets)" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":{}"),
	  "cpu-config.cpuid_modifiers[0].modifiers: {...} is an object (needs a list of registers" },
	{ LEAF("\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[],\"name\":\"\""),
	  "cpu-config.cpuid_modifiers[0]: unknown key \"name\" (accepted: leaf, subleaf, flags, modifiers)" },
	{ REG(""),
	  "cpu-config.cpuid_modifiers[0].modifiers[0].register: is missing (needs one of \"eax\", \"ebx\", \"ecx\", "
	  "\"edx\")" },
	{ REG("\"register\":\"eip\",\"bitmap\":\"0b0\""),
	  "modifiers[0].register: \"eip\" is not known (needs one of \"eax\"" },
	{ REG("\"register\":\"EAX\",\"bitmap\":\"0b0\""), "register: \"EAX\" is not known" },
	{ REG("\"register\":\"eax\""),
	  "modifiers[0].bitmap: is missing (needs a string of 1 to 32 of 0, 1 and x, last bit 0, as "
	  "\"0bxxxx_01x1\")" },
	{ REG("\"register\":\"eax\",\"bitmap\":0"), "modifiers[0].bitmap: 0 is a number (needs a string of 1 to 32" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"\""), "bitmap: \"\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0b\""), "bitmap: \"0b\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0b_\""), "bitmap: \"0b_\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0b012\""), "bitmap: \"0b012\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0b0X\""), "bitmap: \"0b0X\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0b0\\u0000\""), "bitmap: \"0b0\\x00\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0bx" ZEROS32 "\""), "bitmap: \"0bx" ZEROS32 "\" is not known" },
	{ REG("\"register\":\"eax\",\"bitmap\":\"0b0\",\"bits\":1"),
	  "unknown key \"bits\" (accepted: register, bitmap)" },
	{ "{\"msr_modifiers\":\"\"}", "cpu-config.msr_modifiers: \"\" is a string (needs a list in brackets)" },
	{ "{\"msr_modifiers\":[7]}", "cpu-config.msr_modifiers[0]: 7 is a number (needs an object in braces)" },
	{ MSR(""), "cpu-config.msr_modifiers[0].addr: is missing " NUMBER },
	{ MSR("\"addr\":\"0x100000000\",\"bitmap\":\"0\""), "addr: \"0x100000000\" is not known" },
	{ MSR("\"addr\":\"0x10a\""), "msr_modifiers[0].bitmap: is missing (needs a string of 1 to 64 of 0, 1 and x" },
	{ MSR("\"addr\":\"0x10a\",\"bitmap\":\"0b1" ZEROS32 ZEROS32 "\""), "bitmap: \"0b1000" },
	{ MSR("\"addr\":\"0x10a\",\"bitmap\":true"), "bitmap: true is a boolean (needs a string of 1 to 64" },
	{ MSR("\"addr\":\"0x10a\",\"bitmap\":\"0\",\"value\":1"), "unknown key \"value\" (accepted: addr, bitmap)" },
};

static void test_bad(void **state)
{
	struct cpu_template *t;
	struct error err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (!parse_text(bad[i].text, &t, &err))
			fail_msg("%s\n  was accepted", bad[i].text);
		if (!strstr(err.message, bad[i].says))
			fail_msg("%s\n  said: %s\n  expected: %s", bad[i].text, err.message, bad[i].says);
	}
}

/* A list of n times the same. */
static json_t *many(const char *name, const char *element, size_t n)
{
	json_t *list = json_array();

	while (n--)
		json_array_append_new(list, json_loads(element, JSON_DECODE_ANY, NULL));
	return json_pack("{s:o}", name, list);
}

static void test_limits(void **state)
{
	static const struct {
		const char *name, *element;
		size_t max;
	} lists[] = {
		{ "kvm_capabilities", "\"1\"", CPU_TEMPLATE_MAX_CAPS },
		{ "cpuid_modifiers", "{\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[]}",
		  CPU_TEMPLATE_MAX_LEAVES },
		{ "msr_modifiers", "{\"addr\":\"0x0\",\"bitmap\":\"1\"}", CPU_TEMPLATE_MAX_MSRS },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		json_t *most = many(lists[i].name, lists[i].element, lists[i].max);
		json_t *more = many(lists[i].name, lists[i].element, lists[i].max + 1);
		struct cpu_template *t = NULL;
		struct error err = { 0 };
		char says[80];

		assert_int_equal(config_parse_cpu_config(most, &t, &err), 0);
		free(t);
		assert_int_not_equal(config_parse_cpu_config(more, &t, &err), 0);
		snprintf(says, sizeof(says), "cpu-config.%s: %zu are too many (at most %zu)", lists[i].name,
			 lists[i].max + 1, lists[i].max);
		assert_string_equal(err.message, says);
		json_decref(most);
		json_decref(more);
	}
}

static void test_round_trip(void **state)
{
	static const char text[] =
		"{\"kvm_capabilities\":[\"!56\",\"121\"],\"cpuid_modifiers\":[{\"leaf\":\"0x8000001d\",\"subleaf\":"
		"\"0x5\","
		"\"flags\":1,\"modifiers\":[{\"register\":\"ebx\",\"bitmap\":\"0b1xxxxxxxxxxxxxxxxxxxxxxxxxxxxx01\"},"
		"{\"register\":\"edx\",\"bitmap\":\"0b" ZEROS32
		"\"}]},{\"leaf\":\"0x0\",\"subleaf\":\"0x0\",\"flags\":0,"
		"\"modifiers\":[]}],\"msr_modifiers\":[{\"addr\":\"0x10a\",\"bitmap\":"
		"\"0b1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx10\"}]}";
	struct cpu_template *t = good(text);
	json_t *dumped = config_dump_cpu_config(t);
	char *again = json_dumps(dumped, JSON_COMPACT);

	(void)state;
	assert_string_equal(again, text);
	free(again);
	json_decref(dumped);
	free(t);
}

/* ---- in the file ---- */

#define MACHINE(name) "\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"" name "\"}"

static void test_static_in_file(void **state)
{
	static const char *const names[] = { "C3", "T2", "T2S", "T2CL", "T2A" };
	struct config cfg;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char text[160];

		snprintf(text, sizeof(text), "{" MACHINE("%s") "}", names[i]);
		parse_good(text, &cfg);
		assert_string_equal(cfg.machine.cpu_template, names[i]);
		assert_null(cfg.cpu_template);
		config_free(&cfg);
	}
}

static void test_v1n1_in_file(void **state)
{
	struct config cfg;
	struct error err;

	(void)state;
	assert_int_not_equal(parse_bytes("{" MACHINE("V1N1") "}", strlen("{" MACHINE("V1N1") "}"), &cfg, &err), 0);
	assert_string_equal(err.message, "machine-config.cpu_template: \"V1N1\" is for Arm processors, this is an x86 "
					 "(needs one of \"None\", \"C3\", \"T2\", \"T2S\", \"T2CL\", \"T2A\")");
	config_free(&cfg);
}

/* A custom template takes the place of a static one, wherever they stand in the file. */
static void test_both_in_file(void **state)
{
	static const char *const texts[] = {
		"{" MACHINE("T2") ",\"cpu-config\":{\"kvm_capabilities\":[\"7\"]}}",
		"{\"cpu-config\":{\"kvm_capabilities\":[\"7\"]}," MACHINE("T2") "}",
	};
	struct config cfg;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		json_t *dumped;

		parse_good(texts[i], &cfg);
		assert_string_equal(cfg.machine.cpu_template, "");
		assert_non_null(cfg.cpu_template);
		assert_int_equal(cfg.cpu_template->caps[0].cap, 7);
		dumped = config_dump(&cfg);
		assert_int_equal(
			json_array_size(json_object_get(json_object_get(dumped, "cpu-config"), "kvm_capabilities")), 1);
		json_decref(dumped);
		config_free(&cfg);
	}
}

static void test_none_in_file(void **state)
{
	struct config cfg;
	json_t *dumped;

	(void)state;
	parse_good("{" MACHINE("None") ",\"cpu-config\":null}", &cfg);
	assert_null(cfg.cpu_template);
	dumped = config_dump(&cfg);
	assert_true(json_is_null(json_object_get(dumped, "cpu-config")));
	json_decref(dumped);
	config_free(&cfg);
}

/* As Firecracker has it, the file may name another one. */
static void test_path_in_file(void **state)
{
	char inner[] = "/tmp/test_cpu_XXXXXX", text[128];
	int fd = mkstemp(inner);
	struct config cfg;
	struct error err;

	(void)state;
	assert_true(fd >= 0);
	snprintf(text, sizeof(text), "{\"cpu-config\":\"%s\"}", inner);
	assert_int_equal(write(fd, "{\"kvm_capabilities\":[\"9\"]}", 26), 26);
	parse_good(text, &cfg);
	assert_int_equal(cfg.cpu_template->caps[0].cap, 9);
	config_free(&cfg);

	assert_int_equal(pwrite(fd, "{\"kvm_capabilities\":[\"x\"]}", 26, 0), 26);
	assert_int_not_equal(parse_bytes(text, strlen(text), &cfg, &err), 0);
	assert_non_null(strstr(err.message, "cpu-config.kvm_capabilities[0]: \"x\" is not known"));
	assert_null(cfg.cpu_template);

	assert_int_equal(pwrite(fd, "[", 1, 0), 1);
	assert_int_not_equal(parse_bytes(text, strlen(text), &cfg, &err), 0);
	assert_memory_equal(err.message, inner, strlen(inner));

	close(fd);
	unlink(inner);
	assert_int_not_equal(parse_bytes(text, strlen(text), &cfg, &err), 0);
	assert_non_null(strstr(err.message, "No such file"));
	assert_int_not_equal(parse_bytes("{\"cpu-config\":\"\"}", 17, &cfg, &err), 0);
	assert_non_null(strstr(err.message, "cpu-config: is empty (needs a path of 1 to 4095 bytes"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),           cmocka_unit_test(test_a_register_twice),
		cmocka_unit_test(test_empty),          cmocka_unit_test(test_bad),
		cmocka_unit_test(test_limits),         cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_static_in_file), cmocka_unit_test(test_v1n1_in_file),
		cmocka_unit_test(test_both_in_file),   cmocka_unit_test(test_none_in_file),
		cmocka_unit_test(test_path_in_file),
	};

	return cmocka_run_group_tests(tests, make_file, remove_file);
}
