/* config_dump.c: writes each resource as GET answers it. */
#include "config_dump.h"

#include <arpa/inet.h>
#include <stdio.h>

static const char *or_null(const char *text)
{
	return text[0] ? text : NULL;
}

static json_t *dump_bucket(const struct token_bucket_config *b)
{
	if (!b->size)
		return json_null();
	return json_pack("{s:I, s:I, s:I}", "size", (json_int_t)b->size, "one_time_burst",
			 (json_int_t)b->one_time_burst, "refill_time", (json_int_t)b->refill_time);
}

static json_t *dump_limiter(const struct rate_limiter_config *rl)
{
	if (!rl->bandwidth.size && !rl->ops.size)
		return json_null();
	return json_pack("{s:o, s:o}", "bandwidth", dump_bucket(&rl->bandwidth), "ops", dump_bucket(&rl->ops));
}

json_t *config_dump_boot_source(const struct boot_source_config *boot)
{
	return json_pack("{s:s?, s:s?, s:s?}", "kernel_image_path", or_null(boot->kernel_image_path), "initrd_path",
			 or_null(boot->initrd_path), "boot_args", boot->boot_args_given ? boot->boot_args : NULL);
}

json_t *config_dump_machine_config(const struct machine_config *m)
{
	static const char *const huge[] = {
		[HUGE_PAGES_NONE] = "None",
		[HUGE_PAGES_TRANSPARENT] = "Transparent",
		[HUGE_PAGES_2M] = "2M",
	};

	return json_pack("{s:I, s:I, s:b, s:s*, s:b, s:s}", "vcpu_count", (json_int_t)m->vcpu_count, "mem_size_mib",
			 (json_int_t)m->mem_size_mib, "smt", m->smt, "cpu_template", or_null(m->cpu_template),
			 "track_dirty_pages", m->track_dirty_pages, "huge_pages", huge[m->huge_pages]);
}

json_t *config_dump_drive(const struct drive_config *d)
{
	return json_pack("{s:s, s:s?, s:b, s:s, s:b, s:s, s:s?, s:o, s:s, s:n}", "drive_id", d->drive_id, "partuuid",
			 or_null(d->partuuid), "is_root_device", d->is_root_device, "cache_type",
			 d->cache_type == CACHE_WRITEBACK ? "Writeback" : "Unsafe", "is_read_only", d->is_read_only,
			 "path_on_host", d->path_on_host, "overlay_path", or_null(d->overlay_path), "rate_limiter",
			 dump_limiter(&d->rate_limiter), "io_engine",
			 d->io_engine == IO_ENGINE_ASYNC ? "Async" : "Sync", "socket");
}

json_t *config_dump_net(const struct net_config *n)
{
	const uint8_t *m = n->guest_mac;
	char mac[18];

	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
	return json_pack("{s:s, s:s, s:s?, s:o, s:o, s:o, s:o}", "iface_id", n->iface_id, "host_dev_name",
			 n->host_dev_name, "guest_mac", n->mac_given ? mac : NULL, "mtu",
			 n->mtu ? json_integer(n->mtu) : json_null(), "rx_rate_limiter", dump_limiter(&n->rx),
			 "tx_rate_limiter", dump_limiter(&n->tx), "egress", config_dump_egress(&n->egress));
}

json_t *config_dump_vsock(const struct vsock_config *v)
{
	return json_pack("{s:I, s:s, s:s*}", "guest_cid", (json_int_t)v->guest_cid, "uds_path", v->uds_path, "vsock_id",
			 or_null(v->vsock_id));
}

json_t *config_dump_mmds_config(const struct mmds_config *mmds)
{
	const struct in_addr addr = { .s_addr = htonl(mmds->ipv4_address) };
	char ip[INET_ADDRSTRLEN];
	json_t *ids = json_array();
	unsigned int i;

	for (i = 0; i < mmds->nr_interfaces; i++)
		(void)json_array_append_new(ids, json_string(mmds->network_interfaces[i]));
	inet_ntop(AF_INET, &addr, ip, sizeof(ip));
	return json_pack("{s:s, s:o, s:s, s:b}", "version", mmds->version == MMDS_V2 ? "V2" : "V1",
			 "network_interfaces", ids, "ipv4_address", ip, "imds_compat", mmds->imds_compat);
}

json_t *config_dump_serial(const struct serial_config *s)
{
	return json_pack("{s:s?, s:s?, s:o}", "serial_out_path", or_null(s->serial_out_path), "serial_socket_path",
			 or_null(s->serial_socket_path), "rate_limiter", dump_bucket(&s->rate_limiter));
}

json_t *config_dump_logger(const struct log_config *log)
{
	static const char *const level[] = { "Off", "Error", "Warn", "Info", "Debug", "Trace" };

	return json_pack("{s:s?, s:s, s:b, s:b, s:s?}", "log_path", or_null(log->log_path), "level", level[log->level],
			 "show_level", log->show_level, "show_log_origin", log->show_log_origin, "module",
			 or_null(log->module));
}

static json_t *dump_metrics(const struct config *cfg)
{
	json_t *properties = NULL;

	if (!cfg->metrics_path[0])
		return json_null();
	if (cfg->metrics_properties)
		properties = json_loads(cfg->metrics_properties, 0, NULL);
	return json_pack("{s:s, s:b, s:o*}", "metrics_path", cfg->metrics_path, "emit_id", cfg->metrics_emit_id,
			 "properties", properties);
}

json_t *config_dump_drives(const struct config *cfg)
{
	json_t *list = json_array();
	unsigned int i;

	for (i = 0; i < cfg->nr_drives; i++)
		(void)json_array_append_new(list, config_dump_drive(&cfg->drives[i]));
	return list;
}

json_t *config_dump_nets(const struct config *cfg)
{
	json_t *list = json_array();
	unsigned int i;

	for (i = 0; i < cfg->nr_nets; i++)
		(void)json_array_append_new(list, config_dump_net(&cfg->nets[i]));
	return list;
}

json_t *config_dump(const struct config *cfg)
{
	return json_pack("{s:n, s:o, s:o?, s:o?, s:n, s:o, s:o, s:n, s:o, s:o?, s:o, s:[], s:o, s:o?}", "balloon",
			 "drives", config_dump_drives(cfg), "boot-source",
			 cfg->boot.present ? config_dump_boot_source(&cfg->boot) : NULL, "cpu-config",
			 cfg->cpu_template ? config_dump_cpu_config(cfg->cpu_template) : NULL, "entropy", "logger",
			 config_dump_logger(&cfg->log), "machine-config", config_dump_machine_config(&cfg->machine),
			 "memory-hotplug", "metrics", dump_metrics(cfg), "mmds-config",
			 cfg->mmds.present ? config_dump_mmds_config(&cfg->mmds) : NULL, "network-interfaces",
			 config_dump_nets(cfg), "pmem", "serial", config_dump_serial(&cfg->serial), "vsock",
			 cfg->vsock.present ? config_dump_vsock(&cfg->vsock) : NULL);
}
