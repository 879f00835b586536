/* api_requests.h: paths and methods of the API, and requests that are right, for fuzz_api.c to start from. */
#ifndef MAYFLY_FUZZ_API_REQUESTS_H
#define MAYFLY_FUZZ_API_REQUESTS_H

static const char *const paths[] = {
	"/",
	"/version",
	"/vm/config",
	"/vm",
	"/machine-config",
	"/boot-source",
	"/cpu-config",
	"/drives",
	"/drives/a",
	"/drives/b",
	"/network-interfaces",
	"/network-interfaces/a",
	"/network-interfaces/b",
	"/vsock",
	"/mmds",
	"/mmds/config",
	"/logger",
	"/serial",
	"/metrics",
	"/events",
	"/actions",
	"/balloon",
	"/snapshot/create",
};
static const char *const verbs[] = { "GET", "PUT", "PATCH", "DELETE", "HEAD", "POST", "PUT", "PATCH" };

/* Bodies that are right, for the input to start from: which path, and what. '\1' stands for more of the input. */
static const struct {
	const char *verb, *path, *body;
} requests[] = {
	{ "PUT", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/disk\",\"is_root_device\":true}" },
	{ "PUT", "/drives/b",
	  "{\"drive_id\":\"b\",\"path_on_host\":\"/disk\",\"is_root_device\":false,\"is_read_only\":true\1}" },
	{ "PATCH", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/disk\"\1}" },
	{ "PATCH", "/drives/a",
	  "{\"drive_id\":\"a\",\"rate_limiter\":{\"bandwidth\":{\"size\":1,\"refill_time\":1\1}}}" },
	{ "PUT", "/network-interfaces/a", "{\"iface_id\":\"a\",\"host_dev_name\":\"t\"\1}" },
	{ "PUT", "/network-interfaces/b",
	  "{\"iface_id\":\"b\",\"guest_mac\":\"06:00:00:00:00:01\",\"host_dev_name\":\"u\",\"egress\":{\"anti_spoof\":"
	  "true\1}}" },
	{ "PATCH", "/network-interfaces/a",
	  "{\"iface_id\":\"a\",\"rx_rate_limiter\":{\"ops\":{\"size\":1,\"refill_time\":1}}\1}" },
	{ "PATCH", "/network-interfaces/b", "{\"iface_id\":\"b\",\"egress\":{\1}}" },
	{ "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"/v\"\1}" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":128\1}" },
	{ "PATCH", "/machine-config", "{\1}" },
	{ "PUT", "/cpu-config",
	  "{\"cpuid_modifiers\":[{\"leaf\":\"0x1\",\"subleaf\":\"0x0\",\"flags\":0,\"modifiers\":[{\"register\":"
	  "\"eax\",\"bitmap\":\"0b1\1\"}]}]}" },
	{ "PUT", "/cpu-config",
	  "{\"msr_modifiers\":[{\"addr\":\"0x10\",\"bitmap\":\"0bx1\1\"}],\"kvm_capabilities\":[\"1\"]}" },
	{ "PUT", "/boot-source", "{\"kernel_image_path\":\"/k\",\"boot_args\":\"a\"\1}" },
	{ "PUT", "/mmds", "{\"a\":{\"b\":1,\"c\":[1,2]}\1}" },
	{ "PATCH", "/mmds", "{\"a\":{\"b\":null\1}}" },
	{ "PUT", "/mmds/config", "{\"network_interfaces\":[\"a\"],\"version\":\"V2\"\1}" },
	{ "PUT", "/logger", "{\"log_path\":\"/dev/null\",\"level\":\"Info\"\1}" },
	{ "PUT", "/metrics", "{\"metrics_path\":\"/dev/null\"\1}" },
	{ "PUT", "/serial", "{\"serial_out_path\":\"/s\"\1}" },
	{ "PUT", "/actions", "{\"action_type\":\"InstanceStart\"\1}" },
	{ "PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}" },
	{ "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}" },
	{ "PATCH", "/vm", "{\"state\":\"Paused\"\1}" },
	{ "PATCH", "/vm", "{\"state\":\"Resumed\"}" },
	{ "GET", "/vm/config", "" },
	{ "GET", "/events", "" },
	{ "GET", "/metrics", "" },
	{ "GET", "/drives/a", "" },
	{ "GET", "/network-interfaces/b", "" },
	{ "GET", "/mmds/config", "" },
	{ "GET", "/cpu-config", "" },
	{ "DELETE", "/drives/a", "" },
	{ "DELETE", "/network-interfaces/a", "" },
	{ "DELETE", "/vsock", "" },
};
#define NR_REQUESTS (sizeof(requests) / sizeof(requests[0]))

#endif
