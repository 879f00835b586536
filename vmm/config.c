/* config.c: defaults and release of a microVM's configuration. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Each path has a page of its own, and a zeroed page that is only read is not made: dirty memory is what a microVM
 * costs. */
static void clear(char *text)
{
	if (text[0])
		text[0] = '\0';
}

void config_init(struct config *cfg)
{
	cfg->boot.present = false;
	clear(cfg->boot.kernel_image_path);
	clear(cfg->boot.initrd_path);
	clear(cfg->boot.boot_args);
	cfg->boot.boot_args_given = false;
	memset(&cfg->machine, 0, sizeof(cfg->machine));
	cfg->machine.vcpu_count = CONFIG_DEFAULT_VCPUS;
	cfg->machine.mem_size_mib = CONFIG_DEFAULT_MEM_MIB;
	cfg->machine.huge_pages = HUGE_PAGES_NONE;
	cfg->drives = NULL;
	cfg->nr_drives = 0;
	cfg->nets = NULL;
	cfg->nr_nets = 0;
	cfg->vsock.present = false;
	cfg->mmds.present = false;
	cfg->allow_fork = false;
	cfg->mmds_size_limit = CONFIG_DEFAULT_MMDS_SIZE;
	clear(cfg->serial.serial_out_path);
	clear(cfg->serial.serial_socket_path);
	memset(&cfg->serial.rate_limiter, 0, sizeof(cfg->serial.rate_limiter));
	cfg->cpu_template = NULL;
	log_config_init(&cfg->log);
	clear(cfg->metrics_path);
	cfg->metrics_emit_id = false;
	cfg->metrics_properties = NULL;
}

void config_free(struct config *cfg)
{
	free(cfg->drives);
	cfg->drives = NULL;
	cfg->nr_drives = 0;
	free(cfg->nets);
	cfg->nets = NULL;
	cfg->nr_nets = 0;
	free(cfg->cpu_template);
	cfg->cpu_template = NULL;
	free(cfg->metrics_properties);
	cfg->metrics_properties = NULL;
}

void config_set_cpu_template(struct config *cfg, struct cpu_template *cpu_template)
{
	free(cfg->cpu_template);
	cfg->cpu_template = cpu_template;
	cfg->machine.cpu_template[0] = '\0';
}

unsigned int config_find_drive(const struct config *cfg, const char *drive_id)
{
	unsigned int i = 0;

	while (i < cfg->nr_drives && strcmp(cfg->drives[i].drive_id, drive_id) != 0)
		i++;
	return i;
}

unsigned int config_find_net(const struct config *cfg, const char *iface_id)
{
	unsigned int i = 0;

	while (i < cfg->nr_nets && strcmp(cfg->nets[i].iface_id, iface_id) != 0)
		i++;
	return i;
}

int config_check_mmds(const struct config *cfg, const struct mmds_config *mmds, struct error *err)
{
	unsigned int i;

	for (i = 0; i < mmds->nr_interfaces; i++) {
		if (config_find_net(cfg, mmds->network_interfaces[i]) == cfg->nr_nets)
			return error_set(err, -ENOENT,
					 "mmds-config.network_interfaces[%u]: there is no network interface \"%s\"", i,
					 mmds->network_interfaces[i]);
	}
	return 0;
}
