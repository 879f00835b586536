/* probe.c: asks KVM what it has, then runs a few thousand kernel-mode instructions to see whether the CPU or KVM runs
 * them. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "config.h"
#include "event_loop.h"
#include "exit_codes.h"
#include "kvm.h"

struct capability {
	const char *name;
	int number;
	const char *use;
	bool needed;
};

static const struct capability capabilities[] = {
	{ "memory slots", KVM_CAP_USER_MEMORY, "guest RAM", true },
	{ "split irqchip", KVM_CAP_SPLIT_IRQCHIP, "local APICs in the kernel", true },
	{ "MSI from user space", KVM_CAP_SIGNAL_MSI, "device interrupts", true },
	{ "immediate exit", KVM_CAP_IMMEDIATE_EXIT, "stopping a vCPU without a race", true },
	{ "ioeventfd", KVM_CAP_IOEVENTFD, "notifications of busy queues", true },
	{ "TSC deadline timer", KVM_CAP_TSC_DEADLINE_TIMER, "guest timers with one MSR write", false },
	{ "kvm-clock", KVM_CAP_ADJUST_CLOCK, "guest time", false },
	{ "TSC frequency", KVM_CAP_GET_TSC_KHZ, "no calibration in the guest", false },
	{ "XSAVE state", KVM_CAP_XSAVE2, "snapshots of wide registers", false },
};

struct host_file {
	const char *path;
	const char *use;
};

static const struct host_file host_files[] = {
	{ "/dev/net/tun", "network by TAP" },
	{ "/dev/userfaultfd", "restoring memory on demand" },
};

static void line(const char *name, bool yes, const char *detail)
{
	const char *colour = !isatty(STDOUT_FILENO) ? "" : yes ? "\033[32m" : "\033[33m";

	printf("  %-24s %s%-4s%s %s\n", name, colour, yes ? "yes" : "no", *colour ? "\033[0m" : "", detail);
}

/* Real-mode code at 0x1000, with the vector of int3 pointing at HLT: counts down and halts, PROBE_ROUNDS times; then
 * breaks. */
enum {
	PROBE_RAM = 0x4000,
	PROBE_CODE = 0x1000,
	PROBE_HANDLER = 0x1100,
	PROBE_LOOPS = 0x4000,
	PROBE_ROUNDS = 5,
	VECTOR_INT3 = 3
};
static const uint8_t probe_code[] = {
	0xb3,
	PROBE_ROUNDS, /* mov bl, PROBE_ROUNDS */
	0xb9,
	PROBE_LOOPS & 0xff,
	PROBE_LOOPS >> 8, /* mov cx, PROBE_LOOPS */
	0x49,             /* dec cx */
	0x75,
	0xfd, /* jnz back to dec */
	0xf4, /* hlt */
	0xfe,
	0xcb, /* dec bl */
	0x75,
	0xf5, /* jnz back to mov cx */
	0xcc, /* int3 */
	0xf4, /* hlt, not reached: the handler halts first */
};

struct probe_vm {
	struct kvm kvm;
	int vcpu_fd;
	struct kvm_run *run;
};

static int make_vm(struct probe_vm *vm, struct error *err)
{
	struct kvm_userspace_memory_region region = { .memory_size = PROBE_RAM };
	const uint16_t vector[2] = { PROBE_HANDLER, 0 };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = PROBE_CODE, .rflags = 2, .rsp = PROBE_RAM };
	uint8_t *ram;
	int ret = kvm_open(&vm->kvm, err);

	if (ret)
		return ret;
	ram = mmap(NULL, PROBE_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		return error_set(err, -errno, "mmap: %s", strerror(errno));
	memcpy(ram + PROBE_CODE, probe_code, sizeof(probe_code));
	ram[PROBE_HANDLER] = 0xf4;
	memcpy(ram + VECTOR_INT3 * sizeof(vector), vector, sizeof(vector));
	region.userspace_addr = (uintptr_t)ram;
	vm->vcpu_fd = -1;
	if (ioctl(vm->kvm.vm_fd, KVM_SET_USER_MEMORY_REGION, &region) == 0)
		vm->vcpu_fd = ioctl(vm->kvm.vm_fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu_fd < 0)
		return error_set(err, -errno, "/dev/kvm: cannot make a vCPU: %s", strerror(errno));
	vm->run = mmap(NULL, vm->kvm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (vm->run == MAP_FAILED || ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set(err, -errno, "/dev/kvm: vCPU state: %s", strerror(errno));
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return error_set(err, -errno, "/dev/kvm: vCPU state: %s", strerror(errno));
	return 0;
}

static void on_alarm(int signo)
{
	(void)signo; /* makes KVM_RUN return */
}

/* Runs until HLT; false when KVM gave up or half a second has passed. */
static bool run_to_halt(const struct probe_vm *vm)
{
	const struct sigaction action = { .sa_handler = on_alarm };
	const struct itimerval limit = { .it_value.tv_usec = 500000 }, off = { 0 };
	int ret;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &limit, NULL);
	ret = ioctl(vm->vcpu_fd, KVM_RUN, 0);
	setitimer(ITIMER_REAL, &off, NULL);
	return ret == 0 && vm->run->exit_reason == KVM_EXIT_HLT;
}

/*
 * Two instructions a loop: a CPU does hundreds of millions a second, an emulator about one. The best of a few rounds
 * counts, since the first also pays for page faults.
 */
static bool kernel_mode_is_native(const struct probe_vm *vm)
{
	const double native_from = 20.0; /* million instructions per second */
	double rate, best = 0;
	bool halted = true;
	char detail[80];
	unsigned int i;

	for (i = 0; i < PROBE_ROUNDS && halted; i++) {
		uint64_t start = event_loop_now_ns();

		halted = run_to_halt(vm);
		rate = 2.0 * PROBE_LOOPS * 1000.0 / (double)(event_loop_now_ns() - start + 1);
		best = rate > best ? rate : best;
	}
	snprintf(detail, sizeof(detail), "%.1f million instructions/s%s", best,
		 !halted              ? ", and then KVM gave up"
		 : best < native_from ? ": emulated one by one"
				      : "");
	line("native kernel mode", halted && best >= native_from, detail);
	return halted && best >= native_from;
}

/* What it finds decides the verdict. */
enum verdict { NOTHING_RUNS, USER_MODE_RUNS, LINUX_RUNS };

static enum verdict probe_kvm(void)
{
	struct probe_vm vm;
	struct error err = { 0 };
	unsigned int i;
	bool ok = true, native, breakpoint;

	if (make_vm(&vm, &err)) {
		line("KVM", false, err.message);
		return NOTHING_RUNS;
	}
	line("KVM", true, "/dev/kvm, API version 12");
	for (i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++) {
		const struct capability *cap = &capabilities[i];
		bool yes = ioctl(vm.kvm.vm_fd, KVM_CHECK_EXTENSION, cap->number) > 0;

		line(cap->name, yes, cap->use);
		ok = ok && (yes || !cap->needed);
	}
	printf("  %-24s %-4d KVM would take %d and recommends at most %d\n", "vCPUs per microVM", CONFIG_MAX_VCPUS,
	       ioctl(vm.kvm.vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS),
	       ioctl(vm.kvm.vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS));
	if (!ok)
		return NOTHING_RUNS;
	native = kernel_mode_is_native(&vm);
	breakpoint = run_to_halt(&vm);
	line("breakpoints (int3)", breakpoint, "Linux tests them while booting");
	return native && breakpoint ? LINUX_RUNS : USER_MODE_RUNS;
}

static void probe_files(void)
{
	unsigned int i;

	for (i = 0; i < sizeof(host_files) / sizeof(host_files[0]); i++) {
		int fd = open(host_files[i].path, O_RDWR | O_CLOEXEC);

		line(host_files[i].path, fd >= 0, fd >= 0 ? host_files[i].use : strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	line("io_uring", syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno != ENOSYS && errno != EPERM,
	     "block I/O (else a worker thread)");
}

int probe_host(void)
{
	enum verdict verdict;

	printf("What this host can run:\n");
	verdict = probe_kvm();
	probe_files();
	if (verdict == LINUX_RUNS) {
		printf("Verdict: Linux guests run here.\n");
		return EXIT_GUEST_OK;
	}
	if (verdict == NOTHING_RUNS) {
		printf("Verdict: no microVM runs here; the lines marked \"no\" say why.\n");
		return EXIT_HOST_CANNOT;
	}
	printf("Verdict: KVM is here, but the CPU does not run kernel-mode code for it (KVM on PVM, or nested without\n"
	       "hardware support): guests that stay in user mode run at full speed, a Linux kernel cannot boot.\n");
	return PROBE_USER_MODE_ONLY;
}
