/* test_cmdline.c: what the kernel is told. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "boot/cmdline.h"

#define ID " vmgenid.device=0xe0ff0:0x600" /* what every guest is told last */

static struct config cfg;
static struct drive_config drives[2];

static int start(void **state)
{
	(void)state;
	config_init(&cfg);
	memset(drives, 0, sizeof(drives));
	cfg.drives = drives;
	return 0;
}

static void set_args(const char *args)
{
	cfg.boot.boot_args_given = true;
	snprintf(cfg.boot.boot_args, sizeof(cfg.boot.boot_args), "%s", args);
}

static void expect(unsigned int nr_virtio, const char *expected)
{
	char out[CONFIG_CMDLINE_SIZE];
	struct error err;

	assert_int_equal(cmdline_build(out, &cfg, nr_virtio, &err), 0);
	assert_string_equal(out, expected);
}

static void defaults_without_devices(void **state)
{
	(void)state;
	expect(0, CMDLINE_DEFAULT ID);
	set_args("");
	expect(0, ID); /* given and empty is not the default */
}

static void the_root_drive_is_vda_wherever_it_stands(void **state)
{
	(void)state;
	set_args("quiet");
	cfg.nr_drives = 2;
	drives[1].is_root_device = true;
	expect(2, "quiet root=/dev/vda rw virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6" ID);
	drives[1].is_read_only = true;
	snprintf(drives[1].partuuid, sizeof(drives[1].partuuid), "0eaa91a0-01");
	expect(1, "quiet root=PARTUUID=0eaa91a0-01 ro virtio_mmio.device=4K@0xc0001000:5" ID);
}

static void words_for_init_stay_last(void **state)
{
	(void)state;
	set_args("quiet -- --single me");
	expect(1, "quiet virtio_mmio.device=4K@0xc0001000:5" ID " -- --single me");
	set_args("-- me");
	expect(1, " virtio_mmio.device=4K@0xc0001000:5" ID " -- me");
	set_args("quiet --");
	expect(1, "quiet virtio_mmio.device=4K@0xc0001000:5" ID " --");
	set_args("x=\"a -- b\" --c");
	expect(1, "x=\"a -- b\" --c virtio_mmio.device=4K@0xc0001000:5" ID);
}

static void too_long_is_refused(void **state)
{
	char out[CONFIG_CMDLINE_SIZE];
	struct error err;

	(void)state;
	cfg.boot.boot_args_given = true;
	memset(cfg.boot.boot_args, 'a', CONFIG_CMDLINE_SIZE - sizeof(ID));
	cfg.boot.boot_args[CONFIG_CMDLINE_SIZE - sizeof(ID)] = '\0';
	assert_int_equal(cmdline_build(out, &cfg, 0, &err), 0);
	assert_int_equal(cmdline_build(out, &cfg, 1, &err), -E2BIG);
	assert_non_null(strstr(err.message, "boot-source.boot_args"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(defaults_without_devices, start),
		cmocka_unit_test_setup(the_root_drive_is_vda_wherever_it_stands, start),
		cmocka_unit_test_setup(words_for_init_stay_last, start),
		cmocka_unit_test_setup(too_long_is_refused, start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
