/* resources.c: what the microVM will be made of: checked, kept, shown and taken back before it is started. */
#include "api_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config_dump.h"
#include "config_json.h"
#include "inherited.h"
#include "log.h"
#include "metrics.h"
#include "text.h"

static void changed(struct call *call, const char *event, const char *resource)
{
	events_add(&call->api->events, event, ",\"resource\":\"%s%s%s\"", resource, call->id[0] ? "/" : "", call->id);
}

static void configured(struct call *call, const char *resource)
{
	changed(call, "configured", resource);
}

static int not_found(struct call *call, const char *what, struct error *err)
{
	call->status = 404;
	if (call->id[0])
		return error_set(err, -ENOENT, "There is no %s \"%s\".", what, call->id);
	return error_set(err, -ENOENT, "No %s is configured.", what);
}

/* As a first look, so that the mistake is known with the request that made it; what counts is opening it at the start.
 */
static int check_readable(const char *field, const char *path, int mode, struct error *err)
{
	if (!path[0] || access(path, mode) == 0)
		return 0;
	return error_set(err, -errno, "%s: %s: %s (needs a file that can be %s)", field, text_path_shown(path),
			 strerror(errno), mode & W_OK ? "read and written" : "read");
}

static int check_id(const struct call *call, const char *id, struct error *err)
{
	if (strcmp(id, call->id) == 0)
		return 0;
	return error_set(err, -EINVAL, "The id from the path [%s] does not match the id from the body [%s]!", call->id,
			 id);
}

/* ---- boot-source, machine-config, cpu-config ---- */

int put_boot_source(struct call *call, struct error *err)
{
	struct boot_source_config *boot = malloc(sizeof(*boot));
	int ret;

	if (!boot)
		return error_set(err, -ENOMEM, "no memory");
	ret = config_parse_boot_source(call->body, boot, err);
	if (!ret)
		ret = check_readable("boot-source.kernel_image_path", boot->kernel_image_path, R_OK, err);
	if (!ret)
		ret = check_readable("boot-source.initrd_path", boot->initrd_path, R_OK, err);
	if (!ret) {
		call->api->cfg->boot = *boot;
		configured(call, "/boot-source");
	}
	free(boot);
	return ret;
}

int get_boot_source(struct call *call, struct error *err)
{
	if (!call->api->cfg->boot.present)
		return not_found(call, "boot source", err);
	call->answer = config_dump_boot_source(&call->api->cfg->boot);
	return 0;
}

static int set_machine_config(struct call *call, const json_t *json, struct error *err)
{
	struct config *cfg = call->api->cfg;
	struct machine_config machine;
	int ret = config_parse_machine_config(json, &machine, err);

	if (ret)
		return ret;
	/* As in Firecracker: of a custom template and one by name ("None", too) the last counts. */
	if (machine.cpu_template[0])
		config_set_cpu_template(cfg, NULL);
	cfg->machine = machine;
	configured(call, "/machine-config");
	return 0;
}

int put_machine_config(struct call *call, struct error *err)
{
	return set_machine_config(call, call->body, err);
}

/* What the body leaves out stays as it is. */
int patch_machine_config(struct call *call, struct error *err)
{
	json_t *whole;
	int ret;

	if (!json_is_object(call->body) || !json_object_size(call->body))
		return error_set(err, -EINVAL,
				 "machine-config: nothing to change (needs an object with a field or more)");
	whole = config_dump_machine_config(&call->api->cfg->machine);
	ret = json_object_update(whole, call->body) ? error_set(err, -ENOMEM, "no memory")
						    : set_machine_config(call, whole, err);
	json_decref(whole);
	return ret;
}

int get_machine_config(struct call *call, struct error *err)
{
	(void)err;
	call->answer = config_dump_machine_config(&call->api->cfg->machine);
	return 0;
}

int put_cpu_config(struct call *call, struct error *err)
{
	struct cpu_template *cpu_template = NULL;
	int ret = config_parse_cpu_config(call->body, &cpu_template, err);

	if (ret)
		return ret;
	config_set_cpu_template(call->api->cfg, cpu_template);
	configured(call, "/cpu-config");
	return 0;
}

int get_cpu_config(struct call *call, struct error *err)
{
	if (!call->api->cfg->cpu_template)
		return not_found(call, "CPU template", err);
	call->answer = config_dump_cpu_config(call->api->cfg->cpu_template);
	return 0;
}

int get_vm_config(struct call *call, struct error *err)
{
	(void)err;
	call->answer = config_dump(call->api->cfg);
	return 0;
}

/* ---- drives ---- */

static int check_drive(const struct call *call, const struct drive_config *drive, struct error *err)
{
	const int mode = drive->is_read_only || drive->overlay_path[0] ? R_OK : R_OK | W_OK;
	const struct config *cfg = call->api->cfg;
	int ret = check_id(call, drive->drive_id, err);
	char where[32 + TEXT_PATH_ROOM];
	unsigned int i;

	for (i = 0; i < cfg->nr_drives && !ret; i++) {
		const struct drive_config *other = &cfg->drives[i];

		if (strcmp(other->drive_id, drive->drive_id) != 0 && other->is_root_device && drive->is_root_device)
			ret = error_set(err, -EEXIST,
					"drive.is_root_device: drive \"%s\" is the root device already (needs false)",
					other->drive_id);
	}
	if (ret || !inherited_is_name(drive->path_on_host))
		return ret ? ret : check_readable("drive.path_on_host", drive->path_on_host, mode, err);
	snprintf(where, sizeof(where), "drive.path_on_host: %s", text_path_shown(drive->path_on_host));
	ret = inherited_open_file(drive->path_on_host, mode & W_OK ? O_RDWR : O_RDONLY, where, err);
	if (ret < 0)
		return ret;
	close(ret);
	return 0;
}

/* The place for one more at the end of a list, or NULL with a sentence. */
static void *grow(void *list, unsigned int nr, unsigned int max, size_t size, const char *what, struct error *err)
{
	void *more;

	if (nr == max) {
		error_set(err, -ENOSPC, "There are %u %s already (at most %u).", nr, what, max);
		return NULL;
	}
	more = realloc(list, (nr + 1) * size);
	if (!more)
		error_set(err, -ENOMEM, "no memory for one more of %s", what);
	return more;
}

static int set_drive(struct config *cfg, const struct drive_config *drive, struct error *err)
{
	unsigned int i = config_find_drive(cfg, drive->drive_id);
	struct drive_config *drives;

	if (i == cfg->nr_drives) {
		drives = grow(cfg->drives, cfg->nr_drives, CONFIG_MAX_DRIVES, sizeof(*drives), "drives", err);
		if (!drives)
			return err->code;
		cfg->drives = drives;
		cfg->nr_drives++;
	}
	cfg->drives[i] = *drive;
	return 0;
}

int put_drive(struct call *call, struct error *err)
{
	struct drive_config *drive = malloc(sizeof(*drive));
	int ret;

	if (!drive)
		return error_set(err, -ENOMEM, "no memory");
	ret = config_parse_drive(call->body, drive, err);
	if (!ret)
		ret = check_drive(call, drive, err);
	if (!ret)
		ret = set_drive(call->api->cfg, drive, err);
	if (!ret)
		configured(call, "/drives");
	free(drive);
	return ret;
}

int get_drive(struct call *call, struct error *err)
{
	const struct config *cfg = call->api->cfg;
	unsigned int i = config_find_drive(cfg, call->id);

	if (i == cfg->nr_drives)
		return not_found(call, "drive", err);
	call->answer = config_dump_drive(&cfg->drives[i]);
	return 0;
}

int get_drives(struct call *call, struct error *err)
{
	(void)err;
	call->answer = config_dump_drives(call->api->cfg);
	return 0;
}

int delete_drive(struct call *call, struct error *err)
{
	struct config *cfg = call->api->cfg;
	unsigned int i = config_find_drive(cfg, call->id);

	if (i == cfg->nr_drives)
		return not_found(call, "drive", err);
	cfg->nr_drives--;
	memmove(&cfg->drives[i], &cfg->drives[i + 1], (cfg->nr_drives - i) * sizeof(cfg->drives[0]));
	changed(call, "removed", "/drives");
	return 0;
}

/* ---- network-interfaces, vsock ---- */

static int set_net(struct config *cfg, const struct net_config *net, struct error *err)
{
	unsigned int i = config_find_net(cfg, net->iface_id);
	struct net_config *nets;

	if (i == cfg->nr_nets) {
		nets = grow(cfg->nets, cfg->nr_nets, CONFIG_MAX_NETS, sizeof(*nets), "network interfaces", err);
		if (!nets)
			return err->code;
		cfg->nets = nets;
		cfg->nr_nets++;
	}
	cfg->nets[i] = *net;
	return 0;
}

int put_net(struct call *call, struct error *err)
{
	struct net_config net;
	int ret = config_parse_net(call->body, &net, err);

	if (!ret)
		ret = check_id(call, net.iface_id, err);
	if (!ret)
		ret = config_check_net(call->api->cfg, &net, err);
	if (!ret)
		ret = set_net(call->api->cfg, &net, err);
	if (!ret)
		configured(call, "/network-interfaces");
	return ret;
}

int get_net(struct call *call, struct error *err)
{
	const struct config *cfg = call->api->cfg;
	unsigned int i = config_find_net(cfg, call->id);

	if (i == cfg->nr_nets)
		return not_found(call, "network interface", err);
	call->answer = config_dump_net(&cfg->nets[i]);
	return 0;
}

int get_nets(struct call *call, struct error *err)
{
	(void)err;
	call->answer = config_dump_nets(call->api->cfg);
	return 0;
}

/* Nobody could reach the metadata service there any more. */
static void forget_mmds_interface(struct mmds_config *mmds, const char *id)
{
	unsigned int i = 0;

	while (i < mmds->nr_interfaces && strcmp(mmds->network_interfaces[i], id) != 0)
		i++;
	if (!mmds->present || i == mmds->nr_interfaces)
		return;
	mmds->nr_interfaces--;
	memmove(mmds->network_interfaces[i], mmds->network_interfaces[i + 1],
		(mmds->nr_interfaces - i) * sizeof(mmds->network_interfaces[0]));
	mmds->present = mmds->nr_interfaces != 0;
}

int delete_net(struct call *call, struct error *err)
{
	struct config *cfg = call->api->cfg;
	unsigned int i = config_find_net(cfg, call->id);

	if (i == cfg->nr_nets)
		return not_found(call, "network interface", err);
	cfg->nr_nets--;
	memmove(&cfg->nets[i], &cfg->nets[i + 1], (cfg->nr_nets - i) * sizeof(cfg->nets[0]));
	forget_mmds_interface(&cfg->mmds, call->id);
	changed(call, "removed", "/network-interfaces");
	return 0;
}

int put_vsock(struct call *call, struct error *err)
{
	struct vsock_config vsock;
	int ret = config_parse_vsock(call->body, &vsock, err);

	if (ret)
		return ret;
	call->api->cfg->vsock = vsock;
	configured(call, "/vsock");
	return 0;
}

int get_vsock(struct call *call, struct error *err)
{
	if (!call->api->cfg->vsock.present)
		return not_found(call, "vsock", err);
	call->answer = config_dump_vsock(&call->api->cfg->vsock);
	return 0;
}

int delete_vsock(struct call *call, struct error *err)
{
	if (!call->api->cfg->vsock.present)
		return not_found(call, "vsock", err);
	call->api->cfg->vsock.present = false;
	changed(call, "removed", "/vsock");
	return 0;
}

/* ---- logger, metrics, serial ---- */

int put_logger(struct call *call, struct error *err)
{
	struct log_config *log = malloc(sizeof(*log));
	int ret;

	if (!log)
		return error_set(err, -ENOMEM, "no memory");
	*log = call->api->cfg->log;
	ret = config_update_logger(call->body, log, err);
	if (!ret)
		ret = log_init(log, call->api->id, err);
	if (!ret) {
		call->api->cfg->log = *log;
		configured(call, "/logger");
	}
	free(log);
	return ret;
}

int get_logger(struct call *call, struct error *err)
{
	(void)err;
	call->answer = config_dump_logger(&call->api->cfg->log);
	return 0;
}

int put_metrics(struct call *call, struct error *err)
{
	struct config *cfg = call->api->cfg;
	int ret;

	if (cfg->metrics_path[0])
		return error_set(err, -EEXIST, "metrics.metrics_path: metrics go to %s already (once per microVM)",
				 text_path_shown(cfg->metrics_path));
	ret = config_parse_metrics(call->body, cfg, err);
	if (!ret)
		ret = metrics_open(cfg->metrics_path, err);
	if (ret) {
		cfg->metrics_path[0] = '\0';
		return ret;
	}
	metrics_set_labels(cfg->metrics_emit_id ? call->api->id : NULL, cfg->metrics_properties);
	configured(call, "/metrics");
	return 0;
}

int put_serial(struct call *call, struct error *err)
{
	struct serial_config *serial = malloc(sizeof(*serial));
	int ret;

	if (!serial)
		return error_set(err, -ENOMEM, "no memory");
	ret = config_parse_serial(call->body, serial, err);
	if (!ret) {
		call->api->cfg->serial = *serial;
		configured(call, "/serial");
	}
	free(serial);
	return ret;
}

int get_serial(struct call *call, struct error *err)
{
	(void)err;
	call->answer = config_dump_serial(&call->api->cfg->serial);
	return 0;
}
