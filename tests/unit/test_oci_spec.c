/* test_oci_spec.c: config.json and process.json, as engines write them and as nobody should. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "containers/oci_cgroup.h"
#include "containers/oci_machine.h"
#include "containers/oci_spec.h"
#include "containers/oci_values.h"

/* With ' in place of ". */
static json_t *json_of(const char *text)
{
	char *copy = strdup(text), *at;
	json_error_t why;
	json_t *json;

	for (at = copy; *at; at++)
		if (*at == '\'')
			*at = '"';
	json = json_loads(copy, 0, &why);
	if (!json)
		fail_msg("%s in %s", why.text, copy);
	free(copy);
	return json;
}

static const char base[] =
	"{'ociVersion': '1.0.2-dev', 'root': {'path': 'rootfs'}, 'hostname': 'h', 'process': {'args': ['sh', '-c', "
	"'x'], 'cwd': '/',"
	" 'env': ['A=b'], 'user': {'uid': 1, 'gid': 2, 'additionalGids': [3, 4], 'umask': 18}, 'noNewPrivileges': true,"
	" 'capabilities': {'bounding': ['CAP_KILL']}, 'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 10, 'hard': 20}]},"
	" 'mounts': [{'destination': '/proc', 'type': 'proc', 'source': 'proc'}, {'destination': '/etc/hosts', 'type': "
	"'bind', 'source':"
	" '/h', 'options': ['rbind', 'ro']}], 'linux': {'cgroupsPath': '/a/b', 'namespaces': [{'type': 'pid'}, "
	"{'type': 'network', 'path':"
	" '/run/netns/x'}], 'resources': {'memory': {'limit': 104857600}, 'cpu': {'quota': 150000, 'period': "
	"100000}}}}";

static int parse(json_t *json, struct oci_spec *spec, struct error *err)
{
	*err = (struct error){ 0 };
	return oci_spec_parse(json, "/bundle", spec, err);
}

static void an_engines(void **state)
{
	struct oci_spec s;
	struct error err;
	uint64_t memory, cpus;

	(void)state;
	assert_int_equal(parse(json_of(base), &s, &err), 0);
	assert_string_equal(s.root, "/bundle/rootfs");
	assert_string_equal(s.hostname, "h");
	assert_int_equal(s.process.uid, 1);
	assert_int_equal(s.process.gid, 2);
	assert_int_equal(s.process.nr_groups, 2);
	assert_int_equal(s.process.umask, 022);
	assert_true(s.process.no_new_privs);
	assert_false(s.process.terminal || s.sandbox || s.root_read_only);
	assert_int_equal(json_array_size(s.process.args), 3);
	assert_int_equal(s.nr_mounts, 2);
	assert_int_equal(s.mounts[0].kind, MOUNT_OF_GUEST);
	assert_true(s.mounts[1].kind == MOUNT_BIND && s.mounts[1].read_only);
	assert_string_equal(s.netns, "/run/netns/x");
	assert_int_equal(oci_machine_size(&s, &memory, &cpus, &err), 0);
	assert_true(memory == 100 << 20 && cpus == 2);
	oci_spec_free(&s);
}

/* base with the value at a path of keys replaced. */
static json_t *with(const char *path, const char *value)
{
	json_t *json = json_of(base), *at = json, *to;
	char copy[128], wrapped[1024], *key, *next, *rest = copy;

	snprintf(copy, sizeof(copy), "%s", path);
	snprintf(wrapped, sizeof(wrapped), "[%s]", value);
	to = json_of(wrapped);
	key = strsep(&rest, ".");
	for (; (next = strsep(&rest, ".")) != NULL; key = next) {
		if (!json_object_get(at, key))
			json_object_set_new(at, key, json_object());
		at = json_object_get(at, key);
	}
	json_object_set(at, key, json_array_get(to, 0));
	json_decref(to);
	return json;
}

static const struct refusal {
	const char *path, *value, *sentence;
} refusals[] = {
	{ "ociVersion", "'2.0.0'", "ociVersion" },
	{ "ociVersion", "7", "ociVersion" },
	{ "root", "[]", "root" },
	{ "root.path", "''", "root.path" },
	{ "root.path", "1", "root.path" },
	{ "root.readonly", "'yes'", "root.readonly" },
	{ "process", "7", "process" },
	{ "process.args", "[]", "process.args" },
	{ "process.args", "['']", "process.args" },
	{ "process.args", "['a', 1]", "process.args" },
	{ "process.args", "'sh'", "process.args" },
	{ "process.env", "['A']", "process.env" },
	{ "process.env", "{}", "process.env" },
	{ "process.cwd", "'here'", "process.cwd" },
	{ "process.cwd", "null", "process.cwd" },
	{ "process.user.uid", "-1", "uid" },
	{ "process.user.uid", "4294967295", "uid" },
	{ "process.user.uid", "'0'", "uid" },
	{ "process.user.uid", "1.5", "uid" },
	{ "process.user.umask", "512", "umask" },
	{ "process.user.additionalGids", "[-1]", "additionalGids" },
	{ "process.user.additionalGids", "['x']", "additionalGids" },
	{ "process.terminal", "1", "process.terminal" },
	{ "process.rlimits", "{}", "process.rlimits" },
	{ "process.rlimits", "[{'type': 'RLIMIT_NOFILE', 'soft': 9, 'hard': 8}]", "process.rlimits" },
	{ "process.rlimits", "[{'type': 'a=b', 'soft': 1, 'hard': 2}]", "process.rlimits" },
	{ "process.rlimits", "[7]", "process.rlimits" },
	{ "process.capabilities", "[]", "capabilities" },
	{ "process.capabilities.bounding", "[1]", "bounding" },
	{ "process.oomScoreAdj", "1001", "oomScoreAdj" },
	{ "process.consoleSize", "{'height': -1}", "height" },
	{ "hostname", "{}", "hostname" },
	{ "mounts", "{}", "mounts" },
	{ "mounts", "[1]", "mounts" },
	{ "mounts", "[{'destination': 'x'}]", "destination" },
	{ "mounts", "[{'destination': '/a/../b', 'type': 'tmpfs'}]", "destination" },
	{ "mounts", "[{'destination': '/a', 'type': 'bind'}]", "source" },
	{ "mounts", "[{'destination': '/a', 'type': 'nfs', 'source': 'x'}]", "mounts: /a" },
	{ "mounts", "[{'destination': '/a', 'options': [1]}]", "options" },
	{ "hooks", "[]", "hooks" },
	{ "hooks", "{'createContainer': [{'path': '/x'}]}", "hooks.createContainer" },
	{ "hooks", "{'startContainer': [{'path': '/x'}]}", "hooks.startContainer" },
	{ "hooks", "{'startContainer': {'path': '/x'}}", "hooks.startContainer" },
	{ "hooks", "{'prestart': {}}", "hooks.prestart" },
	{ "hooks", "{'prestart': [7]}", "hooks.prestart.path" },
	{ "hooks", "{'createRuntime': [{'path': 'x'}]}", "hooks.createRuntime.path" },
	{ "hooks", "{'poststart': [{'path': '/x', 'args': 'x'}]}", "hooks.poststart.args" },
	{ "hooks", "{'poststart': [{'path': '/x', 'env': [1]}]}", "hooks.poststart.env" },
	{ "hooks", "{'poststop': [{'path': '/x'}, {'path': '/x', 'timeout': 0}]}", "hooks.poststop.timeout" },
	{ "annotations", "{'a': 1}", "annotations" },
	{ "linux", "[]", "linux" },
	{ "linux.cgroupsPath", "1", "cgroupsPath" },
	{ "linux.namespaces", "[{'type': 'pid'}]", "--network=host" },
	{ "linux.namespaces", "[{'type': 'network'}]", "--pid=host" },
	{ "linux.namespaces", "[{'type': 'network'}, {'type': 'pid', 'path': '/proc/1/ns/pid'}]", "--pid=host" },
	{ "linux.namespaces", "[{}]", "namespaces" },
	{ "linux.namespaces", "7", "--network=host" },
	{ "linux.resources", "7", "resources" },
	{ "linux.resources.memory", "[]", "memory" },
	{ "linux.resources.memory.limit", "'1G'", "limit" },
	{ "linux.resources.cpu.period", "-5", "period" },
	{ "linux.resources.cpu.cpus", "3", "cpus" },
	{ "linux.uidMappings", "[{'containerID': 0, 'hostID': 1, 'size': 2}]", "uidMappings" },
	{ "linux.devices", "[{'path': '/dev/fuse', 'type': 'c'}]", "/dev/fuse" },
	{ "linux.devices", "[{}]", "linux.devices" },
	{ "linux.sysctl", "{'a': 1}", "sysctl" },
	{ "linux.maskedPaths", "['/proc/kcore', '/etc/secret']", "linux.maskedPaths: /etc/secret" },
	{ "linux.maskedPaths", "['/proc/../etc/secret']", "linux.maskedPaths: /proc/../etc/secret" },
	{ "linux.readonlyPaths", "['/proc']", "linux.readonlyPaths: /proc:" },
	{ "linux.readonlyPaths", "{}", "readonlyPaths" },
};

static void refused(void **state)
{
	struct oci_spec s;
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refusal *r = &refusals[i];

		if (parse(with(r->path, r->value), &s, &err) == 0)
			fail_msg("%s = %s was taken", r->path, r->value);
		if (!strstr(err.message, r->sentence))
			fail_msg("%s = %s: \"%s\" does not name %s", r->path, r->value, err.message, r->sentence);
		assert_null(s.json);
	}
}

static void taken(void **state)
{
	static const struct refusal good[] = {
		{ "linux.resources", "{}", "" },
		{ "linux.resources.memory.limit", "-1", "" },
		{ "linux.resources.memory.limit", "0", "" },
		{ "linux.devices", "[{'path': '/dev/null'}]", "" },
		{ "linux.maskedPaths", "['/proc/kcore', '/sys/firmware']", "" },
		{ "linux.readonlyPaths", "null", "" },
		{ "hooks", "{'prestart': [], 'startContainer': [], 'poststop': null, 'unknown': 7}", "" },
		{ "hooks", "{'poststop': [{'path': '/x', 'args': ['x'], 'env': [], 'timeout': 1}]}", "" },
		{ "mounts", "null", "" },
		{ "process.user", "null", "" },
		{ "process.capabilities", "null", "" },
		{ "linux.resources.cpu", "{'quota': 0, 'period': 0}", "" },
		{ "process.rlimits", "[{'type': 'RLIMIT_NOFILE', 'soft': 1.0, 'hard': 18446744073709551615.0}]", "" },
		{ "unknown", "{'x': [1, 2]}", "" },
	};
	uint64_t memory, cpus;
	struct oci_spec s;
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (parse(with(good[i].path, good[i].value), &s, &err))
			fail_msg("%s = %s: %s", good[i].path, good[i].value, err.message);
		assert_int_equal(oci_machine_size(&s, &memory, &cpus, &err), 0);
		assert_true(memory >= 64 << 20 && cpus >= 1 && cpus <= 32);
		oci_spec_free(&s);
	}
}

static void too_many(void **state)
{
	json_t *json = json_of(base), *mounts = json_array();
	struct oci_spec s;
	struct error err;
	int i;

	(void)state;
	for (i = 0; i <= OCI_MOUNTS; i++)
		json_array_append_new(mounts, json_pack("{s:s, s:s}", "destination", "/a", "type", "tmpfs"));
	json_object_set_new(json, "mounts", mounts);
	assert_int_equal(parse(json, &s, &err), -E2BIG);
}

static void sizes(void **state)
{
	static const struct {
		const char *path, *value;
		uint64_t memory, cpus; /* 0: refused */
	} cases[] = {
		{ "linux.resources.memory.limit", "1000000", 64, 2 },
		{ "linux.resources.memory.limit", "104857601", 101, 2 },
		{ "linux.resources", "{}", 512, 1 },
		{ "linux.resources.cpu.quota", "50000", 100, 1 },
		{ "linux.resources.cpu.quota", "100000000", 100, 32 },
		{ "linux.resources.memory.limit", "9223372036854771712", 512, 2 },
		{ "linux.resources.memory.limit", "18446744073709551615.0", 512, 2 },
		{ "linux.resources.cpu.quota", "9223372036854775807", 100, 1 },
		{ "linux.resources.cpu.quota", "4611686018427387904", 100, 32 },
		{ "annotations", "{'org.mayfly.cpus': '4'}", 100, 4 },
		{ "annotations", "{'org.mayfly.memory': '1G'}", 100, 2 },
		{ "annotations", "{'org.mayfly.memory': '1M'}", 0, 0 },
		{ "annotations", "{'org.mayfly.cpus': '33'}", 0, 0 },
		{ "annotations", "{'org.mayfly.cpus': 'many'}", 0, 0 },
	};
	uint64_t memory, cpus;
	struct oci_spec s;
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(parse(with(cases[i].path, cases[i].value), &s, &err), 0);
		if (!cases[i].memory) {
			assert_int_equal(oci_machine_size(&s, &memory, &cpus, &err), -EINVAL);
		} else {
			assert_int_equal(oci_machine_size(&s, &memory, &cpus, &err), 0);
			assert_int_equal(memory >> 20, cases[i].memory);
			assert_int_equal(cpus, cases[i].cpus);
		}
		oci_spec_free(&s);
	}
}

static void sandboxes(void **state)
{
	static const struct {
		const char *path, *value;
		bool sandbox;
	} cases[] = {
		{ "annotations", "{'io.kubernetes.cri.container-type': 'sandbox'}", true },
		{ "annotations", "{'io.kubernetes.cri.container-type': 'container'}", false },
		{ "annotations", "{'io.kubernetes.cri-o.ContainerType': 'sandbox'}", true },
		{ "process.args", "['/pause']", true },
		{ "process.args", "['/catatonit', '-P']", true },
		{ "process.args", "['/catatonit', '--', 'sh']", false },
		{ "process.args", "['pause']", false },
	};
	struct oci_spec s;
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(parse(with(cases[i].path, cases[i].value), &s, &err), 0);
		assert_int_equal(s.sandbox, cases[i].sandbox);
		oci_spec_free(&s);
	}
}

static void cgroups(void **state)
{
	static const char *const good[][2] = {
		{ NULL, "/mayfly-oci/id" },
		{ "", "/mayfly-oci/id" },
		{ "/a/b", "/a/b" },
		{ "a/b", "/a/b" },
		{ "machine.slice:libpod:123", "/machine.slice/libpod-123.scope" },
		{ "user-1000-x.slice:cri:1", "/user.slice/user-1000.slice/user-1000-x.slice/cri-1.scope" },
		{ "-.slice:p:n", "/p-n.scope" },
		{ ":p:n", "/system.slice/p-n.scope" },
	};
	static const char *const bad[] = { "/../x", "/a/..", "a/../../b", "/", "//" };
	char out[PATH_MAX];
	struct error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(oci_cgroup_path(good[i][0], "id", out, &err), 0);
		assert_string_equal(out, good[i][1]);
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(oci_cgroup_path(bad[i], "id", out, &err), -EINVAL);
}

static void files(void **state)
{
	char name[] = "/tmp/mayfly-oci-XXXXXX";
	static const char *const bad[] = { "", "[]", "{", "{'a': 1, 'a': 2}", "{'a': '\\u0000'}", "7" };
	static const char unlimited[] = "{\"n\": 18446744073709551615, \"m\": 7}";
	int fd = mkstemp(name);
	struct error err = { 0 };
	json_t *json;
	size_t i, n;

	(void)state;
	assert_true(fd >= 0);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[64];

		snprintf(text, sizeof(text), "%s", bad[i]);
		for (n = 0; text[n]; n++)
			text[n] = text[n] == '\'' ? '"' : text[n];
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(pwrite(fd, text, n, 0), n);
		assert_null(oci_read_json(name, &err));
		assert_non_null(strstr(err.message, name));
	}
	assert_int_equal(pwrite(fd, unlimited, strlen(unlimited), 0), strlen(unlimited));
	json = oci_read_json(name, &err);
	assert_non_null(json);
	json_decref(json);
	assert_int_equal(ftruncate(fd, OCI_CONFIG_MAX + 1), 0);
	assert_null(oci_read_json(name, &err));
	assert_non_null(strstr(err.message, "4 MiB"));
	close(fd);
	unlink(name);
	assert_null(oci_read_json(name, &err));
}

static void pods(void **state)
{
	static const char kube[] =
		"{'io.kubernetes.cri.container-type': 'container', 'io.kubernetes.cri.sandbox-id': 'one'}";
	static const char crio[] =
		"{'io.kubernetes.cri-o.ContainerType': 'container', 'io.kubernetes.cri-o.SandboxID': 'one'}";
	static const char own[] =
		"{'io.kubernetes.cri.container-type': 'sandbox', 'io.kubernetes.cri.sandbox-id': 'one'}";
	json_t *sandbox = json_of("{'hostname': 'pod', 'sysctl': {'net.a': '1', 'net.b': '2'}}");
	json_t *json = with("annotations", crio);
	struct oci_spec s;
	struct error err;

	(void)state;
	assert_int_equal(parse(with("annotations", own), &s, &err), 0);
	assert_null(s.pod);
	oci_spec_free(&s);

	/* What the container says itself goes before. */
	assert_int_equal(parse(with("annotations", kube), &s, &err), 0);
	assert_string_equal(s.pod, "one");
	oci_spec_join(&s, sandbox);
	assert_string_equal(s.hostname, "h");
	assert_string_equal(json_string_value(json_object_get(s.sysctl, "net.b")), "2");
	oci_spec_free(&s);

	json_object_del(json, "hostname");
	json_object_set_new(json_object_get(json, "linux"), "sysctl", json_of("{'net.a': '3'}"));
	assert_int_equal(parse(json, &s, &err), 0);
	assert_string_equal(s.pod, "one");
	oci_spec_join(&s, sandbox);
	assert_string_equal(s.hostname, "pod");
	assert_string_equal(json_string_value(json_object_get(s.sysctl, "net.a")), "3");
	assert_string_equal(json_string_value(json_object_get(s.sysctl, "net.b")), "2");
	oci_spec_free(&s);

	/* A sandbox of an older version, which does not say. */
	json_object_del(sandbox, "hostname");
	json_object_del(sandbox, "sysctl");
	json = with("annotations", kube);
	json_object_del(json, "hostname");
	assert_int_equal(parse(json, &s, &err), 0);
	oci_spec_join(&s, sandbox);
	assert_true(!s.hostname && json_object_size(s.sysctl) == 0);
	oci_spec_free(&s);
	json_decref(sandbox);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_engines), cmocka_unit_test(refused), cmocka_unit_test(taken),
		cmocka_unit_test(too_many),   cmocka_unit_test(sizes),   cmocka_unit_test(sandboxes),
		cmocka_unit_test(pods),       cmocka_unit_test(cgroups), cmocka_unit_test(files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
