/* machine.c: assembles the microVM from its parts, starts it and ends it. */
#include "machine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "block.h"
#include "boot/boot.h"
#include "boot/cmdline.h"
#include "bus.h"
#include "console.h"
#include "event_loop.h"
#include "guest_memory.h"
#include "kvm.h"
#include "legacy/boot_timer.h"
#include "legacy/i8042.h"
#include "legacy/ioapic.h"
#include "legacy/serial.h"
#include "log.h"
#include "metrics.h"
#include "mmio.h"
#include "vcpu.h"

#define METRICS_PERIOD_NS (60 * 1000000000ull)

struct machine {
	const struct config *cfg;
	struct timeline *timeline;
	struct kvm kvm;
	struct guest_memory memory;
	struct event_loop loop;
	struct bus pio, mmio;
	struct ioapic ioapic;
	struct i8042 i8042;
	struct boot_timer boot_timer;
	struct serial serial;
	struct console console;
	struct event_fd signals;
	struct event_timer metrics_timer;
	struct block *drive[CONFIG_MAX_DRIVES];
	struct virtio_mmio transport[X86_MAX_VIRTIO];
	unsigned int nr_transports;
	struct boot_entry entry;
	struct vcpu vcpu[CONFIG_MAX_VCPUS];
	_Atomic bool booted;
	unsigned int nr_started; /* vCPU threads to join */

	pthread_mutex_t lock; /* guards the end: the first reason counts */
	bool ended;
	struct machine_result result;
	struct event_work end_work;
};

/* ---- the end ---- */

static void on_end_work(struct event_work *work)
{
	struct machine *m = work->opaque;

	event_loop_stop(&m->loop);
}

/* Any thread. */
static void machine_end(struct machine *m, enum machine_end end, int signal)
{
	unsigned int i;

	/* The guest must not get a single instruction further than its reset. */
	for (i = 0; i < m->cfg->machine.vcpu_count; i++)
		atomic_store(&m->vcpu[i].stop, true);
	pthread_mutex_lock(&m->lock);
	if (!m->ended) {
		m->ended = true;
		m->result.end = end;
		m->result.signal = signal;
	}
	pthread_mutex_unlock(&m->lock);
	event_loop_post(&m->loop, &m->end_work);
}

static void on_vcpu_ended(struct vcpu *vcpu, enum vcpu_end end)
{
	struct machine *m = vcpu->opaque;
	bool said_status;

	pthread_mutex_lock(&m->lock);
	said_status = m->result.has_guest_status;
	pthread_mutex_unlock(&m->lock);
	switch (end) {
	case VCPU_KICKED:
		break;
	case VCPU_RESET:
		machine_end(m, MACHINE_GUEST_OFF, 0);
		break;
	case VCPU_SHUTDOWN:
		/* A triple fault is how some kernels reboot; one that has said its status before means it. */
		machine_end(m, said_status ? MACHINE_GUEST_OFF : MACHINE_GUEST_CRASH, 0);
		break;
	case VCPU_CRASHED:
		machine_end(m, MACHINE_GUEST_CRASH, 0);
		break;
	case VCPU_HOST_ERROR:
		machine_end(m, MACHINE_HOST_ERROR, 0);
		break;
	}
}

static void on_guest_reset(void *opaque)
{
	machine_end(opaque, MACHINE_GUEST_OFF, 0);
}

static void on_quit(void *opaque)
{
	machine_end(opaque, MACHINE_QUIT, 0);
}

static void on_signal(struct event_fd *ev, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	if (read(ev->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		machine_end(ev->opaque, MACHINE_SIGNAL, (int)info.ssi_signo);
}

/* Firecracker writes metrics once a minute; so do we. */
static void on_metrics_timer(struct event_timer *timer)
{
	struct machine *m = timer->opaque;

	metrics_flush();
	event_loop_arm(&m->loop, timer, event_loop_now_ns() + METRICS_PERIOD_NS);
}

/* ---- what the guest reports ---- */

static void on_booted(void *opaque)
{
	struct machine *m = opaque;

	/* The first time counts, and a guest that goes on writing fills no log. */
	if (atomic_exchange(&m->booted, true))
		return;
	timeline_mark(m->timeline, STEP_USER_SPACE);
	if (m->timeline->wanted)
		timeline_log(m->timeline);
}

static void on_guest_status(void *opaque, uint32_t status)
{
	struct machine *m = opaque;

	pthread_mutex_lock(&m->lock);
	m->result.has_guest_status = true;
	m->result.guest_status = status;
	pthread_mutex_unlock(&m->lock);
}

static void raise_serial_irq(void *opaque)
{
	ioapic_raise(opaque, X86_SERIAL_GSI);
}

/* ---- assembly ---- */

static int create_vm(struct machine *m, struct error *err)
{
	int ret = kvm_open(&m->kvm, err);

	if (ret)
		return ret;
	timeline_mark(m->timeline, STEP_VM);
	/* Memory before the irqchip: the other order costs 8 ms (design.md, 3). */
	ret = gm_create(&m->memory, m->cfg->machine.mem_size_mib, m->cfg->machine.huge_pages, err);
	if (!ret)
		ret = gm_register(&m->memory, m->kvm.vm_fd, err);
	if (!ret)
		ret = kvm_split_irqchip(&m->kvm, err);
	timeline_mark(m->timeline, STEP_MEMORY);
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

static int load_kernel(struct machine *m, struct error *err)
{
	const struct config *cfg = m->cfg;
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
		ret = cmdline_build(cmdline, cfg, cfg->nr_drives, err);
	if (!ret)
		ret = mptable_write(&m->memory, cfg->machine.vcpu_count, err);
	if (!ret)
		ret = acpi_write(&m->memory, cfg->machine.vcpu_count, cfg->nr_drives, &images.acpi_rsdp_gpa, err);
	if (!ret)
		ret = boot_load(&m->memory, &images, &m->entry, err);
	if (!ret)
		ret = x86_tables_write(&m->memory, m->entry.protocol, err);
	timeline_mark(m->timeline, STEP_KERNEL);
	return ret;
}

static int add_virtio(struct machine *m, struct virtio_device *dev, struct error *err)
{
	unsigned int n = m->nr_transports;

	m->nr_transports++;
	return virtio_mmio_init(&m->transport[n], dev, &m->loop, &m->ioapic, &m->mmio, m->kvm.vm_fd,
				X86_VIRTIO_GPA + n * X86_VIRTIO_SIZE, X86_VIRTIO_GSI + n, err);
}

static int add_drive(struct machine *m, unsigned int i, struct error *err)
{
	int ret = block_create(&m->drive[i], &m->cfg->drives[i], &m->memory, &m->loop, err);

	return ret ? ret : add_virtio(m, block_device(m->drive[i]), err);
}

/* The root drive first: it becomes vda wherever it stands in the configuration, as in Firecracker. */
static int add_drives(struct machine *m, struct error *err)
{
	unsigned int i, pass;
	int ret = 0;

	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < m->cfg->nr_drives && !ret; i++) {
			if (m->cfg->drives[i].is_root_device == (pass == 0))
				ret = add_drive(m, i, err);
		}
	}
	return ret;
}

static int add_legacy_devices(struct machine *m, struct error *err)
{
	int ret;

	m->i8042 = (struct i8042){ .reset = on_guest_reset, .opaque = m };
	m->boot_timer = (struct boot_timer){ .booted = on_booted, .status = on_guest_status, .opaque = m };
	m->serial.irq = raise_serial_irq;
	m->serial.irq_opaque = &m->ioapic;
	ret = ioapic_init(&m->ioapic, m->kvm.vm_fd, &m->mmio, err);
	if (!ret)
		ret = serial_init(&m->serial, &m->pio, err);
	if (!ret)
		ret = i8042_init(&m->i8042, &m->pio);
	if (!ret)
		ret = boot_timer_init(&m->boot_timer, &m->mmio);
	return ret;
}

/* One descriptor for all the ways a person or a supervisor ends us; SIGPIPE and SIGXFSZ become errors of the write. */
static int watch_signals(struct machine *m, struct error *err)
{
	sigset_t ending, blocked;

	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGHUP);
	blocked = ending;
	sigaddset(&blocked, SIGPIPE);
	sigaddset(&blocked, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	m->signals = (struct event_fd){ .ready = on_signal, .opaque = m };
	m->signals.fd = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
	if (m->signals.fd < 0)
		return error_set(err, -errno, "signalfd: %s", strerror(errno));
	return event_loop_add(&m->loop, &m->signals, EPOLLIN);
}

/* Before the VM: a process that is forked to look after a terminal must not hold guest memory or disks. */
static int start_console(struct machine *m, struct error *err)
{
	m->console.quit = on_quit;
	m->console.opaque = m;
	return console_init(&m->console, &m->serial, &m->cfg->serial, &m->loop, err);
}

static int add_devices(struct machine *m, struct error *err)
{
	int ret = add_legacy_devices(m, err);

	if (!ret)
		ret = add_drives(m, err);
	timeline_mark(m->timeline, STEP_DEVICES);
	return ret;
}

static int create_vcpus(struct machine *m, struct host_cpuid *host_cpuid, struct error *err)
{
	unsigned int i, n = m->cfg->machine.vcpu_count;
	int ret = 0;

	vcpu_kick_prepare();
	for (i = 0; i < n && !ret; i++) {
		m->vcpu[i].pio = &m->pio;
		m->vcpu[i].mmio = &m->mmio;
		m->vcpu[i].ended = on_vcpu_ended;
		m->vcpu[i].opaque = m;
		ret = vcpu_create(&m->vcpu[i], &m->kvm, i, err);
	}
	if (!ret)
		ret = host_cpuid_wait(host_cpuid, err);
	for (i = 0; i < n && !ret; i++)
		ret = vcpu_setup(&m->vcpu[i], &host_cpuid->table, n, m->cfg->machine.smt, i ? NULL : &m->entry, err);
	timeline_mark(m->timeline, STEP_VCPUS);
	return ret;
}

int machine_create(struct machine **out, const struct config *cfg, struct timeline *timeline,
		   struct host_cpuid *host_cpuid, enum machine_blame *blame, struct error *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int ret;

	*out = m;
	*blame = BLAME_HOST;
	if (!m)
		return error_set(err, -ENOMEM, "no memory for a microVM");
	m->cfg = cfg;
	m->timeline = timeline;
	pthread_mutex_init(&m->lock, NULL);
	m->end_work = (struct event_work){ .run = on_end_work, .opaque = m };
	ret = event_loop_init(&m->loop, err);
	if (ret)
		return ret;
	*blame = BLAME_CONFIG;
	ret = start_console(m, err);
	if (ret)
		return ret;
	*blame = BLAME_HOST;
	ret = create_vm(m, err);
	if (ret)
		return ret;
	*blame = BLAME_CONFIG;
	ret = load_kernel(m, err);
	if (!ret)
		ret = add_devices(m, err);
	if (ret)
		return ret;
	*blame = BLAME_HOST;
	ret = watch_signals(m, err);
	return ret ? ret : create_vcpus(m, host_cpuid, err);
}

int machine_run(struct machine *m, struct machine_result *result, struct error *err)
{
	unsigned int i;
	int ret;

	timeline_mark(m->timeline, STEP_STARTED);
	for (i = 0; i < m->cfg->machine.vcpu_count; i++) {
		ret = vcpu_start(&m->vcpu[i], err);
		if (ret)
			return ret;
		m->nr_started++;
	}
	m->metrics_timer = (struct event_timer){ .expired = on_metrics_timer, .opaque = m };
	if (m->cfg->metrics_path[0])
		event_loop_arm(&m->loop, &m->metrics_timer, event_loop_now_ns() + METRICS_PERIOD_NS);
	event_loop_run(&m->loop);
	pthread_mutex_lock(&m->lock);
	*result = m->result;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void machine_finish(struct machine *m)
{
	unsigned int i;

	if (!m)
		return;
	for (i = 0; i < m->nr_transports; i++)
		virtio_mmio_close(&m->transport[i]);
	for (i = 0; i < m->nr_started; i++)
		vcpu_kick_and_join(&m->vcpu[i]);
	if (m->console.loop)
		console_finish(&m->console);
}
