/* config.c: defaults and release of a microVM's configuration. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

/* Empty strings are one NUL each: clearing whole paths would touch seven pages for nothing. */
void config_init(struct config *cfg)
{
	cfg->boot.present = false;
	cfg->boot.kernel_image_path[0] = '\0';
	cfg->boot.initrd_path[0] = '\0';
	cfg->boot.boot_args[0] = '\0';
	cfg->boot.boot_args_given = false;
	memset(&cfg->machine, 0, sizeof(cfg->machine));
	cfg->machine.vcpu_count = CONFIG_DEFAULT_VCPUS;
	cfg->machine.mem_size_mib = CONFIG_DEFAULT_MEM_MIB;
	cfg->machine.huge_pages = HUGE_PAGES_NONE;
	cfg->drives = NULL;
	cfg->nr_drives = 0;
	cfg->serial.serial_out_path[0] = '\0';
	memset(&cfg->serial.rate_limiter, 0, sizeof(cfg->serial.rate_limiter));
	log_config_init(&cfg->log);
	cfg->metrics_path[0] = '\0';
	cfg->metrics_emit_id = false;
	cfg->metrics_properties = NULL;
}

void config_free(struct config *cfg)
{
	free(cfg->drives);
	cfg->drives = NULL;
	cfg->nr_drives = 0;
	free(cfg->metrics_properties);
	cfg->metrics_properties = NULL;
}
