/* config.c: defaults and release of a microVM's configuration. */
#include "config.h"

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
	clear(cfg->serial.serial_out_path);
	memset(&cfg->serial.rate_limiter, 0, sizeof(cfg->serial.rate_limiter));
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
	free(cfg->metrics_properties);
	cfg->metrics_properties = NULL;
}
