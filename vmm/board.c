/* board.c: assembles what the guest sees, and takes it apart again. */
#include "board.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "board_state.h"
#include "boot/cmdline.h"
#include "inherited.h"
#include "snapshot/memory_file.h"
#include "text.h"
#include "x86/x86.h"

/* ---- memory and images ---- */

static int restore_memory(struct board *b, struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	const struct working_set_source source = { restore->memory_path, restore->memory_id, restore->memory_fd };
	int ret;

	if (restore->handler_path) {
		ret = uffd_hand_over(&b->uffd, &b->memory, restore->handler_path, err);
		*blame = ret ? BLAME_CONFIG : *blame;
		return ret;
	}
	if (restore->record_working_set)
		ret = working_set_record(&b->working_set, &source, &b->memory, err);
	else if (restore->memory_is_ours && b->memory.small_pages)
		ret = gm_adopt(&b->memory, restore->memory_fd, err);
	else
		ret = gm_restore(&b->memory, restore->memory_fd, restore->memory_file_size, err);
	if (ret)
		return ret;
	/* Huge pages have a copy, and nobody else the file: all of it would stay in memory a second time. */
	if (restore->memory_is_ours && !b->memory.shared) {
		close(restore->memory_fd);
		b->memory.source_fd = -1;
	}
	restore->memory_fd = -1;
	if (!restore->record_working_set && restore->memory_path)
		working_set_prefetch(&b->working_set, &source, &b->memory);
	return 0;
}

static int create_vm(struct board *b, struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	int ret = b->kvm.vm_fd > 0 ? 0 : kvm_open(&b->kvm, err);

	if (ret)
		return ret;
	timeline_mark(b->timeline, STEP_VM);
	/* Memory before the irqchip: the other order costs 8 ms (design.md, 3). */
	ret = gm_create(&b->memory, b->cfg->machine.mem_size_mib, b->cfg->machine.huge_pages, err);
	if (!ret && restore)
		ret = restore_memory(b, restore, blame, err);
	else if (!ret && b->cfg->allow_fork)
		ret = gm_share(&b->memory, MEMORY_TRAILER_SIZE, err);
	if (!ret && b->cfg->machine.track_dirty_pages)
		ret = gm_track(&b->memory, err);
	if (!ret)
		ret = gm_register(&b->memory, b->kvm.vm_fd, err);
	if (!ret)
		ret = kvm_split_irqchip(&b->kvm, err);
	timeline_mark(b->timeline, STEP_MEMORY);
	return ret;
}

/* The kernels that `make kernel` builds lie beside the program, or in ../lib/mayfly once installed. */
static int default_kernel(char path[PATH_MAX], unsigned int nr_vcpus, struct error *err)
{
	static const char *const below[] = { "kernel", "../lib/mayfly" };
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	unsigned int i;

	if (n < 0)
		return error_set(err, -errno, "boot-source.kernel_image_path: not given, and /proc/self/exe: %s",
				 strerror(errno));
	exe[n] = '\0';
	*strrchr(exe, '/') = '\0';
	for (i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
		n = snprintf(path, PATH_MAX, "%s/%s/vmlinux-%s", exe, below[i], nr_vcpus == 1 ? "up" : "smp");
		if (n < PATH_MAX && access(path, R_OK) == 0)
			return 0;
	}
	return error_set(err, -ENOENT,
			 "boot-source.kernel_image_path: not given, and no vmlinux-%s in %s/kernel (make kernel) or "
			 "%s/../lib/mayfly",
			 nr_vcpus == 1 ? "up" : "smp", exe, exe);
}

static unsigned int nr_virtio(const struct config *cfg)
{
	return cfg->nr_drives + cfg->nr_nets + cfg->vsock.present;
}

/* Each device has an interrupt pin of its own. */
static int check_devices(const struct config *cfg, struct error *err)
{
	if (cfg->mmds.present && config_check_mmds(cfg, &cfg->mmds, err))
		return err->code;
	if (nr_virtio(cfg) <= X86_MAX_VIRTIO)
		return 0;
	return error_set(err, -ENOSPC,
			 "%u drives, %u network interfaces and %u vsock are too many (at most %u devices)",
			 cfg->nr_drives, cfg->nr_nets, cfg->vsock.present, X86_MAX_VIRTIO);
}

static int load_kernel(struct board *b, struct error *err)
{
	const struct config *cfg = b->cfg;
	char kernel[PATH_MAX], cmdline[CONFIG_CMDLINE_SIZE];
	struct boot_images images = {
		.kernel_path = cfg->boot.kernel_image_path,
		.initrd_path = cfg->boot.initrd_path[0] ? cfg->boot.initrd_path : NULL,
		.cmdline = cmdline,
	};
	int ret = 0;

	if (!images.kernel_path[0]) {
		ret = default_kernel(kernel, cfg->machine.vcpu_count, err);
		images.kernel_path = kernel;
	}
	if (!ret)
		ret = cmdline_build(cmdline, cfg, nr_virtio(cfg), err);
	if (!ret)
		ret = mptable_write(&b->memory, cfg->machine.vcpu_count, err);
	if (!ret)
		ret = acpi_write(&b->memory, cfg->machine.vcpu_count, nr_virtio(cfg), &images.acpi_rsdp_gpa, err);
	if (!ret)
		ret = boot_load(&b->memory, &images, &b->entry, err);
	if (!ret)
		ret = x86_tables_write(&b->memory, b->entry.protocol, err);
	timeline_mark(b->timeline, STEP_KERNEL);
	return ret;
}

/* ---- devices ---- */

static int add_virtio(struct board *b, struct virtio_device *dev, struct error *err)
{
	unsigned int n = b->nr_transports++;
	struct virtio_mmio *mmio = &b->transport[n];
	int ret = virtio_mmio_init(mmio, dev, b->loop, &b->ioapic, &b->mmio, b->kvm.vm_fd,
				   X86_VIRTIO_GPA + n * X86_VIRTIO_SIZE, X86_VIRTIO_GSI + n, err);

	mmio->broken = b->events.device_broken;
	mmio->opaque = b->events.opaque;
	return ret;
}

/* The lock of an overlay tells descriptors apart that were opened each by itself, and not one that two drives have. */
static int check_overlay(const struct config *cfg, unsigned int i, struct error *err)
{
	const struct drive_config *drive = &cfg->drives[i];
	const int fd = inherited_number(drive->overlay_path);
	unsigned int other;

	for (other = 0; other < i && fd >= 0 && !drive->is_read_only; other++) {
		if (inherited_number(cfg->drives[other].overlay_path) == fd)
			return error_set(
				err, -EBUSY,
				"drives[%s].overlay_path: %s: is another drive's (each needs an overlay of its "
				"own)",
				drive->drive_id, text_path_shown(drive->overlay_path));
	}
	return 0;
}

static int add_drive(struct board *b, unsigned int i, struct error *err)
{
	int ret = check_overlay(b->cfg, i, err);

	if (!ret)
		ret = block_create(&b->drive[i], &b->cfg->drives[i], &b->memory, b->loop, err);
	if (!ret)
		ret = block_prepare(b->drive[i], err);
	return ret ? ret : add_virtio(b, block_device(b->drive[i]), err);
}

/* The root drive first: it becomes vda wherever it stands in the configuration, as in Firecracker. */
static int add_drives(struct board *b, struct error *err)
{
	unsigned int i, pass;
	int ret = 0;

	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < b->cfg->nr_drives && !ret; i++) {
			if (b->cfg->drives[i].is_root_device == (pass == 0))
				ret = add_drive(b, i, err);
		}
	}
	return ret;
}

static bool serves_metadata(const struct config *cfg, const char *iface_id)
{
	unsigned int i;

	for (i = 0; i < cfg->mmds.nr_interfaces; i++) {
		if (strcmp(cfg->mmds.network_interfaces[i], iface_id) == 0)
			return true;
	}
	return false;
}

static int add_net(struct board *b, unsigned int i, struct error *err)
{
	const struct net_config *cfg = &b->cfg->nets[i];
	struct mmds *mmds = b->mmds && serves_metadata(b->cfg, cfg->iface_id) ? b->mmds : NULL;
	int ret = net_create(&b->net[i], cfg, &b->memory, b->loop, err);

	if (!ret)
		ret = net_path_create(&b->net_path[i], b->net[i], cfg, mmds, b->cfg->mmds.ipv4_address, b->loop, err);
	return ret ? ret : add_virtio(b, net_device(b->net[i]), err);
}

static int add_nets(struct board *b, struct error *err)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < b->cfg->nr_nets && !ret; i++)
		ret = add_net(b, i, err);
	return ret;
}

static int add_vsock(struct board *b, struct error *err)
{
	int ret;

	if (!b->cfg->vsock.present)
		return 0;
	ret = vsock_create(&b->vsock, &b->cfg->vsock, &b->memory, b->loop, err);
	if (ret)
		return ret;
	vsock_on_listening(b->vsock, b->events.vsock_listens, b->events.opaque);
	return add_virtio(b, vsock_device(b->vsock), err);
}

static void raise_serial_irq(void *opaque)
{
	ioapic_raise(opaque, X86_SERIAL_GSI);
}

static void raise_keyboard_irq(void *opaque)
{
	ioapic_raise(opaque, X86_KEYBOARD_GSI);
}

static int add_legacy_devices(struct board *b, struct error *err)
{
	int ret;

	b->i8042 = (struct i8042){
		.reset = b->events.reset,
		.opaque = b->events.opaque,
		.irq = raise_keyboard_irq,
		.irq_opaque = &b->ioapic,
	};
	b->boot_timer = (struct boot_timer){
		.booted = b->events.booted,
		.status = b->events.status,
		.opaque = b->events.opaque,
	};
	b->serial.irq = raise_serial_irq;
	b->serial.irq_opaque = &b->ioapic;
	ret = ioapic_init(&b->ioapic, b->kvm.vm_fd, &b->mmio, err);
	if (!ret)
		ret = serial_init(&b->serial, &b->pio, err);
	if (!ret)
		ret = i8042_init(&b->i8042, &b->pio);
	if (!ret)
		ret = boot_timer_init(&b->boot_timer, &b->mmio);
	if (!ret)
		ret = vmgenid_init(&b->vmgenid, &b->memory, &b->ioapic, b->cfg->machine.vcpu_count, &b->pio, err);
	return ret;
}

/* Before the VM: a process that is forked to look after a terminal must not hold guest memory or disks. */
static int start_console(struct board *b, struct error *err)
{
	b->console.quit = b->events.quit;
	b->console.opaque = b->events.opaque;
	return console_init(&b->console, &b->serial, &b->cfg->serial, b->loop, err);
}

static int add_devices(struct board *b, struct error *err)
{
	int ret = add_legacy_devices(b, err);

	if (!ret)
		ret = add_drives(b, err);
	if (!ret)
		ret = add_nets(b, err);
	if (!ret)
		ret = add_vsock(b, err);
	timeline_mark(b->timeline, STEP_DEVICES);
	return ret;
}

/* ---- vCPUs ---- */

static int create_vcpus(struct board *b, struct error *err)
{
	unsigned int i, n = b->cfg->machine.vcpu_count;
	int ret = 0;

	vcpu_kick_prepare();
	for (i = 0; i < n && !ret; i++) {
		b->vcpu[i].pio = &b->pio;
		b->vcpu[i].mmio = &b->mmio;
		b->vcpu[i].ended = b->events.vcpu_ended;
		b->vcpu[i].confined = b->events.vcpu_confined;
		b->vcpu[i].parked = b->events.vcpu_parked;
		b->vcpu[i].opaque = b->events.opaque;
		b->nr_vcpus++;
		ret = vcpu_create(&b->vcpu[i], &b->kvm, i, err);
	}
	return ret;
}

static int setup_vcpus(struct board *b, struct cpuid_table *cpuid, struct error *err)
{
	unsigned int i;
	int ret = 0;

	if (b->cpu_template)
		ret = cpu_template_check_caps(b->cpu_template, b->kvm.fd, err);
	if (b->cpu_template && !ret)
		ret = cpu_template_apply_cpuid(b->cpu_template, cpuid, err);
	for (i = 0; i < b->nr_vcpus && !ret; i++)
		ret = vcpu_setup(&b->vcpu[i], cpuid, b->cpu_template, &b->cfg->machine, i ? NULL : &b->entry, err);
	timeline_mark(b->timeline, STEP_VCPUS);
	return ret;
}

/* ---- the whole ---- */

/* What a kernel and a CPU find when the power comes on. */
static int boot(struct board *b, struct host_cpuid *host_cpuid, enum board_blame *blame, struct error *err)
{
	int ret = host_cpuid_wait(host_cpuid, err);

	if (ret)
		return ret;
	/* Without a template nothing here depends on the configuration. */
	*blame = b->cpu_template ? BLAME_CONFIG : BLAME_HOST;
	return setup_vcpus(b, &host_cpuid->table, err);
}

static int go_on(struct board *b, const struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	int ret;

	*blame = BLAME_CONFIG;
	ret = board_restore(b, restore, err);
	timeline_mark(b->timeline, STEP_VCPUS);
	return ret;
}

int board_create(struct board *b, const struct config *cfg, struct mmds *mmds, struct event_loop *loop,
		 struct timeline *timeline, struct host_cpuid *host_cpuid, const struct board_events *events,
		 struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	int ret;

	b->cfg = cfg;
	b->mmds = mmds;
	b->loop = loop;
	b->timeline = timeline;
	b->events = *events;
	b->cpu_template = cfg->cpu_template ? cfg->cpu_template : cpu_template_static(cfg->machine.cpu_template);
	*blame = BLAME_CONFIG;
	ret = check_devices(cfg, err);
	if (!ret)
		ret = start_console(b, err);
	if (ret)
		return ret;
	*blame = BLAME_HOST;
	ret = create_vm(b, restore, blame, err);
	if (ret)
		return ret;
	*blame = BLAME_CONFIG;
	if (!restore)
		ret = load_kernel(b, err);
	if (!ret)
		ret = add_devices(b, err);
	if (ret)
		return ret;
	*blame = BLAME_HOST;
	ret = create_vcpus(b, err);
	if (ret)
		return ret;
	return restore ? go_on(b, restore, blame, err) : boot(b, host_cpuid, blame, err);
}

void board_destroy(struct board *b)
{
	unsigned int i;

	for (i = 0; i < b->nr_vcpus; i++)
		vcpu_destroy(&b->vcpu[i], &b->kvm);
	for (i = 0; i < CONFIG_MAX_DRIVES; i++)
		block_destroy(b->drive[i]);
	vsock_destroy(b->vsock);
	for (i = 0; i < CONFIG_MAX_NETS; i++) {
		net_path_destroy(&b->net_path[i]);
		net_destroy(b->net[i]);
	}
	if (b->console.loop)
		console_finish(&b->console);
	working_set_end(b->working_set);
	gm_destroy(&b->memory);
	uffd_close(&b->uffd);
	background_close(&b->background);
	kvm_close(&b->kvm);
	memset(b, 0, sizeof(*b));
}
