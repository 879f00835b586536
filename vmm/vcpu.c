/* vcpu.c: set a vCPU up, then KVM_RUN and what it returns with. */
#include "vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "metrics.h"
#include "syscall_filter.h"

#define KICK_SIGNAL SIGUSR1
#define STACK_SIZE  (64ul * 1024) /* bytes; the deepest path is a log line (a few kB) */

int vcpu_create(struct vcpu *vcpu, const struct kvm *kvm, unsigned int index, struct error *err)
{
	vcpu->index = index;
	snprintf(vcpu->name, sizeof(vcpu->name), "fc_vcpu %u", index);
	vcpu->fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, index);
	if (vcpu->fd < 0)
		return error_set(err, -errno, "machine-config.vcpu_count: KVM_CREATE_VCPU %u: %s", index,
				 strerror(errno));
	vcpu->run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		return error_set(err, -errno, "vCPU %u: mmap: %s", index, strerror(errno));
	sem_init(&vcpu->resumed, 0, 0);
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu, const struct kvm *kvm)
{
	if (vcpu->run && vcpu->run != MAP_FAILED)
		munmap(vcpu->run, kvm->run_size);
	if (vcpu->fd > 0)
		close(vcpu->fd);
	free(vcpu->cpuid);
}

int vcpu_set_cpuid(struct vcpu *vcpu, const struct cpuid_table *cpuid, const char *hint, struct error *err)
{
	size_t size = sizeof(cpuid->head) + cpuid->head.nent * sizeof(cpuid->entries[0]);

	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		return error_set(err, -errno, "vCPU %u: KVM_SET_CPUID2: %s%s", vcpu->index, strerror(errno), hint);
	vcpu->cpuid = malloc(size);
	if (!vcpu->cpuid)
		return error_set(err, -ENOMEM, "vCPU %u: no memory", vcpu->index);
	memcpy(vcpu->cpuid, cpuid, size);
	return 0;
}

static int set_boot_registers(struct vcpu *vcpu, const struct boot_entry *entry, struct error *err)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = { 0 };

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set(err, -errno, "vCPU %u: KVM_GET_SREGS: %s", vcpu->index, strerror(errno));
	x86_boot_sregs(&sregs, entry);
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return error_set(err, -errno, "vCPU %u: KVM_SET_SREGS: %s", vcpu->index, strerror(errno));
	x86_boot_regs(&regs, entry);
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return error_set(err, -errno, "vCPU %u: KVM_SET_REGS: %s", vcpu->index, strerror(errno));
	return 0;
}

int vcpu_setup(struct vcpu *vcpu, struct cpuid_table *cpuid, const struct cpu_template *cpu_template,
	       const struct machine_config *machine, const struct boot_entry *entry, struct error *err)
{
	int tsc_khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	int ret;

	cpuid_normalize(cpuid, vcpu->index, machine->vcpu_count, machine->smt, tsc_khz > 0 ? (uint32_t)tsc_khz : 0);
	ret = vcpu_set_cpuid(vcpu, cpuid, cpu_template ? " (KVM does not take what the CPU template makes of it)" : "",
			     err);
	if (ret)
		return ret;
	if (cpu_template && vcpu->index == 0)
		cpu_template_warn_kept(cpu_template, vcpu->fd, cpuid);
	ret = x86_set_msrs(vcpu->fd, err);
	if (!ret && cpu_template)
		ret = cpu_template_apply_msrs(cpu_template, vcpu->fd, err);
	if (ret || !entry)
		return ret;
	return set_boot_registers(vcpu, entry, err);
}

static void handle_io(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;
	uint32_t i;

	for (i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(vcpu->pio, run->io.port, data, run->io.size);
		else
			bus_read(vcpu->pio, run->io.port, data, run->io.size);
	}
	if (run->io.direction == KVM_EXIT_IO_OUT)
		metrics_inc(vcpu_exit_io_out);
	else
		metrics_inc(vcpu_exit_io_in);
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->mmio.is_write) {
		bus_write(vcpu->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
		metrics_inc(vcpu_exit_mmio_write);
	} else {
		bus_read(vcpu->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
		metrics_inc(vcpu_exit_mmio_read);
	}
}

/* What a person needs to see where the guest was when it could not go on. */
static void log_registers(const struct vcpu *vcpu)
{
	struct kvm_regs r;
	struct kvm_sregs s;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &r) < 0 || ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0)
		return;
	log_error("vCPU %u: rip %#llx rsp %#llx rflags %#llx cs %#x cpl %u cr0 %#llx cr2 %#llx cr3 %#llx cr4 %#llx "
		  "efer %#llx",
		  vcpu->index, r.rip, r.rsp, r.rflags, s.cs.selector, s.ss.dpl, s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
	log_error("vCPU %u: rax %#llx rbx %#llx rcx %#llx rdx %#llx rsi %#llx rdi %#llx rbp %#llx r8 %#llx r9 %#llx "
		  "r10 %#llx r11 %#llx "
		  "r12 %#llx r13 %#llx r14 %#llx r15 %#llx",
		  vcpu->index, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
		  r.r14, r.r15);
}

static enum vcpu_end crashed(const struct vcpu *vcpu, const char *what, unsigned long long detail)
{
	metrics_inc(vcpu_failures);
	log_error("vCPU %u: the guest cannot go on: %s %#llx", vcpu->index, what, detail);
	log_registers(vcpu);
	return VCPU_CRASHED;
}

static enum vcpu_end system_event(const struct vcpu *vcpu)
{
	switch (vcpu->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		return VCPU_SHUTDOWN;
	case KVM_SYSTEM_EVENT_RESET:
		return VCPU_RESET;
	default:
		return crashed(vcpu, "system event", vcpu->run->system_event.type);
	}
}

/* KVM_RUN returned because of the guest. Returns true while it goes on, else false with *end set. */
static bool handle_exit(struct vcpu *vcpu, enum vcpu_end *end)
{
	const struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		return true;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		return true;
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_SHUTDOWN:
		log_info("vCPU %u: triple fault", vcpu->index);
		*end = VCPU_SHUTDOWN;
		return false;
	case KVM_EXIT_SYSTEM_EVENT:
		*end = system_event(vcpu);
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		*end = crashed(vcpu, "KVM could not enter it, hardware reason",
			       run->fail_entry.hardware_entry_failure_reason);
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		*end = crashed(vcpu,
			       "KVM could not emulate an instruction (mayfly --probe tells what runs here), suberror",
			       run->internal.suberror);
		return false;
	default:
		*end = crashed(vcpu, "unexpected exit, reason", run->exit_reason);
		return false;
	}
}

static void wait_for_word(struct vcpu *vcpu)
{
	while (sem_wait(&vcpu->resumed) < 0 && errno == EINTR)
		;
}

/*
 * KVM_RUN returned EINTR, so whatever exit came before is complete (KVM API, 5, "immediate_exit"). immediate_exit goes
 * back to 0 before `pause` is read again: a pause asked for meanwhile sets both in the other order.
 */
static void park(struct vcpu *vcpu)
{
	/* Paused again before it woke up: that pause, too, waits for its word. */
	do {
		vcpu->parked(vcpu);
		wait_for_word(vcpu);
	} while (atomic_load(&vcpu->pause) && !atomic_load(&vcpu->stop));
	vcpu->run->immediate_exit = 0;
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&vcpu->pause) || atomic_load(&vcpu->stop))
		vcpu->run->immediate_exit = 1;
	/* Keeps the guest's watchdogs from taking the pause for a lock-up; a guest without kvm-clock has none to
	 * tell. */
	(void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
}

static enum vcpu_end run_loop(struct vcpu *vcpu)
{
	enum vcpu_end end = VCPU_KICKED;

	while (!atomic_load(&vcpu->stop)) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
			if (!handle_exit(vcpu, &end))
				return end;
		} else if (errno != EINTR && errno != EAGAIN) {
			log_error("vCPU %u: KVM_RUN: %s%s", vcpu->index, strerror(errno),
				  errno == EFAULT ? " (guest memory is gone; was the kernel or initrd file cut short?)"
						  : "");
			log_registers(vcpu);
			return VCPU_HOST_ERROR;
		} else if (atomic_load(&vcpu->pause)) {
			park(vcpu);
		}
	}
	return end;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;

	struct error err = { 0 };
	enum vcpu_end end = VCPU_HOST_ERROR;

	log_thread_name(vcpu->name);
	atomic_store(&vcpu->tid, gettid());
	/* From here on this thread does what the guest makes it do: KVM_RUN, a wake-up for the loop, a log line. */
	if (seccomp_install(FILTER_VCPU, &err))
		log_error("vCPU %u: %s", vcpu->index, err.message);
	vcpu->confined(vcpu);
	wait_for_word(vcpu);
	if (!err.code)
		end = run_loop(vcpu);
	vcpu->ended(vcpu, end);
	return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
	pthread_attr_t attr;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	ret = pthread_create(&vcpu->thread, &attr, vcpu_main, vcpu);
	pthread_attr_destroy(&attr);
	return ret ? error_set(err, -ret, "vCPU %u: cannot start its thread: %s", vcpu->index, strerror(ret)) : 0;
}

static void on_kick_signal(int signo)
{
	(void)signo; /* arriving is all it does: KVM_RUN returns EINTR */
}

void vcpu_kick_prepare(void)
{
	const struct sigaction action = { .sa_handler = on_kick_signal };
	sigset_t kick;

	sigaction(KICK_SIGNAL, &action, NULL);
	/* Who started us may have blocked it, and a mask survives exec. */
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
}

/*
 * Before KVM_RUN the flag makes it return at once, during it the signal does. A thread that has not said its id yet
 * will see `stop` or the flag. Not pthread_kill, whose tkill names a thread of any process, so that no filter could
 * allow it.
 */
static void kick(struct vcpu *vcpu)
{
	pid_t tid;

	vcpu->run->immediate_exit = 1;
	atomic_thread_fence(memory_order_seq_cst);
	tid = atomic_load(&vcpu->tid);
	if (tid)
		(void)syscall(SYS_tgkill, getpid(), tid, KICK_SIGNAL);
}

void vcpu_let_run(struct vcpu *vcpu)
{
	sem_post(&vcpu->resumed);
}

void vcpu_pause(struct vcpu *vcpu)
{
	atomic_store(&vcpu->pause, true);
	kick(vcpu);
}

void vcpu_resume(struct vcpu *vcpu)
{
	atomic_store(&vcpu->pause, false);
	sem_post(&vcpu->resumed);
}

void vcpu_stop(struct vcpu *vcpu)
{
	atomic_store(&vcpu->stop, true);
	kick(vcpu);
	sem_post(&vcpu->resumed);
}

void vcpu_join(struct vcpu *vcpu)
{
	pthread_join(vcpu->thread, NULL);
}
